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
BUFFER = 1 << 20
"""Bytes decompressed at a time."""


def names(source: Path | IO[bytes]) -> frozenset[str] | None:
    """The names of the arrays in an archive; None if it is no readable archive."""
    try:
        with zipfile.ZipFile(source) as archive:
            return frozenset(_array_names(archive))
    except Exception:  # damaged archives raise whatever the damage leads to
        return None


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
        return member.rest()


class Member:
    """One array of an archive, as a stream of rows.

    Args:
        archive: the opened archive.
        name: name of the array.
        file: path of the archive, for messages.
        event: the event that the archive holds, for messages.

    Raises:
        DataError: if the array is absent or damaged, or holds Python objects.
    """

    def __init__(self, archive: zipfile.ZipFile, name: str, file: str | Path, event: object | None = None) -> None:
        if f"{name}.npy" not in archive.NameToInfo:
            found = listing(_array_names(archive))
            raise DataError(f"no array {name!r} (found: {found})", file=file, event=event)
        self.name, self.file, self.event = name, file, event
        with self._decoding():
            self._stream: IO[bytes] = io.BufferedReader(archive.open(f"{name}.npy"), BUFFER)  # type: ignore[type-var]
        try:
            self._open()
        except DataError:
            self._stream.close()
            raise

    def __enter__(self) -> Member:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stream.close()

    def rows(self, count: int) -> Array:
        """The next `count` rows, (count, *shape[1:]), read-only.

        Raises:
            DataError: if the archive ends before, or is damaged.
        """
        return self._values((count, *self.shape[1:]))

    def rest(self) -> Array:
        """The whole array, if nothing has been read yet."""
        values = self._values(self.shape)
        self.end()
        return values

    def end(self) -> None:
        """Check that all has been read and that its checksum holds."""
        with self._decoding():
            surplus = self._stream.read(1)
        if surplus:
            raise self._error("is longer than its header says")

    def _open(self) -> None:
        with self._decoding():
            self.shape, fortran_order, self.dtype = _header(self._stream)
        if self.dtype.hasobject:
            raise DataError(
                f"{self.name!r} holds pickled Python objects",
                file=self.file,
                event=self.event,
                remedy="pickles can run code and are never loaded, save the array with a numeric dtype",
            )
        if fortran_order and len(self.shape) > 1:
            self._transpose()

    def _values(self, shape: tuple[int, ...]) -> Array:
        size = math.prod(shape) * self.dtype.itemsize
        with self._decoding():
            payload = self._stream.read(size)
        if len(payload) != size:
            raise self._error("ends early")
        values: Array = np.frombuffer(payload, self.dtype).reshape(shape)
        return values.astype(self.dtype.newbyteorder("="), copy=False)

    def _transpose(self) -> None:
        """Replace the stream of a column-major array, which cannot be read by rows, by one that can."""
        shape, self.shape = self.shape, self.shape[::-1]
        values = self.rest().T
        self.shape, self.dtype = shape, values.dtype
        self._stream.close()
        self._stream = io.BytesIO(values.tobytes())

    def _decoding(self) -> Any:
        return decoding(self.file, f"the array {self.name!r}", event=self.event)

    def _error(self, problem: str) -> DataError:
        return DataError(f"the array {self.name!r} {problem}", file=self.file, event=self.event, remedy=NEW_COPY)


def _array_names(archive: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    size = stream.read(2 if version == (1, 0) else 4)
    return _parsed(version, size + stream.read(int.from_bytes(size, "little")))


@functools.lru_cache(maxsize=256)  # thousands of small archives share a few headers, and parsing is half of reading one
def _parsed(version: tuple[int, int], header: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(io.BytesIO(header))
