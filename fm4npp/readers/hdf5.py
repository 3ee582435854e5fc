"""HDF5 files: opened so that damage is an error, read in ranges of rows."""

from __future__ import annotations

import math
import mmap
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from fm4npp.errors import DataError
from fm4npp.readers.base import Table
from fm4npp.readers.checks import NEW_COPY, decoding, listing
from fm4npp.readers.npz import Array

SIGNATURE = b"\x89HDF\r\n\x1a\n"
"""The first bytes of every HDF5 file (HDF5 file format specification, III.A)."""
SUFFIXES = frozenset({".h5", ".hdf5", ".hdf"})
LIST, REFERENCE = struct.Struct("<IQI"), struct.Struct("<QI")
"""Number of values, address of the heap, index in it; address and index. Both with addresses of 8 bytes."""
HEAP, OBJECT = struct.Struct("<4sB3xQ"), struct.Struct("<H6xQ")
"""Signature, version and size of a heap; index and length of an object in it."""
MOST_HEAPS = 10_000
"""Heaps that are remembered."""
_RANGE = re.compile(r"(?P<name>.*)\[(?P<start>\d+):(?P<stop>\d+)\]")


def is_hdf5(path: Path) -> bool:
    """Whether a file begins as HDF5 does."""
    with path.open("rb") as handle:
        return handle.read(len(SIGNATURE)) == SIGNATURE


