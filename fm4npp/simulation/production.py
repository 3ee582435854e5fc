"""Simulated events into an events file, or a folder of them, by several processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from fm4npp import __version__
from fm4npp.data import EventWriter, folder
from fm4npp.data.packing import packed, unpacked
from fm4npp.data.processes import check_workers, results
from fm4npp.detectors import Detector
from fm4npp.errors import ConfigurationError
from fm4npp.event import Event
from fm4npp.files import read_json
from fm4npp.simulation import events
from fm4npp.simulation.generator import Generator

WHAT = "simulation"
COUNTS = ("num_events", "num_spacepoints", "num_tracks", "num_empty_events")
"""What is counted in every file; see `ProductionReport`."""
Record = dict[str, Any]
Progress = Callable[[int], None]


@dataclass
class ProductionReport:
    """What was written.

    Attributes:
        output: the file or folder.
        num_events: events, those without a spacepoint included.
        num_spacepoints: spacepoints.
        num_tracks: particles with spacepoints, primary or not, over all events.
        num_empty_events: events without a spacepoint.
        files: name, bytes and summary of each file.
        num_kept: of these, files of a folder that an interrupted run had finished before.
        num_simulated: events that this run has simulated.
        seconds: that it took, the preparation of the processes and of the generator included.
    """

    output: str
    num_events: int = 0
    num_spacepoints: int = 0
    num_tracks: int = 0
    num_empty_events: int = 0
    files: list[Record] = field(default_factory=list)
    num_kept: int = 0
    num_simulated: int = 0
    seconds: float = 0.0

    @property
    def events_per_second(self) -> float:
        """Of those that this run has simulated."""
        return self.num_simulated / self.seconds if self.seconds else 0.0

    def add(self, record: Record) -> None:
        """Count a file, or a folder."""
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + record[name])
        self.files += record["files"]

    def as_dict(self) -> Record:
        """A JSON object."""
        return {**vars(self), "events_per_second": self.events_per_second}


class Block(NamedTuple):
    """Events that are simulated together: their block's number, and how many they are."""

    number: int
    num_events: int


class Simulated(NamedTuple):
    """The events of a block as rows of an events file, and the number of tracks in them."""

    batch: pa.RecordBatch
    num_tracks: int


