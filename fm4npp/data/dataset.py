"""Sets of events for training: by index, in batches under a budget of tokens, through `datasets`."""

from __future__ import annotations

import bisect
import glob
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pds
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from fm4npp.data.processes import leave_signals_to_parent, started
from fm4npp.data.specifications import specification
from fm4npp.errors import DataError, FM4NPPError, first_line
from fm4npp.event import Event
from fm4npp.readers import events_parquet, events_schema
from fm4npp.readers.checks import check_required

datasets.disable_progress_bars()

Stored = Callable[[int], Mapping[str, Any]]
"""Index of an event to arrays that were computed earlier."""


class EventDataset(Dataset[Event]):
    """The events of one or more events files (Parquet), by index, through `datasets`.

    Args:
        paths: events files, folders of them, or URLs (which are downloaded); they may be of different detectors.

    Attributes:
        paths: the files.
        starts: index of the first event of every file, and the number of all events.
        lengths: (num_events,) spacepoints of every event.
        detectors: names of the detectors, in the order of the files.
        specifications: of these, the names of those that are registered; of others what the files say, if they do.

    Raises:
        DataError: if a file is no events file, two are of different detectors of one name, or there is no event.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        files = [file for path in paths for file in events_parquet.files(path)]
        self.paths = tuple(file if events_parquet.is_url(file) else Path(file) for file in files)
        self._metadata = [events_parquet.read_metadata(path) for path in self.paths]
        self._parts = [_load_parquet(path) for path in self.paths]
        counts = [len(part) for part in self._parts]
        self.starts = np.concatenate([[0], np.cumsum(counts)]).astype(int).tolist()
        self.lengths = np.concatenate([_lengths(part) for part in self._parts]) if self._parts else np.zeros(0, int)
        self.detectors = tuple(dict.fromkeys(str(metadata["detector"]) for metadata in self._metadata))
        self.specifications = tuple(specification(name, self._metadata, self.paths) for name in self.detectors)
        if not len(self.lengths):
            raise DataError("no events", file=", ".join(map(str, self.paths)) or None, remedy="give a file with events")

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Event:
        (event,) = self.__getitems__([index])
        return event

    def __getitems__(self, indices: Sequence[int]) -> list[Event]:
        """Several events at once, which is faster than one by one; loaders call it.

        Raises:
            DataError: if one of them cannot be read.
        """
        if bad := [index for index in indices if not 0 <= index < len(self)]:
            raise IndexError(bad[0])
        places: dict[int, list[int]] = {}
        for place, index in enumerate(indices):
            places.setdefault(self.part(index), []).append(place)
        found: dict[int, Event] = {}
        for part, own in places.items():
            found |= zip(own, self._events(part, [indices[place] - self.starts[part] for place in own]), strict=True)
        return [found[place] for place in range(len(indices))]

    def _events(self, part: int, rows: list[int]) -> Iterator[Event]:
        path, metadata = self.paths[part], self._metadata[part]
        table = self._parts[part][rows]
        lists, scalars = events_schema.columns_of(metadata)
        check_required([*lists, *scalars], table.column_names, path)
        for batch in table.combine_chunks().to_batches():
            for outcome in _outcomes(batch, lists, scalars, metadata, path):
                if isinstance(outcome, DataError):
                    raise outcome.at(file=path)
                yield outcome

    def part(self, index: int) -> int:
        """Which of `paths` an event is in."""
        return bisect.bisect_right(self.starts, index) - 1

    def detector(self, part: int) -> str:
        """Name of the detector of one of `paths`."""
        return str(self._metadata[part]["detector"])

    def __iter__(self) -> Iterator[Event]:
        for start in range(0, len(self), events_parquet.ROWS):
            yield from self.__getitems__(range(start, min(start + events_parquet.ROWS, len(self))))


def _outcomes(
    batch: pa.RecordBatch, lists: list[str], scalars: list[str], metadata: events_schema.Metadata, path: str | Path
) -> Iterator[Event | DataError]:
    if batch.num_rows > 1:
        events_parquet.check_batch(batch, lists, path)
        yield from events_schema.events(batch, metadata, path)
        return
    for columns in events_parquet.rows(batch, lists, scalars, path):  # faster for one event, a slice of many
        try:
            yield events_schema.event(columns, metadata)
        except DataError as error:
            yield error


def _load_parquet(path: str | Path) -> Any:
    options = pds.ParquetFragmentScanOptions(page_checksum_verification=True)
    name = str(path) if events_parquet.is_url(path) else glob.escape(str(path))
    try:
        table = datasets.load_dataset("parquet", data_files=name, split="train", fragment_scan_options=options)
    except Exception as error:  # the Hub's client raises what it likes
        told = first_line(error.__cause__ or error)  # the cause says what, the error only that something
        remedy = "it may be damaged, or hold no events: copy or write it again"
        raise DataError(f"cannot be loaded ({told})", file=path, remedy=remedy) from error
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
    """A dataset whose events go through a function, in the loader's workers; an error stands in their place.

    The loader would raise it with a traceback in its message.
    """

    def __init__(self, dataset: Dataset[Event], prepare: Callable[..., Any], stored: Stored | None) -> None:
        self.dataset, self.prepare, self.stored = dataset, prepare, stored

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        try:
            return [self._prepared(*pair) for pair in zip(indices, _several(self.dataset, indices), strict=True)]
        except FM4NPPError as error:
            return [error]

    def _prepared(self, index: int, event: Event) -> Any:
        try:
            return self.prepare(event, **(self.stored(index) if self.stored is not None else {}))
        except DataError as error:
            raise error.at(file=event.source or None, event=event.event_id) from error


def _several(dataset: Dataset[Event], indices: Sequence[int]) -> list[Event]:
    if isinstance(dataset, EventDataset):
        return dataset.__getitems__(indices)
    return [dataset[index] for index in indices]


class _Collated:
    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, prepared: list[Any]) -> Any:
        errors = (item for item in prepared if isinstance(item, FM4NPPError))
        return next(errors, None) or self.collate(prepared)


def loader(
    dataset: EventDataset,
    batches: Iterable[Sequence[int]],
    prepare: Callable[..., Any],
    collate: Callable[[list[Any]], Any],
    *,
    num_workers: int = 0,
    stored: Stored | None = None,
) -> Iterator[Any]:
    """Packed batches, one after the other; iterating draws nothing from the global random numbers.

    Args:
        dataset: the events.
        batches: event indices of every batch; asked for a few batches ahead when there are workers.
        prepare: event to arrays.
        collate: list of what `prepare` gave to a batch.
        num_workers: processes that read and prepare ahead; 0 does it here.
        stored: index of an event to further keyword arguments of `prepare`, such as an `IndexCache`.

    Raises:
        FM4NPPError: of reading or preparing an event.
    """
    batched: DataLoader[Any] = DataLoader(
        _Prepared(dataset, prepare, stored),
        batch_sampler=batches,  # type: ignore[arg-type]
        collate_fn=_Collated(collate),
        num_workers=num_workers,
        generator=torch.Generator(),
        worker_init_fn=leave_signals_to_parent,
    )
    for batch in started(batched):
        if isinstance(batch, FM4NPPError):
            raise batch
        yield batch
