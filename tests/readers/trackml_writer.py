"""TrackML events, written with the csv module to the documented columns."""

import bz2
import csv
import gzip
import io
import zipfile

import numpy as np

PARTICLES = ("particle_id", "vx", "vy", "vz", "px", "py", "pz", "q", "nhits")
"""The original generation; the later one has `particle_type` after the id, and no `nhits`."""


def text(columns):
    """name -> list of values, to CSV; a float is written so that it reads back as itself."""
    stream = io.StringIO()
    rows = csv.writer(stream, lineterminator="\n")
    rows.writerow(columns)
    for row in zip(*columns.values(), strict=True):
        rows.writerow([repr(value) if isinstance(value, float) else value for value in row])
    return stream.getvalue().encode()


def pack(content, suffix, name):
    """Content compressed as the suffix says."""
    if suffix == ".zip":
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, content)
        return stream.getvalue()
    return {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress}[suffix](content)


def make_event(generator, num_hits, generation="original", num_particles=5):
    """The tables of one event: kind -> name -> list. Truth and cells are in another order than the hits."""
    ids = [4503599627370496 * (i + 1) + 2**32 * i + 1 for i in range(num_particles)]  # beyond 2^53, as in the data set
    hit_id = [int(i) + 1 for i in generator.permutation(num_hits)]
    hits = {"hit_id": hit_id, **{axis: generator.normal(0, 300, num_hits).tolist() for axis in "xyz"}}
    hits |= {name: generator.integers(1, 20, num_hits).tolist() for name in ("volume_id", "layer_id", "module_id")}
    order = generator.permutation(num_hits).tolist()
    truth = {"hit_id": [hit_id[i] for i in order], "particle_id": generator.choice([0, *ids], num_hits).tolist()}
    truth |= {name: generator.normal(0, 300, num_hits).tolist() for name in ("tx", "ty", "tz", "tpx", "tpy", "tpz")}
    truth["weight"] = generator.random(num_hits).tolist()
    num_cells = generator.integers(1, 4, num_hits)
    cells = {"hit_id": generator.permutation(np.repeat(hit_id, num_cells)).tolist()}
    cells |= {"ch0": [1] * len(cells["hit_id"]), "ch1": [2] * len(cells["hit_id"])}
    cells["value"] = generator.random(len(cells["hit_id"])).tolist()
    particles = {name: generator.normal(0, 1, num_particles).tolist() for name in PARTICLES}
    particles |= {"particle_id": ids, "q": [1] * num_particles, "nhits": list(range(num_particles))}
    if generation == "later":
        del particles["nhits"]
        kinds = generator.choice([211, -11, 2212, 13], num_particles).tolist()
        particles = {"particle_id": particles.pop("particle_id"), "particle_type": kinds, **particles}
    return {"hits": hits, "truth": truth, "particles": particles, "cells": cells}


def write_event(folder, number, tables, suffix=""):
    """The files of one event; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind, columns in tables.items():
        name = f"event{number:09d}-{kind}.csv"
        paths.append(folder / f"{name}{suffix}")
        paths[-1].write_bytes(pack(text(columns), suffix, name))
    return paths


def write(path, sizes=(7, 0, 1), *, seed=0, suffix="", generation="original", kinds=None, first=1000):
    """Events in a folder, or in a zip archive if the path ends so; returns their tables by number."""
    generator = np.random.default_rng(seed)
    events = {first + i: make_event(generator, size, generation) for i, size in enumerate(sizes)}
    if kinds is not None:
        events = {number: {kind: tables[kind] for kind in kinds} for number, tables in events.items()}
    if path.suffix != ".zip":
        for number, tables in events.items():
            write_event(path, number, tables, suffix)
        return events
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("__MACOSX/train/._event000001000-hits.csv", b"\0")
        for number, tables in reversed(events.items()):
            for kind, columns in tables.items():
                name = f"event{number:09d}-{kind}.csv"
                archive.writestr(f"train/{name}{suffix}", pack(text(columns), suffix, name))
    return events
