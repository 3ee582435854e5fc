"""podio files (EDM4hep, EDM4eic): tracker hits of the tree `events`, and the Monte Carlo particles that made them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from fm4npp.errors import DataError
from fm4npp.readers.base import Columns, Reader, Table
from fm4npp.readers.checks import check_required, listing
from fm4npp.readers.npz import Array
from fm4npp.readers.podio_file import ENERGY, MEASURED, PARTICLES, TREE, File, Step, is_podio, opened
from fm4npp.readers.podio_truth import (
    Matching,
    Truth,
    matched_particles,
    matching_of,
    particles_of_hits,
    table_of,
    truth_of,
)

CHOICE = "collection/"
"""What stands before the name of a collection in the column that chooses it."""
MEMBERS = {
    **{axis: (f"position.{axis}",) for axis in "xyz"},
    "energy": ENERGY,
    "time": ("time",),
    "cell_id": ("cellID",),
}
"""Column -> member of a tracker hit, by the names of all generations."""
PARTICLE = {
    "pdg": "PDG",
    "px": "momentum.x",
    "py": "momentum.y",
    "pz": "momentum.z",
    "vx": "vertex.x",
    "vy": "vertex.y",
    "vz": "vertex.z",
    "mass": "mass",
    "charge": "charge",
    "time": "time",
    "generator_status": "generatorStatus",
    "simulator_status": "simulatorStatus",
}
"""Column, less `particle_` -> member of edm4hep::MCParticle: GeV, mm, ns."""
HEADER = {"event_number": "eventNumber", "event_run": "runNumber", "event_weight": "weight"}
"""Column -> member of edm4hep::EventHeader."""
PART_ENTRIES = 2000
"""Entries of a part: opening a file with a thousand collections takes seconds."""


class Podio(Reader):
    """Tracker hits of a podio file: a TTree or RNTuple `events` with EDM4hep or EDM4eic collections.

    Hits are of all collections of tracker hits, one after the other by name; or of those that are asked for: the
    column `collection/NAME` chooses the collection NAME and says which hits are in it. A subset collection can be
    chosen too, alone, and gives its order. Measured hits are read if any measured collection is among the chosen ones
    (an empty one, too), else simulated ones, never both; `event_simulated` says which. `event_id` is the entry
    number; `event_number`, `event_run` and `event_weight` are those of `EventHeader`.

    Columns: x, y, z (mm), energy (GeV), time (ns), cell_id, `collection` (place in the list of the collections that
    are read), and any member that all of them have, by its own name ("quality", "momentum.x").

    Truth: `track_id` is the index in the event of the MCParticle, -1 for none. A simulated hit names it (of a
    secondary that was not kept, its ancestor: bit 30 of `quality`). A measured hit, or the raw hit that it names, is
    linked to simulated hits by associations or links: the one of largest weight counts, among equals the one of
    largest energy, then the first. PDG codes and momenta are in the table of particles, once, because a hit without
    a particle has none. `matched_particle_id` is the particle of the reconstructed particle whose track holds the hit:
    in a fast simulation that is the truth, elsewhere it is what the reconstruction took it for.
    """

    registered_name: ClassVar[str] = "podio"

    def recognises(self, path: Path) -> bool:
        """See `Reader.recognises`: by its trees; a damaged file by the names that such files have."""
        if not path.is_file() or path.suffix != ".root":
            return False
        try:
            return is_podio(path)
        except Exception:  # damaged files raise whatever the damage leads to
            return any(model in path.name for model in ("edm4hep", "edm4eic"))

    def read(self, path: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
        """See `Reader.read`."""
        with opened(path) as file:
            yield from _events(file, 0, file.num_entries, required, optional)

    def parts(self, path: Path) -> Sequence[str]:
        """See `Reader.parts`: ranges of entries."""
        with opened(path) as file:
            total = file.num_entries
        return [f"{first}-{min(first + PART_ENTRIES, total)}" for first in range(0, total, PART_ENTRIES)]

    def read_part(self, path: Path, part: str, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
        """See `Reader.read_part`."""
        start, stop = map(int, part.split("-"))
        with opened(path) as file:
            yield from _events(file, start, stop, required, optional)

    def describe(self, path: Path) -> Sequence[Table]:
        """See `Reader.describe`: the columns that choose collections, and all collections."""
        with opened(path) as file:
            hits = {CHOICE + name: f"{kind} hits" for name, kind in file.kinds.items() if kind != PARTICLES}
            collections = {name: file.type_of(name) for name in file.members if name[0] != "_"}
            return Table("tracker hits", None, hits), Table(TREE, file.num_entries, collections)


class _Hits(NamedTuple):
    """Which hits are read.

    Attributes:
        collections: names of the collections, all measured or all simulated.
        subset: name of the subset collection that picks from them, if one does.
        given: names of what was asked for and is read.
        simulated: whether they are simulated.
    """

    collections: list[str]
    subset: str | None
    given: list[str]
    simulated: bool


def _choose(file: File, wanted: Sequence[str]) -> _Hits:
    asked = [name.removeprefix(CHOICE) for name in wanted if name.startswith(CHOICE)]
    hits = {name: kind for name, kind in file.kinds.items() if kind != PARTICLES}
    found = [name for name in dict.fromkeys(asked) if name in hits or name in file.subsets]
    if (asked and not found) or not hits:
        problem = f"none of the collections {listing(asked)}" if asked else "no collection of tracker hits"
        raise DataError(
            f"{problem} (found: {listing(hits or file.members)})",
            file=file.path,
            remedy="choose the detector that this file belongs to",
        )
    subsets = [name for name in found if name not in hits]
    if subsets and len(found) > 1:
        raise DataError(
            f"the subset collection {subsets[0]!r} is chosen together with others ({listing(found)})",
            file=file.path,
            remedy="choose it alone, so that no hit is read twice",
        )
    names = sorted(hits) if subsets or not found else sorted(found)
    measured = [name for name in names if hits[name] == MEASURED]
    names = measured or names
    return _Hits(
        names, subsets[0] if subsets else None, subsets or [name for name in found if name in names], not measured
    )


class _Plan(NamedTuple):
    """What is read, the same for all events of a file.

    Attributes:
        hits: which hits.
        members: column of hits -> names of the member.
        truth: where `track_id` comes from.
        matching: where `matched_particle_id` comes from.
        table: the collection of particles, if particles are wanted.
        particles: column -> member of particles.
        header: the collection of event headers, if there is one.
    """

    hits: _Hits
    members: dict[str, tuple[str, ...]]
    truth: Truth | None
    matching: Matching | None
    table: str | None
    particles: dict[str, str]
    header: str | None


def _plan(file: File, required: Sequence[str], optional: Sequence[str]) -> _Plan:
    wanted = dict.fromkeys((*required, *optional))
    hits = _choose(file, list(wanted))
    truth = truth_of(file, hits.collections, hits.simulated) if "track_id" in wanted else None
    matching = matching_of(file) if "matched_particle_id" in wanted else None
    table = table_of(file) if truth or matching or any(map(_is_particle, wanted)) else None
    found = file.members[table] if table else set()
    particles = {f"particle_{name}": member for name, member in PARTICLE.items() if member in found}
    header = next((name for name in sorted(file.members) if set(HEADER.values()) <= file.members[name]), None)
    plan = _Plan(hits, _members(file, hits, list(wanted)), truth, matching, table, particles, header)
    given = [*plan.members, *(CHOICE + name for name in hits.given), *plan.particles, "collection"]
    given += ["particle_track_id"] * (table is not None)
    given += ["track_id"] * (truth is not None) + ["matched_particle_id"] * (matching is not None)
    check_required(required, given, file.path)
    return plan


def _is_particle(column: str) -> bool:
    return column.startswith("particle_") and column != "particle_class"


def _members(file: File, hits: _Hits, wanted: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Column -> names of the member, of the wanted ones that all read collections have; positions always."""
    names = {name: MEMBERS.get(name, (name,)) for name in dict.fromkeys([*"xyz", *wanted])}
    have = [file.members[collection] for collection in hits.collections]
    members = {name: options for name, options in names.items() if all(set(options) & found for found in have)}
    check_required("xyz", members, file.path)
    return members


