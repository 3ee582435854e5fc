"""DELPHI nanoAOD, as RNTuple or as TTree, from its documented layout and not from our code."""

import awkward as ak
import numpy as np
import uproot

SIZES = (3, 0, 1, 30)
COMPONENTS = "XYZT"


def write(path, sizes=SIZES, seed=0, rntuple=True, simulated=True):
    """One file; returns its branches, of the four-momenta one for each component."""
    generator = np.random.default_rng(seed)
    branches = {}
    _particles(branches, "Part", sizes, generator)
    branches["VdHit_R"] = [generator.uniform(6, 11, count + 5).astype(np.float32) for count in sizes]
    branches["VdHit_RPhi"] = [generator.normal(0, 1, count + 5).astype(np.float32) for count in sizes]
    if simulated:
        _particles(branches, "SimPart", [count + 2 for count in sizes], generator)
        branches["Part_simIdx"] = [generator.integers(-1, count + 2, count).astype(np.int32) for count in sizes]
    branches["Event_evtNumber"] = np.arange(len(sizes), dtype=np.int32) * 3 + 2666
    branches["Event_runNumber"] = np.full(len(sizes), 48758, np.int32)
    branches["Event_cmEnergy"] = np.full(len(sizes), 91.2, np.float32)
    branches["Event_magField"] = np.full(len(sizes), 1.2, np.float32)
    with uproot.recreate(path) as file:
        if rntuple:
            file.mkrntuple("Events", _nested(branches))
        else:
            types = {name: f"var * {v[0].dtype}" if isinstance(v, list) else v.dtype for name, v in branches.items()}
            file.mktree("t", types)
            file["t"].extend({name: ak.Array(v) if isinstance(v, list) else v for name, v in branches.items()})
    return branches


def _particles(branches, prefix, sizes, generator):
    momenta = [generator.normal(0, 3, (count, 3)).astype(np.float32) for count in sizes]
    energies = [np.linalg.norm(values, axis=1) for values in momenta]
    for axis, component in enumerate(COMPONENTS):
        name = f"{prefix}_fourMomentum.fCoordinates.f{component}"
        branches[name] = energies if component == "T" else [values[:, axis] for values in momenta]
    branches[f"{prefix}_charge"] = [generator.integers(-1, 2, count).astype(np.int32) for count in sizes]
    branches[f"{prefix}_pdgId"] = [
        generator.choice([211, -211, 22, 130, 11], count).astype(np.int32) for count in sizes
    ]


def _nested(branches):
    """The components of a four-momentum as members of one object, as ROOT keeps a LorentzVector."""
    fields = {name: ak.Array(values) for name, values in branches.items() if "." not in name}
    for prefix in dict.fromkeys(name.partition("_")[0] for name in branches if "." in name):
        members = {f"f{c}": ak.Array(branches[f"{prefix}_fourMomentum.fCoordinates.f{c}"]) for c in COMPONENTS}
        fields[f"{prefix}_fourMomentum"] = ak.zip({"fCoordinates": ak.zip(members)})
    return fields
