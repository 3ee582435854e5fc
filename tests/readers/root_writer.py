"""A small tree with every kind of branch that is a column: after the ZEUS common ntuple `orange`."""

import awkward
import numpy as np
import uproot


def write(path, sizes=(3, 0, 1, 6), seed=0, rntuple=False):
    """One tree, one entry an event; returns branch -> what each entry holds.

    `Zufo`, four numbers for each object, is in the RNTuple only: uproot 5.7 writes a TTree of it that nobody can read.
    """
    generator = np.random.default_rng(seed)
    events = {
        "Runnr": np.arange(len(sizes), dtype=np.int32) + 58207,
        "Eventnr": generator.integers(0, 10**6, len(sizes)),
        "p": generator.normal(0, 1, (len(sizes), 4)),
    }
    lists = {
        "Zufo": [generator.normal(0, 9, (n, 4)).astype(np.float32) for n in sizes],
        "tiny": [generator.integers(-128, 128, n).astype(np.int8) for n in sizes],
        "flag": [generator.random(n) < 0.5 for n in sizes],
        "big": [generator.integers(0, 2**63, n, dtype=np.uint64) for n in sizes],
    }
    joined = {
        name: awkward.unflatten(awkward.from_numpy(np.concatenate(values), regulararray=True), sizes)
        for name, values in lists.items()
    }
    with uproot.recreate(path) as file:
        if rntuple:
            file.mkrntuple("orange", joined | events)
        else:
            del joined["Zufo"], lists["Zufo"]
            types = {name: values.type.content for name, values in joined.items()}
            types |= {"Runnr": np.int32, "Eventnr": np.int64, "p": np.dtype((np.float64, (4,)))}
            file.mktree("orange", types)
            file["orange"].extend(joined | events)
    return events | lists
