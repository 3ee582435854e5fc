"""Files of any registered format to one events file (Parquet), or to a folder of them by several processes."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fm4npp import detectors
from fm4npp.data.accounting import MAX_REJECTED, Accounting
from fm4npp.data.processes import check_workers
from fm4npp.data.reading import Source
from fm4npp.data.writing import EventWriter
from fm4npp.detectors import Detector
from fm4npp.detectors.plausibility import MAX_OUTSIDE, hits_of_layers, judge, untouched
from fm4npp.errors import ConfigurationError, DataError, UnfitError
from fm4npp.event import LABEL_DTYPES, Event
from fm4npp.geometry import Geometry

SAMPLED = 20
"""Events that are looked at to say what is wrong."""
TOGETHER = 100
"""Events that are looked at together."""
Labels = Literal["auto", "none", "require"]


@dataclass
class ConversionReport:
    """What a conversion read: all that it read it wrote, or it says why not.

    Attributes:
        accounting: events and spacepoints, used and left out.
        spacepoints_of: subsystem -> spacepoints.
        num_outside: spacepoints outside the detector's bounds, but not far; they are kept.
        layers_touched: nominal place of every layer -> spacepoints within the bounds that it is nearest to.
        labels: labels found.
        output: the file or folder written.
        files: name, events, spacepoints and content hash of each file of a folder.
        num_kept: of these, files that an interrupted conversion had finished before.
    """

    accounting: Accounting = field(default_factory=Accounting)
    spacepoints_of: Counter[str] = field(default_factory=Counter)
    num_outside: int = 0
    layers_touched: Counter[float] = field(default_factory=Counter)
    labels: tuple[str, ...] = ()
    output: str = ""
    files: list[dict[str, Any]] = field(default_factory=list)
    num_kept: int = 0

    @property
    def num_events(self) -> int:
        """Events written."""
        return self.accounting.events_used

    @property
    def num_empty_events(self) -> int:
        """Of these, events without a spacepoint."""
        return self.accounting.empty_events

    @property
    def num_spacepoints(self) -> int:
        """Spacepoints written."""
        return self.accounting.spacepoints_used

    @property
    def share_outside(self) -> float:
        """Share of spacepoints outside the detector's bounds; a large one suggests the wrong detector or units."""
        return self.num_outside / self.num_spacepoints if self.num_spacepoints else 0.0

    @property
    def untouched_layers(self) -> tuple[float, ...]:
        """Places of layers that no spacepoint is nearest to, if there are enough spacepoints to tell."""
        return untouched(np.array(list(self.layers_touched.values())), list(self.layers_touched))

    def look_at(self, events: Sequence[Event], geometry: Geometry) -> None:
        """Count what the accounting does not, of events of one detector."""
        positions = np.concatenate([event.positions for event in events])
        inside = geometry.contains(positions)
        self.num_outside += int(np.count_nonzero(~inside))
        if geometry.layers:
            outward = geometry.natural(positions[inside])[:, geometry.causal_axis]
            counts = hits_of_layers(outward, geometry.layers).tolist()
            self.layers_touched.update(dict(zip(geometry.layers, counts, strict=True)))
        subsystems = events[-1].subsystems
        numbers = np.bincount(np.concatenate([event.ids for event in events]), minlength=len(subsystems))
        self.spacepoints_of.update(dict(zip(subsystems, numbers.tolist(), strict=True)))
        self.labels = tuple(events[-1].labels)

    def add(self, other: ConversionReport) -> None:
        """Count what another conversion did after this one."""
        self.accounting.add(other.accounting)
        self.spacepoints_of.update(other.spacepoints_of)
        self.num_outside += other.num_outside
        self.layers_touched.update(other.layers_touched)
        self.labels = other.labels or self.labels
        self.files += other.files
        self.num_kept += other.num_kept

    def as_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "output": self.output,
            "num_events": self.num_events,
            "num_empty_events": self.num_empty_events,
            "num_spacepoints": self.num_spacepoints,
            "spacepoints_of": dict(self.spacepoints_of),
            "num_outside": self.num_outside,
            "layers_touched": list(self.layers_touched.items()),
            "labels": list(self.labels),
            "accounting": self.accounting.as_dict(),
            "files": self.files,
            "num_kept": self.num_kept,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ConversionReport:
        """The inverse of `as_dict`."""
        return cls(
            accounting=Accounting.from_dict(values["accounting"]),
            spacepoints_of=Counter(values["spacepoints_of"]),
            num_outside=values["num_outside"],
            layers_touched=Counter(dict(map(tuple, values["layers_touched"]))),
            labels=tuple(values["labels"]),
            output=values["output"],
            files=values["files"],
            num_kept=values["num_kept"],
        )


