"""Small podio files to the documented schema (EDM4hep, EDM4eic), of both generations of names of references."""

import functools
import re
from contextlib import contextmanager

import awkward as ak
import numpy as np
import uproot

SYSTEMS = ("Barrel", "Disk")
IDS = {"MCParticles": 4000000001}
for place, system in enumerate(SYSTEMS):
    for step, suffix in enumerate(("Hits", "RawHits", "RecHits", "RawHitAssociations")):
        IDS[system + suffix] = 11 + 7 * (4 * place + step)
IDS["AllRecHits"] = 999
TYPES = {
    "MCParticles": "edm4hep::MCParticleCollection",
    "RawHitAssociations": "edm4eic::MCRecoTrackerHitAssociationCollection",
    "RawHits": "edm4eic::RawTrackerHitCollection",
    "RecHits": "edm4eic::TrackerHitCollection",
    "Hits": "edm4hep::SimTrackerHitCollection",
}


def write(
    path,
    sizes=(3, 0, 1, 6),
    seed=0,
    *,
    generation="new",
    metadata=True,
    container="rntuple",
    systems=SYSTEMS,
    measured=True,
    raw=True,
    subset=False,
    energy="eDep",
    change=lambda events: None,
):
    """A podio file; returns its events and the particle of every hit, as they were made up.

    Args:
        path: of the file.
        sizes: simulated hits of each event, of each system.
        seed: of the made-up numbers.
        generation: "new" names of references (`_Coll_particle`) or "old" (`Coll#0`).
        metadata: whether there is podio's tree that names the ids.
        container: of the events, "rntuple" or "ttree" (flat branches).
        systems: which subsystems there are.
        measured: whether there are measured hits, raw hits and associations.
        raw: whether measured hits name raw hits; else associations link the measured hits themselves.
        subset: whether there is a subset collection of all measured hits, in reverse.
        energy: name of the simulated hits' energy.
        change: what to do to the list of events, {collection: {member: list}}, before they are written.

    Returns:
        events: list of {collection: {member: array}}; truth: list of {collection: (N,) particle or -1}.
    """
    random = np.random.default_rng(seed)
    events, truth = [], []
    for number, size in enumerate(sizes):
        event, of_event = {"EventHeader": _header(number)}, {}
        event["MCParticles"] = _particles(random, 1 + size)
        for system in systems:
            _simulated(event, of_event, random, system, size, 1 + size, energy)
            if measured:
                _measured(event, of_event, random, system, size, energy, raw)
        if subset:
            hits = [(index, name) for name in event if name.endswith("RecHits") for index in range(len(of_event[name]))]
            event["AllRecHits_objIdx"] = _references(hits[::-1])
        events.append(event)
        truth.append(of_event)
    change(events)
    _save(path, [_named(event, generation) for event in events], container, metadata)
    return events, truth


def _header(number):
    return {"eventNumber": np.array([1000 + number]), "runNumber": np.array([7]), "weight": np.array([0.5])}


def _vector(random, name, size, dtype=np.float64, scale=500.0):
    return {f"{name}.{axis}": random.normal(0, scale, size).astype(dtype) for axis in "xyz"}


def _references(pairs):
    """(index, collection name or None) to a branch of references."""
    index = np.array([index for index, _ in pairs], np.int32)
    return {"index": index, "collectionID": np.array([IDS.get(name, 0) for _, name in pairs], np.int64)}


def _particles(random, size):
    return {
        "PDG": random.choice([211, -211, 11, 2212, 321], size).astype(np.int32),
        "generatorStatus": np.ones(size, np.int32),
        "charge": random.choice([-1, 1], size).astype(np.float32),
        "mass": random.random(size),
        **_vector(random, "vertex", size),
        **_vector(random, "momentum", size, scale=0.5),
    }


def _simulated(event, truth, random, system, size, num_particles, energy):
    name = f"{system}Hits"
    event[name] = {
        "cellID": random.integers(0, 2**63, size, np.uint64),
        energy: random.random(size).astype(np.float32),
        "time": random.random(size).astype(np.float32),
        "quality": random.integers(0, 2**30, size).astype(np.int32),
        **_vector(random, "position", size),
        **_vector(random, "momentum", size, np.float32, 0.5),
    }
    truth[name] = random.integers(0, num_particles, size)
    if size > 1:
        truth[name][-1] = -1  # a hit of no known particle
    event[f"_{name}_particle"] = _references([(int(i), "MCParticles" if i >= 0 else None) for i in truth[name]])