def fields(path: Path) -> dict[str, frozenset[str]] | None:
    """Name of every data set at the top of a file -> names of its fields; None if the file cannot be read."""
    try:
        with opened(path) as file:
            sets = {name: file[name] for name in file if isinstance(file[name], h5py.Dataset)}
            return {name: frozenset(data.dtype.names or ()) for name, data in sets.items()}
    except (DataError, OSError):
        return None


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading; anything that the HDF5 library says while it is open becomes a `DataError`.

    Files are not locked: nothing is written, and shared file systems often refuse locks. One that a program left
    open for writing, which the libver "latest" of PILArNet-M's writer makes possible, is opened with `swmr`.
    """
    with decoding(path, "the HDF5 file"), ExitStack() as stack:
        try:
            file = h5py.File(path, "r", locking=False)
        except OSError as error:
            if "already open for write" not in str(error):
                raise
            file = h5py.File(path, "r", locking=False, libver="latest", swmr=True)
        yield stack.enter_context(file)


def rows(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    """A data set that is a list of rows, all of them stored.

    Raises:
        DataError: if it is absent, is no list, or its rows are not in the file. (The library would give zeros.)
    """
    data = file.get(name)
    if not isinstance(data, h5py.Dataset):
        raise DataError(f"no data set {name!r} (found: {listing(file)})", file=path)
    if data.shape is None or len(data.shape) != 1:
        raise DataError(f"the data set {name!r} has shape {data.shape}, not one row an event or hit", file=path)
    if data.external or data.is_virtual:
        raise DataError(f"the data set {name!r} is kept in other files", file=path, remedy="copy it into one file")
    if not _is_stored(data):
        raise DataError(f"{name!r} has {len(data)} rows, but not all are stored", file=path, remedy=NEW_COPY)
    return data


def _is_stored(data: h5py.Dataset) -> bool:
    """Whether the file holds storage for all rows, as far as their size is known (it is not if compressed)."""
    if data.id.get_create_plist().get_nfilters():
        (chunk,) = data.chunks
        return bool(data.id.get_num_chunks() == math.ceil(len(data) / chunk))
    return bool(data.id.get_storage_size() >= len(data) * data.id.get_type().get_size())


class Heaps:
    """Where a file keeps lists of variable length and references, checked before the library goes there.

    The library trusts the sizes in a global heap: damaged ones send it round in circles or ask for all memory. Rows
    that are compressed cannot be looked at, so that what they point at is not checked.

    Layout of a heap and of what points to it: HDF5 file format specification, III.E, IV.A.2.d (class 9), VIII.A.

    Args:
        path: the file, which must be open in the library.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as handle:
            self._bytes = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        self._sizes: dict[int, dict[int, int]] = {}

    def check_lists(self, data: h5py.Dataset, row: int, itemsize: int) -> None:
        """Refuse a list (a row of `data`) that is not in its heap with all its numbers of `itemsize` bytes."""
        for count, address, index in self._pointers(data, row, row + 1, 0, LIST):
            if count and self._heap(address).get(index, -1) < count * itemsize:
                raise DataError(f"a list of {count} numbers of {data.name} is not in the file", remedy=NEW_COPY)

    def check_references(self, data: h5py.Dataset, start: int, stop: int, field: str) -> list[int]:
        """Refuse references, in a field of some rows of a table, that are not in their heap; null ones are not.

        Returns:
            The rows to resolve: the first with each reference; all if they cannot be looked at.
        """
        kind = data.id.get_type()
        offset = kind.get_member_offset(kind.get_member_index(field.encode()))
        pointers = list(self._pointers(data, start, stop, offset, REFERENCE))
        for address, index in set(pointers):
            if address and index not in self._heap(address):
                raise DataError(f"a reference in {data.name} leads nowhere", remedy=NEW_COPY)
        if len(pointers) < stop - start:
            return list(range(start, stop))
        first: dict[tuple[int, ...], int] = {}
        for row, pointer in enumerate(pointers, start):
            first.setdefault(pointer, row)
        return list(first.values())

    def _pointers(
        self, data: h5py.Dataset, start: int, stop: int, offset: int, kind: struct.Struct
    ) -> Iterator[tuple[int, ...]]:
        size = data.id.get_type().get_size()
        for place in self._places(data, start, stop, size):
            if not 0 <= place <= len(self._bytes) - size:
                raise DataError(f"rows of {data.name} are not in the file", remedy=NEW_COPY)
            yield kind.unpack_from(self._bytes, place + offset)

    def _places(self, data: h5py.Dataset, start: int, stop: int, size: int) -> Iterator[int]:
        """Where rows begin in the file; nothing of compressed ones."""
        if data.chunks is None:
            first = data.id.get_offset()
            yield from () if first is None else range(first + start * size, first + stop * size, size)
        elif not data.id.get_create_plist().get_nfilters():
            (length,) = data.chunks
            for chunk in range(start - start % length, stop, length):
                first = data.id.get_chunk_info_by_coord((chunk,)).byte_offset
                if first is not None:
                    rows = range(max(start, chunk), min(stop, chunk + length))
                    yield from (first + (row - chunk) * size for row in rows)

    def _heap(self, address: int) -> dict[int, int]:
        """Index -> bytes of every object in the heap at an address."""
        if address not in self._sizes:
            if len(self._sizes) >= MOST_HEAPS:
                self._sizes.clear()
            self._sizes[address] = dict(self._objects(address))
        return self._sizes[address]

    def _objects(self, address: int) -> Iterator[tuple[int, int]]:
        end = len(self._bytes)
        signature, version, size = HEAP.unpack_from(self._bytes, address) if address <= end - HEAP.size else (b"", 0, 0)
        if signature != b"GCOL" or version != 1 or not HEAP.size <= size <= end - address:
            raise DataError(f"no heap at byte {address}", remedy=NEW_COPY)
        place, end = address + HEAP.size, address + size
        while place <= end - OBJECT.size:
            index, length = OBJECT.unpack_from(self._bytes, place)
            needed = OBJECT.size + -(-length // 8) * 8 if index else length
            if not OBJECT.size <= needed <= end - place:
                raise DataError(f"the heap at byte {address} is damaged", remedy=NEW_COPY)
            if index:  # else it is free space
                yield index, length
            place += needed


class Target(NamedTuple):
    """A data set that region references must refer to.

    Attributes:
        file: the open file.
        name: the path of the data set in it.
        address: where the data set is in the file.
        num_rows: its length.
    """

    file: h5py.h5f.FileID
    name: str
    address: int
    num_rows: int


def target(data: h5py.Dataset) -> Target:
    """A data set as what references refer to."""
    return Target(data.file.id, data.name, _address(data.id), len(data))


def _address(item: h5py.h5d.DatasetID) -> int:
    # Not its name: to find that, the library walks through all groups, for ever if a damaged one leads back to itself.
    return int(h5py.h5o.get_info(item).addr)


def selected(reference: h5py.RegionReference, wanted: Target, what: str) -> Array:
    """The rows of a data set that a region reference selects.

    Args:
        reference: the reference; a null one selects nothing.
        wanted: the data set that it must refer to, with one row an entry.
        what: the reference, for messages.

    Returns:
        (N,) int64, increasing.

    Raises:
        DataError: if it refers to another data set, to rows that do not exist, or to one twice.
        Exception: whatever the library finds wrong; see `checks.decoding`.
    """
    if not reference:
        return np.empty(0, np.int64)
    if _address(h5py.h5r.dereference(reference, wanted.file)) != wanted.address:
        raise DataError(f"{what} does not refer to {wanted.name}", remedy=NEW_COPY)
    space = h5py.h5r.get_region(reference, wanted.file)
    places = _places(space, wanted.num_rows)
    if places is None or (len(places) and not (places[0] >= 0 and places[-1] < wanted.num_rows)):
        raise DataError(f"{what} refers to rows that do not exist", remedy=NEW_COPY)
    return places


def _places(space: h5py.h5s.SpaceID, limit: int) -> Array | None:
    """The selected places of a one-dimensional space in increasing order; None if they cannot be `limit` rows'."""
    kind, count = space.get_select_type(), space.get_select_npoints()
    if kind == h5py.h5s.SEL_NONE or count == 0:
        return np.empty(0, np.int64)
    if space.get_simple_extent_ndims() != 1 or not 0 < count <= limit:
        return None
    low, high = (int(bound[0]) for bound in space.get_select_bounds())
    if kind == h5py.h5s.SEL_HYPERSLABS and high - low == count - 1:
        return np.arange(low, high + 1)
    if kind == h5py.h5s.SEL_HYPERSLABS:
        blocks = space.get_select_hyper_blocklist()[:, :, 0].astype(np.int64)
        return np.concatenate([np.arange(first, last + 1) for first, last in blocks])
    places = np.sort(space.get_select_elem_pointlist()[:, 0].astype(np.int64))
    return places if np.diff(places).all() else None


def ranges(name: str, num_events: int, step: int) -> list[str]:
    """Names of the parts of a file: at most `step` events each, one empty part of a file without events."""
    starts = range(0, max(num_events, 1), step)
    return [f"{name}[{start}:{min(start + step, num_events)}]" for start in starts]


def events_of(part: str, path: Path) -> tuple[str, int, int]:
    """The name of a file and the first and last (excluded) event of a part.

    Raises:
        DataError: if it is no name of a part.
    """
    match = _RANGE.fullmatch(part)
    if match is None:
        raise DataError(f"has no part {part!r}", file=path, remedy="list its parts")
    return match["name"], int(match["start"]), int(match["stop"])


def described(path: Path) -> Sequence[Table]:
    """Every data set of a file, with the type of its fields or of its only column."""
    tables: list[Table] = []

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            names = item.dtype.names
            columns = {n: str(item.dtype[n]) for n in names} if names else {"": _type(item.dtype)}
            tables.append(Table(name, item.shape[0] if item.shape else None, columns))

    with opened(path) as file:
        file.visititems(visit)
    return tables


def _type(dtype: np.dtype[np.generic]) -> str:
    base = h5py.check_vlen_dtype(dtype)
    return str(dtype) if base is None else f"list<{np.dtype(base).name}>"