def convert(
    inputs: Sequence[str | Path],
    detector: str | Path | Detector,
    output: str | Path,
    *,
    reader: str = "auto",
    labels: Labels = "auto",
    max_rejected: float = MAX_REJECTED,
    max_outside: float = MAX_OUTSIDE,
    workers: int = 1,
    events_per_file: int = 10_000,
    progress: Callable[[int], None] = lambda num_events: None,
) -> ConversionReport:
    """Convert files, in the order given, into one events file or into a folder of them.

    The folder's content does not depend on the number of processes. A conversion into a folder that was interrupted
    goes on where it was when it is started again in the same way.

    Args:
        inputs: files or folders of any registered format.
        detector: what their columns mean.
        output: a name ending in .parquet for one file, else a folder. Nothing is left under the file's name if
            anything fails; a folder counts as events only once its manifest is written, at the end.
        reader: a registered format, in place of recognising it.
        labels: "auto" takes what the files have, "none" leaves labels and particles out, "require" refuses files
            without any.
        max_rejected: share of events, and of spacepoints, that may be left out because something is wrong with them.
        max_outside: share of spacepoints that may lie outside the detector's bounds.
        workers: processes, see `check_workers`; more than one only into a folder.
        events_per_file: of a folder.
        progress: called with the number of events so far.

    Raises:
        DataError: naming the file and the event, if a file cannot be read exactly or too much is rejected.
        ConfigurationError: if the options contradict each other, or the folder holds something else.
    """
    check_workers(workers)
    chosen = detector if isinstance(detector, Detector) else detectors.load(detector)
    try:
        if Path(output).suffix != ".parquet":
            from fm4npp.convert.folder import convert_folder

            shares = {"max_rejected": max_rejected, "max_outside": max_outside}
            settings: dict[str, Any] = {"reader": reader, "labels": labels, **shares}
            return convert_folder(inputs, chosen, Path(output), settings, workers, events_per_file, progress)
        if workers > 1:
            remedy = "several processes write a folder of files; give --output without .parquet"
            raise ConfigurationError(f"{output}: {remedy}")
        report = ConversionReport(output=str(output))
        sources = [Source.of(path, chosen, reader=reader) for path in inputs]
        with EventWriter(output, report.accounting, chosen) as writer:
            for source in sources:
                for event in converted(source.outcomes(), chosen.geometry, labels, report, max_rejected):
                    writer.write(event)
                    progress(report.num_events)
            check_report(report, inputs, max_rejected, max_outside)
        return report
    except UnfitError as error:
        raise _explained(error, Source.of(inputs[0], chosen, reader=reader)) from error


def _explained(error: UnfitError, source: Source) -> UnfitError:
    """The error with what would fit the first events of a file better."""
    fits = judge(source.detector, source.sampled(SAMPLED)) if source.detector else []
    better = [fit.better for fit in fits if fit.better]
    return UnfitError("; ".join([error.problem, *better]), file=error.file, event=error.event, remedy=error.remedy)


def check_report(
    report: ConversionReport, inputs: Sequence[str | Path], max_rejected: float, max_outside: float
) -> None:
    """Refuse a conversion that left out too much, or of which too much lies outside the detector.

    Raises:
        DataError: naming the input if there is only one, the most frequent reason, and where it was met first.
    """
    file = inputs[0] if len(inputs) == 1 else None
    try:
        report.accounting.check(max_rejected)
    except DataError as error:
        raise error.at(file=file) from error
    if report.share_outside > max_outside:
        raise UnfitError(
            f"{report.num_outside} of {report.num_spacepoints} spacepoints lie outside the detector's bounds, more "
            f"than {max_outside:.2%}",
            file=file,
            remedy="choose the right detector and units, or allow more with --max-outside",
        )


def converted(
    outcomes: Iterable[Event | DataError],
    geometry: Geometry,
    labels: Labels,
    report: ConversionReport,
    max_rejected: float,
) -> Iterator[Event]:
    """The events to write, counted.

    Raises:
        DataError: as of `convert`; whether too much is rejected is checked every 1,000 events, not at the end.
    """
    stream = report.accounting.screen(outcomes, max_rejected, at_the_end=False)
    while events := list(islice(stream, TOGETHER)):
        for event in events if labels == "require" else ():
            if not set(event.labels) & set(LABEL_DTYPES):
                remedy = "convert with --labels auto"
                raise DataError("has no labels", file=event.source, event=event.event_id, remedy=remedy)
        report.look_at(events, geometry)
        for event in events:
            yield dataclasses.replace(event, labels={}, particles={}, scalars={}) if labels == "none" else event
