"""ROOT files: one tree, one entry an event, one value a spacepoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import awkward
import numpy as np
import uproot
from awkward.types import ListType, NumpyType

from fm4npp.errors import DataError
from fm4npp.readers.base import Columns, Reader
from fm4npp.readers.checks import NEW_COPY, decoding, listing
from fm4npp.readers.npz import Array

STEP_BYTES = 32_000_000
"""Uncompressed bytes of the wanted branches that are held at a time."""
STEP_ENTRIES = 1000
"""Entries that are held at a time where sizes are not known (RNTuple)."""
TREES = ("TTree", "TNtuple", "RNTuple")


class RootTree(Reader):
    """A TTree or RNTuple with an entry for every event and a jagged branch for every column.

    The tree is the only one with all required branches, at its highest cycle. A branch inside another is known by
    its own name, or by its path where that is not unique. Optional branches that do not hold one number for each
    spacepoint are left out. `event_id` is the entry number.
    """

    registered_name: ClassVar[str] = "root-tree"

    def recognises(self, path: Path) -> bool:
        """See `Reader.recognises`: a file named .root."""
        return path.is_file() and path.suffix == ".root"

    def read(self, path: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
        """See `Reader.read`. Exactly the wanted columns are given."""
        with decoding(path, "the ROOT file"), uproot.open(path) as file:
            if (size := path.stat().st_size) < file.file.fEND:
                raise DataError(f"has {size} of {file.file.fEND} bytes", file=path, remedy=NEW_COPY)
            branches = _branches(file, required, optional, path)
            for start, stop in _steps(branches.values()):
                columns = {name: _values(branch, start, stop, name, path) for name, branch in branches.items()}
                for index in range(stop - start):
                    event = {name: flat[ends[index] : ends[index + 1]] for name, (flat, ends) in columns.items()}
                    yield {**event, "event_id": start + index}


def _branches(file: Any, required: Sequence[str], optional: Sequence[str], path: Path) -> dict[str, Any]:
    """Wanted name -> branch, of the only tree that has all required ones."""
    kinds = file.classnames(cycle=False)
    trees = {name: file[name] for name, kind in kinds.items() if any(tree in kind for tree in TREES)}
    paths = {name: _paths(tree) for name, tree in trees.items()}
    complete = [name for name in trees if all(branch in paths[name] for branch in required)]
    if len(complete) != 1:
        raise _no_tree(required, paths, complete, path)
    tree, places = trees[complete[0]], paths[complete[0]]
    branches = {name: tree[places[name]] for name in (*required, *optional) if name in places}
    jagged = {name: branch for name, branch in branches.items() if _is_jagged(branch, name, path)}
    for name in required:
        if name not in jagged:
            raise DataError(
                f"the branch {name!r} ({branches[name].typename}) is not a list of numbers, one for each spacepoint",
                file=path,
                remedy="choose a branch with a list for every entry",
            )
    return jagged


def _paths(tree: Any) -> dict[str, str]:
    """Name -> path of every branch; a nested branch's own name too, if it is unique."""
    keys = tree.keys()
    paths = dict(zip(keys, keys, strict=True))
    own: dict[str, list[str]] = {}
    for path in paths:
        own.setdefault(path.rpartition("/")[2], []).append(path)
    return {name: places[0] for name, places in own.items() if len(places) == 1} | paths


def _no_tree(required: Sequence[str], paths: dict[str, dict[str, str]], found: Sequence[str], path: Path) -> DataError:
    if found:
        problem = f"several trees have the branches {listing(required)}: {listing(found)}"
        return DataError(problem, file=path, remedy="copy the wanted one to a file of its own")
    has = "; ".join(f"{name!r} has {listing(branches)}" for name, branches in paths.items())
    return DataError(
        f"no tree with the branches {listing(required)} (found: {has or 'no tree'})",
        file=path,
        remedy="choose the detector that this file belongs to",
    )


def _is_jagged(branch: Any, name: str, path: Path) -> bool:
    """Whether each entry of a branch is a list of numbers, of any length."""
    with decoding(path, f"the branch {name!r}"):
        entry = branch.array(entry_stop=0, library="ak").type.content
    return isinstance(entry, ListType) and isinstance(entry.content, NumpyType)


def _steps(branches: Iterable[Any]) -> Iterator[tuple[int, int]]:
    """Ranges of entries of bounded size."""
    branches = list(branches)
    entries = branches[0].num_entries if branches else 0
    total = sum(getattr(branch, "uncompressed_bytes", 0) for branch in branches)
    step = max(1, int(entries * STEP_BYTES / total)) if total else STEP_ENTRIES
    return ((start, min(start + step, entries)) for start in range(0, entries, step))


def _values(branch: Any, start: int, stop: int, name: str, path: Path) -> tuple[Array, Array]:
    """Entries of a branch to all their values end to end, and the (entries + 1,) offsets of the entries in them."""
    with decoding(path, f"the branch {name!r}"):
        lists = branch.array(entry_start=start, entry_stop=stop, library="ak")
        sizes = awkward.to_numpy(awkward.num(lists))
        values: Array = awkward.to_numpy(awkward.flatten(lists), allow_missing=False)
    return values, np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