def _measured(event, truth, random, system, size, energy, raw):
    """As many measured as simulated hits; every third is noise, the others have two links of other weights."""
    name = f"{system}RecHits"
    event[name] = {
        "cellID": random.integers(0, 2**63, size, np.uint64),
        "time": random.random(size).astype(np.float32),
        "edep": random.random(size).astype(np.float32),
        **_vector(random, "position", size, np.float32),
    }
    target = f"{system}RawHits" if raw else name
    of_raw = random.permutation(size) if raw else np.arange(size)
    if raw:
        event[f"{system}RawHits"] = {"cellID": event[name]["cellID"], "charge": np.arange(size)}
        event[f"_{name}_rawHit"] = _references([(int(index), target) for index in of_raw])
    sources, targets, weights = [], [], []
    truth[name] = np.full(size, -1)
    deposits = event[f"{system}Hits"][energy]
    for hit in (hit for hit in range(size) if hit % 3 != 2):
        pair = random.choice(size, min(2, size), replace=False)
        tie = hit % 2 == 0
        best = max(pair, key=lambda place: deposits[place]) if tie else pair[-1]
        truth[name][hit] = truth[f"{system}Hits"][best]
        for place in pair:
            sources.append((int(of_raw[hit]), target))
            targets.append((int(place), f"{system}Hits"))
            weights.append(0.5 if tie or place == best else 0.25)
    links = f"{system}RawHitAssociations"
    event[links] = {"weight": np.array(weights, np.float32)}
    event[f"_{links}_rawHit"], event[f"_{links}_simHit"] = _references(sources), _references(targets)


def _named(event, generation):
    """The event with the names of references of one generation."""
    if generation == "new":
        return event
    number = {"particle": 0, "rawHit": 0, "simHit": 1}
    old = {}
    for name, members in event.items():
        collection, _, relation = name.removeprefix("_").rpartition("_")
        old[f"{collection}#{number[relation]}" if name.startswith("_") else name] = members
    return old


def _save(path, events, container, metadata):
    with uproot.recreate(path) as file:
        branches = {
            f"{name}.{member}": _lists(events, name, member)
            for name, members in events[0].items()
            for member in members
        }
        if container == "ttree":
            types = {name: ak.type(values.layout).content for name, values in branches.items()}
            file.mktree("events", types)
            file["events"].extend(branches)
        else:
            file.mkrntuple("events", {name: _records(events, name) for name in events[0]})
        if metadata:
            file.mkrntuple("podio_metadata", {"events___CollectionTypeInfo": ak.Array([_type_info(events[0])])})


def _lists(events, name, member):
    values = [np.asarray(event[name][member]) for event in events]
    return ak.unflatten(np.concatenate(values), [len(of_event) for of_event in values])


def _records(events, name):
    """One collection as lists of records, nested where the names of members have a dot."""
    nested = {}
    for member in events[0][name]:
        outer, _, inner = member.partition(".")
        nested.setdefault(outer, {})[inner] = _lists(events, name, member)
    return ak.zip({outer: inner[""] if "" in inner else ak.zip(inner) for outer, inner in nested.items()})


def _type_info(event):
    names = [name for name in IDS if name in event or f"{name}_objIdx" in event]
    kinds = {name: next(kind for end, kind in TYPES.items() if name.endswith(end)) for name in names}
    return [{"collectionID": IDS[name], "name": name, "dataType": kinds[name]} for name in names]


class Branches:
    """Branches of genuine files, read by uproot alone; a tree of a thousand branches takes seconds to open."""

    def __init__(self, open_tree):
        self.tree = functools.cache(open_tree)
        self.read = functools.cache(lambda *key: self.tree(key[0])[f"{key[1]}/{key[1]}.{key[2]}"].array(library="np"))

    def __call__(self, path, collection, member):
        return self.read(path, collection, member)

    def of_type(self, path, pattern):
        """The collections whose type matches a pattern, sorted."""
        tree = self.tree(path)
        names = [name for name in tree.keys(recursive=False) if re.search("Hit|Particle", name) and name[0] != "_"]
        return sorted(name for name in names if re.search(pattern, tree[name].typename))


@contextmanager
def opened_branches():
    files = []

    def open_tree(path):
        files.append(uproot.open(path))
        return files[-1]["events"]

    yield Branches(open_tree)
    for file in files:
        file.close()
