"""Which branch of a tree a column's name means, and its values, entry by entry."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import awkward
import numpy as np
from awkward.types import ListType, NumpyType, RecordType, RegularType

from fm4npp.errors import DataError
from fm4npp.readers.checks import decoding, listing
from fm4npp.readers.npz import Array

INDEX = re.compile(r"(?:\[\d+\])+$")
STEP_BYTES = 32_000_000
"""Uncompressed bytes of the wanted columns that are held at a time."""
STEP_ENTRIES = 1000
"""Entries that are held at a time where sizes are not known (RNTuple)."""
MANY_TREES = 4
"""Trees whose branches a message lists."""


@dataclass(frozen=True)
class Leaf:
    """What one column is made from.

    Attributes:
        branch: an uproot branch or RNTuple field.
        members: path of a member inside the branch's objects.
        index: which of a fixed number of values.
    """

    branch: Any
    members: tuple[str, ...] = ()
    index: tuple[int, ...] = ()

    def pick(self, entries: Any) -> Any:
        """The column's part of some entries of the branch."""
        for member in self.members:
            entries = entries[member]
        if self.index:
            entries = entries[(..., *self.index)]
        return entries


class Names:
    """The branches of a tree by everything they may be called.

    A branch is known by its path, by its own name (the path's last part), by that without a trailing `[6]`, and by the
    last member of a dotted name; all but the path only where no other branch is called the same. If nothing has
    exactly the name, capitals are ignored.

    Args:
        tree_name: the tree's name in the file, which may precede a name: `tree/branch`.
        tree: the tree.
    """

    def __init__(self, tree_name: str, tree: Any) -> None:
        self.tree = tree
        self.paths: tuple[str, ...] = tuple(tree.keys())
        self._prefix = tree_name + "/"
        exact = [_unique((called(path), path) for path in self.paths) for called in (str, _own, _bare, _member)]
        self._levels = exact + [_unique((name.lower(), path) for name, path in level.items()) for level in exact]

    def find(self, column: str) -> tuple[int, Leaf] | None:
        """What a column is made from, and how freely its name was read (0: as it is); None if the tree lacks it."""
        for name in dict.fromkeys((column, column.removeprefix(self._prefix))):
            found = self._branch(name) or self._indexed(name) or self._inside(name)
            if found:
                return found
        return None

    def _branch(self, name: str) -> tuple[int, Leaf] | None:
        for level, paths in enumerate(self._levels):
            wanted = name if level < len(self._levels) // 2 else name.lower()
            if wanted in paths:
                return level, Leaf(self.tree[paths[wanted]])
        return None

    def _indexed(self, name: str) -> tuple[int, Leaf] | None:
        """`Zufo[3]`: one of the fixed number of values that the branch `Zufo` holds for each object."""
        index = INDEX.search(name)
        if not index:
            return None
        base = name[: index.start()]
        found = self._branch(base) or self._inside(base)
        numbers = tuple(map(int, re.findall(r"\d+", index[0])))
        return (found[0], replace(found[1], index=numbers)) if found else None

    def _inside(self, name: str) -> tuple[int, Leaf] | None:
        """`position.x`: a member of the objects in the branch `position`."""
        parts = name.split(".")
        for cut in range(len(parts) - 1, 0, -1):
            found = self._branch(".".join(parts[:cut]))
            if found and _has(found[1].branch, parts[cut:]):
                return found[0], replace(found[1], members=tuple(parts[cut:]))
        return None


def _own(path: str) -> str:
    return path.rpartition("/")[2]


def _bare(path: str) -> str:
    return INDEX.sub("", _own(path)).rstrip(".")


def _member(path: str) -> str:
    return _bare(path).rpartition(".")[2]


