"""The inside of a podio file: collections, members as flat arrays, and references between objects."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import awkward
import numpy as np
import uproot

from fm4npp.errors import DataError
from fm4npp.readers.checks import NEW_COPY, decoding, listing
from fm4npp.readers.npz import Array
from fm4npp.readers.root_files import check_page_lists

TREE, METADATA = "events", "podio_metadata"
MEASURED, SIMULATED, PARTICLES = "measured", "simulated", "particles"
TYPES = {r"SimTrackerHit": SIMULATED, r"TrackerHit(3D|Plane)?": MEASURED, r"MCParticle": PARTICLES}
"""Data type of EDM4hep or EDM4eic -> what its collections hold."""
ENERGY = ("eDep", "edep", "EDep")
"""The deposited energy: EDM4hep, EDM4eic, and EDM4hep before 1.0."""
STEP_BYTES = 32_000_000
"""Uncompressed bytes of hits and particles that are held at a time, about."""
STEP_ENTRIES = 200
"""Entries that are held at a time where sizes are not known (RNTuple)."""
PROBE_ENTRIES = 1000
"""Entries that decide which collection a reference without a name means."""
WITHOUT_TRUTH = "choose other collections, or map track_id to a column that is not there to read without truth"


def kind_of(members: set[str], type_name: str) -> str:
    """What a collection holds, by the name of its type, else by its members; "" for anything else."""
    if found := re.search(r"::(\w+?)(Data|Collection)\b", type_name):
        return next((kind for pattern, kind in TYPES.items() if re.fullmatch(pattern, found[1])), "")
    if "position.x" in members and members & set(ENERGY):
        return SIMULATED if "momentum.x" in members else MEASURED
    return PARTICLES if {"PDG", "momentum.x", "vertex.x"} <= members else ""


def is_podio(path: Path) -> bool:
    """Whether a ROOT file has a tree `events` of podio.

    Raises:
        Exception: of any type, if the file is damaged.
    """
    with uproot.open(path) as file:
        trees = file.classnames(cycle=False, recursive=False)
        return TREE in trees and (METADATA in trees or any(_is_reference(name) for name in file[TREE].iterkeys()))


def _is_reference(name: str) -> bool:
    return name.endswith(".collectionID")


@contextmanager
def opened(path: Path) -> Iterator[File]:
    """Open a podio file, or take the one that was open last: uproot needs seconds for a tree of a thousand branches.

    Raises:
        DataError: if it is damaged, or no podio file.
    """
    with decoding(path, "the ROOT file"):
        stat = path.stat()
    yield _opened(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=1)
def _opened(path: Path, size: int, *identity: int) -> File:
    with decoding(path, "the ROOT file"):
        handle = uproot.open(path)
    try:
        if size < handle.file.fEND:
            raise DataError(f"has {size} of {handle.file.fEND} bytes", file=path, remedy=NEW_COPY)
        with decoding(path, "the list of collections"):
            kinds = handle.classnames(cycle=False, recursive=False)
            if not re.search("TTree|RNTuple", kinds.get(TREE, "")):
                problem = f"no tree {TREE!r} (found: {listing(kinds)})"
                raise DataError(problem, file=path, remedy="this is no podio file")
            check_page_lists(handle[TREE])
            return File(path, handle[TREE], handle[METADATA] if METADATA in kinds else None)
    except BaseException:
        handle.close()
        raise


class File:
    """An open file: its collections, what they hold, and the ids that references use.

    Attributes:
        members: collection -> names of its members.
        kinds: collection -> what it holds, of the hits and particles, sorted.
        subsets: names of the subset collections.
        ids: collection -> its id, if the file names its ids.
    """

    def __init__(self, path: Path, tree: Any, metadata: Any) -> None:
        self.path, self.tree = path, tree
        self.places = {name.rpartition("/")[2]: name for name in tree.iterkeys()}
        self.members: dict[str, set[str]] = {}
        for name in self.places:
            if name.startswith("n") and name[1:] in self.places:
                continue  # the counter of a jagged branch, in a file that uproot wrote again
            collection, dot, member = name.partition(".")
            self.members.setdefault(collection, set()).update([member] if dot else [])
        self._types, self.ids = _named(metadata, path)
        kinds = {name: kind_of(found, self.type_of(name)) for name, found in self.members.items() if len(found) > 2}
        self.kinds = {name: kind for name, kind in sorted(kinds.items()) if kind}
        self.subsets = {name.removesuffix("_objIdx") for name in self.members if name.endswith("_objIdx")}
        self.subsets |= {name[:-2] for name in self.members if name.endswith("#0") and name[:-2] not in self.members}

    @property
    def num_entries(self) -> int:
        """Number of events."""
        with decoding(self.path, f"the tree {TREE!r}"):
            return int(self.tree.num_entries)

    def type_of(self, collection: str) -> str:
        """The name of a collection's type as podio or ROOT stores it; "" if neither does."""
        place = self.places.get(collection)
        return self._types.get(collection) or (str(self.tree[place].typename) if place else "")

    def of_kind(self, kind: str) -> list[str]:
        """The names of the collections that hold something, sorted."""
        return [name for name, found in self.kinds.items() if found == kind]

    def reference(self, collection: str, names: Sequence[str], number: int) -> str | None:
        """The branch of a relation: by one of its names as podio writes it since 0.17, by its number before."""
        candidates = [f"_{collection}_{name}" for name in names] + [f"{collection}#{number}"]
        return next((name for name in candidates if {"index", "collectionID"} <= self.members.get(name, set())), None)

    def steps(self, start: int, stop: int) -> Iterator[Step]:
        """A range of entries in pieces of bounded size."""
        places = [self.places[name] for name in self.kinds if name in self.places]
        size = sum(getattr(self.tree[place], "uncompressed_bytes", 0) for place in places)
        step = max(1, int(self.num_entries * STEP_BYTES / size)) if size else STEP_ENTRIES
        return (Step(self, first, min(first + step, stop)) for first in range(start, stop, step))


