"""The contract of readers, checked on a file of their format; for readers of this project and of plug-ins alike."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from fm4npp.errors import DataError
from fm4npp.readers.base import Columns, Reader, Table, events_of

NO_COLUMN = "no_such_column"
"""That no file has."""
SHARES = (0.0, 0.3, 0.9)
"""Of a file that is cut off."""
MOST_BYTES = 200_000_000
"""Of a path that is copied to be damaged."""


def check_reader(
    cls: type[Reader], path: str | Path, columns: Sequence[str], *, num_events: int = 20, damage: bool = True
) -> None:
    """Check that a reader keeps the contract of `fm4npp.readers.Reader`.

    Args:
        cls: the class; it is built without arguments.
        path: file or folder of its format, with at least one event.
        columns: names of columns that it has, positions among them.
        num_events: that are compared, at most; the first ones.
        damage: also read copies that are cut off. Of a folder every file is cut.

    Raises:
        AssertionError: with what is wrong and what to do about it.
    """
    _require(bool(cls.registered_name), cls, "set the class variable registered_name")
    reader, place = cls(), Path(path)
    recognised = reader.recognises(place)
    _require(recognised, cls, f"does not recognise {place}; let recognises(path) say so by name or content")
    events = list(islice(reader.read(place, columns, ()), num_events))
    _require(bool(events), cls, f"gives no event of {place}; check it on a file with some")
    for event in events:
        _check_event(cls, event, columns)
    again = list(islice(reader.read(place, columns, ()), num_events))
    _require(_same(events, again), cls, "gives other events when it reads a second time; keep no state in the reader")
    _check_parts(cls, reader, place, columns, num_events)
    _check_optional(cls, reader, place, columns, num_events)
    _check_missing(cls, reader, place, columns)
    _check_description(cls, reader, place)
    if damage:
        _check_damage(cls, reader, place, columns)


def _require(condition: bool, cls: type, message: str) -> None:
    if not condition:
        raise AssertionError(f"{cls.__name__}: {message}")


def _check_event(cls: type, event: Columns, columns: Sequence[str]) -> None:
    _require("event_id" in event, cls, "gives an event without event_id; count the events if the file has no numbers")
    missing = [name for name in columns if name not in event]
    _require(not missing, cls, f"leaves out required columns without an error: {', '.join(missing)}")
    arrays = {name: event[name] for name in columns if not name.startswith(("particle_", "event_"))}
    wrong = [name for name, values in arrays.items() if not isinstance(values, np.ndarray) or values.ndim != 1]
    _require(not wrong, cls, f"gives columns that are no arrays of one dimension: {', '.join(wrong)}")
    objects = [name for name, values in arrays.items() if values.dtype.kind == "O"]
    _require(not objects, cls, f"gives arrays of Python objects: {', '.join(objects)}; give numbers")
    sizes = {name: len(values) for name, values in arrays.items()}
    _require(len(set(sizes.values())) <= 1, cls, f"gives columns of different lengths in one event: {sizes}")


def _same(first: Sequence[Columns], second: Sequence[Columns]) -> bool:
    return len(first) == len(second) and all(
        one.keys() == two.keys() and all(_equal(one[name], two[name]) for name in one)
        for one, two in zip(first, second, strict=True)
    )


def _equal(first: Any, second: Any) -> bool:
    one, two = np.asarray(first), np.asarray(second)
    same: bool = one.dtype == two.dtype and np.array_equal(one, two, equal_nan=one.dtype.kind == "f")
    return same


def _check_parts(cls: type, reader: Reader, path: Path, columns: Sequence[str], count: int) -> None:
    parts = reader.parts(path)
    _require(bool(parts), cls, "has no parts; give at least one")
    _require(len(set(parts)) == len(parts), cls, "names a part twice")
    joined = chain.from_iterable(reader.read_part(path, part, columns, ()) for part in parts)
    _require(
        _same(list(islice(reader.read(path, columns, ()), count)), list(islice(joined, count))),
        cls,
        "gives other events part by part than in one go; parts must be in the order of read, without overlap",
    )
    blocks = reader.read_blocks(path, parts[0], columns, ())
    if blocks is None:
        return
    first = list(islice(chain.from_iterable(map(events_of, blocks)), count))
    expected = list(islice(reader.read_part(path, parts[0], columns, ()), count))
    same = _same([_of(event, columns) for event in first], [_of(event, columns) for event in expected])
    _require(same, cls, "gives other events in blocks than one at a time")


def _of(event: Columns, columns: Sequence[str]) -> Columns:
    return {name: event[name] for name in (*columns, "event_id")}


def _check_optional(cls: type, reader: Reader, path: Path, columns: Sequence[str], count: int) -> None:
    plain, asked = (list(islice(reader.read(path, columns, more), count)) for more in ((), (NO_COLUMN,)))
    made_up = any(NO_COLUMN in event for event in asked)
    _require(not made_up, cls, "makes up an optional column that the file does not have; leave it out")
    message = "gives other values when an optional column is asked for"
    _require(_same([_of(e, columns) for e in plain], [_of(e, columns) for e in asked]), cls, message)


def _check_missing(cls: type, reader: Reader, path: Path, columns: Sequence[str]) -> None:
    error = _failure(cls, reader.read(path, (*columns, NO_COLUMN), ()), "a required column that is not there")
    _require(error is not None, cls, f"reads on without the required column {NO_COLUMN!r}; raise a DataError")
    _require(NO_COLUMN in str(error), cls, f"does not name the missing column; it says: {error}")


def _failure(cls: type, events: Iterator[Columns], what: str) -> DataError | None:
    """The error that reading ends with, which must be one for users, in one line."""
    try:
        for _ in events:
            pass
    except DataError as error:
        _require("\n" not in str(error), cls, f"gives more than one line for {what}: {error}")
        return error
    except Exception as error:
        raise AssertionError(
            f"{cls.__name__}: fails with {error!r} for {what}; raise a DataError that names the file and what to do"
        ) from error
    return None


def _check_description(cls: type, reader: Reader, path: Path) -> None:
    tables = reader.describe(path)
    _require(all(isinstance(table, Table) for table in tables), cls, "describe must give `Table`s")


def _check_damage(cls: type, reader: Reader, path: Path, columns: Sequence[str]) -> None:
    """A file that ends early is an error or fewer events, and never a crash."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    if sum(file.stat().st_size for file in files) > MOST_BYTES:
        return
    with tempfile.TemporaryDirectory() as folder:
        for share in SHARES:
            copy = Path(folder) / f"{share}" / path.name
            copy.parent.mkdir()
            if path.is_dir():
                shutil.copytree(path, copy)
            else:
                shutil.copyfile(path, copy)
            for file in [file for file in copy.rglob("*") if file.is_file()] if copy.is_dir() else [copy]:
                file.chmod(0o600)
                with file.open("r+b") as opened:
                    opened.truncate(int(share * file.stat().st_size))
            what = f"a file cut off after {share:.0%}"
            error = _failure(cls, reader.read(copy, columns, ()), what)
            _require(
                error is not None or share > 0, cls, "reads an empty file as if it held no events; raise a DataError"
            )
