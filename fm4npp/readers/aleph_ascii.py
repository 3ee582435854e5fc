"""ALEPH's archived data: text, plain or gzipped, one line for every energy-flow object."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, ClassVar

import numpy as np

from fm4npp.errors import DataError
from fm4npp.readers.base import WHOLE, Columns, Reader, Table
from fm4npp.readers.checks import NEW_COPY, check_required, decoding

GZIP = b"\x1f\x8b"
"""First bytes of every gzip file (RFC 1952)."""
EVENT, END_EVENT, END_FILE = b"ALEPH_DATA", b"END_EVENT", b"END_FILE"
LONGEST_LINE = 1000
"""Bytes; a line of the format has about 120."""
PART_BYTES = 1 << 24
"""Size of a part of a plain file; a gzipped one can only be read from its beginning."""

INTEGER = rb"([-+]?\d{1,18})"
FLOAT = rb"([-+]?(?:(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?|(?i:nan|inf|infinity)))"
OBJECTS = {
    "px": (rb"px", FLOAT),
    "py": (rb"py", FLOAT),
    "pz": (rb"pz", FLOAT),
    "mass": (rb"m", FLOAT),
    "charge": (rb"charge", FLOAT),
    "pwflag": (rb"pwflag", INTEGER),
    "d0": (rb"d0", FLOAT),
    "z0": (rb"z0", FLOAT),
    "ntpc": (rb"ntpc", INTEGER),
    "nitc": (rb"nitc", INTEGER),
    "nvdet": (rb"nvdet", INTEGER),
}
"""Column -> the key before its value in an object's line, and what the value looks like."""
VERTEX = {
    "event_vertex_flag": (rb"Primary\s+vertex\s+info\s+flag", INTEGER),
    "event_vertex_x": (rb"vx", FLOAT),
    "event_vertex_y": (rb"vy", FLOAT),
    "event_vertex_error_x": (rb"ex", FLOAT),
    "event_vertex_error_y": (rb"ey", FLOAT),
}
HEADER = {
    "event_run": (rb"ALEPH_DATA\s+RUN", INTEGER),
    "event_id": (rb"EVENT", INTEGER),
    "event_ecm": (rb"ECM", FLOAT),
}
KINDS: dict[bytes, type[int] | type[float]] = {INTEGER: int, FLOAT: float}


def _line(fields: dict[str, tuple[bytes, bytes]], end: bytes = b"") -> re.Pattern[bytes]:
    """What a line of some keys and values looks like; `=` or blanks stand between, or nothing before a sign."""
    between = rb"(?:\s*=\s*|\s+|(?=[-+]))"
    return re.compile(rb"\s*" + rb"\s+".join(key + between + value for key, value in fields.values()) + end + rb"\s*")


HEADER_LINE, VERTEX_LINE, OBJECT_LINE = _line(HEADER, rb"\s+GEV"), _line(VERTEX), _line(OBJECTS)