def _named(metadata: Any, path: Path) -> tuple[dict[str, str], dict[str, int]]:
    """Collection -> type and collection -> id, from podio's own tree; nothing if there is none of the current form."""
    places = {} if metadata is None else {name.rpartition("/")[2]: name for name in metadata.iterkeys()}
    wanted = [f"{TREE}___CollectionTypeInfo.{column}" for column in ("name", "dataType", "collectionID")]
    if not set(wanted) <= places.keys():
        return {}, {}
    names, types, ids = (metadata[places[column]].array(library="ak")[0].tolist() for column in wanted)
    if len(set(names)) != len(names) or len(set(ids)) != len(ids):
        raise DataError("two collections share a name or an id", file=path, remedy=NEW_COPY)
    return dict(zip(names, types, strict=True)), dict(zip(names, ids, strict=True))


@dataclass(frozen=True)
class Relation:
    """References in a step, all events end to end.

    Attributes:
        branch: the branch that holds them.
        event: (M,) the event of each, counted from the step's first.
        index: (M,) place in the collection it points at; negative for a reference to nothing.
        collection_id: (M,) podio's number of that collection.
    """

    branch: str
    event: Array
    index: Array
    collection_id: Array

    @property
    def empty(self) -> Array:
        """(M,) bool: references to nothing."""
        nothing: Array = self.index < 0
        return nothing

    def take(self, places: Array) -> Relation:
        """Some of the references, in another order."""
        return Relation(self.branch, self.event[places], self.index[places], self.collection_id[places])


