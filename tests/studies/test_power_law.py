"""Fits to curves whose parameters are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm4npp.studies import power_law
from fm4npp.studies.power_law import fit

X = np.geomspace(1e3, 1e6, 7)


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 2), st.floats(0.1, 10), st.floats(0.1, 1.2))
def test_exact_points_give_their_parameters_back(floor, height, b):
    found = fit(X, floor + height * (X / X[0]) ** -b)
    assert found.b == pytest.approx(b, rel=1e-2)
    assert found.floor == pytest.approx(floor, abs=1e-2 * height)
    np.testing.assert_allclose(found(X), floor + height * (X / X[0]) ** -b, atol=1e-3 * height)
    assert found.extrapolated == pytest.approx(floor + height * 1e4**-b, abs=1e-2 * height)


def test_the_intervals_hold_the_truth_as_often_as_they_say(monkeypatch):
    """Noisy curves, three seeds a point: 95 % of the intervals, within three standard deviations."""
    monkeypatch.setattr(power_law, "REPLICAS", 200)
    curves = 80
    generator = np.random.default_rng(1)
    x = np.repeat(X, 3)
    held = []
    for _ in range(curves):
        found = fit(x, 0.5 + 2.0 * (x / X[0]) ** -0.4 + generator.normal(0, 0.01, len(x)))
        low, high = found.intervals["b"]
        held.append(low <= 0.4 <= high)
    assert np.mean(held) == pytest.approx(0.95, abs=3 * np.sqrt(0.95 * 0.05 / curves))


def test_three_points_have_no_floor_and_say_so():
    found = fit(X[:3], 3.0 * X[:3] ** -0.2)
    assert (found.form, found.floor) == ("a x^-b", 0)
    assert found.b == pytest.approx(0.2, rel=1e-3)
    assert "fewer than 4" in found.warnings[0]
    assert found.intervals["floor"] is None


def test_losses_that_rise_are_no_power_law():
    found = fit(X, np.linspace(1, 2, 7))
    assert (found.floor, found.a, found.b, found.extrapolated) == (None,) * 4
    assert any("does not fall" in text for text in found.warnings)
    assert np.isnan(found(X)).all()


def test_a_floor_far_below_the_points_is_called_an_extrapolation():
    x = np.array([1.0, 2.0, 3.0, 4.0])
    found = fit(x, 1 + x**-0.1)
    assert any("extrapolation" in text for text in found.warnings)
    assert any("span" in text for text in found.warnings)


def test_negative_losses_may_have_a_negative_floor():
    found = fit(X, -1 + (X / X[0]) ** -0.5)
    assert found.floor == pytest.approx(-1, abs=1e-2)