class ALEPHText(Reader):
    """ALEPH archived events, such as `LEP1Data1994_recons_aftercut-001.aleph`, plain or gzipped.

    An event is a line `ALEPH_DATA RUN = .. EVENT .. ECM = .. GEV`, a line of the primary vertex, a line for each object
    and `END_EVENT`; `END_FILE` ends the file. Columns: px, py, pz, mass in GeV, charge, pwflag, d0, z0 in cm, and the
    numbers of hits ntpc, nitc, nvdet; `event_run`, `event_ecm` (GeV) and `event_vertex_` flag, x, y, error_x, error_y
    (cm). `event_id` is the number after EVENT: unique together with the run only. A line that does not look like this
    is an error, and so is a file without its end. Checked on files written to the documented schema.
    """

    registered_name: ClassVar[str] = "aleph-ascii"

    def recognises(self, path: Path) -> bool:
        """See `Reader.recognises`: by its first line, or by a name with `.aleph` in it."""
        if not path.is_file():
            return False
        try:
            with _opened(path) as handle:
                begins = handle.read(LONGEST_LINE).lstrip().startswith(EVENT)
        except (OSError, EOFError, zlib.error):
            begins = False
        return begins or ".aleph" in path.suffixes

    def read(self, path: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
        """See `Reader.read`. All columns are given; one event is held at a time."""
        return _events(path, 0, None, required)

    def parts(self, path: Path) -> Sequence[str]:
        """See `Reader.parts`: ranges of bytes; an event belongs to the range that it begins in."""
        with decoding(path), path.open("rb") as handle:
            zipped = handle.read(len(GZIP)) == GZIP
            size = handle.seek(0, io.SEEK_END)
        if zipped or size <= PART_BYTES:
            return (WHOLE,)
        return [f"{start}:{start + PART_BYTES}" for start in range(0, size, PART_BYTES)]

    def read_part(self, path: Path, part: str, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
        """See `Reader.read_part`."""
        start, _, stop = part.partition(":")
        return _events(path, int(start or 0), int(stop) if stop else None, required)

    def describe(self, path: Path) -> Sequence[Table]:
        """See `Reader.describe`; the first event is read to see that it is one."""
        next(self.read(path, (), ()), None)
        types = {**OBJECTS, **{name: kind for name, kind in {**HEADER, **VERTEX}.items() if name != "event_id"}}
        return [Table("objects", None, {name: KINDS[kind].__name__ for name, (_, kind) in types.items()})]


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as handle:
        if handle.peek(len(GZIP))[: len(GZIP)] != GZIP:
            yield handle
            return
        with gzip.open(handle) as stream:
            yield io.BufferedReader(stream, 1 << 20)


class _Text:
    """The lines of a file, and where in it they are.

    Attributes:
        position: bytes before the next line.
    """

    def __init__(self, path: Path, handle: IO[bytes], start: int) -> None:
        self.path, self._handle = path, handle
        self.position, self._start, self._lines = start, start, 0
        if start:
            handle.seek(start - 1)  # a line that begins at `start` is whole, any other belongs to the part before
            self.position += len(handle.readline(LONGEST_LINE)) - 1
            self._start = self.position

    def next(self) -> bytes:
        """The next line with its end; nothing at the end of the file."""
        line = self._handle.readline(LONGEST_LINE)
        self._lines += 1
        self.position += len(line)
        if len(line) == LONGEST_LINE:
            raise self.error(f"is longer than {LONGEST_LINE} bytes")
        return line

    def skip_to_event(self) -> bool:
        """Go to the beginning of the next event; False if there is none."""
        while line := self._handle.readline(LONGEST_LINE):
            if line.lstrip().startswith(EVENT):
                self._handle.seek(self.position)
                self._start = self.position
                return True
            self.position += len(line)
        return False

    def error(self, problem: str, event: int | None = None) -> DataError:
        """The error for the line that was read last."""
        return DataError(f"line {self._number()} {problem}", file=self.path, event=event, remedy=NEW_COPY)

    def _number(self) -> int:
        """Number of the line that was read last, from 1; a part has to count those before it."""
        lines, left = self._lines, self._start
        with self.path.open("rb") as handle:
            while left and (block := handle.read(min(left, 1 << 20))):
                lines += block.count(b"\n")
                left -= len(block)
        return lines


def _events(path: Path, start: int, stop: int | None, required: Sequence[str]) -> Iterator[Columns]:
    """The events that begin in a range of bytes."""
    check_required(required, [*OBJECTS, *HEADER, *VERTEX], path)
    with decoding(path, "the ALEPH text"), _opened(path) as handle:
        text = _Text(path, handle, start)
        if start and not text.skip_to_event():
            return
        while (line := _between_events(text, stop)) is not None:
            yield _event(text, line)


def _between_events(text: _Text, stop: int | None) -> bytes | None:
    """The first line of the next event; None if there is none before `stop`."""
    while True:
        begin, line = text.position, text.next()
        if not line:
            raise text.error("should be END_FILE, but the file ends there")
        if line.strip() == END_FILE:
            _check_end(text)
            return None
        if line.strip():
            late = stop is not None and begin >= stop and line.lstrip().startswith(EVENT)
            return None if late else line


def _check_end(text: _Text) -> None:
    while line := text.next():
        if line.strip():
            raise text.error("comes after END_FILE")


def _event(text: _Text, line: bytes) -> Columns:
    """One event, from its first line on."""
    header = HEADER_LINE.fullmatch(line)
    if not header:
        raise text.error("is not `ALEPH_DATA RUN = .. EVENT .. ECM = .. GEV`")
    columns = _numbers(header, HEADER)
    vertex = VERTEX_LINE.fullmatch(text.next())
    if not vertex:
        raise text.error("is not `Primary vertex info flag = .. vx = .. vy = .. ex = .. ey = ..`", columns["event_id"])
    columns |= _numbers(vertex, VERTEX)
    rows = []
    while found := OBJECT_LINE.fullmatch(line := text.next()):
        rows.append(found.groups())
    if line.strip() != END_EVENT:
        keys = " .. ".join(key.decode() for key, _ in OBJECTS.values())
        raise text.error(f"is neither `{keys} ..` nor END_EVENT", columns["event_id"])
    return columns | _objects(rows)


def _numbers(found: re.Match[bytes], fields: dict[str, tuple[bytes, bytes]]) -> Columns:
    return {name: KINDS[kind](text) for (name, (_, kind)), text in zip(fields.items(), found.groups(), strict=True)}


def _objects(rows: Sequence[Sequence[bytes]]) -> Columns:
    """The values of all objects as text, a row an object, to columns."""
    values = zip(*rows, strict=True) if rows else [()] * len(OBJECTS)
    return {
        name: np.array(list(map(KINDS[kind], column)), np.int64 if kind is INTEGER else np.float64)
        for (name, (_, kind)), column in zip(OBJECTS.items(), values, strict=True)
    }
