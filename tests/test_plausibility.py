"""Descriptions that do not fit what a file holds are found, and what would fit is named."""

import awkward as ak
import numpy as np
import pytest
import uproot
from hypothesis import given
from hypothesis import strategies as st

from fm4npp import detectors
from fm4npp.convert import convert
from fm4npp.data import read_events
from fm4npp.detectors.plausibility import curvature_radius, hits_of_layers, judge, untouched
from fm4npp.errors import ConfigurationError, DataError
from fm4npp.simulation import ParticleGun, simulate
from fm4npp.testing.detectors import check_detector

DETECTOR = detectors.build("sphenix-tpc").replace(formats={}, columns_of={}, measured={})
"""Positions only, in columns of the quantities' names."""


@pytest.fixture(scope="module")
def columns():
    """Events as a file of the detector would hold them, with particles."""
    found = []
    for event in simulate(detectors.build("sphenix-tpc"), 10, 3, ParticleGun(mean_primaries=8.0)):
        particles = {f"particle_{name}": values for name, values in event.particles.items()}
        x, y, z = event.positions.astype(np.float64).T
        found.append({"x": x, "y": y, "z": z, **event.labels, **particles, "event_id": event.event_id})
    return found


def only(detector, columns):
    (fit,) = judge(detector, columns)
    return fit


def test_the_right_description_is_not_suspected(columns):
    fit = only(DETECTOR, columns)
    assert fit.num_spacepoints == sum(len(event["x"]) for event in columns)
    assert (fit.num_outside, fit.untouched, fit.better, fit.suspicions) == (0, (), "", ())
    assert fit.momentum_ratio == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("unit", ["mm", "m"])
def test_another_unit_of_length(columns, unit):
    fit = only(DETECTOR.replace(length_unit=unit), columns)
    assert fit.share_outside == 1
    assert fit.better == "with length_unit: cm, 100.0% of them would lie inside"


def test_exchanged_axes(columns):
    fit = only(DETECTOR.replace(columns_of={"x": "z", "z": "x"}), columns)
    assert fit.share_outside > 0.2
    assert fit.better.startswith("with x and z exchanged, 100.0%")


def test_momenta_in_another_unit(columns):
    fit = only(DETECTOR.replace(energy_unit="MeV"), columns)
    assert fit.momentum_ratio == pytest.approx(1e-3, rel=0.05)
    assert "is energy_unit right?" in fit.suspicions[0]


def test_layers_that_nothing_touches(columns):
    without = [
        {name: values[radius < 60] if np.shape(values) == radius.shape else values for name, values in event.items()}
        for event, radius in ((event, np.hypot(event["x"], event["y"])) for event in columns)
    ]
    fit = only(DETECTOR, without)
    assert {layer for layer in DETECTOR.layers if layer > 61} <= set(fit.untouched)
    assert min(fit.untouched) > 59
    assert "no spacepoint near" in fit.suspicions[0]


def test_few_spacepoints_say_nothing_of_layers():
    counts = hits_of_layers(np.array([1.0, 1.4, 1.6, 9.0]), (1.0, 2.0, 3.0))
    assert counts.tolist() == [2, 1, 1]
    assert untouched(np.array([5, 0]), (1.0, 2.0)) == ()
    assert untouched(np.array([50, 0]), (1.0, 2.0)) == (2.0,)


@given(st.floats(1, 1e3), st.floats(-np.pi, np.pi), st.floats(-50, 50))
def test_radius_of_an_exact_arc(radius, start, shift):
    angle = start + np.linspace(0, 1, 9)
    points = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1) + shift
    assert curvature_radius(points) == pytest.approx(radius, rel=1e-6)


def test_a_straight_line_has_no_radius():
    assert curvature_radius(np.linspace(0, 1, 8)[:, None] * [3.0, 4.0]) is None


@pytest.fixture
def file(columns, tmp_path):
    """The events as a tree."""
    return written(tmp_path / "hits.root", {axis: [event[axis] for event in columns] for axis in "xyz"})


def written(path, branches):
    with uproot.recreate(path) as root:
        root["hits"] = {name: ak.Array(values) for name, values in branches.items()}
    return path


def test_conversion_refuses_and_says_what_would_fit(file, tmp_path):
    wrong = DETECTOR.replace(columns_of={"x": "z", "z": "x"})
    with pytest.raises(
        DataError, match=r"lie outside .* more than 20.00%; with x and z exchanged, 100.0%.*--max-outside"
    ):
        convert([file], wrong, tmp_path / "events.parquet")
    assert not (tmp_path / "events.parquet").exists()
    report = convert([file], wrong, tmp_path / "events.parquet", max_outside=1.0)
    assert report.share_outside > 0.2


def test_rejected_spacepoints_are_explained_too(file, tmp_path):
    with pytest.raises(DataError, match=r"rejected.*with length_unit: cm, 100.0%"):
        convert([file], DETECTOR.replace(length_unit="m"), tmp_path / "events.parquet")


def polar(columns, degrees):
    event = columns[0]
    phi = np.arctan2(event["y"], event["x"])
    r = np.hypot(event["x"], event["y"])
    return {"r": r, "phi": np.rad2deg(phi) if degrees else phi, "z": event["z"], "event_id": 0}


@pytest.mark.parametrize("unit", ["rad", "deg"])
def test_places_may_be_given_around_the_beam(columns, unit):
    detector = DETECTOR.replace(position="r-phi-z", angle_unit=unit)
    check_detector(detector)
    event = detector.event(polar(columns, unit == "deg"))
    expected = np.stack([columns[0][axis] for axis in "xyz"], axis=1)
    np.testing.assert_allclose(event.positions, expected, rtol=1e-12, atol=1e-10)


def test_degrees_that_are_called_radians_are_refused(columns, tmp_path):
    event = polar(columns, degrees=True)
    file = written(tmp_path / "hits.root", {name: [event[name]] for name in ("r", "phi", "z")})
    with pytest.raises(DataError, match="phi is beyond two turns in rad: another angle_unit"):
        list(read_events(file, DETECTOR.replace(position="r-phi-z")))


def test_an_origin_goes_with_x_y_z():
    with pytest.raises((ConfigurationError, ValueError), match="origin: is subtracted from x, y, z"):
        DETECTOR.replace(position="r-phi-z", origin=(0.0, 0.0, 1.0))
