"""The training layout of the FM4NPP authors: one folder of memory-mapped ragged arrays a quantity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from fm4npp.errors import DataError
from fm4npp.readers.base import Columns, Reader
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


class RaggedMmap(Reader):
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

    def read(self, path: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
        """See `Reader.read`. The folder of a target is read if one of its columns is asked for."""
        found = splits(path)
        if len(found) != 1:
            names = ", ".join(folder.name for folder in found) or "none"
            example = found[0] if found else path / f"{FEATURES}pretrain"
            raise DataError(
                f"one split is needed (found: {names})", file=path, remedy=f"give the path of one: {example}"
            )
        folders = _folders(found[0], {*required, *optional})
        check_required(required, [column for name in folders for column in COLUMNS[name]], path)
        arrays = {name: _Ragged(folder, len(COLUMNS[name])) for name, folder in folders.items()}
        points = arrays["features"]
        for array in arrays.values():
            _check_same_events(points, array)
        for index in range(len(points.sizes)):
            event: Columns = {"event_id": index}
            for name, array in arrays.items():
                event |= zip(COLUMNS[name], array[index].T, strict=True)
            yield event


def splits(path: Path) -> list[Path]:
    """The folders `features_<split>` at or in a folder."""
    if path.name.startswith(FEATURES) and (path / "starts").is_dir():
        return [path]
    return sorted(folder for folder in path.glob(f"{FEATURES}*") if (folder / "starts").is_dir())


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
    """One quantity, mapped into memory: `[i]` is (N_i, width) of event i."""

    def __init__(self, folder: Path, width: int) -> None:
        self.folder, self._width = folder, width
        self._data = _flat(folder)
        self._starts = _flat(folder / "starts").astype(np.int64)
        ends = _flat(folder / "ends").astype(np.int64)
        if len(self._starts) != len(ends):
            raise DataError(f"has {len(self._starts)} starts and {len(ends)} ends", file=folder, remedy=NEW_COPY)
        self._check_places(ends)
        self.sizes = (ends - self._starts) // width

    def __getitem__(self, index: int) -> Array:
        start = int(self._starts[index])
        return np.array(self._data[start : start + int(self.sizes[index]) * self._width]).reshape(-1, self._width)

    def _check_places(self, ends: Array) -> None:
        before = np.concatenate([[0], ends[:-1]])
        wrong = (self._starts != before) | (ends < self._starts) | ((ends - self._starts) % self._width != 0)
        if wrong.any():
            event = int(np.flatnonzero(wrong)[0])
            problem = f"values {self._starts[event]} to {ends[event]} are no event of {self._width} values a spacepoint"
            raise DataError(problem, file=self.folder, event=event, remedy="it holds another quantity, or is damaged")
        last = int(ends[-1]) if len(ends) else 0
        if last != len(self._data):
            problem = f"holds {len(self._data)} values but its events end at {last}"
            raise DataError(problem, file=self.folder / "data.ninja", remedy=NEW_COPY)


def _check_same_events(points: _Ragged, other: _Ragged) -> None:
    if len(points.sizes) != len(other.sizes):
        problem = f"has {len(other.sizes)} events but {points.folder.name} has {len(points.sizes)}"
        raise DataError(problem, file=other.folder, remedy="the folders do not belong together")
    if (wrong := np.flatnonzero(points.sizes != other.sizes)).size:
        event = int(wrong[0])
        problem = f"has {other.sizes[event]} spacepoints but {points.folder.name} has {points.sizes[event]}"
        raise DataError(problem, file=other.folder, event=event, remedy="the folders do not belong together")


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
