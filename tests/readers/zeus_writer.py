"""The tree `orange` of the ZEUS common ntuples, from its documented layout and not from our code.

It is written as an RNTuple: uproot 5.7 writes a TTree whose branches hold four numbers an object so that nobody can
read it. Genuine files hold a TTree.
"""

import awkward as ak
import numpy as np
import uproot

SIZES = (3, 0, 1, 40)


def write(path, sizes=SIZES, seed=0, capitals=True):
    """One file; returns its branches. `capitals` as productions differ."""
    generator = np.random.default_rng(seed)
    zufos = [generator.normal(0, 4, (count, 4)).astype(np.float32) for count in sizes]
    for values in zufos:
        values[:, 3] = np.linalg.norm(values[:, :3], axis=1)
    branches = {
        "Zufo": zufos,
        "Tufo": [generator.integers(0, 40, (count, 4)).astype(np.int32) for count in sizes],
        "Zufoecal": [generator.exponential(3, count).astype(np.float32) for count in sizes],
        "Cufo": [generator.random(count).astype(np.float32) for count in sizes],
        "Trk_px": [generator.normal(0, 1, count + 2).astype(np.float32) for count in sizes],
        "Trk_py": [generator.normal(0, 1, count + 2).astype(np.float32) for count in sizes],
        "Trk_pz": [generator.normal(0, 1, count + 2).astype(np.float32) for count in sizes],
        "Trk_charge": [generator.choice([-1.0, 1.0], count + 2).astype(np.float32) for count in sizes],
        "Eventnr": np.arange(len(sizes), dtype=np.int32) * 7 + 58207,
        "Runnr": np.full(len(sizes), 58211, np.int32),
        **{f"{axis}vtx": generator.normal(0, 1, len(sizes)).astype(np.float32) for axis in "XYZ"},
    }
    if not capitals:
        branches = {name.lower(): values for name, values in branches.items()}
    data = {name: _regular(values) if isinstance(values, list) else values for name, values in branches.items()}
    with uproot.recreate(path) as file:
        file.mkrntuple("orange", data)
    return branches


def _regular(arrays):
    """A list of (n, ...) arrays to a jagged array whose inner dimension is fixed."""
    return ak.unflatten(ak.Array(np.concatenate(arrays)), [len(array) for array in arrays])
