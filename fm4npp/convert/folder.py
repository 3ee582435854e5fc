"""A conversion into a folder of events files: in parts, by several processes, able to go on after it was killed."""

from __future__ import annotations

import dataclasses
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from pathlib import Path
from typing import Any

from fm4npp import __version__, detectors
from fm4npp.convert.events import ConversionReport, check_rejected, converted
from fm4npp.data.reading import Source, existing
from fm4npp.data.writing import EventWriter
from fm4npp.detectors import Detector
from fm4npp.errors import ConfigurationError, FM4NPPError
from fm4npp.files import read_json, write_json
from fm4npp.readers.events_parquet import MANIFEST, PLAN


@dataclasses.dataclass(frozen=True)
class Task:
    """One part of one input: what one process does at a time, and what is done at all or not at all.

    Attributes:
        name: what its files start with; in the order of the inputs and their parts.
        path: the input.
        part: of the input.
    """

    name: str
    path: str
    part: str

    def record(self, folder: Path) -> Path:
        """The file that says that the task is finished, and what came of it."""
        return folder / f".{self.name}.json"


def convert_folder(
    inputs: Sequence[str | Path],
    detector: Detector,
    output: Path,
    settings: dict[str, Any],
    workers: int,
    events_per_file: int,
    progress: Callable[[int], None],
) -> ConversionReport:
    """See `convert`.

    Args:
        inputs: files or folders.
        detector: what their columns mean.
        output: the folder.
        settings: reader, labels, max_rejected.
        workers: processes.
        events_per_file: events in a file, at most.
        progress: called with the number of events so far.
    """
    tasks = list(_tasks(inputs, detector, settings["reader"]))
    plan = _plan(inputs, detector, settings, events_per_file)
    if (output / MANIFEST).is_file():
        return _finished(output, plan)
    _start(output, plan)
    report = ConversionReport(output=str(output))
    unfinished = []
    for task in tasks:
        if _is_done(task, output):
            report.num_kept += len(read_json(task.record(output))["files"])
        else:
            unfinished.append(task)
    num_events = sum(read_json(t.record(output))["num_events"] for t in tasks if t not in unfinished)
    arguments = (detector.spec(), str(output), settings, events_per_file)
    for done in _run(unfinished, arguments, workers):
        num_events += done
        progress(num_events)
    for task in tasks:
        report.add(ConversionReport.from_dict(read_json(task.record(output))))
    check_rejected(report, inputs, settings["max_rejected"])
    _finish(output, plan, report, tasks)
    return report


def _tasks(inputs: Sequence[str | Path], detector: Detector, reader: str) -> Iterator[Task]:
    for number, path in enumerate(inputs):
        for index, part in enumerate(Source.of(path, detector, reader=reader).parts):
            yield Task(f"events-{number:04d}-{index:05d}", str(path), part)


def _plan(
    inputs: Sequence[str | Path], detector: Detector, settings: dict[str, Any], events_per_file: int
) -> dict[str, Any]:
    """All that the content of the folder depends on."""
    return {
        "inputs": [_identity(Path(path)) for path in inputs],
        "detector": detector.spec(),
        "settings": settings,
        "events_per_file": events_per_file,
        "version": __version__,
    }


def _identity(path: Path) -> dict[str, Any]:
    """A file or folder as it is now: name, bytes and time of the last change."""
    place = existing(path)
    found = sorted(file for file in place.rglob("*") if file.is_file()) if place.is_dir() else [place]
    stats = [file.stat() for file in found]
    return {
        "path": str(path.resolve()),
        "files": len(found),
        "bytes": sum(stat.st_size for stat in stats),
        "changed": max((stat.st_mtime_ns for stat in stats), default=0),
    }


