from pathlib import Path

import numpy as np
import pytest

from fm4npp import detectors
from fm4npp.data import read_events
from fm4npp.detectors.base import Detector
from fm4npp.testing import check_detector

DETECTOR = detectors.build("lartpc")


def columns(**fields):
    ones = np.ones(3)
    return {"x": 10 * ones, "y": 20 * ones, "z": 30 * ones, "energy": ones, "event_id": 0, **fields}


def test_contract():
    check_detector(type(DETECTOR))


def test_drift_is_the_causal_axis_in_both_formats():
    assert DETECTOR.geometry.axes[DETECTOR.geometry.causal_axis] == "x"
    voxels = DETECTOR.reading("pilarnet-hdf5").event(columns(x=np.array([0, 384, 768], np.float32)))
    np.testing.assert_array_equal(voxels.positions[:, 0], np.array([-384, 0, 384]) * 0.3)
    np.testing.assert_array_equal(voxels.positions[0, 1:], np.array([20.0 - 384, 30.0 - 384]) * 0.3)
    np.testing.assert_allclose(DETECTOR.geometry.coordinates(voxels.positions)[:, 0], [0, 0.5, 1], atol=1e-12)
    hits = DETECTOR.reading("larndsim-hdf5").event(columns(z=np.array([0.0, 10, 20])))
    np.testing.assert_array_equal(hits.positions[:, 0], [0, 1, 2])
    np.testing.assert_array_equal(hits.positions[0, 1:], [1, 2])


def test_the_turned_axes_are_right_handed():
    detector = DETECTOR.reading("larndsim-hdf5")
    axes = [
        detector.event(columns(**{n: np.full(3, 10.0 * (n == axis)) for n in "xyz"})).positions[0] for axis in "xyz"
    ]
    assert np.linalg.det(axes) == 1


def test_charge_becomes_nominal_energy_and_may_be_negative():
    charge = np.array([100.0, 0.0, -42.953125])  # mV; the last is the smallest of a simulated file
    event = DETECTOR.reading("larndsim-hdf5").event(columns(energy=charge))
    np.testing.assert_array_equal(event.feature("energy"), (charge * 0.0059).astype(np.float32))
    assert np.isfinite(DETECTOR.features["energy"].scaled(event.feature("energy"))).all()
    electrons_per_millivolt, electronvolts = 1e-3 / 4e-6, 23.6
    assert electrons_per_millivolt * electronvolts * 1e-6 == pytest.approx(0.0059)


def test_labels():
    truth = {"track_id": np.array([-1, 4, 4]), "pdg": np.array([0, 2212, 13])}
    event = DETECTOR.reading("pilarnet-hdf5").event(columns(**truth))
    assert event.labels["track_id"].tolist() == [-1, 4, 4]
    assert event.labels["particle_class"].tolist() == [0, 3, 0]
    assert "is_noise" not in event.labels
    tagging: Detector = detectors.build({"type": "lartpc", "noise": "no-track"})
    event = tagging.reading("pilarnet-hdf5").event(columns(**truth))
    assert event.labels["is_noise"].tolist() == [True, False, False]


def test_what_lies_outside_the_cube_is_left_out():
    event = DETECTOR.reading("pilarnet-hdf5").event(columns(x=np.array([np.nan, 5000.0, 3.0])))
    assert len(event) == 1
    assert {reason: places.tolist() for reason, places in event.left_out.items()} == {
        "x is not finite": [0],
        "x is out of range": [1],
    }


@pytest.mark.shared_data
def test_real_file(shared_data):
    events = list(read_events(Path(shared_data) / "lartpc/larndsim_evd_qc_tpc.h5", "lartpc"))
    positions = np.concatenate([event.positions for event in events])
    assert (len(events), len(positions)) == (324, 10_743)
    assert not any(event.left_out for event in events)
    np.testing.assert_allclose(positions.min(axis=0), [0, -14.8539, -14.8539])
    np.testing.assert_allclose(positions.max(axis=0), [3.23008, 15.2973, 15.2973])
    assert sum((event.labels["track_id"] >= 0).sum() for event in events) == 10_418
