"""Tar archives, read once from front to back, with their ends checked."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from fm4npp.errors import DataError
from fm4npp.readers.checks import NEW_COPY, decoding

DECOMPRESS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"BZh": bz2.open,
}
"""First bytes of a compressed archive -> what opens it."""
BLOCK = 1 << 20


def members(path: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The regular files of a tar archive.

    Raises:
        DataError: if it is no tar archive, or a damaged one. `tarfile` takes a damaged header for the end of the
            archive, and one that is cut off as well; therefore the end is checked here.
    """
    with decoding(path, "the archive"), _decompressed(path) as stream:
        tape = _Tape(stream)
        with tarfile.open(fileobj=tape, mode="r|") as tar:  # type: ignore[call-overload]
            while (member := tar.next()) is not None:
                tar.members.clear()
                if member.isfile():
                    yield tar, member
            if not tape.ends_at(tar.offset):
                raise DataError("the archive ends early or is damaged", file=path, remedy=NEW_COPY)


def content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    """The bytes of the member that `members` gave last.

    Raises:
        tarfile.ReadError: if the archive ends before.
    """
    if member.issparse() or tar.fileobj is None:
        file = tar.extractfile(member)
        return file.read() if file is not None else b""
    tar.fileobj.seek(member.offset_data)  # what `extractfile` does, without a file object for every member
    payload: bytes = tar.fileobj.read(member.size)
    if len(payload) != member.size:
        raise tarfile.ReadError("unexpected end of data")
    return payload


class _Tape:
    """The bytes of an archive, read forward; remembers the last ones, because `tarfile` reads ahead."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._tail, self._position = stream, b"", 0

    def read(self, size: int) -> bytes:
        block = self._stream.read(size)
        self._tail = (self._tail + block)[-4 * tarfile.RECORDSIZE :]
        self._position += len(block)
        return block

    def ends_at(self, offset: int) -> bool:
        """Whether nothing but the end mark of a tar archive, two blocks of zeros or more, follows from `offset`."""
        rest = self._tail[offset - self._position + len(self._tail) :]
        mark = 0
        while rest and not rest.strip(b"\0"):
            mark += len(rest)
            rest = self._stream.read(BLOCK)
        return not rest and mark >= 2 * tarfile.BLOCKSIZE


@contextmanager
def _decompressed(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as raw:
        magic = raw.read(6)
        raw.seek(0)
        opener = next((opener for first, opener in DECOMPRESS.items() if magic.startswith(first)), None)
        with raw if opener is None else opener(raw) as stream:
            yield stream
