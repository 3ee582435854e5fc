import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from fm4npp.geometry import Geometry, cartesian, cylindrical, spherical

TPC = Geometry(low=(-2.0, -math.pi, 31.371997833251953), high=(2.0, math.pi, 75.38493347167969))
BOX = Geometry(system="cartesian", low=(0.0, -5.0, 10.0), high=(10.0, 5.0, 30.0), causal_axis=0)
SHELL = Geometry(system="spherical", low=(0.1, -math.pi, 90.0), high=(3.0, math.pi, 250.0))
INSIDE = st.integers(0, 20).flatmap(lambda count: arrays(np.float64, (count, 3), elements=st.floats(0.001, 0.999)))


def test_cylindrical_by_hand():
    points = [(3.0, 4.0, 0.0), (0.0, 2.0, 2.0), (-1.0, 0.0, -3.0), (-1.0, -0.0, 0.0)]
    for (x, y, z), (eta, phi, radius) in zip(points, cylindrical(np.array(points)), strict=True):
        theta = math.atan2(math.sqrt(x * x + y * y), z)
        assert eta == pytest.approx(-math.log(math.tan(theta / 2)), abs=1e-12)
        assert phi == pytest.approx(math.atan2(y, x))
        assert radius == pytest.approx(math.sqrt(x * x + y * y))


def test_on_the_beam_axis_eta_is_infinite():
    with np.errstate(all="raise"):
        eta = cylindrical(np.array([[0.0, 0.0, 5.0], [0.0, 0.0, -5.0]]))[:, 0]
    assert eta.tolist() == [math.inf, -math.inf]


def test_normalised_by_hand():
    middle = math.sqrt((31.371997833251953 + 75.38493347167969) ** 2 / 4)
    coordinates = TPC.coordinates(np.array([[middle, 0.0, middle * math.sinh(1.0)], [0.0, 75.38493347167969, 0.0]]))
    assert coordinates.dtype == np.float32
    np.testing.assert_allclose(coordinates, [[0.75, 0.5, 0.5], [0.5, 0.75, 1.0]], atol=1e-6)
    assert BOX.coordinates(np.array([[5.0, 5.0, 15.0]])).tolist() == [[0.5, 1.0, 0.25]]
    assert BOX.normalised(15.0, 2) == 0.25
    assert TPC.normalised(math.pi / 2, 1) == pytest.approx(0.75)


def test_spherical_by_hand():
    theta, phi, distance = spherical(np.array([[0.0, 0.0, 5.0], [0.0, 0.0, -5.0], [3.0, 4.0, 0.0], [0.0, -1.0, 1.0]])).T
    np.testing.assert_allclose(theta, [0.0, math.pi, math.pi / 2, math.pi / 4])
    np.testing.assert_allclose(phi, [0.0, 0.0, math.atan2(4, 3), -math.pi / 2])
    np.testing.assert_allclose(distance, [5.0, 5.0, 5.0, math.sqrt(2)])
    assert SHELL.periodic == (False, True, False)
    inside = SHELL.contains(np.array([[100.0, 0.0, 0.0], [0.0, 0.0, 100.0], [80.0, 0.0, 0.0], [0.0, 200.0, 160.0]]))
    assert inside.tolist() == [True, False, False, False]


def test_points_outside_the_bounds_are_not_clipped():
    assert BOX.coordinates(np.array([[-10.0, 10.0, 50.0]])).tolist() == [[-1.0, 1.5, 2.0]]


@given(inside=INSIDE)
@pytest.mark.parametrize("geometry", [TPC, BOX, SHELL])
def test_coordinates_and_positions_are_inverse(geometry, inside):
    positions = geometry.positions(inside)
    assert positions.shape == inside.shape
    coordinates = geometry.coordinates(positions)
    np.testing.assert_allclose(coordinates, inside, atol=1e-6)
    np.testing.assert_allclose(geometry.positions(coordinates), positions, atol=2e-4)
    np.testing.assert_allclose(cylindrical(cartesian(cylindrical(positions + 40))), cylindrical(positions + 40))


@given(points=arrays(np.float32, st.tuples(st.integers(0, 12), st.just(3)), elements=st.sampled_from([0.0, 0.25, 0.5])))
@pytest.mark.parametrize("geometry", [TPC, BOX])
def test_causal_order_sorts_outwards_then_by_the_other_axes(geometry, points):
    axes = [(geometry.causal_axis - step) % 3 for step in range(3)]  # cylindrical: r, then phi, then eta
    expected = sorted(range(len(points)), key=lambda i: (*(points[i][axis] for axis in axes), i))
    assert geometry.causal_order(points).tolist() == expected
    rank = geometry.causal_rank(points)
    assert [rank[i] for i in expected] == list(range(len(points)))


def test_only_phi_is_periodic_unless_given():
    assert TPC.periodic == (False, True, False)
    assert BOX.periodic == (False, False, False)
    assert Geometry(low=BOX.low, high=BOX.high, periodic=(True, False, False)).periodic == (True, False, False)
    assert (TPC.axes, BOX.axes) == (("eta", "phi", "r"), ("x", "y", "z"))


@pytest.mark.parametrize(
    "fields",
    [
        {"low": (0.0, 0.0, 1.0), "high": (1.0, 1.0, 1.0)},
        {"low": (0.0, 0.0, 0.0), "high": (1.0, 1.0, math.inf)},
        {"layers": (2.0, 1.0)},
        {"layers": (1.0, 1.0)},
        {"group_boundaries": (2.0, 1.0)},
        {"causal_axis": 3},
        {"system": "toroidal"},
        {"lows": (0.0, 0.0, 0.0)},
    ],
)
def test_impossible_geometries_are_refused(fields):
    with pytest.raises(ValidationError):
        Geometry(**{"low": (0.0, 0.0, 0.0), "high": (1.0, 1.0, 1.0), **fields})


@pytest.mark.parametrize("geometry", [TPC, BOX])
def test_json_round_trip(geometry):
    assert Geometry.model_validate_json(geometry.model_dump_json()) == geometry
