"""The training layout of the FM4NPP authors: one folder of memory-mapped ragged arrays a quantity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from fm4npp.errors import DataError
from fm4npp.readers.base import Block, Columns, Table
from fm4npp.readers.blocks import BlockReader, blocks, by_column
from fm4npp.readers.checks import NEW_COPY, check_required, decoding
from fm4npp.readers.npz import Array

FEATURES = "features_"
COLUMNS = {
    "features": ("energy", "x", "y", "z"),
    "seg_target": ("track_id",),
    "pid_target": ("pdg",),
    "reg_target": ("px", "py", "pz", "vtx_x", "vtx_y", "vtx_z", "q", "e"),
}
"""Folder, without the name of the split -> its columns: ADC and cm; PDG codes as they are; GeV/c, cm, e and GeV."""
EVENTS = 10_000
"""Events in a part."""


class RaggedMmap(BlockReader):
    """Folders `features_<split>`, `seg_target_<split>`, `pid_target_<split>` and `reg_target_<split>` of mmap_ninja.

    A path is the folder that holds them, if it has one split, or the `features_<split>` of the wanted one. A
    quantity's folder holds `data.ninja` (all values end to end), `dtype.ninja` (its name), and for every event
    its first and last place, in values, in `starts` and `ends`; shapes follow from these. `event_id` is the
    event's index. Checked on files written to this documented layout.
    """

    registered_name: ClassVar[str] = "ragged-mmap"

    def recognises(self, path: Path) -> bool:
        """See `Reader.recognises`."""
        return path.is_dir() and bool(splits(path))

    def parts(self, path: Path) -> Sequence[str]:
        """See `Reader.parts`: a part is named by its first event, and one without any is the only part."""
        return [str(first) for first in range(0, max(1, len(_Ragged(_one_split(path), "features"))), EVENTS)]

    def read_blocks(self, path: Path, part: str, required: Sequence[str], optional: Sequence[str]) -> Iterator[Block]:
        """See `Reader.read_blocks`. The folder of a target is read if one of its columns is asked for."""
        folders = _folders(_one_split(path), {*required, *optional})
        check_required(required, [column for name in folders for column in COLUMNS[name]], path)
        arrays = {name: _Ragged(folder, name) for name, folder in folders.items()}
        points = arrays["features"]
        first, last = int(part), min(int(part) + EVENTS, len(points))
        sizes = points.sizes(first, last)
        for array in arrays.values():
            _check_same_events(points, array, first, last)
        for start, stop in blocks(sizes):
            columns: Columns = {}
            for name, array in arrays.items():
                columns |= by_column(COLUMNS[name], array.rows(first + start, first + stop))
            yield Block(columns, sizes[start:stop], np.arange(first + start, first + stop))

    def describe(self, path: Path) -> Sequence[Table]:
        """See `Reader.describe`: the quantities of every split."""
        tables = []
        for features in splits(path):
            for name, folder in _folders(features, {column for names in COLUMNS.values() for column in names}).items():
                array = _Ragged(folder, name)
                tables.append(Table(folder.name, len(array), dict.fromkeys(COLUMNS[name], str(array.dtype))))
        return tables


def splits(path: Path) -> list[Path]:
    """The folders `features_<split>` at or in a folder."""
    if path.name.startswith(FEATURES) and (path / "starts").is_dir():
        return [path]
    return sorted(folder for folder in path.glob(f"{FEATURES}*") if (folder / "starts").is_dir())


def _one_split(path: Path) -> Path:
    found = splits(path)
    if len(found) != 1:
        names = ", ".join(folder.name for folder in found) or "none"
        example = found[0] if found else path / f"{FEATURES}pretrain"
        raise DataError(f"one split is needed (found: {names})", file=path, remedy=f"give the path of one: {example}")
    return found[0]


def _folders(features: Path, wanted: set[str]) -> dict[str, Path]:
    """Quantity -> its folder, of those that exist and hold a wanted column."""
    split = features.name.removeprefix(FEATURES)
    places = {name: features.with_name(f"{name}_{split}") for name in COLUMNS}
    return {
        name: place
        for name, place in places.items()
        if name == "features" or (wanted & set(COLUMNS[name]) and place.is_dir())
    }


class _Ragged:
    """One quantity, mapped into memory; `len` is its number of events."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self._width = folder, len(COLUMNS[name])
        self._data = _flat(folder)
        self._starts, self._ends = _places(folder / "starts"), _places(folder / "ends")
        self.dtype = self._data.dtype
        if len(self._starts) != len(self._ends):
            problem = f"has {len(self._starts)} starts and {len(self._ends)} ends"
            raise DataError(problem, file=folder, remedy=NEW_COPY)
        last = int(self._ends[-1]) if len(self._ends) else 0
        if last != len(self._data):
            problem = f"holds {len(self._data)} values but its events end at {last}"
            raise DataError(problem, file=self.folder / "data.ninja", remedy=NEW_COPY)

    def __len__(self) -> int:
        return len(self._starts)

    def sizes(self, first: int, last: int) -> Array:
        """(last - first,) spacepoints of the events `first` to `last`, if each begins where the one before it ends."""
        starts, ends = self._starts[first:last], self._ends[first:last]
        before = self._ends[first - 1 : last - 1] if first else np.append(0, ends)[: len(ends)]
        wrong = (starts != before) | (starts < 0) | (ends < starts) | (ends > len(self._data))
        wrong |= (ends - starts) % self._width != 0
        if wrong.any():
            place = int(np.flatnonzero(wrong)[0])
            problem = f"values {starts[place]} to {ends[place]} are no event of {self._width} values a spacepoint"
            remedy = "it holds another quantity, or is damaged"
            raise DataError(problem, file=self.folder, event=first + place, remedy=remedy)
        sizes: Array = (ends - starts) // self._width
        return sizes

    def rows(self, first: int, last: int) -> Array:
        """(N, width) of the events `first` to `last`, which `sizes` has accepted."""
        return self._data[int(self._starts[first]) : int(self._ends[last - 1])].reshape(-1, self._width)


def _check_same_events(points: _Ragged, other: _Ragged, first: int, last: int) -> None:
    remedy = "the folders do not belong together"
    if len(points) != len(other):
        problem = f"has {len(other)} events but {points.folder.name} has {len(points)}"
        raise DataError(problem, file=other.folder, remedy=remedy)
    sizes, others = points.sizes(first, last), other.sizes(first, last)
    if (wrong := np.flatnonzero(sizes != others)).size:
        place = int(wrong[0])
        problem = f"has {others[place]} spacepoints but {points.folder.name} has {sizes[place]}"
        raise DataError(problem, file=other.folder, event=first + place, remedy=remedy)


def _places(folder: Path) -> Array:
    values = _flat(folder)
    if values.dtype != np.int64 and len(values):
        raise DataError(f"holds {values.dtype}, not int64", file=folder / "data.ninja", remedy=NEW_COPY)
    return values


def _flat(folder: Path) -> Array:
    """The values of one mmap_ninja array, flat, mapped into memory."""
    file = folder / "data.ninja"
    with decoding(folder, "the array"):
        name = (folder / "dtype.ninja").read_text(encoding="utf-8").strip()
        dtype = np.dtype(name)
        if dtype.name != name or dtype.kind not in "iuf":
            raise DataError(f"holds values of type {name!r}, not numbers", file=file)
        size = file.stat().st_size
        if size % dtype.itemsize:
            raise DataError(f"has {size} bytes, no whole number of {name}", file=file, remedy=NEW_COPY)
        return np.memmap(file, dtype, mode="r") if size else np.empty(0, dtype)
