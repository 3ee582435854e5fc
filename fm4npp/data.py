"""Events from files and into files, and sets of events for training."""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from fm4npp import __version__, detectors, readers
from fm4npp.detectors import Detector
from fm4npp.errors import DataError, first_line
from fm4npp.event import Event
from fm4npp.files import atomic_path
from fm4npp.readers import Reader, events_parquet

datasets.disable_progress_bars()

ROWS_PER_GROUP = 500
"""Events in a row group of an events file: a few megabytes."""


def choose_reader(path: Path, name: str = "auto") -> Reader:
    """The reader for a path.

    Args:
        path: file or folder.
        name: a registered reader, or "auto" to recognise the format.

    Raises:
        DataError: if the path does not exist, or no format, or more than one, fits.
    """
    if not path.exists():
        raise DataError("no such file or folder", file=path)
    if name != "auto":
        return readers.build({"type": name})
    found = [reader for reader in map(readers.build, readers.names()) if reader.recognises(path)]
    if len(found) != 1:
        formats = " and ".join(reader.registered_name for reader in found)
        raise DataError(
            f"looks like {formats}" if found else "is of no known format",
            file=path,
            remedy=f"name it with --reader: {', '.join(readers.names())}",
        )
    return found[0]


def read_events(
    path: str | Path, detector: str | Path | Detector | None = None, *, reader: str = "auto"
) -> Iterator[Event]:
    """The events of a file, in its order.

    Args:
        path: file or folder of any registered format.
        detector: what its columns mean: a registered name, a YAML file, or a detector. An events file (Parquet)
            says so itself.
        reader: a registered format, in place of recognising it.

    Yields:
        Events in cm, their spacepoints in the order of the file.

    Raises:
        DataError: naming the file and the event, if anything cannot be read exactly.
    """
    path = Path(path)
    chosen = choose_reader(path, reader)
    if isinstance(chosen, events_parquet.EventsParquet):
        yield from _read_events_file(chosen, path, detector)
        return
    if detector is None:
        raise DataError("which detector wrote it?", file=path, remedy=f"name it: {', '.join(detectors.names())}")
    detector = detector if isinstance(detector, Detector) else detectors.load(detector)
    required = [column.name for column in detector.columns if column.required]
    optional = [column.name for column in detector.columns if not column.required]
    for columns in chosen.read(path, required, optional):
        try:
            yield dataclasses.replace(detector.event(columns), source=path.name)
        except DataError as error:
            raise error.at(file=path, event=columns["event_id"]) from error


def _read_events_file(
    reader: events_parquet.EventsParquet, path: Path, detector: str | Path | Detector | None
) -> Iterator[Event]:
    metadata = events_parquet.read_metadata(path)
    if detector is not None:
        wanted = detector if isinstance(detector, Detector) else detectors.load(detector)
        if wanted.name != metadata["detector"]:
            raise DataError(f"holds events of {metadata['detector']!r}, not of {wanted.name!r}", file=path)
    for columns in reader.read(path, (), ()):
        try:
            yield events_parquet.event(columns, metadata)
        except DataError as error:
            raise error.at(file=path) from error


