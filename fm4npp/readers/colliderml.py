"""Parquet with one row an event and one list column a quantity: ColliderML, and any other file of that shape."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fm4npp.errors import DataError
from fm4npp.readers.base import WHOLE, Columns, Reader, Table
from fm4npp.readers.checks import check_required, decoding, listing
from fm4npp.readers.csv_tables import whole_numbers

Array = NDArray[Any]

OUR_KEY = b"fm4npp"
"""In the schema metadata of the toolkit's own events files."""
HITS, PARTICLES = "tracker_hits", "particles"
"""What the two tables are called in the names of files and folders."""
EVENT = "event_id"
INTEGERS = ("particle_id", "volume_id", "layer_id", "surface_id", "cell_id", "detector", "pdg_id", "vertex_primary")
"""Columns that the schema says are integers, in whatever type a file has them."""
NAMES = {"particle_id": "track_id", "pdg_id": "pdg"}
"""Column of the particles -> name of the quantity, where they differ."""
MEASURED, TRUE = ("x", "y", "z"), ("true_x", "true_y", "true_z")
STEP_BYTES = 32_000_000
"""Uncompressed bytes that are decoded at a time."""
BUFFER = 1 << 20
"""Compressed bytes of a column that are held at a time."""


class ColliderMLParquet(Reader):
    """ColliderML `tracker_hits` (CERN/ColliderML-Release-1), and any Parquet file with list columns, a row an event.

    A path is a file, or a folder of shards. Columns are given by their names in the file, lists as arrays and single
    numbers as numbers; `track_id` is `particle_id`. The table of particles, which ColliderML keeps in a file or folder
    of the same name with `particles` for `tracker_hits`, is given as `particle_<name>`, joined by `event_id`, which
    must be in it once. x, y, z (mm) are measured positions; a generation that has only true_x, true_y, true_z is
    refused unless a detector asks for those by name. A null in a list of floating-point numbers is NaN. Events without
    `event_id` are numbered.
    """

    registered_name: ClassVar[str] = "colliderml-parquet"
    generic: ClassVar[bool] = True

    def recognises(self, path: Path) -> bool:
        """See `Reader.recognises`: Parquet with a list of numbers, unless it is an events file of this toolkit."""
        try:
            schema = pq.read_schema(shards(path)[0])
        except Exception:  # damaged files raise whatever the damage leads to
            return False
        return OUR_KEY not in (schema.metadata or {}) and any(_is_list(field.type) for field in schema)

    def read(self, path: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
        """See `Reader.read`; a few events are held at a time."""
        return self.read_part(path, WHOLE, required, optional)

    def parts(self, path: Path) -> Sequence[str]:
        """See `Reader.parts`: the row groups of every file, `file:group`."""
        files = shards(path)
        groups = [f"{file.name}:{group}" for file in files for group in range(_open(file).num_row_groups)]
        return groups if len(groups) > 1 else (WHOLE,)

    def read_part(self, path: Path, part: str, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
        """See `Reader.read_part`."""
        files, groups = shards(path), None
        if part:
            name, _, group = part.rpartition(":")
            files, groups = [path / name if path.is_dir() else path], [int(group)]
        for file in files:
            source = {"source": file.name} if path.is_dir() else {}
            for columns in _events(file, groups, required, optional):
                yield {**columns, **source}

    def describe(self, path: Path) -> Sequence[Table]:
        """See `Reader.describe`: the columns of the first file, and of its particles."""
        first = shards(path)[0]
        tables = []
        for file in [first, *particle_files(first)[:1]]:
            opened = _open(file)
            types = {field.name: str(field.type) for field in opened.schema_arrow}
            tables.append(Table(file.name, opened.metadata.num_rows, types))
        return tables


def shards(path: Path) -> list[Path]:
    """The Parquet files of a folder, in the order of their names; of several tables, those of tracker hits.

    Raises:
        DataError: if there is none.
    """
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path] if path.suffix == ".parquet" else []
    if not files:
        raise DataError("no *.parquet file", file=path, remedy="give a file or the folder of its shards")
    return [file for file in files if HITS in file.name] or files


def particle_files(hits: Path) -> list[Path]:
    """Files that may hold the particles of a file of hits: the one of the same name first, then the other shards."""
    if HITS in hits.name:
        same = hits.with_name(hits.name.replace(HITS, PARTICLES))
        pattern = glob.escape(hits.name.partition(HITS)[0] + PARTICLES) + "*.parquet"
    elif HITS in hits.parent.name:
        same = hits.parent.with_name(hits.parent.name.replace(HITS, PARTICLES)) / hits.name
        pattern = "*.parquet"
    else:
        return []
    others = [file for file in sorted(same.parent.glob(pattern)) if file != same]
    return [same, *others] if same.is_file() else others


def _open(file: Path) -> pq.ParquetFile:
    with decoding(file, "the Parquet file"):
        return pq.ParquetFile(file, buffer_size=BUFFER, pre_buffer=False, page_checksum_verification=True)


def _events(
    file: Path, groups: list[int] | None, required: Sequence[str], optional: Sequence[str]
) -> Iterator[Columns]:
    rows = _Rows(file)
    names = {name: rows.column_of(name) for name in dict.fromkeys((*required, *optional))}
    _check_positions(required, rows.names, file)
    check_required([names[name] for name in required], rows.names, file)
    for name in required:
        rows.check_list(names[name])
    found = {name: column for name, column in names.items() if rows.has_numbers(column)}
    joined = particle_files(file)
    ids = rows.event_ids() if joined or EVENT in rows.names else None
    particles = _Particles(joined, ids) if joined and ids is not None else None
    for number, values in rows.read(groups, list(found.values())):
        event_id = number if ids is None else int(ids[number])
        columns = {name: values[column] for name, column in found.items()}
        yield {**columns, **(particles.columns(event_id) if particles else {}), EVENT: event_id}


def _check_positions(required: Sequence[str], names: Sequence[str], file: Path) -> None:
    """Say what to do about a file of true positions only, and about a table without positions."""
    if not set(required) & set(MEASURED) or set(MEASURED) <= set(names):
        return
    if set(TRUE) <= set(names):
        raise DataError(
            "no measured positions (x, y, z), only true ones",
            file=file,
            remedy="to use those, choose a detector with `columns_of: {x: true_x, y: true_y, z: true_z}`",
        )
    if not set(MEASURED) & set(names) and EVENT in names:
        problem = f"no positions (found: {listing(names)})"
        raise DataError(problem, file=file, remedy=f"give the {HITS} file; particles are found beside it")


class _Rows:
    """The rows of one Parquet file, decoded a few at a time."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.parquet = _open(file)
        self.schema = self.parquet.schema_arrow
        self.names = self.schema.names
        if len(set(self.names)) != len(self.names):
            raise DataError("two columns of one name", file=file, remedy="rename one of them")

    def column_of(self, name: str) -> str:
        return "particle_id" if name == "track_id" and name not in self.names else name

    def check_list(self, name: str) -> None:
        kind = self.schema.field(name).type
        if not _is_list(kind):
            problem = f"the column {name!r} is {kind}, not a list of numbers for every event"
            raise DataError(problem, file=self.file, remedy="flatten it to one number for every spacepoint")

    def has_numbers(self, name: str) -> bool:
        return name in self.names and _is_number(self.schema.field(name).type)

    def event_ids(self) -> Array:
        """(R,) int64 ids of the rows, each once."""
        if EVENT not in self.names:
            problem = f"no column {EVENT!r} that joins hits and particles"
            raise DataError(problem, file=self.file, remedy="use both files of one release")
        with decoding(self.file, f"the column {EVENT!r}"):
            column = self.parquet.read([EVENT], use_threads=False)[EVENT]
            if column.null_count:
                raise DataError(f"{column.null_count} events without {EVENT!r}", file=self.file)
            ids = whole_numbers(column.to_numpy(), EVENT, self.file)
        if len(np.unique(ids)) != len(ids):
            raise DataError(f"an {EVENT} twice", file=self.file, remedy="repair the file, events are joined by it")
        return ids

    def read(self, groups: list[int] | None, names: Sequence[str], first: int = 0) -> Iterator[tuple[int, Columns]]:
        """Row number and values, list columns as arrays and others as numbers.

        Args:
            groups: row groups to read; None reads all.
            names: columns, those that the file lacks and nested ones left out.
            first: rows before this one are skipped.
        """
        wanted = [name for name in dict.fromkeys(names) if self.has_numbers(name)]
        sizes = [self.parquet.metadata.row_group(group).num_rows for group in range(self.parquet.num_row_groups)]
        starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
        for group in range(len(sizes)) if groups is None else groups:
            if starts[group + 1] > first:
                yield from self._group(group, starts[group], wanted, first)

    def _group(self, group: int, number: int, names: list[str], first: int) -> Iterator[tuple[int, Columns]]:
        batches = self.parquet.iter_batches(self._step(group), [group], names, use_threads=False)
        while True:
            with decoding(self.file, f"what follows row {number}"):
                batch = next(batches, None)
            if batch is None:
                return
            if number + batch.num_rows > first:
                columns = {name: self._column(batch[name], name) for name in names}
                for row in range(max(first - number, 0), batch.num_rows):
                    yield number + row, {name: _entry(*column, row) for name, column in columns.items()}
            number += batch.num_rows

    def _step(self, group: int) -> int:
        metadata = self.parquet.metadata.row_group(group)
        return max(1, int(STEP_BYTES * metadata.num_rows / max(metadata.total_byte_size, 1)))

    def _column(self, column: pa.Array, name: str) -> tuple[Array, Array | None]:
        """A column of a batch to its values, end to end, and the (R + 1,) ends of the lists, None for no lists."""
        if column.null_count:
            raise DataError(f"{column.null_count} events without {name!r}", file=self.file, remedy="repair the file")
        with decoding(self.file, f"the column {name!r}"):
            ends = None
            if _is_list(column.type):
                ends = np.concatenate([[0], np.cumsum(pc.list_value_length(column).to_numpy(), dtype=np.int64)])
                column = column.flatten()
            if column.null_count and not pa.types.is_floating(column.type):
                raise DataError(f"{column.null_count} values of {name!r} are absent", file=self.file)
            values = column.to_numpy(zero_copy_only=False)
        return (whole_numbers(values, name, self.file) if name in (*INTEGERS, EVENT) else values), ends


class _Particles:
    """The particles of a file's events, found by event_id; cheap in the order of the particles' own file."""

    def __init__(self, files: Sequence[Path], event_ids: Array) -> None:
        self._place = _places(files, event_ids)
        self._rows: _Rows | None = None
        self._stream: Iterator[tuple[int, Columns]] = iter(())
        self._next = 0

    def columns(self, event_id: int) -> Columns:
        """`particle_<name>` columns of one event."""
        file, row = self._place[event_id]
        if self._rows is None or self._rows.file != file or row < self._next:
            self._rows = _Rows(file)
            names = [name for name in self._rows.names if _is_list(self._rows.schema.field(name).type)]
            self._stream = self._rows.read(None, names, first=row)
        values = next(values for number, values in self._stream if number == row)
        self._next = row + 1
        if len({len(array) for array in values.values()}) > 1:
            raise DataError("columns of particles of different lengths", file=file, event=event_id)
        return {f"particle_{NAMES.get(name, name)}": array for name, array in values.items()}


def _places(files: Sequence[Path], event_ids: Array) -> dict[int, tuple[Path, int]]:
    """Event -> file and row of its particles.

    Raises:
        DataError: if an event has none, or more than one, in the files that were searched.
    """
    wanted = set(event_ids.tolist())
    same = {event: (files[0], row) for row, event in enumerate(_Rows(files[0]).event_ids().tolist())}
    if wanted <= same.keys():
        return same
    places: dict[int, tuple[Path, int]] = {}
    for file in files:
        for row, event in enumerate(_Rows(file).event_ids().tolist()):
            if event in places:
                problem = f"in this file and in {places[event][0].name}, so its particles are not known"
                raise DataError(problem, file=file, event=event, remedy="keep one file of particles for each of hits")
            places[event] = (file, row)
    if missing := wanted - places.keys():
        problem = f"no particles of {len(missing)} events (the first: {min(missing)})"
        raise DataError(problem, file=files[0], remedy="complete the download, or move the particles away")
    return places


def _is_list(kind: pa.DataType) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return lists and _is_single(kind.value_type)


def _is_single(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _is_number(kind: pa.DataType) -> bool:
    return _is_list(kind) or _is_single(kind)


def _entry(values: Array, ends: Array | None, row: int) -> Any:
    return values[row].item() if ends is None else values[ends[row] : ends[row + 1]]
