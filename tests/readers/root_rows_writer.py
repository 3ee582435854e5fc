"""Small ntuples of the sPHENIX SvtxEvaluator, by the documented schema: rows of float32, grouped by `event`."""

import numpy as np
import uproot

MATCH = ("gtrackID", "gflavor", "gpx", "gpy", "gpz", "gvx", "gvy", "gvz", "gprimary")
TRUTH = ("g4hitID", "gx", "gy", "gz", *MATCH)
CLUSTER = ("event", "seed", "hitID", "x", "y", "z", "r", "phi", "e", "adc", "layer", "size", "trackID", *TRUTH)
G4HIT = ("event", "seed", "g4hitID", "gx", "gy", "gz", "x", "y", "z", "e", "adc", "layer", "size")
GTRACK = ("event", "seed", *MATCH)
IDS = np.array([1, 2, 3, -1, -7])
"""Of the particles of every event; those below 0 are secondaries."""
RADII = {0: 2.5, 1: 3.3, 2: 4.1, 3: 7.2, 4: 7.7, 5: 9.7, 6: 10.3, 55: 82.5, 56: 85.0}


def particles(generator, event):
    """The rows of `ntp_gtrack` of one event."""
    columns = {name: generator.normal(0, 1, len(IDS)) for name in GTRACK}
    columns |= {"event": np.full(len(IDS), event), "seed": np.full(len(IDS), 12345), "gtrackID": IDS}
    columns |= {"gflavor": generator.choice([211, -321, 2212, 11, 13], len(IDS)), "gprimary": IDS > 0}
    columns["gpx"][0], columns["gpy"][0] = 0.01, 0.02
    return {name: np.asarray(values, np.float32) for name, values in columns.items()}


def clusters(generator, event, count, truth):
    """The rows of `ntp_cluster` of one event; a fifth has no matching particle."""
    layer = generator.integers(0, 57, count)
    radius = np.array([RADII.get(number, 31.4 + 0.93 * (number - 7)) for number in layer])
    phi, eta = generator.uniform(-3.14, 3.14, count), generator.uniform(-1, 1, count)
    columns = {name: generator.normal(0, 1, count) for name in CLUSTER}
    columns |= {"x": radius * np.cos(phi), "y": radius * np.sin(phi), "z": radius * np.sinh(eta), "layer": layer}
    columns |= {
        "event": np.full(count, event),
        "seed": np.full(count, 12345),
        "adc": generator.integers(30, 900, count),
        "size": generator.integers(1, 12, count),
    }
    columns |= {"trackID": np.where(generator.random(count) < 0.5, np.nan, 3)}
    particle = generator.integers(0, len(IDS), count)
    columns |= {name: truth[name][particle] for name in MATCH}
    for name in TRUTH:
        columns[name] = np.where(np.arange(count) % 5 == 4, np.nan, columns[name])
    return {name: np.asarray(columns[name], np.float32) for name in CLUSTER}


def write(path, sizes=(40, 1, 7, 60), seed=0, numbers=None, gtrack=True, rntuple=False):
    """A file with the trees ntp_cluster, ntp_g4hit (the same names, other rows) and ntp_gtrack.

    Returns the number, the clusters and the particles of every event that has clusters.
    """
    generator = np.random.default_rng(seed)
    numbers = list(range(len(sizes))) if numbers is None else numbers
    truth = {event: particles(generator, event) for event in dict.fromkeys([*numbers, max(numbers, default=0) + 1])}
    rows = [(event, clusters(generator, event, n, truth[event])) for event, n in zip(numbers, sizes, strict=True)]
    trees = {"ntp_cluster": joined([columns for _, columns in rows], CLUSTER)}
    trees["ntp_g4hit"] = {name: generator.normal(0, 9, 5).astype(np.float32) * (name != "event") for name in G4HIT}
    if gtrack:
        trees["ntp_gtrack"] = joined(list(truth.values()), GTRACK)
    flat(path, trees, rntuple)
    return [(event, columns, truth[event]) for event, columns in rows if len(columns["x"])]


def joined(tables, names):
    """Tables below each other."""
    return {name: np.concatenate([np.zeros(0, np.float32), *(table[name] for table in tables)]) for name in names}


def flat(path, trees, rntuple=False):
    """Trees of scalar branches: tree -> branch -> (rows,)."""
    with uproot.recreate(path) as file:
        for name, columns in trees.items():
            if rntuple:
                file.mkrntuple(name, columns)
                continue
            file.mktree(name, {branch: values.dtype for branch, values in columns.items()})
            half = len(next(iter(columns.values()))) // 2
            for part in (slice(0, half), slice(half, None)):  # two baskets, whose border is inside an event
                if len(next(iter(columns.values()))[part]):
                    file[name].extend({branch: values[part] for branch, values in columns.items()})
    return path
