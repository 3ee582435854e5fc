"""Files with values of one's choice, in the formats whose meaning is mutated, by the containers' own tools."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import awkward as ak
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import uproot

AXES = ("x", "y", "z")
BARREL = {"type": "cylindrical", "name": "barrel", "radius": [10, 80], "noise": "none"}
ENERGY = {"measured": {"energy": {"mean": 100, "std": 100}}}
IN_MM = {"length_unit": "mm", "no_track": 0, "noise": "no-track"}


class Format(NamedTuple):
    """One format.

    Attributes:
        reader: of the format.
        name: of the file or folder.
        write: (path, events); an event is a dictionary of x, y, z in the file's unit, energy and track_id.
        detector: that reads it.
        dtype: of its positions.
        centimetres: positions in the file's unit to cm.
        zero_is_a_place: whether a spacepoint can be at (0, 0, 0).
        keeps_empty: whether events without spacepoints are in the file.
    """

    reader: str
    name: str
    write: Callable[[Path, list], Any]
    detector: dict
    dtype: Any = np.float64
    centimetres: Callable[[Any], Any] = lambda values: values
    zero_is_a_place: bool = False
    keeps_empty: bool = True


def joined(events, name):
    """A column of all events."""
    dtype = np.int64 if name == "track_id" else np.float64
    return np.concatenate([np.asarray(event[name]) for event in events]) if events else np.zeros(0, dtype)


def columns_of(events):
    """Names of the columns, in order."""
    return list(events[0]) if events else [*AXES, "energy", "track_id"]


def tpcpp(path, events):
    path.mkdir(parents=True, exist_ok=True)
    size = np.array([len(event["track_id"]) for event in events], np.int64)
    names = [name for name in ("energy", *AXES) if not events or name in events[0]]
    matrix = np.stack([joined(events, name) for name in names], axis=1)
    np.savez_compressed(path / "spacepoints_000.npz", data=matrix, size=size)
    np.savez_compressed(path / "track_ids_000.npz", data=joined(events, "track_id"), size=size)


def root_tree(path, events):
    path.parent.mkdir(parents=True, exist_ok=True)
    names = columns_of(events)
    counts = {name: np.array([len(event[name]) for event in events], np.int64) for name in names}
    data = {name: ak.unflatten(ak.Array(joined(events, name)), counts[name]) for name in names}
    with uproot.recreate(path) as file:
        file.mktree("T", {name: values.type.content for name, values in data.items()})
        if events:
            file["T"].extend(data)


def root_rows(path, events):
    path.parent.mkdir(parents=True, exist_ok=True)
    counts = [len(event["track_id"]) for event in events]
    data = {"event": np.repeat(np.arange(len(events), dtype=np.float32), counts)}
    data |= {name: joined(events, name) for name in columns_of(events)}
    with uproot.recreate(path) as file:
        file.mktree("hits", {name: values.dtype for name, values in data.items()})
        if sum(counts):
            file["hits"].extend(data)


def trackml(path, events):
    path.mkdir(parents=True, exist_ok=True)
    for number, event in enumerate(events):
        rows = np.arange(1, len(event["track_id"]) + 1)
        hits = {"hit_id": rows, **{name: event[name] for name in AXES if name in event}}
        truth = {"hit_id": rows, "particle_id": event["track_id"], "weight": np.zeros(len(rows))}
        for kind, columns in (("hits", hits), ("truth", truth)):
            write_csv(path / f"event{number:09d}-{kind}.csv", columns)


def write_csv(path, columns):
    with path.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(columns)
        rows.writerows(zip(*(np.asarray(values).tolist() for values in columns.values()), strict=True))


def colliderml(path, events):
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {"event_id": pa.array(range(len(events)), pa.int64())}
    for name in [*(axis for axis in AXES if not events or axis in events[0]), "track_id"]:
        kind = pa.from_numpy_dtype(events[0][name].dtype) if events else pa.float64()
        table[{"track_id": "particle_id"}.get(name, name)] = pa.array([e[name] for e in events], pa.list_(kind))
    pq.write_table(pa.table(table), path)


def pilarnet(path, events):
    """One cluster a track."""
    path.parent.mkdir(parents=True, exist_ok=True)
    points, clusters = [], []
    for event in events:
        ids, sizes = np.unique(event["track_id"], return_counts=True)
        order = np.argsort(event["track_id"], kind="stable")
        columns = [event[name] for name in AXES if name in event] + [event["energy"]]
        point = np.stack([*columns, *(np.zeros(len(order)) for _ in range(8 - len(columns)))], axis=1)[order]
        cluster = np.stack([sizes, ids, ids, ids * 0, ids * 0, ids * 0 + 2], axis=1)
        points.append(np.ravel(point))
        clusters.append(np.ravel(cluster))
    with h5py.File(path, "w") as file:
        for name, lists, dtype in (("point", points, np.float32), ("cluster", clusters, np.int32)):
            data = file.create_dataset(name, (len(lists),), dtype=h5py.vlen_dtype(np.dtype(dtype)))
            for index, values in enumerate(lists):
                data[index] = values.astype(dtype)
        extra = file.create_dataset("cluster_extra", (len(events),), dtype=h5py.vlen_dtype(np.dtype(np.float32)))
        for index, values in enumerate(clusters):
            extra[index] = np.zeros(len(values) // 6 * 5, np.float32)


FORMATS = {
    "tpcpp": Format("tpcpp-npz", "shards", tpcpp, BARREL | ENERGY, np.float32),
    "root-tree": Format("root-tree", "hits.root", root_tree, BARREL | ENERGY),
    "root-rows": Format("root-rows", "hits.root", root_rows, BARREL | ENERGY, keeps_empty=False),
    "trackml": Format("trackml-csv", "train", trackml, BARREL | IN_MM, centimetres=lambda values: values / 10),
    "colliderml": Format(
        "colliderml-parquet",
        "ttbar_v1_tracker_hits.events0-9.parquet",
        colliderml,
        BARREL | IN_MM,
        centimetres=lambda values: values / 10,
    ),
    "pilarnet": Format(
        "pilarnet-hdf5",
        "generic_v2_test.h5",
        pilarnet,
        {"type": "lartpc"},
        np.float64,
        centimetres=lambda values: (values.astype(np.float32) - np.float32(384)).astype(np.float64) * 0.3,
        zero_is_a_place=True,
    ),
}


def make_events(sizes=(7, 0, 1, 12), seed=0, dtype=np.float64):
    """Events inside of every detector above: 12 to 78 in radius, whatever the unit; ids in the order of the file."""
    generator = np.random.default_rng(seed)
    events = []
    for count in sizes:
        radius, phi = generator.uniform(12, 78, count), generator.uniform(-3, 3, count)
        values = [radius * np.cos(phi), radius * np.sin(phi), generator.uniform(-20, 20, count)]
        event = {axis: values[i].astype(dtype) for i, axis in enumerate(AXES)}
        event["energy"] = generator.uniform(1, 300, count).astype(dtype)
        event["track_id"] = np.sort(generator.integers(1, 5, count))
        events.append(event)
    return events


def scaled(events, of):
    """The same events in the unit of a format: millimetres or voxels."""
    factor, shift = {"mm": (10, 0)}.get(of.detector.get("length_unit", ""), (1, 384 * of.zero_is_a_place))
    return [
        {**event, "energy": event["energy"].astype(of.dtype)}
        | {axis: (event[axis] * factor + shift).astype(of.dtype) for axis in AXES}
        for event in events
    ]
