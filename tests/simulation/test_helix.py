"""Steps on helices, against an integration of the Lorentz force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm4npp.simulation.helix import TESLA_CM, advanced, helices, turn_to

FIELD = 1.4


def stepped(vertex, momentum, charge, length, steps=20_000):
    """(steps + 1, 3) places along a track: the Lorentz force in small steps (midpoint rule)."""
    rate = -charge * FIELD * TESLA_CM / np.linalg.norm(momentum)  # angle per cm of path
    step = length / steps
    path = np.arange(steps) * step + step / 2
    heading = np.arctan2(momentum[1], momentum[0]) + rate * path
    moves = np.stack([np.cos(heading), np.sin(heading), np.full(steps, momentum[2] / np.hypot(*momentum[:2]))], axis=1)
    moves *= step * np.hypot(*momentum[:2]) / np.linalg.norm(momentum)
    return vertex + np.concatenate([np.zeros((1, 3)), np.cumsum(moves, axis=0)])


tracks = st.tuples(
    st.floats(0, 70), st.floats(-3, 3), st.floats(0.01, 2.0), st.floats(-3, 3), st.floats(-2, 2),
    st.sampled_from([-2, -1, 0, 1, 2]),
)  # fmt: skip


def track(parameters):
    r, phi, transverse, heading, slope, charge = parameters
    vertex = np.array([r * np.cos(phi), r * np.sin(phi), 1.0])
    return vertex, transverse * np.array([np.cos(heading), np.sin(heading), slope]), charge


@settings(max_examples=60, deadline=None)
@given(parameters=tracks, length=st.floats(0.1, 300))
def test_a_step_is_that_of_the_lorentz_force(parameters, length):
    vertex, momentum, charge = track(parameters)
    paths = helices(vertex[None], momentum[None], np.array([charge]), FIELD)
    turn = length / (paths.radius * np.linalg.norm(momentum) / paths.transverse)
    position, after = advanced(vertex[None], momentum[None], paths, turn)
    expected = stepped(vertex, momentum, charge, length)
    np.testing.assert_allclose(position[0], expected[-1], atol=2e-3)
    assert np.linalg.norm(after) == pytest.approx(np.linalg.norm(momentum), rel=1e-12)
    heading = (expected[-1] - expected[-2]) / np.linalg.norm(expected[-1] - expected[-2])
    half_a_step = length / 40_000 / paths.radius[0]
    np.testing.assert_allclose(after[0] / np.linalg.norm(after), heading, atol=1e-6 + 2 * half_a_step)


@settings(max_examples=60, deadline=None)
@given(parameters=tracks, radius=st.floats(0.5, 90), outward=st.booleans())
def test_the_next_crossing_of_a_cylinder_is_found(parameters, radius, outward):
    vertex, momentum, charge = track(parameters)
    paths = helices(vertex[None], momentum[None], np.array([charge]), FIELD)
    turn = turn_to(paths, np.array([radius]), outward)[0]
    ratio = np.linalg.norm(momentum) / np.hypot(*momentum[:2])
    once = min(2 * np.pi * paths.radius[0], 400.0) * ratio
    r = np.hypot(*stepped(vertex, momentum, charge, once)[:, :2].T)
    if min(abs(r - radius).min(), abs(r[0] - radius)) > 1e-2 and not np.isfinite(turn):
        assert not ((r[:-1] < radius) & (r[1:] >= radius)).any()
        return
    extremes = [r.min(), r.max(), r[0]]
    if min(abs(extreme - radius) for extreme in extremes) < 2e-2:
        return  # grazing, or starting there: the small steps decide
    crossing = np.diff((r > radius).astype(int)) == (1 if outward else -1)
    if not crossing.any():
        assert np.isnan(turn) or turn * paths.radius[0] * ratio >= once * (1 - 1e-3)
        return
    path = np.flatnonzero(crossing)[0] / 20_000 * once
    assert turn * paths.radius[0] * ratio == pytest.approx(path, abs=once / 10_000 + 1e-2)
    place, _ = advanced(vertex[None], momentum[None], paths, np.array([turn]))
    assert np.hypot(*place[0, :2]) == pytest.approx(radius, abs=1e-9)


def test_a_positive_particle_turns_clockwise_in_a_field_along_z():
    paths = helices(np.zeros((1, 3)), np.array([[1.0, 0.0, 0.0]]), np.array([1]), FIELD)
    place, _ = advanced(np.zeros((1, 3)), np.array([[1.0, 0.0, 0.0]]), paths, np.array([0.1]))
    assert place[0, 1] < 0
    assert paths.radius[0] == pytest.approx(100 / (0.299792458 * 1.4))  # cm, for 1 GeV/c


def test_what_flies_along_the_beam_has_a_helix():
    paths = helices(np.array([[3.0, 0.0, 0.0]]), np.array([[0.0, 0.0, 2.0]]), np.array([1]), FIELD)
    position, momentum = advanced(np.array([[3.0, 0.0, 0.0]]), np.array([[0.0, 0.0, 2.0]]), paths, np.array([1.0]))
    assert np.isfinite(position).all()
    assert momentum[0, 2] == 2.0
