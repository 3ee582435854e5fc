"""ROOT files with one row for every spacepoint, grouped into events by a column (TNtuple, TTree, RNTuple)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from fm4npp.errors import DataError
from fm4npp.readers import root_columns, root_files
from fm4npp.readers.base import Columns, Reader, Table
from fm4npp.readers.npz import Array
from fm4npp.readers.root_columns import Names
from fm4npp.readers.root_index import Index, chunks, event_leaf, has_rows, index_of, is_rows

PART_ROWS = 1_000_000
"""Rows of the longest tree that one part holds, rounded up to whole events."""


class RootRows(Reader):
    """A flat ntuple, such as the TNtuples of the sPHENIX SvtxEvaluator: a row a spacepoint, a column the event number.

    The tree is the only one with all required columns; `tree/branch` names the tree too, and an optional column named
    so may come from another flat tree of the file (a table of particles), whose rows of the same event number are
    given. Names are read as by `root-tree`. The column of event numbers is called `event`, `event_id`, `eventID`,
    `evt`, `EventNo` or alike (`root_index.EVENT`); where a tree has several, the one that is asked for. It may be
    floating point, if the numbers are whole and small enough to be told apart. The rows of an event lie together, and
    the events are those of the rows: one without spacepoints leaves no trace. `event_id` is the event number.

    Sixteen bytes an event are held, and the rows of some events at a time.
    """

    registered_name: ClassVar[str] = "root-rows"
    generic: ClassVar[bool] = True

    def recognises(self, path: Path) -> bool:
        """See `Reader.recognises`."""
        return root_files.is_root(path) and has_rows(path)

    def read(self, path: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
        """See `Reader.read`. Exactly the wanted columns are given, the event number as a number."""
        return _events(path, ":", required, optional)

    def parts(self, path: Path) -> Sequence[str]:
        """See `Reader.parts`: ranges of event numbers; one that holds all unless they ascend."""
        with root_files.opened(path) as file:
            flat = {name: Names(name, tree) for name, tree in root_files.trees(file, path) if is_rows(tree)}
            if not flat:
                return [":"]
            longest = max(flat, key=lambda name: int(flat[name].tree.num_entries))
            index = index_of(path, longest, flat[longest], ())
        limits = [str(index.numbers[first]) for first, _ in chunks(index.starts, PART_ROWS)][1:]
        limits = ["", *(limits if index.ascending else []), ""]
        return [f"{low}:{high}" for low, high in itertools.pairwise(limits)]

    def read_part(self, path: Path, part: str, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
        """See `Reader.read_part`."""
        return _events(path, part, required, optional)

    def describe(self, path: Path) -> Sequence[Table]:
        """See `Reader.describe`: every tree with its branches."""
        return root_files.describe(path)


def _events(path: Path, part: str, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
    wanted = list(dict.fromkeys((*required, *optional)))
    with root_files.opened(path) as file:
        names = {name: Names(name, tree) for name, tree in root_files.trees(file, path)}
        chosen = root_columns.choose(names, required, path)
        main = _Rows(path, chosen, names[chosen], wanted)
        others = [
            _Rows(path, name, names[name], own).matched(main.index)
            for name in names
            if name != chosen and (own := [column for column in wanted if column.startswith(name + "/")])
        ]
        first, last = main.index.between(part)
        for low, high in chunks(main.index.starts[first : last + 1], main.step):
            tables = [rows.read(first + low, first + high) for rows in (main, *others)]
            for number, *parts in zip(main.index.numbers[first + low : first + high].tolist(), *tables, strict=True):
                event: Columns = {name: values for part in parts for name, values in part.items()}
                yield event | dict.fromkeys(main.asked, number) | {"event_id": number}


class _Rows:
    """The wanted columns of one flat tree, event by event."""

    def __init__(self, path: Path, name: str, names: Names, wanted: Sequence[str]) -> None:
        self.path, self.name = path, name
        self.index = index_of(path, name, names, wanted)
        event, _ = event_leaf(names, wanted, path)
        found = {column: place[1] for column in wanted if (place := names.find(column))}
        self.asked = [column for column, leaf in found.items() if leaf.branch.name == event]
        self.leaves = {column: leaf for column, leaf in found.items() if column not in self.asked}
        for column, leaf in self.leaves.items():
            if (kind := root_columns.kind_of(leaf, column, path)) != "number":
                problem = f"the branch {column!r} is not one number a row" + ("" if kind == "list" else f": {kind}")
                raise DataError(problem, file=path, remedy="choose a branch with a number for every row")
        self.step = root_columns.step(list(self.leaves.values()))
        self.first, self.last = self.index.starts[:-1], self.index.starts[1:]

    def matched(self, main: Index) -> _Rows:
        """With rows for the events of another tree: none for an event that this one lacks."""
        order = np.argsort(self.index.numbers)
        place = np.searchsorted(self.index.numbers, main.numbers, sorter=order)
        place = np.append(order, 0)[place] if len(order) else place
        there = np.isin(main.numbers, self.index.numbers)
        starts = np.append(self.first, 0)[np.where(there, place, -1)]
        stops = np.append(self.last, 0)[np.where(there, place, -1)]
        if (np.diff(starts[there]) < 0).any():
            raise DataError(f"the events of the tree {self.name!r} are in another order", file=self.path)
        self.first, self.last = starts, stops
        return self

    def read(self, first: int, last: int) -> list[dict[str, Array]]:
        """The columns of some events."""
        starts, stops = self.first[first:last], self.last[first:last]
        some = stops > starts
        low, high = (int(starts[some][0]), int(stops[some][-1])) if some.any() else (0, 0)
        columns = {
            name: root_columns.entries_of(leaf, low, high, name, self.path).values for name, leaf in self.leaves.items()
        }
        ranges = zip(np.where(some, starts - low, 0).tolist(), np.where(some, stops - low, 0).tolist(), strict=True)
        return [{name: values[start:stop] for name, values in columns.items()} for start, stop in ranges]
