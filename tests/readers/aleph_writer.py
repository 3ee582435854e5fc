"""ALEPH's archived text, and the tree of the MIT files, from their documented layouts and not from our code."""

import gzip

import awkward as ak
import numpy as np
import uproot

SIZES = (3, 0, 1, 25)
FLOATS = ("px", "py", "pz", "mass", "charge", "d0", "z0")
COUNTS = ("ntpc", "nitc", "nvdet")


def objects(count, generator):
    """One event: charged tracks (pwflag 0) and neutral objects (4, 5), whose track quantities are all -1."""
    neutral = generator.random(count) < 0.4
    values = {name: np.round(generator.normal(0, 3, count), 3) for name in ("px", "py", "pz")}
    values["mass"] = np.where(neutral, 0.0, 0.14)
    values["charge"] = np.where(neutral, 0.0, generator.choice([-1.0, 1.0], count))
    values["pwflag"] = np.where(neutral, generator.choice([4, 5], count), 0)
    for name, spread in (("d0", 0.05), ("z0", 0.5)):
        values[name] = np.where(neutral, -1.0, np.round(generator.normal(0, spread, count), 3))
    for name, highest in (("ntpc", 21), ("nitc", 8), ("nvdet", 2)):
        values[name] = np.where(neutral, -1, generator.integers(0, highest + 1, count))
    return values


def event_lines(event):
    """The lines of one event."""
    yield f"ALEPH_DATA RUN = {event['event_run']:5d} EVENT {event['event_id']:5d} ECM = {event['event_ecm']:8.3f} GEV"
    vertex = " ".join(f"{key} = {event[name]:7.4f}" for key, name in VERTEX.items())
    yield f" Primary vertex info flag = {event['event_vertex_flag']:2d} {vertex}"
    for row in range(len(event["px"])):
        momentum = " ".join(f"{key}= {event[name][row]:8.3f}" for key, name in MOMENTUM.items())
        track = " ".join(f"{name} {event[name][row]:7.3f}" for name in ("d0", "z0"))
        counts = " ".join(f"{name} {event[name][row]:3d}" for name in COUNTS)
        yield f"{momentum} charge {event['charge'][row]:4.1f} pwflag {event['pwflag'][row]:4d} {track} {counts}"
    yield "END_EVENT"


MOMENTUM = {"px": "px", "py": "py", "pz": "pz", "m": "mass"}
VERTEX = {
    "vx": "event_vertex_x",
    "vy": "event_vertex_y",
    "ex": "event_vertex_error_x",
    "ey": "event_vertex_error_y",
}


def made_events(sizes=SIZES, seed=0):
    """Events as the reader should give them."""
    generator = np.random.default_rng(seed)
    return [
        {
            **objects(count, generator),
            "event_run": 10001,
            "event_id": 17 + 3 * index,
            "event_ecm": round(91.2 + index / 1000, 3),
            "event_vertex_flag": 4,
            **{name: round(float(generator.normal(0, 0.05)), 4) for name in VERTEX.values()},
        }
        for index, count in enumerate(sizes)
    ]


def write(path, sizes=SIZES, seed=0):
    """One archived file, gzipped if its name says so; returns its events."""
    events = made_events(sizes, seed)
    lines = [line for event in events for line in event_lines(event)]
    text = "".join(f"{line}\n" for line in [*lines, "END_FILE"]).encode()
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)
    return events


def write_tree(path, sizes=SIZES, seed=0, pwflag=np.int16, absent=(-999.0, -127), trees=("t", "tgen")):
    """One MIT file: single precision, short counts, `absent` in d0, z0 and in the counts of neutral objects."""
    events = made_events(sizes, seed)
    for event in events:
        neutral = event["charge"] == 0
        for name in FLOATS:
            event[name] = event[name].astype(np.float32)
        for name in ("d0", "z0"):
            event[name][neutral] = absent[0]
        for name in COUNTS:
            event[name] = np.where(neutral, absent[1], event[name]).astype(np.int16)
        event["charge"], event["pwflag"] = event["charge"].astype(np.int16), event["pwflag"].astype(pwflag)
    scalars = {
        "EventNo": np.array([event["event_id"] for event in events], np.int32),
        "RunNo": np.array([event["event_run"] for event in events], np.int32),
        "Energy": np.array([event["event_ecm"] for event in events], np.float32),
        "bx": np.array([event["event_vertex_x"] for event in events], np.float32),
        "isMC": np.zeros(len(events), bool),
    }
    names = ("px", "py", "pz", "mass", "charge", "pwflag", "d0", "z0", *COUNTS)
    lists = {name: ak.Array([event[name] for event in events]) for name in names}
    types = {name: f"var * {events[0][name].dtype}" for name in names} | {k: v.dtype for k, v in scalars.items()}
    with uproot.recreate(path) as file:
        for number, tree in enumerate(trees):
            file.mktree(tree, types)
            # The trees of generated particles hold other momenta, so that a mix-up shows.
            file[tree].extend({**lists, "px": lists["px"] + np.float32(1000 * number), **scalars})
    return events