class EventWriter:
    """Writes an events file (Parquet) under a temporary name, and renames it when the block ends without an error.

    All events must have the columns of the first one.

    Args:
        path: final name.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.num_events = 0
        self._stack = ExitStack()
        self._rows: list[dict[str, Any]] = []
        self._metadata: dict[str, Any] = {}
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        self._temporary = self._stack.enter_context(atomic_path(self.path))
        return self

    def write(self, event: Event) -> None:
        """Append one event.

        Raises:
            DataError: if its columns differ from the first event's.
        """
        if self._writer is None:
            self._metadata = events_parquet.metadata_of(event, __version__)
            self._schema = events_parquet.schema(self._metadata, event)
            self._writer = pq.ParquetWriter(self._temporary, self._schema, compression="zstd", write_page_checksum=True)
        try:
            self._rows.append(events_parquet.record(event, self._metadata))
        except DataError as error:
            raise error.at(file=event.source or None, event=event.event_id) from error
        self.num_events += 1
        if len(self._rows) >= ROWS_PER_GROUP:
            self._flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None and self._writer is None:
                raise DataError("no events to write", file=self.path, remedy="check the input")
            if error is None:
                self._flush()
            if self._writer is not None:
                self._writer.close()
        except BaseException as failure:
            if not self._stack.__exit__(type(failure), failure, failure.__traceback__):
                raise
        else:
            self._stack.__exit__(kind, error, traceback)

    def _flush(self) -> None:
        if self._rows and self._writer is not None:
            self._writer.write_batch(events_parquet.record_batch(self._rows, self._schema))
            self._rows.clear()


def write_events(events: Iterable[Event], path: str | Path) -> int:
    """Write an events file (Parquet); returns the number of events.

    Raises:
        DataError: if there is no event, or their columns differ; nothing is left under `path` then.
    """
    with EventWriter(path) as writer:
        for event in events:
            writer.write(event)
    return writer.num_events


class EventDataset(Dataset[Event]):
    """The events of one or more events files (Parquet), by index, through `datasets`.

    Args:
        paths: the files; they may be of different detectors.

    Attributes:
        lengths: (num_events,) spacepoints of every event.
        detectors: names of the detectors, in the order of the files.

    Raises:
        DataError: if a file is no events file, or there is no event at all.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self.paths = tuple(Path(path) for path in paths)
        self._metadata = [events_parquet.read_metadata(path) for path in self.paths]
        self._parts = [_load_parquet(path) for path in self.paths]
        counts = [len(part) for part in self._parts]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(int).tolist()
        self.lengths = np.concatenate([_lengths(part) for part in self._parts]) if self._parts else np.zeros(0, int)
        self.detectors = tuple(dict.fromkeys(str(metadata["detector"]) for metadata in self._metadata))
        if not len(self.lengths):
            raise DataError("no events", file=", ".join(map(str, self.paths)) or None, remedy="give a file with events")

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Event:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect.bisect_right(self._starts, index) - 1
        row = self._parts[part][index - self._starts[part]]
        metadata = self._metadata[part]
        try:
            columns = _first_row(row, metadata, self.paths[part])
            return events_parquet.event(columns, metadata)
        except DataError as error:
            raise error.at(file=self.paths[part]) from error

    def __iter__(self) -> Iterator[Event]:
        return (self[index] for index in range(len(self)))


def _first_row(table: pa.Table, metadata: events_parquet.Metadata, path: Path) -> readers.Columns:
    lists, scalars = events_parquet.columns_of(metadata)
    (batch,) = table.combine_chunks().to_batches()
    return next(events_parquet.rows(batch, lists, scalars, path))


def _load_parquet(path: Path) -> Any:
    try:
        table = datasets.load_dataset("parquet", data_files=str(path), split="train")
    except (datasets.exceptions.DatasetsError, pa.ArrowException, OSError) as error:
        raise DataError(f"cannot be loaded ({first_line(error)})", file=path) from error
    return table.with_format("arrow")


def _lengths(part: Any) -> NDArray[np.int64]:
    column = part.data.column("x")
    lengths: NDArray[np.int64] = pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64)
    return lengths


def token_budget_batches(
    lengths: Sequence[int] | NDArray[np.int64], budget: int, *, seed: Sequence[int] | None = None
) -> list[list[int]]:
    """Share events out over batches that hold at most `budget` spacepoints each.

    Args:
        lengths: spacepoints of every event.
        budget: spacepoints a batch; an event above it gets a batch of its own.
        seed: shuffle with this seed first; None keeps the order.

    Returns:
        Batches of event indices; every event is in exactly one.
    """
    indices = np.arange(len(lengths))
    if seed is not None:
        np.random.default_rng(list(seed)).shuffle(indices)
    batches: list[list[int]] = []
    room = -1
    for index in indices.tolist():
        length = int(lengths[index])
        if length > room or not batches:
            batches.append([])
            room = budget
        batches[-1].append(index)
        room -= length
    return batches


class _Prepared(Dataset[Any]):
    """A dataset whose events go through a function, in the loader's workers."""

    def __init__(self, dataset: Dataset[Event], prepare: Callable[[Event], Any]) -> None:
        self.dataset = dataset
        self.prepare = prepare

    def __getitem__(self, index: int) -> Any:
        event = self.dataset[index]
        try:
            return self.prepare(event)
        except DataError as error:
            raise error.at(file=event.source or None, event=event.event_id) from error


def loader(
    dataset: EventDataset,
    batches: Sequence[Sequence[int]],
    prepare: Callable[[Event], Any],
    collate: Callable[[list[Any]], Any],
    *,
    num_workers: int = 0,
) -> DataLoader[Any]:
    """A loader of packed batches; iterating it draws nothing from the global random numbers.

    Args:
        dataset: the events.
        batches: event indices of every batch.
        prepare: event to arrays.
        collate: list of what `prepare` gave to a batch.
        num_workers: processes that read and prepare ahead; 0 does it here.
    """
    return DataLoader(
        _Prepared(dataset, prepare),
        batch_sampler=batches,  # type: ignore[arg-type]
        collate_fn=collate,
        num_workers=num_workers,
        generator=torch.Generator(),
    )
