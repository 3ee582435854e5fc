"""The events of a run: files found, training events in batches of any kind, validation events by index."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from fm4npp.batch import PreparedEvent
from fm4npp.data import EventDataset, EventStream, Mixture
from fm4npp.data.loading import resolve
from fm4npp.data.specifications import specification
from fm4npp.data.stream import Stream
from fm4npp.errors import ConfigurationError, DataError
from fm4npp.event import Event
from fm4npp.processing import FM4NPPProcessor
from fm4npp.readers.events_parquet import files, read_metadata
from fm4npp.training.batches import Batches, IndexedBatches, Stored, StreamedBatches
from fm4npp.training.config import DataConfig, TrainingConfig
from fm4npp.training.inputs import data_identity
from fm4npp.truth import missing


@dataclass(frozen=True)
class Preparing:
    """What makes the arrays of an event; can be sent to a loader's workers.

    Attributes:
        processor: fitted.
        targets: whether the objective's are wanted.
        labels: the kinds of truth that are wanted, see `fm4npp.truth.truth`; every event must have them.
    """

    processor: FM4NPPProcessor
    targets: bool = False
    labels: frozenset[str] = frozenset()

    def __call__(self, event: Event, **stored: Any) -> PreparedEvent:
        """See `FM4NPPProcessor.prepare`.

        Raises:
            DataError: if the event cannot be prepared, or lacks a label.
        """
        return self.processor.prepare(event, targets=self.targets, labels=sorted(self.labels), **stored)


class Sources:
    """The events files of a run; their events are loaded when they are first needed.

    Args:
        data: which.

    Attributes:
        paths: split -> files.

    Raises:
        DataError: if a file cannot be found or read.
    """

    def __init__(self, data: DataConfig) -> None:
        self.data = data
        self.paths = {"train": _found(data.train), "validation": _found(data.validation)}
        self._metadata = {split: [read_metadata(path) for path in paths] for split, paths in self.paths.items()}
        self._by_detector: dict[str, list[str | Path]] = {}
        for path, metadata in zip(self.paths["train"], self._metadata["train"], strict=True):
            self._by_detector.setdefault(str(metadata["detector"]), []).append(path)
        if data.streaming and len(self._by_detector) > 1 and set(data.weights) != set(self._by_detector):
            raise ConfigurationError(
                f"data.weights: a stream of {', '.join(self._by_detector)} needs the weight of each detector"
            )

    @cached_property
    def train(self) -> EventDataset | None:
        """The training events, if they are wanted by index."""
        return None if self.data.streaming else EventDataset(self.paths["train"])

    @cached_property
    def validation(self) -> EventDataset | None:
        """The validation events, if there are any."""
        return EventDataset(self.paths["validation"]) if self.paths["validation"] else None

    @property
    def datasets(self) -> list[EventDataset]:
        """Everything that is there by index."""
        return [dataset for dataset in (self.train, self.validation) if dataset is not None]

    @property
    def specifications(self) -> list[str | dict[str, Any]]:
        """What makes a detector of those of the training events, see `detectors.build`."""
        metadata, paths = self._metadata["train"], self.paths["train"]
        return [specification(name, metadata, paths) for name in self._by_detector]

    @property
    def detectors(self) -> list[str]:
        """Names of all detectors."""
        return list(dict.fromkeys(str(one["detector"]) for split in self._metadata.values() for one in split))

    def identity(self) -> dict[str, list[dict[str, Any]]]:
        """Split -> what identifies the content of its files."""
        return {split: data_identity(paths) for split, paths in self.paths.items()}

    def fit_events(self) -> Iterator[Event]:
        """A few training events of all files, to fit to: always the same."""
        if self.train is None:
            return islice(self._stream(PartialState(), seed=0, alone=True), self.data.fit_events)
        order = np.random.default_rng(0).permutation(len(self.train))[: self.data.fit_events]
        return (event for index in order.tolist() for event in self.train.__getitems__([index]))

    def batches(
        self, prepare: Preparing, config: TrainingConfig, group: PartialState, stored: Mapping[EventDataset, Stored]
    ) -> Batches:
        """The training events in the batches of every step, of one process.

        Args:
            prepare: event to arrays.
            config: of the run.
            group: this process and the others.
            stored: events by index -> index to what was computed earlier.
        """
        options: dict[str, Any] = {"tokens": config.tokens_per_batch, "num_workers": config.num_workers}
        if self.train is None:
            share = config.events_per_step and -(-config.events_per_step // group.num_processes)
            return StreamedBatches(self._stream(group, config.seed), prepare, events=share, **options)
        return IndexedBatches(
            self.train,
            prepare,
            events=config.events_per_step,
            seed=config.seed,
            weights=self.data.weights,
            stored=stored.get(self.train),
            rank=group.process_index,
            processes=group.num_processes,
            **options,
        )

    def _stream(self, group: PartialState, seed: int, *, alone: bool = False) -> Stream:
        rank, processes = (0, 1) if alone else (group.process_index, group.num_processes)
        options: dict[str, Any] = {"seed": seed, "buffer": self.data.buffer, "rank": rank, "world_size": processes}
        streams = {name: EventStream(paths, **options) for name, paths in self._by_detector.items()}
        if len(streams) == 1:
            return next(iter(streams.values()))
        return Mixture(list(streams.values()), [self.data.weights[name] for name in streams], seed=seed)


def _found(paths: Sequence[str]) -> list[str | Path]:
    """All events files of paths, patterns and repositories."""
    return [file for path in paths for match in resolve(path) for file in files(match)]


def check_labels(sources: Sources, labels: Collection[str]) -> None:
    """Find a missing label before the first step.

    Raises:
        DataError: naming the file.
    """
    for path in (path for paths in sources.paths.values() for path in paths):
        metadata = read_metadata(path)
        lacking = missing(labels, *(metadata[kind] for kind in ("labels", "particles", "scalars")))
        if lacking:
            remedy = "convert the file together with its labels"
            raise DataError(f"no label {', '.join(lacking)}, which the head is trained with", file=path, remedy=remedy)
