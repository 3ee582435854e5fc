"""Multiple scattering: Highland's width, and directions that follow it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm4npp.simulation.scattering import THINNEST, deflected, highland, in_all


def one(momentum, beta, charge, length):
    return highland(np.array([momentum]), np.array([beta]), np.array([charge]), np.array([length]))[0]


def test_width_is_highlands():
    """13.6 MeV / 1 GeV sqrt(0.01) (1 + 0.038 ln 0.01) = 1.122 mrad, by hand."""
    assert one(1.0, 1.0, 1, 0.01) == pytest.approx(1.1220e-3, rel=1e-3)
    assert one(1.0, 1.0, -1, 1.0) == pytest.approx(13.6e-3)
    assert one(2.0, 0.5, 2, 0.01) == pytest.approx(
        13.6e-3 / (0.5 * 2) * 2 * 0.1 * (1 + 0.038 * np.log(0.01 * 4 / 0.25))
    )


def test_thin_layers_scatter_in_proportion_to_their_thickness():
    """Below one collision the variance adds; no logarithm is negative."""
    lengths = THINNEST * np.array([1e-12, 1e-6, 1e-3, 0.1, 1.0])
    variance = np.array([one(1.0, 1.0, 1, length) for length in lengths]) ** 2
    np.testing.assert_allclose(variance / lengths, variance[-1] / lengths[-1], rtol=1e-9)
    assert one(1.0, 1.0, 1, 0.0) == 0
    assert one(1.0, 1.0, 0, 0.1) == 0


@pytest.mark.parametrize("theta0", [1e-4, 1e-2])
@pytest.mark.parametrize("direction", [(0, 0, 1), (1, 0, 0), (-0.3, 0.5, -0.8)])
def test_projected_angles_have_the_width(theta0, direction):
    """200,000 of each: 0.16 % of the width at one sigma, so 1 % is beyond 5 sigma."""
    axis = np.array(direction) / np.linalg.norm(direction)
    first = np.cross(axis, [0.6, 0.7, 0.2])
    first /= np.linalg.norm(first)
    second = np.cross(axis, first)
    count = 200_000
    momentum = deflected(np.tile(3.0 * axis, (count, 1)), np.full(count, theta0), np.random.default_rng(1))
    angles = np.stack([np.arctan2(momentum @ side, momentum @ axis) for side in (first, second)])
    np.testing.assert_allclose(angles.std(axis=1), theta0, rtol=0.01)
    np.testing.assert_allclose(angles.mean(axis=1), 0, atol=5 * theta0 / np.sqrt(count))
    assert abs(np.corrcoef(angles)[0, 1]) < 5 / np.sqrt(count)
    assert np.mean(angles**4) / theta0**4 == pytest.approx(3, rel=0.03)  # a Gaussian's


def test_slow_electrons_turn_anywhere_and_keep_their_momentum():
    momentum = np.tile([0.0, 1e-3, 0.0], (20_000, 1))
    after = deflected(momentum, np.full(20_000, 10.0), np.random.default_rng(1))
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1e-3, rtol=1e-12)
    assert abs((after[:, 1] / 1e-3).mean()) < 0.05


@settings(max_examples=80, deadline=None)
@given(
    st.tuples(*[st.floats(-1e3, 1e3)] * 3),
    st.floats(1e-6, 1e3),
    st.floats(1e-3, 1),
    st.floats(0, 100),
)
def test_all_is_finite_and_length_is_kept(direction, momentum, beta, length):
    size = np.linalg.norm(direction)
    vector = np.array(direction) / size * momentum if size > 1e-9 else np.zeros(3)
    theta0 = highland(np.array([momentum]), np.array([beta]), np.array([1]), np.array([length]))
    assert 0 <= theta0[0] < np.inf
    after = deflected(vector[None], theta0, np.random.default_rng(1))
    assert np.linalg.norm(after) == pytest.approx(np.linalg.norm(vector), rel=1e-12, abs=1e-15)


def test_nothing_scatters_into_nothing():
    assert highland(*[np.empty(0)] * 4).shape == (0,)
    assert deflected(np.empty((0, 3)), np.empty(0), np.random.default_rng(1)).shape == (0, 3)


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_layers_scatter_like_one_of_their_thickness(beta):
    rng = np.random.default_rng(2)
    lengths = np.concatenate([[0.0], rng.exponential(0.003, 8), [0.0], np.full(48, 5e-5)])
    count, one = len(lengths), np.ones(1)
    full, speed = np.ones(count), np.full(count, beta)
    widths = highland(full, speed, full, lengths, in_all(lengths))
    assert np.isfinite(widths).all()
    together = highland(one, one * beta, one, np.array([lengths.sum()]))[0]
    assert np.sqrt((widths**2).sum()) == pytest.approx(together, rel=1e-9 if beta == 1 else 0.01)
    apart = highland(full, speed, full, lengths)
    assert np.sqrt((apart**2).sum()) < 0.95 * together
    assert in_all(lengths)[1] == pytest.approx(lengths[1])
