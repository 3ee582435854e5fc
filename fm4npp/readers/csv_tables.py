"""Events kept as sets of CSV files, `event000000001-hits.csv` and its siblings: finding them, reading numbers exactly.

The naming, shared by TrackML and ACTS: `event` and digits, a dash, the kind of table, `.csv`, and `.gz`, `.bz2` or
`.zip` if compressed; in a folder or, at any depth, in a zip archive.
"""

from __future__ import annotations

import bz2
import gzip
import io
import re
import zipfile
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv

from fm4npp.errors import DataError
from fm4npp.readers import nested_zip
from fm4npp.readers.base import WHOLE, Columns, Reader, Table
from fm4npp.readers.checks import NEW_COPY, check_required, decoding, listing

Array = NDArray[Any]

NAME = re.compile(r"(?P<event>event(?P<number>\d{1,18}))-(?P<kind>[^/.]+)\.csv(\.(gz|bz2|zip))?")
HITS = "hits"
EVENTS_A_PART = 100
HEADER_BYTES = 1 << 16
EXACT = 2**53 - 1
"""Integers beyond this may have been rounded when they were stored as floating-point numbers."""
MISSING = [""]
"""What stands for no value: pandas writes NaN as nothing."""
FAILURE = (pa.ArrowInvalid, pa.ArrowNotImplementedError)

PARTICLES: Mapping[str, str] = {
    "particle_id": "track_id",
    "particle_type": "pdg",
    "process": "process",
    **{name: name for name in ("vx", "vy", "vz", "px", "py", "pz")},
    "vt": "time",
    "m": "mass",
    "q": "charge",
    "nhits": "num_hits",
}
"""Column of a particles file -> name of the quantity; every generation of both dialects has some of them."""
INTEGERS = ("hit_id", "particle_id", "volume_id", "layer_id", "module_id", "particle_type", "process", "nhits", "index")
FLOATS = (
    *("x", "y", "z", "weight", "value", "vx", "vy", "vz", "vt", "px", "py", "pz", "m", "q"),
    *("tx", "ty", "tz", "tt", "tpx", "tpy", "tpz", "te", "deltapx", "deltapy", "deltapz", "deltae"),
)
TYPES: Mapping[str, Any] = {**dict.fromkeys(INTEGERS, pa.int64()), **dict.fromkeys(FLOATS, pa.float64())}
"""Types of the columns that the two dialects document; others are integers if all their values are."""


class EventFiles(NamedTuple):
    """The files of one event.

    Attributes:
        number: the event's number, from the name.
        names: kind of table -> path of the file, relative to the folder or archive.
    """

    number: int
    names: Mapping[str, str]


class CSVFile(NamedTuple):
    """The content of one CSV file, decompressed.

    Attributes:
        content: its bytes.
        header: names of the columns.
        file: its path, for messages.
        event: the event it belongs to, for messages.
    """

    content: bytes
    header: tuple[str, ...]
    file: Path
    event: int

    def columns(self, names: Iterable[str]) -> dict[str, Array]:
        """Some columns of the file: name -> (N,) int64, uint64 or float64; an empty entry is NaN.

        Raises:
            DataError: if a row has too few or many entries, or one is no number, or none where an integer belongs.
        """
        types = {name: TYPES.get(name, pa.string()) for name in names}
        if not types:
            return {}
        with decoding(self.file, "the CSV file", event=self.event, remedy="repair the row, or copy the file again"):
            try:
                table = self._parse(types)
            except FAILURE:  # integers written as 12.0, or damage: slower, and the message says which
                table = self._parse({name: pa.string() if name in INTEGERS else types[name] for name in types})
        return {name: self._numbers(table[name], name) for name in types}

    def _parse(self, types: Mapping[str, Any]) -> pa.Table:
        return csv.read_csv(
            io.BytesIO(self.content),
            csv.ReadOptions(use_threads=False, block_size=max(len(self.content), 1)),
            csv.ParseOptions(quote_char=False),
            csv.ConvertOptions(column_types=types, include_columns=list(types), null_values=MISSING),
        )

    def _numbers(self, column: pa.ChunkedArray, name: str) -> Array:
        if pa.types.is_string(column.type):
            with decoding(self.file, f"the column {name!r}", event=self.event, remedy="give it as numbers"):
                column = _as_numbers(pc.utf8_trim_whitespace(column))
        values: Array = column.to_numpy()
        if name not in INTEGERS:
            return values
        if column.null_count:
            raise DataError(f"{column.null_count} rows without {name!r}", file=self.file, event=self.event)
        return whole_numbers(values, name, self.file, self.event)