def _unique(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Name -> path, of the names that only one path has."""
    places: dict[str, set[str]] = {}
    for name, path in pairs:
        places.setdefault(name, set()).add(path)
    return {name: min(paths) for name, paths in places.items() if len(paths) == 1}


def _has(branch: Any, members: Sequence[str]) -> bool:
    try:
        kind = branch.array(entry_stop=0, library="ak").type.content
        for member in members:
            while isinstance(kind, ListType | RegularType):
                kind = kind.content
            if not isinstance(kind, RecordType) or member not in kind.fields:
                return False
            kind = kind.content(member)
    except Exception:  # what cannot be decoded has no members; asked for by its own name it is an error
        return False
    return True


def kind_of(leaf: Leaf, name: str, path: Path) -> str:
    """What a column holds for each entry: "number", "list", or a phrase that says why it is neither."""
    with decoding(path, f"the branch {name!r}"):
        entries = leaf.branch.array(entry_stop=0, library="ak")
    try:
        entry = leaf.pick(entries).type.content
    except (IndexError, ValueError):
        return f"it holds {_shape(entries.type.content)}"
    if isinstance(entry, NumpyType):
        return "number"
    if isinstance(entry, ListType | RegularType) and isinstance(entry.content, NumpyType):
        return "it holds text" if _is_text(entry) else "list"
    return f"it holds {_shape(entry)}"


def _is_text(entry: Any) -> bool:
    return entry.parameters.get("__array__") in ("string", "bytestring")


def _shape(entry: Any) -> str:
    """The type of an entry in words that end with what to ask for instead."""
    if isinstance(entry, RecordType):
        return f"objects with {listing(entry.fields)}"
    if isinstance(entry, ListType | RegularType):
        inner = entry.content
        if _is_text(inner):
            return "text"
        if isinstance(inner, RegularType) and isinstance(inner.content, NumpyType):
            return f"{inner.size} numbers for each spacepoint, [0] to [{inner.size - 1}]"
        if isinstance(inner, ListType) and isinstance(inner.content, NumpyType):
            return "a list of lists of any length, doubly jagged, so no one value belongs to a spacepoint"
        if isinstance(inner, RecordType):
            return f"objects with {listing(inner.fields)}"
    return f"{entry}"[:80]


def step(leaves: Sequence[Leaf]) -> int:
    """How many entries of some columns to hold at a time."""
    branches = {id(leaf.branch): leaf.branch for leaf in leaves}.values()
    entries = max((branch.num_entries for branch in branches), default=0)
    total = sum(getattr(branch, "uncompressed_bytes", 0) for branch in branches)
    return max(1, int(entries * STEP_BYTES / total)) if total else STEP_ENTRIES


@dataclass(frozen=True)
class Entries:
    """Some entries of a column.

    Attributes:
        values: all their values end to end.
        ends: (entries + 1,) offsets of the entries in them; None where each is one number.
    """

    values: Array
    ends: Array | None

    def __getitem__(self, index: int) -> Any:
        """One entry: a number, or the array of its values."""
        if self.ends is None:
            return self.values[index].item()
        return self.values[self.ends[index] : self.ends[index + 1]]


def entries_of(leaf: Leaf, start: int, stop: int, name: str, path: Path) -> Entries:
    """Some entries of a column.

    Raises:
        DataError: if they cannot be decoded, or a number is too large for a signed integer.
    """
    with decoding(path, f"the branch {name!r}"):
        picked = leaf.pick(leaf.branch.array(entry_start=start, entry_stop=stop, library="ak"))
        if len(picked) != stop - start:
            raise ValueError(f"{len(picked)} of {stop - start} entries")
        lists = picked.ndim > 1
        sizes = awkward.to_numpy(awkward.num(picked)) if lists else None
        values: Array = awkward.to_numpy(awkward.flatten(picked) if lists else picked, allow_missing=False)
    if values.dtype == np.uint64 and len(values) and values.max() > np.iinfo(np.int64).max:
        raise DataError(f"{name!r} holds {values.max()}, which no signed integer can hold", file=path)
    return Entries(values, None if sizes is None else np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]))


def no_tree(required: Sequence[str], names: dict[str, Names], found: Sequence[str], path: Path) -> DataError:
    """The error for no tree, or several, with all required columns."""
    if found:
        return DataError(
            f"several trees have the branches {listing(required)}: {listing(found)}",
            file=path,
            remedy=f"name the tree too, as in {found[0]}/{required[0] if required else 'x'}",
        )
    has = "; ".join(f"{name!r} has {listing(tree.paths)}" for name, tree in list(names.items())[:MANY_TREES])
    more = f"; and {len(names) - MANY_TREES} more trees" if len(names) > MANY_TREES else ""
    return DataError(
        f"no tree with the branches {listing(required)} (found: {has + more or 'no tree'})",
        file=path,
        remedy="choose the detector that this file belongs to",
    )


def choose(names: dict[str, Names], required: Sequence[str], path: Path) -> str:
    """The only tree that has all required columns; where several do, the one whose names were read least freely.

    Raises:
        DataError: if no tree has them all, or two have them equally well.
    """
    freedom = {}
    for name, tree in names.items():
        levels = [tree.find(column) for column in required]
        if all(levels):
            freedom[name] = max((level[0] for level in levels if level), default=0)
    best = [name for name, level in freedom.items() if level == min(freedom.values())]
    if len(best) != 1:
        raise no_tree(required, names, best, path)
    return best[0]