def _events(file: File, start: int, stop: int, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
    plan = _plan(file, required, optional)
    for step in file.steps(start, stop):
        columns = {**_of_hits(step, plan), **_of_particles(step, plan), **_of_header(step, plan)}
        for index in range(step.size):
            event = {name: values[index] for name, values in columns.items()}
            yield {**event, "event_simulated": int(plan.hits.simulated), "event_id": step.start + index}


def _of_hits(step: Step, plan: _Plan) -> dict[str, list[Array]]:
    """Column -> one array an event, of the hits."""
    hits = plan.hits
    places, counts = _order(step, hits)

    def pick(*arrays: Array) -> list[Array]:
        return np.split(np.concatenate(arrays)[places], np.cumsum(counts)[:-1])

    columns = {
        column: pick(*(step.member(name, *options) for name in hits.collections))
        for column, options in plan.members.items()
    }
    sizes = [len(step.events(name)) for name in hits.collections]
    number = np.repeat(np.arange(len(sizes)), sizes)
    columns["collection"] = pick(number)
    for name in hits.given:
        mine = number >= 0 if name == hits.subset else number == hits.collections.index(name)
        columns[CHOICE + name] = pick(mine)
    if plan.truth:
        columns["track_id"] = pick(particles_of_hits(step, hits.collections, plan.truth))
    if plan.matching:
        columns["matched_particle_id"] = pick(matched_particles(step, hits.collections, plan.matching))
    return columns


def _order(step: Step, hits: _Hits) -> tuple[Array, Array]:
    """(N,) places of the hits in all collections end to end, and (entries,) how many an event has."""
    if hits.subset is None:
        events = np.concatenate([step.events(name) for name in hits.collections])
        return np.argsort(events, kind="stable"), np.bincount(events, minlength=step.size)
    branch = next(name for name in (f"{hits.subset}_objIdx", f"{hits.subset}#0") if name in step.file.members)
    relation = step.relation(branch)
    places = step.places(hits.collections, relation)
    if (places < 0).any() or len(np.unique(places)) != len(places):
        raise step.error(f"{hits.subset!r} holds a hit twice, or no hit", relation.event[0])
    return places, step.counts(branch)


def _of_particles(step: Step, plan: _Plan) -> dict[str, list[Array]]:
    """Column -> one array an event, of the particles; `particle_track_id` is the index of each."""
    if plan.table is None:
        return {}
    counts = step.counts(plan.table)
    ends = np.cumsum(counts)[:-1]
    columns = {name: np.split(step.member(plan.table, member), ends) for name, member in plan.particles.items()}
    return {"particle_track_id": [np.arange(count) for count in counts], **columns}


def _of_header(step: Step, plan: _Plan) -> dict[str, list[Any]]:
    """Column -> one number an event."""
    if plan.header is None:
        return {}
    if (wrong := step.counts(plan.header) != 1).any():
        event = int(wrong.argmax())
        problem = f"{step.counts(plan.header)[event]} objects in {plan.header!r}, not one"
        raise DataError(problem, file=step.file.path, event=step.start + event)
    return {name: step.member(plan.header, member).tolist() for name, member in HEADER.items()}
