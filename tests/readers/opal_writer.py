"""The OPAL QCD ntuple after h2root (tree `h10`), and the laboratory-course ntuple, from their documented layouts.

The QCD ntuple is written as an RNTuple: uproot 5.7 writes a TTree whose branches hold three numbers a track so that
nobody can read it. Genuine files hold a TTree.
"""

import awkward as ak
import numpy as np
import uproot

SIZES = (3, 0, 1, 30)
COURSE = ("run", "event", "Ncharged", "Pcharged", "E_ecal", "E_hcal", "E_lep", "cos_thru", "cos_thet")


def write(path, sizes=SIZES, seed=0, simulated=True):
    """One QCD ntuple; returns its branches."""
    generator = np.random.default_rng(seed)

    def lists(values):
        return [values(count) for count in sizes]

    branches = {
        "Ptrk": lists(lambda n: generator.normal(0, 3, (n, 3)).astype(np.float32)),
        "Ichg": lists(lambda n: generator.integers(0, 2, n).astype(np.int8)),
        "D0": lists(lambda n: generator.normal(0, 0.1, n).astype(np.float32)),
        "Z0": lists(lambda n: generator.uniform(-25, 25, n).astype(np.float32)),
        "Dedx": lists(lambda n: generator.normal(8, 1, n).astype(np.float32)),
        "Nhde": lists(lambda n: generator.integers(0, 160, n).astype(np.uint8)),
        "Nhcj": lists(lambda n: generator.integers(0, 160, n).astype(np.uint8)),
        "Pclus": [generator.normal(0, 3, (count + 4, 3)).astype(np.float32) for count in sizes],
        "Irun": np.full(len(sizes), 7777, np.uint16),
        "Ievnt": np.arange(len(sizes), dtype=np.int32) * 5 + 11,
        "Ebeam": np.full(len(sizes), 45.6, np.float32),
    }
    if simulated:
        branches["Iluc"] = lists(lambda n: generator.choice([0, 211, -321, 2212, 11, 13], n).astype(np.int32))
        branches["Ptrkh"] = [generator.normal(0, 3, (count + 9, 4)).astype(np.float32) for count in sizes]
    with uproot.recreate(path) as file:
        file.mkrntuple("h10", {k: _regular(v) if isinstance(v, list) else v for k, v in branches.items()})
    return branches


def write_course(path, events=50, seed=0):
    """One laboratory-course ntuple: nine numbers an event; returns its branches."""
    generator = np.random.default_rng(seed)
    branches = {name: generator.exponential(20, events).astype(np.float32) for name in COURSE}
    branches["run"][:] = 1308
    branches["event"] = (np.arange(events) + 990).astype(np.float32)  # the number 999 is one of them
    branches["Ncharged"] = generator.integers(0, 40, events).astype(np.float32)
    branches["E_ecal"][3] = 999  # an energy like others
    for name in ("cos_thru", "cos_thet"):
        cosines = generator.uniform(-1, 1, events).astype(np.float32)
        branches[name] = np.where(generator.random(events) < 0.3, np.float32(999), cosines)
    with uproot.recreate(path) as file:
        file.mktree("myTTree", dict.fromkeys(COURSE, np.float32))
        file["myTTree"].extend(branches)
    return branches


def _regular(arrays):
    """A list of (n, ...) arrays to a jagged array whose inner dimension is fixed."""
    return ak.unflatten(ak.Array(np.concatenate(arrays)), [len(array) for array in arrays])
