"""ROOT files: one tree, one entry an event, a list of values a column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fm4npp.errors import DataError
from fm4npp.readers import root_columns, root_files
from fm4npp.readers.base import Block, Columns, Reader, Table
from fm4npp.readers.root_columns import Leaf, Names
from fm4npp.readers.root_index import has_rows, repeats_events, whole_numbers

PART_ENTRIES = 5000
"""Entries in one part."""


class RootTree(Reader):
    """A TTree or RNTuple with an entry for every event.

    The tree is the only one with all required columns, at its highest cycle. A column is named like its branch
    (`x`, `hits.fX`), by its path or by its last part where no other branch is called so, and capitals count only where
    that is needed to tell two apart; `tree/branch` names the tree too. `Zufo[3]` is the fourth of a fixed number of
    values that a branch holds for each object, and `position.x` a member of objects that a branch holds whole. A
    list of numbers is given as an array; one number an entry is given as a number. `event_id` is the entry number.
    Nothing but numbers is a column: asked for lists of lists or text, it says so.
    """

    registered_name: ClassVar[str] = "root-tree"
    generic: ClassVar[bool] = True

    def recognises(self, path: Path) -> bool:
        """See `Reader.recognises`: a ROOT file that does not hold a row for every spacepoint, damaged or not."""
        return root_files.is_root(path) and not has_rows(path)

    def read(self, path: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
        """See `Reader.read`. Exactly the wanted columns are given."""
        return _events(path, 0, None, required, optional)

    def parts(self, path: Path) -> Sequence[str]:
        """See `Reader.parts`: ranges of entries."""
        with root_files.opened(path) as file:
            entries = max((tree.num_entries for _, tree in root_files.trees(file, path)), default=0)
        return [f"{start}:{start + PART_ENTRIES}" for start in range(0, max(entries, 1), PART_ENTRIES)]

    def read_part(self, path: Path, part: str, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
        """See `Reader.read_part`."""
        start, _, stop = part.partition(":")
        return _events(path, int(start), int(stop), required, optional)

    def read_blocks(
        self, path: Path, part: str, required: Sequence[str], optional: Sequence[str]
    ) -> Iterator[Block] | None:
        """See `Reader.read_blocks`; of trees where every wanted column is one number an entry."""
        with root_files.opened(path) as file:
            _, leaves = _leaves(file, required, optional, path)
            if any(root_columns.kind_of(leaf, name, path) == "list" for name, leaf in leaves.items()):
                return None
        start, _, stop = part.partition(":")
        return _blocks(path, int(start), int(stop), required, optional)

    def describe(self, path: Path) -> Sequence[Table]:
        """See `Reader.describe`: every tree with its branches."""
        return root_files.describe(path)


def _events(
    path: Path, first: int, last: int | None, required: Sequence[str], optional: Sequence[str]
) -> Iterator[Columns]:
    with root_files.opened(path) as file:
        tree, leaves = _leaves(file, required, optional, path)
        entries = int(tree.num_entries)
        stop = entries if last is None else min(last, entries)
        step = root_columns.step(list(leaves.values()))
        for start in range(first, stop, step):
            end = min(start + step, stop)
            columns = {name: root_columns.entries_of(leaf, start, end, name, path) for name, leaf in leaves.items()}
            for index in range(end - start):
                event = {name: values[index] for name, values in columns.items()}
                yield event | {"event_id": _event_id(event, start + index, path)}


def _blocks(path: Path, first: int, last: int, required: Sequence[str], optional: Sequence[str]) -> Iterator[Block]:
    """Entries of one number a column, each an event of one spacepoint."""
    with root_files.opened(path) as file:
        tree, leaves = _leaves(file, required, optional, path)
        stop = min(last, int(tree.num_entries))
        step = root_columns.step(list(leaves.values()))
        for start in range(first, stop, step):
            end = min(start + step, stop)
            columns = {
                name: root_columns.entries_of(leaf, start, end, name, path).values for name, leaf in leaves.items()
            }
            ids = columns.pop("event_id", np.arange(start, end))
            yield Block(columns, np.ones(end - start, np.int64), whole_numbers(ids, "event_id", path))


def _event_id(event: Columns, entry: int, path: Path) -> int:
    """The entry number, unless a column of that name was asked for."""
    return int(whole_numbers(np.atleast_1d(event.get("event_id", entry)), "event_id", path)[0])


def _leaves(file: Any, required: Sequence[str], optional: Sequence[str], path: Path) -> tuple[Any, dict[str, Leaf]]:
    """The tree, and wanted name -> what it is made from."""
    names = {name: Names(name, tree) for name, tree in root_files.trees(file, path)}
    chosen = names[root_columns.choose(names, required, path)]
    found = {name: chosen.find(name) for name in dict.fromkeys((*required, *optional))}
    leaves = {name: leaf[1] for name, leaf in found.items() if leaf}
    kinds = {name: root_columns.kind_of(leaf, name, path) for name, leaf in leaves.items()}
    for name, kind in kinds.items():
        if kind not in ("number", "list"):
            raise DataError(
                f"the branch {name!r} is not a list of numbers, one for each spacepoint: {kind}",
                file=path,
                remedy="map the quantity to another branch or to a part of this one",
            )
    _check_required_kinds({name: kinds[name] for name in required}, chosen, path)
    return chosen.tree, leaves


def _check_required_kinds(kinds: dict[str, str], names: Names, path: Path) -> None:
    """Refuse an entry that is one spacepoint where entries are rows, and lists and numbers mixed."""
    numbers = [name for name, kind in kinds.items() if kind == "number"]
    if not numbers:
        return
    name = numbers[0]
    problem = f"the branch {name!r} is not a list of numbers, one for each spacepoint: it holds one number an entry"
    if len(numbers) < len(kinds):
        raise DataError(problem, file=path, remedy="choose a branch with a list for every entry")
    if has_rows(path) or repeats_events(names, path):
        raise DataError(problem, file=path, remedy="read this file with --reader root-rows")
