"""ColliderML tables, written with pyarrow to the columns of the release."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

POSITIONS = ("x", "y", "z")
TRUE = ("true_x", "true_y", "true_z")
IDS = ("volume_id", "layer_id", "surface_id", "cell_id", "detector")
PARTICLES = ("mass", "energy", "charge", "vx", "vy", "vz", "time", "px", "py", "pz")


def make(sizes=(7, 0, 1), *, seed=0, measured=True, first=0):
    """Two tables, of hits and of particles: name -> list, one entry an event. Only some hits' particles are listed."""
    generator = np.random.default_rng(seed)
    ids = list(range(first, first + len(sizes)))
    names = (*(POSITIONS if measured else ()), "time", *TRUE)
    hits = {"event_id": ids, **{name: [generator.normal(0, 300, n) for n in sizes] for name in names}}
    hits |= {name: [generator.integers(0, 2**56 if name == "cell_id" else 9, n) for n in sizes] for name in IDS}
    hits["particle_id"] = [generator.integers(0, 12, n) for n in sizes]
    counts = [5 + i % 2 for i in range(len(sizes))]
    particles = {"event_id": ids, "particle_id": [generator.permutation(9)[:n] for n in counts]}
    particles["pdg_id"] = [generator.choice([211, -11, 2212, 22], n) for n in counts]
    particles |= {name: [generator.normal(0, 1, n) for n in counts] for name in PARTICLES}
    particles["num_tracker_hits"] = [np.zeros(n, np.int64) for n in counts]
    particles["parent_id"] = [np.full(n, 3.0) for n in counts]
    return hits, particles


def table(columns, types=None):
    """An Arrow table; `types` gives columns another type."""
    arrays = {}
    for name, values in columns.items():
        kind = (types or {}).get(name)
        kind = kind or (pa.int64() if name == "event_id" else pa.list_(pa.from_numpy_dtype(values[0].dtype)))
        arrays[name] = pa.array([list(value) if isinstance(value, np.ndarray) else value for value in values], kind)
    return pa.table(arrays)


def write(path, sizes=(7, 0, 1), *, seed=0, measured=True, first=0, rows=2, particles=True):
    """`path` with hits and, beside it, its particles; returns both tables as lists."""
    hits, listed = make(sizes, seed=seed, measured=measured, first=first)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table(hits), path, row_group_size=rows)
    if particles:
        if "tracker_hits" in path.name:
            other = path.with_name(path.name.replace("tracker_hits", "particles"))
        else:
            other = path.parent.with_name(path.parent.name.replace("tracker_hits", "particles")) / path.name
        other.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table(listed), other, row_group_size=rows)
    return hits, listed
