"""Any data file: the tables in it, and which detectors make events of it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
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
    """

    detector: str
    accounting: Accounting = field(default_factory=Accounting)
    statistics: Statistics = field(default_factory=Statistics)
    error: str = ""

    @property
    def fits(self) -> bool:
        """Whether there are spacepoints, few are rejected, and at least half lie within the bounds."""
        accounting = self.accounting
        few = accounting.rejected_events.total() <= FEW * accounting.events_read
        few &= accounting.rejected_spacepoints.total() <= FEW * accounting.spacepoints_read
        return not self.error and self.statistics.spacepoints > 0 and few and self.statistics.share_outside < INSIDE

    @property
    def merit(self) -> tuple[float, int]:
        """How much of the file it explains: spacepoints within its bounds, then features and labels."""
        inside = self.statistics.spacepoints - self.statistics.outside
        return inside / max(self.accounting.spacepoints_read, 1), len(self.statistics.ranges) + len(
            self.statistics.labels
        )

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
    nearest = [trial for trial in trials if trial.error or trial.accounting.rejected_events][:1]
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
    path: Path,
    detector: str,
    reader: str = "auto",
    events: int | None = None,
    progress: Callable[[int], None] = lambda num_events: None,
) -> Summary:
    """Read a file with one detector, and count.

    Args:
        path: file or folder of any known format.
        detector: a registered name or a YAML file.
        reader: a registered format, in place of recognising it.
        events: number of events to read; all by default.
        progress: called with the number of events so far.

    Raises:
        DataError: if reading cannot go on. Events and spacepoints that are rejected are counted, however many.
        ConfigurationError: if there is no such detector.
    """
    source = Source.of(path, detector, reader=reader)
    chosen = source.detector or detectors.load(detector)
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
    trial = Trial(detector.name, statistics=Statistics(detector.geometry))
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
    """Detectors tried, those that ask for most of what the file describes first, and names of those not tried."""
    candidates = []
    for name in detectors.names():
        try:
            if name not in TYPES:
                candidates.append(detectors.build(name).reading(reader.registered_name))
        except FM4NPPError:  # a plug-in that is broken, or that needs fields
            continue
    described = {_own(column) for table in tables for column in table.columns}
    candidates.sort(key=lambda detector: -_overlap(detector, described))
    start, trials = time.monotonic(), []
    for place, detector in enumerate(candidates):
        if time.monotonic() - start > seconds:
            return trials, sorted(other.name for other in candidates[place:])
        try:
            trials.append(read(Source(path, reader, detector), detector, TRIED_EVENTS))
        except FM4NPPError as error:
            trials.append(Trial(detector.name, error=str(error)))
    return trials, []


def _overlap(detector: Detector, described: set[str]) -> int:
    """Columns of a detector that a file describes, required ones counting most."""
    names = [(column.required, _own(column.name) in described) for column in detector.columns]
    return sum(found * (1 + 99 * required) for required, found in names)


def _own(column: str) -> str:
    """The last part of a column's name, without the index of a fixed-size array."""
    return re.sub(r"\[.*", "", column.rpartition("/")[2].partition(".")[0]).lower()


def _reason(trial: Trial) -> str:
    if trial.error:
        return trial.error
    problem = trial.accounting.rejected_events.most_common(1)[0][0]
    return trial.accounting.examples[problem]
