"""Files of any registered format to one events file (Parquet), and the authors' checkpoints to ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from fm4npp import detectors, original
from fm4npp.checkpoint import load_strict
from fm4npp.data import EventWriter, read_events
from fm4npp.detectors import Detector
from fm4npp.errors import DataError
from fm4npp.event import LABEL_DTYPES, Event
from fm4npp.files import sha256
from fm4npp.geometry import Geometry
from fm4npp.modeling import FM4NPPModel

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


def load_original_checkpoint(
    path: str | Path, *, bin_edges: str | Path | None = None, trust_pickle: bool = False
) -> FM4NPPModel:
    """A model with the weights of one of the authors' released backbones; see `fm4npp.original.read`.

    Args:
        path: the released `.ckpt` file, or "fm4npp-m3" to "fm4npp-m6" to download it.
        bin_edges: the authors' pickle of bin edges. Without it the serializer is not fitted, and the processor has to
            be, before it can order events.
        trust_pickle: unpickle in full a file that holds more than tensors, plain values and NumPy arrays. This runs
            whatever code is in the file.

    Raises:
        CheckpointError: if a file is damaged, holds something else, or cannot be had.
    """
    if original.is_alias(path):
        found = original.read_released(original.fetch(path), trust_pickle=trust_pickle)
    else:
        found = original.read(path, trust_pickle=trust_pickle)
    config = found.config
    if bin_edges is not None:
        scan = original.read_bin_edges(bin_edges)
        origin = {"source": Path(bin_edges).name, "sha256": sha256(bin_edges)}
        config = config.updated(
            serializers=dict.fromkeys(config.serializers, scan), training={**config.training, "bin_edges": origin}
        )
    model = FM4NPPModel(config)
    load_strict(model, found.tensors, path)
    return model.eval()