def _start(output: Path, plan: dict[str, Any]) -> None:
    """Make the folder, or take up the conversion that was interrupted in it."""
    if (output / PLAN).is_file():
        if (before := read_json(output / PLAN)) != plan:
            different = ", ".join(key for key in plan if before.get(key) != plan[key])
            raise ConfigurationError(
                f"{output}: holds an unfinished conversion of other {different}; remove the folder, or choose another"
            )
        for leftover in output.glob(".events-*.tmp*"):
            leftover.unlink()
        return
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigurationError(f"{output}: exists and is no conversion; choose another folder")
    write_json(output / PLAN, plan)


def _is_done(task: Task, output: Path) -> bool:
    """Whether a task is recorded as finished and its files are there, of the recorded size."""
    if not task.record(output).is_file():
        return False
    files = read_json(task.record(output))["files"]
    return all((output / f["file"]).is_file() and (output / f["file"]).stat().st_size == f["bytes"] for f in files)


def _run(tasks: Sequence[Task], arguments: tuple[Any, ...], workers: int) -> Iterator[int]:
    """Do the tasks; after each one the number of its events. The first error stops everything."""
    if workers <= 1 or len(tasks) <= 1:
        for task in tasks:
            yield convert_part(task, *arguments)
        return
    context = multiprocessing.get_context("spawn")  # threads of Arrow do not survive a fork
    pool = ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context, initializer=_leave_interrupts_to_parent)
    queue = iter(tasks)
    try:
        running: set[Future[int]] = {pool.submit(convert_part, task, *arguments) for task in islice(queue, 2 * workers)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
                running |= {pool.submit(convert_part, task, *arguments) for task in islice(queue, 1)}
    except BaseException as error:
        for process in multiprocessing.active_children():
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            remedy = "out of memory? Run the same command again, with fewer --workers, to go on"
            raise FM4NPPError(f"{arguments[1]}: a converting process was killed; {remedy}") from error
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def convert_part(
    task: Task, detector: dict[str, Any], output: str, settings: dict[str, Any], events_per_file: int
) -> int:
    """Convert one part, in files of at most `events_per_file` events, and record that it is done.

    Args:
        task: which part.
        detector: its specification.
        output: the folder.
        settings: reader, labels, max_rejected.
        events_per_file: events in a file, at most.

    Returns:
        The number of events.

    Raises:
        DataError: as of `convert`; files of this part may be left, but not its record.
    """
    chosen, folder = detectors.build(detector), Path(output)
    report = ConversionReport()
    source = Source.of(task.path, chosen, reader=settings["reader"])
    outcomes = source.outcomes(task.part)
    events = converted(outcomes, chosen.geometry, settings["labels"], report, settings["max_rejected"])
    for number, first in enumerate(events):
        name = f"{task.name}-{number:04d}.parquet"
        with EventWriter(folder / name) as writer:
            for event in chain([first], islice(events, events_per_file - 1)):
                writer.write(event)
        report.files.append({"file": name, "bytes": (folder / name).stat().st_size, **writer.summary})
    write_json(task.record(folder), report.as_dict())
    return report.num_events


def _finish(output: Path, plan: dict[str, Any], report: ConversionReport, tasks: Sequence[Task]) -> None:
    names = {shard["file"] for shard in report.files}
    for leftover in output.glob("events-*.parquet"):
        if leftover.name not in names:
            leftover.unlink()
    entries = {key: value for key, value in report.as_dict().items() if key not in ("output", "files", "num_kept")}
    write_json(output / MANIFEST, {"plan": plan, **entries, "shards": report.files})
    for path in (output / PLAN, *(task.record(output) for task in tasks)):
        path.unlink(missing_ok=True)


def _finished(output: Path, plan: dict[str, Any]) -> ConversionReport:
    """The report of a conversion that has nothing left to do."""
    manifest = read_json(output / MANIFEST)
    if manifest.get("plan") != plan:
        raise ConfigurationError(f"{output}: holds the finished conversion of something else; choose another folder")
    shards = manifest["shards"]
    values = {**manifest, "output": str(output), "files": shards, "num_kept": len(shards)}
    return ConversionReport.from_dict(values)