@dataclass(frozen=True)
class Simulation:
    """All that the events depend on; every process is sent it once, and then makes blocks of events.

    Attributes:
        detector: as of `produce`; so are the others.
        generator: of collisions.
        num_events: of all blocks.
        seed: not negative.
        pileup: mean number of further collisions.
    """

    detector: Detector
    generator: Generator
    num_events: int
    seed: int
    pileup: float

    def __call__(self, block: Block) -> Simulated:
        """Simulate a block."""
        made = events.block_events(self.detector, self.generator, self.seed, *block, self.pileup)
        return Simulated(packed(made), sum(map(_num_tracks, made)))

    @property
    def block_size(self) -> int:
        """Events of each block but the last."""
        return events.block_size(self.pileup)

    @property
    def num_blocks(self) -> int:
        """The last one included, which may be smaller."""
        return -(-self.num_events // self.block_size)

    def block(self, number: int) -> Block:
        """The block of a number."""
        return Block(number, min(self.block_size, self.num_events - number * self.block_size))


def _num_tracks(event: Event) -> int:
    ids = event.labels["track_id"]
    return int(np.count_nonzero(np.bincount(ids[ids >= 0])))


def produce(
    detector: Detector,
    generator: Generator,
    num_events: int,
    seed: int,
    output: str | Path,
    *,
    pileup: float = 0.0,
    workers: int = 1,
    shards: int | None = None,
    progress: Progress = lambda num_events: None,
) -> ProductionReport:
    """Simulate events into an events file, or into a folder of such files.

    The bytes depend on the detector, the generator, `num_events`, `seed`, `pileup` and `shards` alone; the memory does
    not grow with the number of events. A script that asks for several processes needs Python's usual
    `if __name__ == "__main__"`.

    Args:
        detector: see `simulate`; so are `generator`, `seed` and `pileup`.
        generator: of collisions.
        num_events: how many are written, at least one.
        seed: not negative.
        output: a name ending in .parquet for one file, nothing of which is left if anything fails. With `shards` a
            folder; where that holds an interrupted run of the same arguments, its finished files are kept.
        pileup: mean number of further collisions in an event.
        workers: processes, see `check_workers`; each prepares the generator for itself.
        shards: number of files of the folder, with about the same number of events each.
        progress: called with the number of events so far.

    Raises:
        ConfigurationError: if these cannot be simulated, or the folder holds something else.
        FM4NPPError: if the output cannot be written, or a process was killed.
    """
    begin, output = time.perf_counter(), Path(output)
    events.check(detector, num_events, seed, pileup)
    check_workers(workers)
    work = Simulation(detector, generator, num_events, seed, pileup)
    _check_name(output, shards)
    report = ProductionReport(str(output))
    if shards is None:
        killed = f"{output}: a simulating process was killed; out of memory? Try fewer --workers"
        files = {output: range(work.num_blocks)}
        report.num_simulated = _write(work, files, workers, killed, progress, lambda part, record: report.add(record))
    else:
        _write_folder(work, output, shards, workers, progress, report)
    report.seconds = time.perf_counter() - begin
    return report


def _check_name(output: Path, shards: int | None) -> None:
    if shards is None and output.suffix != ".parquet":
        raise ConfigurationError(f"{output}: end the name of an events file in .parquet; for a folder give --shards")
    if shards is not None and output.suffix == ".parquet":
        raise ConfigurationError(f"{output}: --shards writes a folder of files; give --output without .parquet")


def _write(
    work: Simulation,
    files: dict[Path, range],
    workers: int,
    killed: str,
    progress: Progress,
    done: Callable[[str, Record], None],
) -> int:
    """Write files one after another.

    Args:
        work: what is simulated.
        files: path -> numbers of its blocks.
        workers: processes.
        killed: message for the case that one of them dies.
        progress: called with the number of events so far.
        done: called with the name of every finished file, less its suffix, and its record.

    Returns:
        The number of events.
    """
    blocks = [work.block(number) for numbers in files.values() for number in numbers]
    num_events = 0
    with closing(results(work, blocks, min(workers, len(blocks)), in_order=True, killed=killed)) as simulated:
        for path, numbers in files.items():
            num_tracks = 0
            with EventWriter(path, detector=work.detector) as writer:
                for batch, tracks in islice(simulated, len(numbers)):
                    for event in unpacked(batch):
                        writer.write(event)
                    num_tracks += tracks
                    progress(num_events := num_events + batch.num_rows)
            done(path.stem, _record(writer, num_tracks))
    return num_events


def _record(writer: EventWriter, num_tracks: int) -> Record:
    """What `ProductionReport.add` takes."""
    empty = writer.summary["accounting"]["empty_events"]
    counts = zip(COUNTS, (writer.num_events, writer.num_spacepoints, num_tracks, empty), strict=True)
    file = {"file": writer.path.name, "bytes": writer.path.stat().st_size, **writer.summary}
    return {**dict(counts), "files": [file]}


def _write_folder(
    work: Simulation, output: Path, shards: int, workers: int, progress: Progress, report: ProductionReport
) -> None:
    """Write the files of a folder that are not there yet; see `produce`."""
    parts, plan = _divided(work, shards), _plan(work, shards)
    if (manifest := folder.finished(output, plan, WHAT)) is not None:
        report.add({**manifest, "files": manifest["shards"]})
        report.num_kept = len(report.files)
        return
    folder.start(output, plan, WHAT)
    kept = {part: record for part in parts if (record := folder.kept(output, part)) is not None}
    before, report.num_kept = sum(record["num_events"] for record in kept.values()), len(kept)
    missing = {output / f"{part}.parquet": numbers for part, numbers in parts.items() if part not in kept}
    killed = f"{output}: a simulating process was killed; out of memory? {folder.GO_ON}"
    keep = partial(folder.keep, output)
    report.num_simulated = _write(work, missing, workers, killed, lambda count: progress(before + count), keep)
    for part in parts:
        report.add(read_json(folder.place(output, part)))
    folder.finish(output, plan, list(parts), {name: getattr(report, name) for name in COUNTS}, report.files)


def _divided(work: Simulation, shards: int) -> dict[str, range]:
    """The numbers of the blocks of each file of a folder."""
    if not 1 <= shards <= work.num_blocks:
        blocks = f"{work.num_events} events, simulated {work.block_size} at a time,"
        raise ConfigurationError(f"--shards: {blocks} can be divided into 1 to {work.num_blocks} files, not {shards}")
    ends = [index * work.num_blocks // shards for index in range(shards + 1)]
    return {f"events-{index:05d}": range(*pair) for index, pair in enumerate(pairwise(ends))}


def _plan(work: Simulation, shards: int) -> Record:
    """All that the content of a folder depends on."""
    return {
        "detector": work.detector.spec(),
        "generator": {"source": work.generator.source, **work.generator.model_dump(mode="json")},
        "num_events": work.num_events,
        "seed": work.seed,
        "pileup": work.pileup,
        "shards": shards,
        "version": __version__,
    }