class Step:
    """Some entries of the tree, as flat arrays of all objects of a collection."""

    def __init__(self, file: File, start: int, stop: int) -> None:
        self.file, self.start, self.size = file, start, stop - start
        self._read: dict[str, tuple[Array, Array]] = {}

    def lists(self, name: str) -> tuple[Array, Array]:
        """One branch: all its values, and (entries,) how many are in each entry."""
        if name not in self._read:
            with decoding(self.file.path, f"the branch {name!r}"):
                branch = self.file.tree[self.file.places[name]]
                entries = branch.array(entry_start=self.start, entry_stop=self.start + self.size, library="ak")
                values = awkward.to_numpy(awkward.flatten(entries), allow_missing=False)
                counts = awkward.to_numpy(awkward.num(entries)).astype(np.int64)
                if values.ndim != 1 or values.dtype.kind not in "biuf" or len(counts) != self.size:
                    raise DataError(f"the branch {name!r} does not hold numbers for every event", file=self.file.path)
                self._read[name] = values, counts
        return self._read[name]

    def counts(self, collection: str) -> Array:
        """(entries,) number of objects of a collection in each entry."""
        return self.lists(f"{collection}.{min(self.file.members[collection])}")[1]

    def member(self, collection: str, *names: str) -> Array:
        """Values of a member of a collection, known by one of some names."""
        name = next((name for name in names if name in self.file.members[collection]), "")
        if not name:
            raise DataError(f"{collection!r} has no member {listing(names)}", file=self.file.path)
        values, counts = self.lists(f"{collection}.{name}")
        self._check_same(f"{collection}.{name}", counts, collection)
        return values

    def events(self, collection: str) -> Array:
        """The entry, counted from the step's first, of each object of a collection."""
        return np.repeat(np.arange(self.size), self.counts(collection))

    def relation(self, branch: str, owner: str | None = None) -> Relation:
        """A branch of references; one for each object of its owner, if that is given."""
        if owner is not None:
            self._check_same(branch, self.counts(branch), owner)
        index, number = (self.member(branch, name) for name in ("index", "collectionID"))
        if index.dtype.kind not in "iu" or number.dtype.kind not in "iu":
            raise DataError(f"{branch!r} holds no integers", file=self.file.path)
        return Relation(branch, self.events(branch), index.astype(np.int64), number.astype(np.int64))

    def places(self, collections: Sequence[str], relation: Relation) -> Array:
        """Where references point, in some collections put end to end.

        Args:
            collections: of one kind.
            relation: of M references.

        Returns:
            (M,) int64; -1 for a reference to nothing.

        Raises:
            DataError: for a reference to another collection, or past the end of one.
        """
        ids = self.ids(collections, relation)
        places = np.full(len(relation.index), -1)
        base = 0
        for name in collections:
            counts = self.counts(name)
            starts = base + np.cumsum(counts) - counts
            base += int(counts.sum())
            mine = np.flatnonzero(~relation.empty & (relation.collection_id == ids.get(name)))
            event, index = relation.event[mine], relation.index[mine]
            if (wrong := index >= counts[event]).any():
                target = f"object {index[wrong][0]} of {name!r}, which holds {counts[event][wrong][0]}"
                raise self.error(f"{relation.branch!r} refers to {target}", event[wrong][0])
            places[mine] = starts[event] + index
        if (lost := (places < 0) & ~relation.empty).any():
            number = int(relation.collection_id[lost][0])
            meant = next((repr(name) for name, found in self.file.ids.items() if found == number), "of unknown name")
            problem = f"{relation.branch!r} refers to a collection ({meant}, id {number}) that is not there"
            raise self.error(problem, relation.event[lost][0])
        return places

    def ids(self, collections: Sequence[str], relation: Relation) -> dict[str, int]:
        """The ids by which a branch refers to some collections; where they have no names, by what its indices fit."""
        if self.file.ids:
            return {name: self.file.ids[name] for name in collections if name in self.file.ids}
        probe, held = self, relation
        if len(collections) > 1:
            probe = Step(self.file, 0, min(PROBE_ENTRIES, self.file.num_entries))
            held = probe.relation(relation.branch)
        found: dict[str, int] = {}
        for number in np.unique(held.collection_id[~held.empty]).tolist():
            mine = ~held.empty & (held.collection_id == number)
            event, index = held.event[mine], held.index[mine]
            fits = [name for name in collections if (index < probe.counts(name)[event]).all()]
            fits = fits if len(collections) > 1 else list(collections)
            if len(fits) == 1 and found.setdefault(fits[0], number) != number:
                raise self.error(f"{relation.branch!r} refers to {fits[0]!r} by two ids", 0)
        return found

    def error(self, problem: str, event: int) -> DataError:
        """What is wrong with the truth of an event, counted from the step's first."""
        return DataError(problem, file=self.file.path, event=self.start + int(event), remedy=WITHOUT_TRUTH)

    def _check_same(self, name: str, counts: Array, owner: str) -> None:
        if (wrong := counts != self.counts(owner)).any():
            event = int(wrong.argmax())
            problem = f"{name!r} has {counts[event]} values for {self.counts(owner)[event]} objects of {owner!r}"
            raise DataError(problem, file=self.file.path, event=self.start + event, remedy=NEW_COPY)
