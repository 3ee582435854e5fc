"""Files of any registered format to one events file (Parquet)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from fm4npp import detectors
from fm4npp.data import EventWriter, read_events
from fm4npp.detectors import Detector
from fm4npp.errors import DataError
from fm4npp.event import LABEL_DTYPES, Event
from fm4npp.geometry import Geometry

Labels = Literal["auto", "none", "require"]


@dataclass
class ConversionReport:
    """What a conversion read; everything it read, it wrote.

    Attributes:
        num_events: events written.
        num_empty_events: of these, events without a spacepoint.
        num_spacepoints: spacepoints written.
        spacepoints_of: subsystem -> spacepoints.
        num_outside: spacepoints outside the detector's bounds; they are kept.
        labels: labels found.
        output: the file written.
    """

    num_events: int = 0
    num_empty_events: int = 0
    num_spacepoints: int = 0
    spacepoints_of: dict[str, int] = field(default_factory=dict)
    num_outside: int = 0
    labels: tuple[str, ...] = ()
    output: str = ""

    def count(self, event: Event, geometry: Geometry) -> None:
        """Add one event."""
        coordinates = geometry.coordinates(event.positions)
        self.num_events += 1
        self.num_empty_events += not len(event)
        self.num_spacepoints += len(event)
        self.num_outside += int((~((coordinates >= 0) & (coordinates <= 1))).any(axis=1).sum())
        numbers = np.bincount(event.ids, minlength=len(event.subsystems))
        for name, number in zip(event.subsystems, numbers.tolist(), strict=True):
            self.spacepoints_of[name] = self.spacepoints_of.get(name, 0) + number
        self.labels = tuple(event.labels)

    @property
    def share_outside(self) -> float:
        """Share of spacepoints outside the detector's bounds; a large one suggests the wrong detector or units."""
        return self.num_outside / self.num_spacepoints if self.num_spacepoints else 0.0


def convert(
    inputs: Sequence[str | Path],
    detector: str | Path | Detector,
    output: str | Path,
    *,
    reader: str = "auto",
    labels: Labels = "auto",
    progress: Callable[[int], None] = lambda num_events: None,
) -> ConversionReport:
    """Convert files, in the order given, into one events file.

    Args:
        inputs: files or folders of any registered format.
        detector: what their columns mean.
        output: the Parquet file to write; nothing is left under this name if anything fails.
        reader: a registered format, in place of recognising it.
        labels: "auto" takes what the files have, "none" leaves labels and particles out, "require" refuses files
            without any.
        progress: called with the number of events after each one.

    Raises:
        DataError: naming the file and the event, if anything cannot be read exactly.
    """
    chosen = detector if isinstance(detector, Detector) else detectors.load(detector)
    report = ConversionReport(output=str(output))
    geometry = chosen.geometry
    with EventWriter(output) as writer:
        for event in _events(inputs, chosen, reader, labels):
            writer.write(event)
            report.count(event, geometry)
            progress(report.num_events)
    return report


def _events(inputs: Sequence[str | Path], detector: Detector, reader: str, labels: Labels) -> Iterator[Event]:
    for path in inputs:
        for event in read_events(path, detector, reader=reader):
            if labels == "require" and not set(event.labels) & set(LABEL_DTYPES):
                raise DataError("has no labels", file=path, event=event.event_id, remedy="convert with --labels auto")
            yield dataclasses.replace(event, labels={}, particles={}, scalars={}) if labels == "none" else event
