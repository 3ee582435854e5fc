"""Which rows of a flat tree in a ROOT file are one event."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fm4npp.errors import DataError
from fm4npp.readers import root_columns, root_files
from fm4npp.readers.checks import listing
from fm4npp.readers.npz import Array
from fm4npp.readers.root_columns import Leaf, Names

EVENT = re.compile(r"i?(event|evt|evnt|ev)(id|no|nr|num|number|index)?")
"""Names of a column of event numbers, without capitals and underscores."""
CONSTANT = re.compile(r"run(id|no|nr|num|number)?|seed")
"""Names of columns that one event has one value of: several mean that files or runs were merged."""
NUMBER = re.compile(r"(std::)?(bool|char|float|double|Float16_t|Double32_t|u?int\d+_t)")
LIST = re.compile(r".*\[\].*|(std::)?vector<(?!.*string).*")
"""Types of branches with one number, and with a list, an entry, as uproot writes them."""
INDEX_ROWS = 1_000_000
"""Rows of the column of event numbers that are held at a time."""
MERGED = "files or runs were merged without new event numbers, read them one by one"


def has_rows(path: Path) -> bool:
    """Whether a ROOT file holds a row for every spacepoint; False if it is damaged, or has a tree with lists."""
    status = path.stat()
    return _has_rows(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _has_rows(path: Path, modified: int, size: int) -> bool:
    """`has_rows` of one state of a file: several readers ask, and a tree of thousands of branches takes a second."""
    found = False
    try:
        with root_files.opened(path) as file:
            if "podio_metadata" in file.keys(cycle=False):
                return False
            for _, tree in root_files.trees(file, path):
                if any(LIST.fullmatch(str(branch.typename)) for branch in _branches(tree)):
                    return False
                found = found or (is_rows(tree) and _has_positions(tree.keys()))
    except DataError:
        return False
    except Exception:  # a branch that cannot be decoded: `root-tree` says which
        return False
    return found


def repeats_events(names: Names, path: Path) -> bool:
    """Whether entries of a tree that follow each other have the same event number, so that they are rows."""
    for name in (name for name in names.paths if EVENT.fullmatch(_plain(name))):
        leaf = Leaf(names.tree[name])
        if root_columns.kind_of(leaf, name, path) != "number":
            continue
        for start in range(0, int(leaf.branch.num_entries), INDEX_ROWS):
            stop = min(start + INDEX_ROWS + 1, int(leaf.branch.num_entries))
            values = root_columns.entries_of(leaf, start, stop, name, path).values
            if (values[1:] == values[:-1]).any():
                return True
    return False


def _branches(tree: Any) -> Iterator[Any]:
    return (tree[name] for name in tree.keys())  # noqa: SIM118


def is_rows(tree: Any) -> bool:
    """Whether each branch of a tree is one number an entry, and one of them the event number."""
    numbers = all(NUMBER.fullmatch(str(branch.typename)) for branch in _branches(tree))
    return numbers and any(EVENT.fullmatch(_plain(name)) for name in tree.keys())  # noqa: SIM118


def _has_positions(names: Sequence[str]) -> bool:
    """Whether three names differ only in x, y and z."""
    lower = {name.lower() for name in names}
    places = ((name, place) for name in lower for place, letter in enumerate(name) if letter == "x")
    return any(all(name[:i] + axis + name[i + 1 :] in lower for axis in "yz") for name, i in places)


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


def whole_numbers(values: Array, name: str, path: Path, first: int = 0) -> Array:
    """Event numbers (N,) of any type, from row `first` on, to int64.

    Raises:
        DataError: if one is no whole number, or a neighbour of it could have been rounded to it.
    """
    if values.dtype.kind != "f":
        return values.astype(np.int64)
    limit = 2.0 ** (np.finfo(values.dtype).nmant + 1)
    wrong = np.flatnonzero(~((np.abs(values) < limit) & (values == np.rint(values))))
    if len(wrong):
        problem = f"{name!r} is {values[wrong[0]]} in row {first + wrong[0]}"
        if np.abs(values[wrong[0]]) >= limit:
            problem += f", and {values.dtype} cannot tell event numbers from {limit:.0f} on apart"
            raise DataError(problem, file=path, remedy="write it as an integer or a double")
        raise DataError(f"{problem}, no event number", file=path, remedy="choose another column as event_id")
    return values.astype(np.int64)


class Index(NamedTuple):
    """Where the events of a tree are.

    Attributes:
        numbers: (E,) int64, in the order of the file.
        starts: (E + 1,) int64, the first row of each; the number of rows at the end.
        ascending: whether the numbers are.
    """

    numbers: Array
    starts: Array
    ascending: bool

    def between(self, part: str) -> tuple[int, int]:
        """The range of events with numbers in the part `low:high`; all in the first part if they do not ascend."""
        low, _, high = part.partition(":")
        if not self.ascending:
            return (0, 0) if low else (0, len(self.numbers))
        first = np.searchsorted(self.numbers, int(low)) if low else 0
        last = np.searchsorted(self.numbers, int(high)) if high else len(self.numbers)
        return int(first), int(last)


def event_leaf(names: Names, wanted: Sequence[str], path: Path) -> tuple[str, Leaf]:
    """The column of event numbers: of several, the wanted one."""
    found = [name for name in names.paths if EVENT.fullmatch(_plain(name))]
    asked = {leaf[1].branch.name for leaf in map(names.find, wanted) if leaf}
    chosen = [name for name in found if name in asked] or found
    if len(chosen) == 1:
        return chosen[0], Leaf(names.tree[chosen[0]])
    if found:
        raise DataError(
            f"several columns may hold event numbers: {listing(chosen)}", file=path, remedy="map event_id to one"
        )
    raise DataError(
        f"no column says which event a row belongs to (found: {listing(names.paths)})",
        file=path,
        remedy="it is called event, event_id, evt or alike",
    )


_indices: dict[tuple[Any, ...], Index] = {}
"""The index of the trees that were read last, for the next part of the same file."""


def index_of(path: Path, tree_name: str, names: Names, wanted: Sequence[str]) -> Index:
    """Where the events of a tree are, from its column of event numbers.

    Raises:
        DataError: if rows of one event are apart, or differ in what an event has one value of.
    """
    name, leaf = event_leaf(names, wanted, path)
    status = path.stat()
    key = (path, status.st_mtime_ns, status.st_size, tree_name, name)
    if key not in _indices:
        while len(_indices) >= 4:
            _indices.pop(next(iter(_indices)))
        _indices[key] = _scan(name, leaf, names, path)
    return _indices[key]


def _scan(name: str, leaf: Leaf, names: Names, path: Path) -> Index:
    constant = {other: Leaf(names.tree[other]) for other in names.paths if CONSTANT.fullmatch(_plain(other))}
    rows = int(names.tree.num_entries)
    starts, numbers = [np.zeros(1, np.int64)][:rows], []
    for start in range(0, rows, INDEX_ROWS):
        first, stop = max(start - 1, 0), min(start + INDEX_ROWS, rows)
        values = whole_numbers(root_columns.entries_of(leaf, first, stop, name, path).values, name, path, first)
        new = values[1:] != values[:-1]
        for other, other_leaf in constant.items():
            _check_constant(
                root_columns.entries_of(other_leaf, first, stop, other, path).values, new, values, other, path
            )
        places = np.flatnonzero(new) + 1
        numbers.append(values[places if start else np.append(0, places)])
        starts.append(places + first)
    index = _joined(numbers, [*starts, np.array([rows])])
    if not index.ascending and len(np.unique(index.numbers)) != len(index.numbers):
        raise _comes_back(index, name, path)
    return index


def _joined(numbers: Sequence[Array], starts: Sequence[Array]) -> Index:
    joined = np.concatenate([np.zeros(0, np.int64), *numbers])
    return Index(joined, np.concatenate(starts), bool((np.diff(joined) > 0).all()))


def _check_constant(values: Array, new: Array, events: Array, name: str, path: Path) -> None:
    with np.errstate(invalid="ignore"):
        differs = (values[1:] != values[:-1]) & ((values[1:] == values[1:]) | (values[:-1] == values[:-1])) & ~new
    if differs.any():
        event = int(events[1:][differs][0])
        raise DataError(f"its rows have several values of {name!r}", file=path, event=event, remedy=MERGED)


def _comes_back(index: Index, name: str, path: Path) -> DataError:
    _, first = np.unique(index.numbers, return_index=True)
    again = int(np.delete(np.arange(len(index.numbers)), first)[0])
    problem = f"{name!r} comes back in row {index.starts[again]} after rows of other events"
    return DataError(problem, file=path, event=int(index.numbers[again]), remedy=MERGED)


def chunks(starts: Array, rows: int) -> Iterator[tuple[int, int]]:
    """Ranges of whole events with about this many rows."""
    first = 0
    while first < len(starts) - 1:
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + rows, "right")) - 1)
        yield first, last
        first = last
