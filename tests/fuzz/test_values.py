"""Events of any values at all: every spacepoint comes out as it went in, or is left out for a reason that is true."""

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fm4npp import detectors
from fm4npp.data import Accounting, read_events
from tests.fuzz.formats import AXES, FORMATS, make_events


def read(folder, of, events, accounting):
    """Write and read events; whatever is wrong with them is left out."""
    of.write(folder / of.name, events)
    detector = detectors.build(of.detector)
    return list(read_events(folder / of.name, detector, accounting=accounting, max_rejected=1))


EXAMPLES = {"tpcpp": 150, "root-tree": 60}
NUMBERS = [0.0, -0.0, 5e-324, 1e-45, 1e-38, 1e38, -1e38, np.nan, np.inf, -np.inf, 30.0, -40.0]
IDS = arrays(np.int64, st.integers(0, 12), elements=st.integers(-(2**63), 2**63 - 1))


@st.composite
def any_events(draw, dtype):
    """Some events with any values at all."""
    width = np.dtype(dtype).itemsize * 8
    special = st.sampled_from([float(value) for value in np.array(NUMBERS).astype(dtype)])
    elements = special | st.floats(width=width) | st.floats(-60, 60, width=width)
    events = []
    for ids in draw(st.lists(IDS, min_size=1, max_size=4)):
        values = {name: draw(arrays(dtype, len(ids), elements=elements)) for name in (*AXES, "energy")}
        events.append({**values, "track_id": ids})
    return events


@pytest.mark.parametrize(
    ("kind", "dtype"), [("tpcpp", np.float32), ("root-tree", np.float32), ("root-tree", np.float64)]
)
def test_any_values(tmp_path, kind, dtype):
    """Every spacepoint comes out as it went in, to the last bit, or is left out for a reason that is true."""

    @settings(
        max_examples=EXAMPLES[kind],
        deadline=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(any_events(dtype))
    def check(events):
        accounting = Accounting()
        found = read(tmp_path, FORMATS[kind], events, accounting)
        assert accounting.spacepoints_read == sum(len(event["x"]) for event in events)
        assert not accounting.rejected_events
        for event, expected in zip(found, events, strict=True):
            check_one(event, expected)

    check()


def test_the_reason_for_leaving_out_what_is_enormous(tmp_path):
    events = make_events((3,))
    events[0]["y"][1] = 1e200
    accounting = Accounting()
    read(tmp_path, FORMATS["root-tree"], events, accounting)
    assert accounting.rejected_spacepoints == {"r is out of range": 1}


def check_one(event, expected):
    """One event against what was written."""
    count = len(expected["track_id"])
    places = np.concatenate([*event.left_out.values(), []]).astype(int)
    kept = np.setdiff1d(np.arange(count), places)
    assert len(places) + len(kept) == count
    positions = np.stack([expected[axis] for axis in AXES], axis=1)
    assert event.positions.dtype == positions.dtype
    assert event.positions.tobytes() == positions[kept].tobytes()
    assert event.labels["track_id"].tobytes() == expected["track_id"][kept].tobytes()
    with np.errstate(over="ignore"):
        assert event.features[:, 0].tobytes() == expected["energy"][kept].astype(np.float32).tobytes()
    faults = true_faults(positions.astype(np.float64), expected["energy"].astype(np.float64))
    for reason, there in event.left_out.items():
        assert all(reason in faults[place] for place in there), (reason, [faults[place] for place in there])
    assert not [faults[place] for place in kept if faults[place]]


def true_faults(positions, energy):
    """What is wrong with every spacepoint, by plain arithmetic: eta in [-2, 2], r in [10, 80], 150 % beyond."""
    faults = []
    for (x, y, z), deposit in zip(positions.tolist(), energy.tolist(), strict=True):
        values = {"x": x, "y": y, "z": z, "energy": deposit}
        wrong = {f"{name} is not finite" for name, value in values.items() if not np.isfinite(value)}
        with np.errstate(all="ignore"):
            radius = np.hypot(x, y)
            eta = np.arcsinh(np.divide(z, radius))
        if not wrong and x == y == 0:
            wrong.add("on the beam axis (r = 0)")
        elif not wrong:
            wrong |= {"eta is out of range"} if abs(eta) > 2 + 1.5 * 4 else set()
            wrong |= {"r is out of range"} if radius > 80 + 1.5 * 70 else set()
        if abs(deposit - 100) > 1000 * 100:
            wrong.add("energy is out of range")
        faults.append(wrong)
    return faults
