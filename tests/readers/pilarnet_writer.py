"""PILArNet-M files of every generation, from its data card and not from our reader."""

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

EXTRA_WIDTHS = {"v1": 0, "v2": 5, "v3": 6, "v3_extra": 6, "packed9": 9, "packed11": 11}
DTYPES = {"cluster": np.int32}


def event(generator, sizes, generation="v2"):
    """One event: its lists by data set. `sizes` are the points of its clusters, the first of low-energy deposits."""
    num, total = len(sizes), int(np.sum(sizes))
    point = np.zeros((total, 8), np.float32)
    point[:, :3] = generator.integers(0, 768, (total, 3))
    point[:, 3] = point[:, 4] = generator.gamma(1, 0.5, total)
    point[:, 5:] = generator.random((total, 3)) * [1e3, 500, 3]
    ids = np.arange(num) * 3 + 1
    groups = np.where(generator.random(num) < 0.4, np.roll(ids, 1), ids)
    cluster = np.stack([sizes, ids, groups, ids % 2, generator.integers(0, 4, num), generator.integers(0, 6, num)], 1)
    cluster[:1, 1:] = [[-1, -1, -1, 4, -1]]
    groups[:1] = -1
    cluster = cluster.astype(np.int32)
    extra = generator.normal(0, 100, (num, EXTRA_WIDTHS[generation])).astype(np.float32)
    lists = {"point": point, "cluster": cluster}
    if generation == "v1":
        lists["cluster"] = cluster[:, :5]
        return lists
    lists["cluster_extra"] = extra
    if generation == "v3_extra":
        lists["cluster_extra_2"] = generator.normal(0, 1, (num, 5)).astype(np.float32)
        lists["interaction_extra"] = np.array([[0, 1.5, 2.5, 3.5]], np.float32)
    return lists


def events(generation="v2", seed=0, sizes=((5, 7, 1, 0, 4), (), (1,), (0, 3), (4, 9, 9, 2, 2, 6))):
    """Events with many clusters, with none, with one point, and with an empty first cluster."""
    generator = np.random.default_rng(seed)
    return [event(generator, np.array(counts, int), generation) for counts in sizes]


def write_lists(path, lists, attributes=None, **options):
    """Any lists of arrays, one an event, as variable-length data sets."""
    with h5py.File(path, "w", libver="latest") as file:
        for name in dict.fromkeys(name for event in lists for name in event):
            dtype = h5py.vlen_dtype(np.dtype(DTYPES.get(name, np.float32)))
            data = file.create_dataset(name, (len(lists),), dtype=dtype, **options)
            for index, event_lists in enumerate(lists):
                data[index] = np.ravel(event_lists[name])
        file.attrs.update(attributes or {})
    return path


def write(path, generation="v2", seed=0, **options):
    """A file; returns its events, each a dictionary of (rows, columns) arrays by data set."""
    written = events(generation, seed)
    write_lists(path, written, **options)
    return written


def write_parquet(path, generation="v2", seed=0):
    """The layout of PILArNet-M-mini; returns its events."""
    written = events(generation, seed)
    table = {name: [np.ravel(lists[name]) for lists in written] for name in written[0]}
    types = {name: pa.list_(pa.int32() if name == "cluster" else pa.float32()) for name in table}
    pq.write_table(pa.table({name: pa.array(table[name], types[name]) for name in table}), path, row_group_size=2)
    return written


def write_tpcpp(path, scheme="tpcpp(0:other,1:pi,2:K,3:p,4:e)", source="TPCpp-10M (10.5281/zenodo.16970029)"):
    """TPCpp-10M as youngsm/sphenix_dset carries it; returns its events."""
    generator = np.random.default_rng(3)
    written = []
    for sizes in ((3, 2, 5), (), (1,)):
        num, total = len(sizes), sum(sizes)
        point = np.zeros((total, 8), np.float32)
        radius, angle = generator.uniform(32, 75, total), generator.uniform(-3, 3, total)
        point[:, :3] = np.stack([radius * np.cos(angle), radius * np.sin(angle), generator.uniform(-90, 90, total)], 1)
        point[:, 3] = point[:, 4] = generator.gamma(1, 200, total)
        noise = generator.random(num) < 0.5
        ids = np.arange(num) + 2
        rows = [sizes, ids, ids, np.where(noise, -1, 0), np.where(noise, 4, 1), generator.integers(0, 5, num)]
        extra = np.zeros((num, 5), np.float32)
        extra[:, 0] = sizes
        cluster = np.stack([np.array(row, np.int32) for row in rows], 1)
        written.append({"point": point, "cluster": cluster, "cluster_extra": extra})
    write_lists(path, written, {"source": source, "revision": "v2", "pid_scheme": scheme})
    return written
