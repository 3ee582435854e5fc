"""Which Monte Carlo particle made each hit of a podio file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fm4npp.errors import DataError
from fm4npp.readers.checks import listing
from fm4npp.readers.npz import Array
from fm4npp.readers.podio_file import ENERGY, PARTICLES, SIMULATED, WITHOUT_TRUTH, File, Relation, Step

TO_PARTICLE = ("particle", "MCParticle", "mcParticle")
"""Names of the reference of a simulated hit to its particle."""
FROM, TO = ("rawHit", "rec", "from"), ("simHit", "sim", "to")
"""Names of the two references of an association (EDM4eic, EDM4hep) or a link (podio since 1.0)."""
HIT_LINKS = (
    r"TrackerHit\w*Association|MCRecoTracker(Hit|Association)|Link.*SimTrackerHit",
    r"Hits?(Associations|Links)$",
)
PARTICLE_LINKS = (r"MCRecoParticleAssociation|Link.*ReconstructedParticle.*MCParticle", r"^MCReco\w*Associations$")
"""What the types of links look like; and their names, where the file does not give types."""


class Links(NamedTuple):
    """A collection of links and the branches of its two references."""

    collection: str
    source: str
    target: str


class Truth(NamedTuple):
    """How hits are linked to particles.

    Attributes:
        table: the collection of particles.
        of_simulated: collection of simulated hits -> its branch of references to particles.
        raw: measured collection -> its branch of references to raw hits; None if it is linked itself.
        links: from hits or raw hits to simulated hits.
    """

    table: str
    of_simulated: dict[str, str]
    raw: dict[str, str | None]
    links: list[Links]


class Matching(NamedTuple):
    """How hits are matched to particles by reconstruction: track -> hits, reconstructed particle -> tracks, links."""

    table: str
    track: tuple[str, str]
    reconstructed: dict[str, str]
    links: Links


def table_of(file: File) -> str | None:
    """The collection of Monte Carlo particles: MCParticles, Particle, or the only one; None if there is none."""
    found = file.of_kind(PARTICLES)
    usual = [name for name in ("MCParticles", "Particle") if name in found]
    return (usual or found)[0] if usual or len(found) == 1 else None


def truth_of(file: File, collections: Sequence[str], simulated: bool) -> Truth | None:
    """How some collections of hits are linked to particles; None if they are not.

    Raises:
        DataError: if only some of them are.
    """
    references = {name: file.reference(name, TO_PARTICLE, 0) for name in file.of_kind(SIMULATED)}
    of_simulated = {name: branch for name, branch in references.items() if branch}
    links = links_of(file, *HIT_LINKS)
    table = table_of(file)
    if table is None or not of_simulated or not (simulated or links):
        return None
    if not simulated:
        return Truth(table, of_simulated, {name: file.reference(name, FROM[:1], 0) for name in collections}, links)
    lacking = [name for name in collections if name not in of_simulated]
    if lacking and len(lacking) < len(collections):
        problem = f"hits of {listing(lacking)} name no particle, those of other collections do"
        raise DataError(problem, file=file.path, remedy=WITHOUT_TRUTH)
    return None if lacking else Truth(table, {name: of_simulated[name] for name in collections}, {}, [])


def links_of(file: File, types: str, names: str) -> list[Links]:
    """The collections of links of some type, with both references."""
    found = []
    for name in sorted(file.members):
        source, target = file.reference(name, FROM, 0), file.reference(name, TO, 1)
        if not (source and target):
            continue
        pattern, text = (types, kind) if (kind := file.type_of(name)) else (names, name)
        if re.search(pattern, text):
            found.append(Links(name, source, target))
    return found


def particles_of_hits(step: Step, collections: Sequence[str], truth: Truth) -> Array:
    """The particle of every hit.

    Args:
        step: some events.
        collections: of N hits, end to end.
        truth: how they are linked.

    Returns:
        (N,) int64 index of the particle in its event, -1 for none.
    """
    particles = _of_simulated(step, truth)
    if not truth.raw:
        return particles
    sources, targets, weights = _all_links(step, truth.links, list(truth.of_simulated))
    energies = np.concatenate([step.member(name, *ENERGY) for name in truth.of_simulated])
    order = np.lexsort((-energies[targets], -weights))
    sources, targets = sources.take(order), targets[order]
    ids = _own_ids(step, [name for name in collections if truth.raw[name] is None], truth.links)
    found = []
    for name in collections:
        raw = truth.raw[name]
        hits = step.relation(raw, name) if raw else _itself(step, name, ids.get(name))
        found.append(_first_match(step, name, hits, sources, truth.links))
    places = np.append(targets, -1)[np.concatenate(found)]
    linked: Array = np.append(particles, -1)[places]
    return linked


def _of_simulated(step: Step, truth: Truth) -> Array:
    """(S,) particle of every simulated hit, collections end to end."""
    found = []
    for name, branch in truth.of_simulated.items():
        relation = step.relation(branch, name)
        found.append(np.where(step.places([truth.table], relation) >= 0, relation.index, -1))
    return np.concatenate(found)


def _all_links(step: Step, links: Sequence[Links], targets: Sequence[str]) -> tuple[Relation, Array, Array]:
    """All links end to end: where they start, (L,) places in the targets, (L,) weights; those to nothing left out."""
    sources, places, weights = [], [], []
    for link in links:
        source = step.relation(link.source)
        place = step.places(targets, step.relation(link.target, link.source))
        weight = np.ones(len(place))
        if "weight" in step.file.members.get(link.collection, ()):
            weight = step.member(link.collection, "weight").astype(np.float64)
        if len(weight) != len(place) or not np.isfinite(weight).all():
            raise step.error(f"{link.collection!r} has weights that are missing or not finite", 0)
        kept = np.flatnonzero((place >= 0) & ~source.empty)
        sources.append(source.take(kept))
        places.append(place[kept])
        weights.append(weight[kept])
    names = ("event", "index", "collection_id")
    arrays = {name: np.concatenate([getattr(source, name) for source in sources]) for name in names}
    return Relation(links[0].source, **arrays), np.concatenate(places), np.concatenate(weights)


def _own_ids(step: Step, names: Sequence[str], links: Sequence[Links]) -> dict[str, int]:
    """The ids of collections of hits that are linked themselves."""
    if not names:
        return {}
    found: dict[str, int] = {}
    for link in links:
        relation = step.relation(link.source)
        step.places(names, relation)
        found |= step.ids(names, relation)
    return found


def _itself(step: Step, name: str, number: int | None) -> Relation:
    """References to every hit of a collection; to nothing if no link refers to the collection."""
    counts = step.counts(name)
    index = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    index = np.full_like(index, -1) if number is None else index
    return Relation(name, step.events(name), index, np.full(len(index), number or 0))


def _first_match(step: Step, name: str, hits: Relation, sources: Relation, links: Sequence[Links]) -> Array:
    """(N,) place of the first link of every hit of a collection, -1 for none."""
    found = np.full(len(hits.index), -1)
    for number in np.unique(hits.collection_id[~hits.empty]).tolist():
        mine = np.flatnonzero(~hits.empty & (hits.collection_id == number))
        linked = np.flatnonzero(sources.collection_id == number)
        if not len(linked) and not _is_linked(step.file, number, links):
            problem = f"no association links {name!r} to simulated hits, though other hits are linked"
            raise step.error(problem, hits.event[mine[0]])
        keys, first = np.unique(sources.event[linked] << 32 | sources.index[linked], return_index=True)
        wanted = hits.event[mine] << 32 | hits.index[mine]
        place = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
        if len(keys):
            found[mine] = np.where(keys[place] == wanted, linked[first[place]], -1)
    return found


def _is_linked(file: File, number: int, links: Sequence[Links]) -> bool:
    """Whether links of hits of this collection are in the file, though perhaps none in these events: by their name."""
    names = [name.removesuffix("s") for name, found in file.ids.items() if found == number]
    return any(link.collection.startswith(name) for link in links for name in names)


def matching_of(file: File) -> Matching | None:
    """How hits are matched to particles; None unless there is one collection of tracks and one of links."""
    tracks = {name: file.reference(name, ("trackerHits",), 0) for name in _with_members(file, "trackerHits")}
    owners = {name: file.reference(name, ("tracks",), 1) for name in _with_members(file, "tracks")}
    links, table = links_of(file, *PARTICLE_LINKS), table_of(file)
    pairs = [(name, branch) for name, branch in tracks.items() if branch]
    reconstructed = {name: branch for name, branch in owners.items() if branch and name not in tracks}
    if table is None or len(pairs) != 1 or len(links) != 1 or not reconstructed:
        return None
    return Matching(table, pairs[0], reconstructed, links[0])


def _with_members(file: File, relation: str) -> list[str]:
    return sorted(name for name, found in file.members.items() if {f"{relation}_begin", f"{relation}_end"} <= found)


def matched_particles(step: Step, collections: Sequence[str], matching: Matching) -> Array:
    """The particle that every hit is matched to by reconstruction; arguments and result as of `particles_of_hits`."""
    names = list(matching.reconstructed)
    sources, targets, weights = _all_links(step, [matching.links], [matching.table])
    counts = step.counts(matching.table)
    index = targets - (np.cumsum(counts) - counts)[sources.event]
    order = np.argsort(-weights, kind="stable")[::-1]  # the largest weight last, which stays
    of_reconstructed = np.full(sum(int(step.counts(name).sum()) for name in names), -1)
    of_reconstructed[step.places(names, sources)[order]] = index[order]
    of_tracks = _handed_down(step, matching.reconstructed, [matching.track[0]], of_reconstructed)
    return _handed_down(step, dict([matching.track]), collections, of_tracks)


def _handed_down(step: Step, owners: dict[str, str], parts: Sequence[str], particles: Array) -> Array:
    """What every part's owner is matched to.

    Args:
        step: some events.
        owners: collection -> its branch of references to its parts.
        parts: collections of the parts.
        particles: (O,) of the owners, end to end.

    Returns:
        (N,) of the parts, end to end; -1 for none.
    """
    found = np.full(sum(int(step.counts(name).sum()) for name in parts), -1)
    base = 0
    for name, branch in owners.items():
        relation = step.relation(branch)
        member = "trackerHits" if "trackerHits_begin" in step.file.members[name] else "tracks"
        first, last = (step.member(name, f"{member}_{end}").astype(np.int64) for end in ("begin", "end"))
        event, held = step.events(name), step.counts(branch)
        if (wrong := (first < 0) | (first > last) | (last > held[event])).any():
            raise step.error(f"{name!r} has {member} outside {branch!r}", event[wrong][0])
        owner = np.repeat(np.arange(len(first)), last - first)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(last - first) - (last - first), last - first)
        place = step.places(parts, relation)[(np.cumsum(held) - held)[event[owner]] + first[owner] + within]
        particle = particles[base + owner]
        base += len(first)
        place, particle, event = (values[(place >= 0) & (particle >= 0)] for values in (place, particle, event[owner]))
        given = np.full(len(found), -1)
        given[place] = particle
        known = np.where(found[place] >= 0, found[place], given[place])
        if (twice := known != particle).any():
            raise step.error(f"an object of {listing(parts)} is matched to two particles", event[twice][0])
        found[place] = particle
    return found