def _as_numbers(strings: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text to the first of int64, uint64 and float64 that holds all of it; an empty entry is a null.

    Raises:
        ValueError: if integers would be rounded, because a column with empty entries becomes float64.
    """
    strings = pc.if_else(pc.equal(strings, ""), None, strings)
    for kind in (pa.int64(), pa.uint64()):
        try:
            integers = strings.cast(kind)
        except FAILURE:
            continue
        if not strings.null_count:
            return integers
        if pc.any(pc.or_(pc.greater(integers, EXACT), pc.less(integers, -EXACT if kind == pa.int64() else 0))).as_py():
            raise ValueError("large integers beside empty entries")
    return strings.cast(pa.float64())


def whole_numbers(values: Array, what: str, file: str | Path, event: object | None = None) -> Array:
    """(N,) numbers to (N,) int64.

    Raises:
        DataError: if one is no integer, is beyond 64 bits, or is stored as a floating-point number beyond 2^53.
    """
    if values.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            wrong = ~((np.abs(values) <= EXACT) & (values == np.floor(values)))
    else:
        wrong = values > np.iinfo(np.int64).max if values.dtype == np.uint64 else np.zeros(len(values), bool)
    if wrong.any():
        raise DataError(
            f"{what!r} holds {values[wrong][0]}, which is no integer or too large to be exact",
            file=file,
            event=event,
            remedy="store it as a 64-bit integer",
        )
    return values.astype(np.int64, copy=False)


class EventFolder:
    """The events of a folder, of a zip archive, or of one hits file with its siblings; to be used with `with`.

    Attributes:
        events: in the order of their folder and name.

    Raises:
        DataError: if an archive cannot be read, or an event has two files of one kind.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._archive = path, None
        single = NAME.fullmatch(path.name)
        self.is_single = path.is_file() and single is not None
        with decoding(path, "the folder" if path.is_dir() else "the zip archive"):
            if path.is_dir():
                names = [entry.name for entry in path.iterdir()]
            elif single:
                self.path = path.parent
                names = [entry.name for entry in path.parent.glob(f"{single['event']}-*")]
            else:
                self._archive = zipfile.ZipFile(path)
                names = self._archive.namelist()
        try:
            self.events = _events(names, self.path)
        except DataError:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._archive is not None:
            self._archive.close()

    @property
    def is_archive(self) -> bool:
        """Whether the files are members of a zip archive."""
        return self._archive is not None

    def table(self, event: EventFiles, kind: str) -> CSVFile:
        """One file of an event.

        Raises:
            DataError: if it is absent or damaged, or its header has a name twice.
        """
        if kind not in event.names:
            problem = f"no {kind} file (found: {listing(event.names)})"
            raise DataError(problem, file=self.path, event=event.number, remedy="complete the download")
        file = self.path / event.names[kind]
        with decoding(file, "the CSV file", event=event.number), self._open(event.names[kind]) as stream:
            content = stream.read()
            header = _header(content[: content.find(b"\n") + 1])
        if not content.endswith(b"\n"):
            raise DataError(
                "does not end with a line end, so its last row may be cut short",
                file=file,
                event=event.number,
                remedy="copy or download it again, or add the line end if it is complete",
            )
        if len(set(header)) != len(header):
            raise DataError("two columns of one name in the header", file=file, event=event.number, remedy=NEW_COPY)
        return CSVFile(content, header, file, event.number)

    def first_header(self) -> tuple[str, ...]:
        """Names of the columns of some hits file, () if none can be read."""
        try:
            with self._open(next(event.names[HITS] for event in self.events if HITS in event.names)) as stream:
                return _header(stream.readline(HEADER_BYTES))
        except Exception:  # damaged files raise whatever the damage leads to
            return ()

    @contextmanager
    def _open(self, name: str) -> Iterator[IO[bytes]]:
        with ExitStack() as stack:
            raw = self._archive.open(name) if self._archive else (self.path / name).open("rb")
            stream: Any = stack.enter_context(raw)
            suffix = PurePosixPath(name).suffix
            if suffix in (".gz", ".bz2"):
                stream = stack.enter_context((gzip if suffix == ".gz" else bz2).open(stream))
            elif suffix == ".zip":
                archive = stack.enter_context(zipfile.ZipFile(stream))
                (member,) = [name for name in archive.namelist() if not name.startswith("__MACOSX")]
                stream = stack.enter_context(archive.open(member))
            yield stream


def _header(line: bytes) -> tuple[str, ...]:
    return tuple(line.decode("utf-8-sig").strip("\r\n").split(","))


def _events(names: Iterable[str], path: Path) -> list[EventFiles]:
    """Files by event, in the order of folder and number; other files are left out."""
    found: dict[tuple[str, int, str], dict[str, str]] = {}
    for name in names:
        folder, _, own = name.rpartition("/")
        if (match := NAME.fullmatch(own)) is None:
            continue
        files = found.setdefault((folder, int(match["number"]), match["event"]), {})
        if match["kind"] in files:
            problem = f"two files of one kind: {listing((files[match['kind']], name))}"
            raise DataError(problem, file=path, event=match["number"], remedy="remove one of them")
        files[match["kind"]] = name
    return [EventFiles(number, files) for (_, number, _), files in sorted(found.items(), key=lambda item: item[0])]


def hits_header(path: Path) -> tuple[str, ...] | None:
    """The header of a hits file of `path`; () if it is damaged, None if there is no hits file at all."""
    if not path.is_dir() and path.suffix != ".zip" and NAME.fullmatch(path.name) is None:
        return None
    try:
        with EventFolder(path) as folder:
            match = NAME.fullmatch(path.name)
            there = any(HITS in event.names for event in folder.events)
            wanted = path.is_dir() or match is None or match["kind"] == HITS
            return folder.first_header() if there and wanted else None
    except DataError:  # two files of one kind, or an archive whose name does not tell
        return () if path.is_dir() else None


def parts(path: Path) -> Sequence[str]:
    """Ranges of events of a folder or archive, `first-stop`; see `Reader.parts`."""
    with EventFolder(path) as folder:
        count = len(folder.events)
        if not count:
            raise DataError("no event<digits>-hits.csv", file=path, remedy="give the folder or archive of the events")
        if folder.is_archive:
            with decoding(path, "the zip archive"):
                nested_zip.check_directory(path)
    if count <= EVENTS_A_PART:
        return (WHOLE,)
    ends = [*range(0, count, EVENTS_A_PART), count]
    return [f"{first}-{stop}" for first, stop in pairwise(ends)]


Read = Callable[[EventFolder, EventFiles, list[str]], Columns]
"""One event's columns, of those wanted that it has."""


def events(path: Path, part: str, read: Read, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
    """The events of one part of a path, each checked to have what is required; see `Reader.read_part`."""
    with EventFolder(path) as folder:
        first, stop = map(int, part.split("-")) if part else (0, None)
        for event in folder.events[first:stop]:
            columns = read(folder, event, list(dict.fromkeys((*required, *optional))))
            if any(name not in columns for name in required):
                header = folder.table(event, HITS).header
                check_required(
                    required, {*columns, *header} - {"event_true_positions"}, folder.path / event.names[HITS]
                )
            source = {} if folder.is_single else {"source": event.names[HITS]}
            yield {**columns, **source, "event_id": event.number}


def particles(folder: EventFolder, event: EventFiles, kind: str, ids: Callable[[CSVFile], Array]) -> Columns:
    """The table of particles as `particle_<name>` columns.

    Args:
        folder: where the files are.
        event: the event's files.
        kind: name of the table.
        ids: how to read the ids of the particles.
    """
    table = folder.table(event, kind)
    columns = table.columns(name for name in PARTICLES if name in table.header and name != "particle_id")
    named = {f"particle_{PARTICLES[name]}": values for name, values in columns.items()}
    return {"particle_track_id": ids(table), **named}


def describe(path: Path) -> list[Table]:
    """The files of the first event, their columns and types; see `Reader.describe`."""
    with EventFolder(path) as folder:
        tables = [folder.table(event, kind) for event in folder.events[:1] for kind in sorted(event.names)]
    result = []
    for table in tables:
        with decoding(table.file, "the CSV file", event=table.event), csv.open_csv(io.BytesIO(table.content)) as rows:
            types = {field.name: str(field.type) for field in rows.schema}
        result.append(Table(table.file.name, None, types))
    return result


class CSVReader(Reader):
    """A dialect of events as sets of CSV files; a subclass says how one event is read, and recognises its header."""

    def read(self, path: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
        """See `Reader.read`."""
        return self.read_part(path, WHOLE, required, optional)

    def parts(self, path: Path) -> Sequence[str]:
        """See `Reader.parts`: ranges of a hundred events."""
        return parts(path)

    def read_part(self, path: Path, part: str, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
        """See `Reader.read_part`."""
        return events(path, part, self.event, required, optional)

    def describe(self, path: Path) -> Sequence[Table]:
        """See `Reader.describe`: the files of the first event."""
        return describe(path)

    @abstractmethod
    def event(self, folder: EventFolder, event: EventFiles, wanted: list[str]) -> Columns:
        """One event's columns, of those wanted that its files have."""
