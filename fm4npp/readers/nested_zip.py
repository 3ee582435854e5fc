"""Archives inside archives: a member of a zip as a file that can be searched, without unpacking it."""

from __future__ import annotations

import io
import zipfile
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

TAIL = 1 << 22
"""Last bytes of a deflated member that are kept: an inner archive has its directory there, and its small arrays."""
CHUNK = 1 << 16
LOCAL_HEADER = 30
"""Bytes of a member's own header before its name (PKWARE APPNOTE.TXT 4.3.7); lengths of name and extra field end it."""
UTF8 = 0x800
"""Flag of a member whose name is in UTF-8 (4.4.4)."""
END_SIGNATURE, END_SEARCH = b"PK\x05\x06", 22 + (1 << 16)
"""How the end of the directory begins, and the last bytes of an archive that hold it, with a comment (4.3.16)."""
UNKNOWN = 0xFFFF
"""The number of members of an archive of more than it can hold, which is said elsewhere (4.4.22)."""


def names(path: Path) -> list[str] | None:
    """The files of a zip archive, hidden ones left out; None if it is no readable archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = archive.namelist()
    except Exception:  # damaged archives raise whatever the damage leads to
        return None
    return [name for name in found if not name.endswith("/") and not name.rpartition("/")[2].startswith(".")]


def check_directory(path: Path) -> None:
    """Compare the directory of a zip archive, which has no checksum, with its own count and the members' own names.

    A damaged name would hide a member: labels would be missing, and nothing would say so (PKWARE APPNOTE.TXT 4.3.16).

    Raises:
        zipfile.BadZipFile: if they differ, or whatever else the damage leads to.
    """
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        members = archive.infolist()
        file.seek(max(0, path.stat().st_size - END_SEARCH))
        tail = file.read()
        end = tail.rindex(END_SIGNATURE)
        if (count := int.from_bytes(tail[end + 10 : end + 12], "little")) not in (len(members), UNKNOWN):
            raise zipfile.BadZipFile(f"{len(members)} of {count} members in its directory")
        for info in members:
            file.seek(info.header_offset)
            header = file.read(LOCAL_HEADER)
            name = file.read(int.from_bytes(header[26:28], "little"))
            if name.decode("utf-8" if info.flag_bits & UTF8 else "cp437") != info.orig_filename:
                raise zipfile.BadZipFile(f"a member called {info.orig_filename!r} in its directory and {name!r} itself")


def split(path: Path) -> tuple[Path, str]:
    """A path that goes on inside a file, to that file and the rest; the rest of any other path is empty."""
    for place in path.parents:
        if place.is_file():
            return place, path.relative_to(place).as_posix()
    return path, ""


def open_member(path: Path, name: str, stack: ExitStack) -> IO[bytes]:
    """A member of a zip archive as a binary file with `seek`.

    A stored member is read where it lies. A deflated one is decompressed once to find its end, and once more to be
    read from front to back; nothing else of it than its last bytes is held.

    Args:
        path: the archive.
        name: the member.
        stack: closes the files.

    Raises:
        Exception: whatever `zipfile` raises for a damaged archive.
    """
    archive = stack.enter_context(zipfile.ZipFile(path))
    stream = stack.enter_context(archive.open(name))  # compares the member's own header with the directory
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        return io.BufferedReader(_Deflated(stream, info.file_size), CHUNK)
    file = stack.enter_context(path.open("rb", buffering=0))
    file.seek(info.header_offset)
    header = file.read(LOCAL_HEADER)
    start = info.header_offset + LOCAL_HEADER + int.from_bytes(header[-4:-2], "little")
    start += int.from_bytes(header[-2:], "little")
    return io.BufferedReader(_Stored(file, start, info.file_size), CHUNK)


class _Searchable(io.RawIOBase):
    """A file of known size whose bytes `_read(position, count)` gives."""

    def __init__(self, size: int) -> None:
        self._size, self._position = size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if origin + offset < 0:
            raise ValueError(f"place {origin + offset} is before the start")
        self._position = origin + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        content = self._read(self._position, max(0, min(len(buffer), self._size - self._position)))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def _read(self, position: int, count: int) -> bytes:
        raise NotImplementedError


class _Stored(_Searchable):
    """A stored member."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        super().__init__(size)
        self._file, self._start = file, start

    def _read(self, position: int, count: int) -> bytes:
        self._file.seek(self._start + position)
        return self._file.read(count)


class _Deflated(_Searchable):
    """A deflated member, whose last bytes are kept once they have been needed."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        super().__init__(size)
        self._stream, self._tail_start = stream, max(0, size - TAIL)
        self._tail: bytes | None = None

    def _read(self, position: int, count: int) -> bytes:
        if position >= self._tail_start:
            place = position - self._tail_start
            return self._last_bytes()[place : place + count]
        if self._stream.tell() != position:
            self._stream.seek(position)
        return self._stream.read(min(count, self._tail_start - position))

    def _last_bytes(self) -> bytes:
        if self._tail is None:
            self._stream.seek(self._tail_start)
            self._tail = self._stream.read()  # to the end, where `zipfile` compares the checksum
            if len(self._tail) != self._size - self._tail_start:
                raise zipfile.BadZipFile("a member ends early")
        return self._tail
