"""A conversion into a folder of events files: in parts, by several processes, able to go on after it was killed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from fm4npp import __version__, detectors
from fm4npp.convert.events import ConversionReport, check_report, converted
from fm4npp.data import folder
from fm4npp.data.processes import results
from fm4npp.data.reading import Source, existing
from fm4npp.data.writing import EventWriter
from fm4npp.detectors import Detector
from fm4npp.files import read_json

WHAT = "conversion"


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
        settings: reader, labels, max_rejected, max_outside.
        workers: processes.
        events_per_file: events in a file, at most.
        progress: called with the number of events so far.
    """
    tasks = list(_tasks(inputs, detector, settings["reader"]))
    plan = _plan(inputs, detector, settings, events_per_file)
    if (manifest := folder.finished(output, plan, WHAT)) is not None:
        return _finished(output, manifest)
    folder.start(output, plan, WHAT)
    kept = {task: record for task in tasks if (record := folder.kept(output, task.name)) is not None}
    unfinished = [task for task in tasks if task not in kept]
    num_events = sum(record["num_events"] for record in kept.values())
    work = partial(
        convert_part, detector=detector.spec(), output=output, settings=settings, events_per_file=events_per_file
    )
    killed = f"{output}: a converting process was killed; out of memory? {folder.GO_ON}"
    with closing(results(work, unfinished, min(workers, len(unfinished)), killed=killed)) as counts:
        for done in counts:
            num_events += done
            progress(num_events)
    report = ConversionReport(output=str(output), num_kept=sum(len(record["files"]) for record in kept.values()))
    for task in tasks:
        report.add(ConversionReport.from_dict(read_json(folder.place(output, task.name))))
    check_report(report, inputs, settings["max_rejected"], settings["max_outside"])
    entries = {key: value for key, value in report.as_dict().items() if key not in ("output", "files", "num_kept")}
    folder.finish(output, plan, [task.name for task in tasks], entries, report.files)
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


def _finished(output: Path, manifest: dict[str, Any]) -> ConversionReport:
    """The report of a conversion that has nothing left to do."""
    shards = manifest["shards"]
    values = {**manifest, "output": str(output), "files": shards, "num_kept": len(shards)}
    return ConversionReport.from_dict(values)


def convert_part(
    task: Task, detector: dict[str, Any], output: Path, settings: dict[str, Any], events_per_file: int
) -> int:
    """Convert one part, in files of at most `events_per_file` events, and record that it is done.

    Args:
        task: which part.
        detector: its specification.
        output: the folder.
        settings: reader, labels, max_rejected, max_outside.
        events_per_file: events in a file, at most.

    Returns:
        The number of events.

    Raises:
        DataError: as of `convert`; files of this part may be left, but not its record.
    """
    chosen = detectors.build(detector)
    report = ConversionReport()
    source = Source.of(task.path, chosen, reader=settings["reader"])
    outcomes = source.outcomes(task.part)
    events = converted(outcomes, chosen.geometry, settings["labels"], report, settings["max_rejected"])
    for number, first in enumerate(events):
        name = f"{task.name}-{number:04d}.parquet"
        with EventWriter(output / name, detector=chosen) as writer:
            for event in chain([first], islice(events, events_per_file - 1)):
                writer.write(event)
        report.files.append({"file": name, "bytes": (output / name).stat().st_size, **writer.summary})
    folder.keep(output, task.name, report.as_dict())
    return report.num_events
