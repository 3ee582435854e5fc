"""Arrays inside .npz archives, read from front to back; Python objects are refused, never loaded."""

from __future__ import annotations

import functools
import io
import math
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from fm4npp.errors import DataError
from fm4npp.readers.checks import NEW_COPY, decoding, listing

Array = NDArray[Any]
BUFFER = 1 << 16
"""Bytes decompressed at a time: zlib is half as fast again when they stay in the cache as when they do not."""
LARGE = 1 << 28
"""Bytes of an array that may be held in memory to be transposed."""
VERSIONS = ((1, 0), (2, 0), (3, 0))
"""Versions of the .npy format (NumPy enhancement proposal 1; numpy.lib.format)."""


def names(source: Path | IO[bytes]) -> frozenset[str] | None:
    """The names of the arrays in an archive; None if it is no readable archive."""
    try:
        with zipfile.ZipFile(source) as archive:
            return frozenset(array_names(archive))
    except Exception:  # damaged archives raise whatever the damage leads to
        return None


def array_names(archive: zipfile.ZipFile) -> list[str]:
    """The names of the arrays in an opened archive."""
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def open_archive(source: Path | IO[bytes], file: str | Path, event: object | None = None) -> zipfile.ZipFile:
    """Open an archive whose path, for messages, is `file`.

    Raises:
        DataError: if it is no readable archive.
    """
    with decoding(file, "the npz archive", event=event):
        return zipfile.ZipFile(source)


def load(archive: zipfile.ZipFile, name: str, file: str | Path, event: object | None = None) -> Array:
    """One whole array of an archive; arguments and errors as of `Member`."""
    with Member(archive, name, file, event) as member:
        values = member.rows(member.shape[0]) if member.shape else member.rows(1).reshape(())
        member.end()
        return values


def no_array(name: str, found: list[str], file: str | Path, event: object | None = None) -> DataError:
    """The error that an archive lacks an array."""
    return DataError(f"no array {name!r} (found: {listing(found)})", file=file, event=event)


def check_no_pickle(dtype: np.dtype[Any], name: str, file: str | Path, event: object | None = None) -> None:
    """Refuse an array of Python objects.

    Raises:
        DataError: if it is one.
    """
    if dtype.hasobject:
        raise DataError(
            f"{name!r} holds pickled Python objects",
            file=file,
            event=event,
            remedy="pickles can run code and are never loaded, save the array with a numeric dtype",
        )


class Member:
    """One array of an archive, as a stream of rows.

    Args:
        archive: the opened archive.
        name: name of the array.
        file: path of the archive, for messages.
        event: the event that the archive holds, for messages.

    Attributes:
        shape: of the whole array.
        dtype: of the array as it is stored.

    Raises:
        DataError: if the array is absent or damaged, holds Python objects, or is large and stored by column.
    """

    def __init__(self, archive: zipfile.ZipFile, name: str, file: str | Path, event: object | None = None) -> None:
        if f"{name}.npy" not in archive.NameToInfo:
            raise no_array(name, array_names(archive), file, event)
        self.name, self.file, self.event = name, file, event
        with self._decoding():
            self._stream: IO[bytes] = archive.open(f"{name}.npy")
        try:
            self._open(archive.NameToInfo[f"{name}.npy"].file_size)
        except DataError:
            self._stream.close()
            raise

    def __enter__(self) -> Member:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stream.close()

    def rows(self, count: int) -> Array:
        """The next `count` rows, (count, *shape[1:]), read-only, in this machine's byte order.

        Raises:
            DataError: if the archive ends before, or is damaged.
        """
        return self._values((count, *self.shape[1:]))

    def end(self) -> None:
        """Check that all has been read and that its checksum holds."""
        with self._decoding():
            surplus = self._stream.read(1)
        if surplus:
            raise self._error("is longer than its header says")

    def _open(self, size: int) -> None:
        with self._decoding():
            self.shape, fortran_order, self.dtype, length = header(self._stream)
        check_no_pickle(self.dtype, self.name, self.file, self.event)
        if length + math.prod(self.shape) * self.dtype.itemsize != size:
            raise self._error(f"has {size} bytes, which is not what {self.dtype} of shape {self.shape} takes")
        if fortran_order and len(self.shape) > 1:
            self._transpose(size)

    def _values(self, shape: tuple[int, ...]) -> Array:
        with self._decoding():
            payload = np.empty(math.prod(shape) * self.dtype.itemsize, np.uint8)
            if _fill(self._stream, payload.data) != payload.size:
                raise self._error("ends early")
            payload.setflags(write=False)
            values: Array = payload.view(self.dtype).reshape(shape) if payload.size else np.empty(shape, self.dtype)
            return values.astype(self.dtype.newbyteorder("="), copy=False)

    def _transpose(self, size: int) -> None:
        """Replace the stream of a column-major array, which cannot be read by rows, by one that can."""
        if size > LARGE:
            remedy = "save it again with numpy.ascontiguousarray"
            raise DataError(
                f"the array {self.name!r} is stored by column, so it cannot be read in pieces",
                file=self.file,
                event=self.event,
                remedy=remedy,
            )
        shape, self.shape = self.shape, self.shape[::-1]
        values = self.rows(self.shape[0]).T
        self.end()
        self.shape, self.dtype = shape, values.dtype
        self._stream.close()
        self._stream = io.BytesIO(values.tobytes())

    def _decoding(self) -> Any:
        return decoding(self.file, f"the array {self.name!r}", event=self.event)

    def _error(self, problem: str) -> DataError:
        return DataError(f"the array {self.name!r} {problem}", file=self.file, event=self.event, remedy=NEW_COPY)


def _fill(stream: IO[bytes], buffer: memoryview) -> int:
    """Read into a buffer until it is full or the stream ends; returns the number of bytes."""
    place = 0
    while place < len(buffer) and (chunk := stream.read(min(BUFFER, len(buffer) - place))):
        buffer[place : place + len(chunk)] = chunk
        place += len(chunk)
    return place


def header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether the order is Fortran's, and dtype of a .npy stream, and the bytes that its header takes."""
    version = np.lib.format.read_magic(stream)
    if version not in VERSIONS:
        raise ValueError(f"unknown version {version} of the .npy format")
    size = stream.read(2 if version == (1, 0) else 4)
    content = size + stream.read(int.from_bytes(size, "little"))
    return *parsed(version, content), np.lib.format.MAGIC_LEN + len(content)


@functools.lru_cache(maxsize=1024)  # thousands of small archives share a few headers: parsing is half of reading one
def parsed(version: tuple[int, int], content: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """The header of a .npy stream, its length first."""
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(io.BytesIO(content))
