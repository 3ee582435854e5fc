"""Any data file: the tables in it, and which detectors make events of it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from fm4npp import detectors
from fm4npp.data import Accounting, Source, choose_reader
from fm4npp.detectors import Detector
from fm4npp.errors import DataError, FM4NPPError
from fm4npp.inspection.statistics import Statistics
from fm4npp.readers import Reader, Table
from fm4npp.readers.checks import one_line
from fm4npp.readers.events_parquet import read_metadata

Summary = dict[str, Any]

TRIED_EVENTS = 20
"""Events that a detector is tried on."""
TRIED_SECONDS = 10.0
"""After this time no further detector is tried."""
FEW = 0.05
"""Share of events, and of spacepoints, that may be rejected by a detector that reads a file."""
INSIDE = 0.5
"""Share of spacepoints within its bounds that such a detector needs."""
TYPES = ("cartesian", "cylindrical", "objects")
"""Detectors that are there to be filled in by a YAML file."""


@dataclass
class Trial:
    """What came of reading the first events of a file with one detector.

    Attributes:
        detector: its name.
        accounting: what was read and left out.
        statistics: of the events.
        error: why it cannot be read; "" if it can.
        rank: how well it suits the format by names, see `_rank`.
    """

    detector: str
    accounting: Accounting = field(default_factory=Accounting)
    statistics: Statistics = field(default_factory=Statistics)
    error: str = ""
    rank: tuple[bool, int] = (False, 0)

    @property
    def fits(self) -> bool:
        """Whether there are spacepoints, few are rejected, and at least half lie within the bounds."""
        accounting = self.accounting
        few = accounting.rejected_events.total() <= FEW * accounting.events_read
        few &= accounting.rejected_spacepoints.total() <= FEW * accounting.spacepoints_read
        return not self.error and self.statistics.spacepoints > 0 and few and self.statistics.share_outside < INSIDE

    @property
    def merit(self) -> tuple[bool, float, int]:
        """Whether it is made for the format; share of spacepoints within its bounds; number of features and labels."""
        inside = (self.statistics.spacepoints - self.statistics.outside) / max(self.accounting.spacepoints_read, 1)
        return self.rank[0], inside, len(self.statistics.ranges) + len(self.statistics.labels)

    def as_dict(self) -> Summary:
        """A JSON object."""
        return {
            "detector": self.detector,
            "labels": list(self.statistics.labels),
            "particles": list(self.statistics.particles),
            **self.statistics.as_dict(),
            "accounting": self.accounting.as_dict(),
        }


def describe(path: Path, reader_name: str = "auto", *, seconds: float = TRIED_SECONDS) -> Summary:
    """What a data file holds, and which registered detectors read it.

    Args:
        path: file or folder of any known format.
        reader_name: a registered format, in place of recognising it.
        seconds: after which no further detector is tried.

    Returns:
        A JSON object: `reader`, `tables`, `detectors` (the best first), `not_tried`, and where no detector reads it
        `nearest`, with the reason.

    Raises:
        DataError: if the file is of no known format, or damaged.
    """
    reader = choose_reader(path, reader_name)
    tables = list(reader.describe(path))
    trials, not_tried = _trials(path, reader, tables, seconds)
    fitting = sorted((trial for trial in trials if trial.fits), key=lambda trial: trial.merit, reverse=True)
    nearest = [trial for trial in trials if any(trial.rank) and (trial.error or trial.accounting.rejected_events)][:1]
    return {
        "kind": "data",
        "path": str(path),
        "bytes": path.stat().st_size if path.is_file() else None,
        "reader": reader.registered_name,
        "generic": reader.generic,
        "tables": [table._asdict() | {"columns": dict(table.columns)} for table in tables],
        "detectors": [trial.as_dict() for trial in fitting],
        "not_tried": not_tried,
        "nearest": [] if fitting else [{"detector": trial.detector, "error": _reason(trial)} for trial in nearest],
    }


def read_with(
    path: str | Path,
    detector: str | None,
    reader: str = "auto",
    events: int | None = None,
    progress: Callable[[int], None] = lambda num_events: None,
) -> Summary:
    """Read a file with one detector, and count.

    Args:
        path: file or folder of any known format.
        detector: a registered name or a YAML file; an events file of a registered detector says so itself.
        reader: a registered format, in place of recognising it.
        events: number of events to read; all by default.
        progress: called with the number of events so far.

    Raises:
        DataError: if reading cannot go on. Events and spacepoints that are rejected are counted, however many.
        ConfigurationError: if there is no such detector.
    """
    source = Source.of(path, detector, reader=reader)
    chosen = source.detector or detectors.load(detector or read_metadata(path)["detector"])
    trial = read(source, chosen, events, progress)
    return {
        "kind": "data",
        "path": str(path),
        "reader": source.reader.registered_name,
        "only_first_events": events,
        **trial.as_dict(),
    }


def read(
    source: Source,
    detector: Detector,
    events: int | None = None,
    progress: Callable[[int], None] = lambda num_events: None,
) -> Trial:
    """Count the first events, or all, of a source.

    Raises:
        DataError: if reading cannot go on.
    """
    trial = Trial(detector.name, statistics=Statistics(detector.geometry, detector.subsystem_features))
    for number, outcome in enumerate(islice(source.outcomes(), events)):
        if isinstance(outcome, DataError):
            trial.accounting.reject(outcome)
        else:
            trial.accounting.use(outcome)
            trial.statistics.add(outcome)
        if number % 100 == 99:
            progress(number + 1)
    return trial


def _trials(path: Path, reader: Reader, tables: Sequence[Table], seconds: float) -> tuple[list[Trial], list[str]]:
    """Detectors tried, those that suit the file best by names first, and names of those not tried."""
    described = {name for table in tables for column in table.columns for name in _called(column)}
    ranked = [(_rank(detector, reader, described), detector) for detector in _candidates()]
    ranked.sort(key=lambda pair: pair[0], reverse=True)
    start = time.monotonic()
    trials: list[Trial] = []
    for place, (rank, detector) in enumerate(ranked):
        if time.monotonic() - start > seconds:
            return trials, sorted(other.name for _, other in ranked[place:])
        trials.append(_trial(path, reader, detector.reading(reader.registered_name), described))
        trials[-1].rank = rank
    return trials, []


def _trial(path: Path, reader: Reader, detector: Detector, described: set[str]) -> Trial:
    required = [column.name for column in detector.columns if column.required]
    missing = [name for name in required if not described & _called(name)]
    if reader.generic and described and missing:  # known without opening the file, which may take seconds
        return Trial(detector.name, error=f"no column {', '.join(missing)}")
    try:
        return read(Source(path, reader, detector), detector, TRIED_EVENTS)
    except Exception as error:  # a plug-in's detector may raise anything on files of others
        return Trial(detector.name, error=one_line(error))


def _candidates() -> Iterator[Detector]:
    for name in detectors.names():
        try:
            if name not in TYPES:
                yield detectors.build(name)
        except FM4NPPError:  # a plug-in that is broken, or that needs fields
            continue


def _rank(detector: Detector, reader: Reader, described: set[str]) -> tuple[bool, int]:
    """Whether detector and format name each other; columns that the file describes, required ones counting most."""
    name = reader.registered_name
    own = name.startswith(detector.name) or (not reader.generic and name in getattr(detector, "formats", ()))
    found = [column for column in detector.reading(name).columns if described & _called(column.name)]
    return own, sum(100 if column.required else 1 for column in found)


def _called(column: str) -> set[str]:
    """What a column may be called: its last part, and of a dotted one both ends, without an index, lower case."""
    own = re.sub(r"\[.*", "", column.rpartition("/")[2]).rstrip(".").lower()
    return {own, own.partition(".")[0], own.rpartition(".")[2]}


def _reason(trial: Trial) -> str:
    if trial.error:
        return trial.error
    problem = trial.accounting.rejected_events.most_common(1)[0][0]
    return trial.accounting.examples[problem]
