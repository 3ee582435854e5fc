"""Helices to flat surfaces, against an integration of the Lorentz force until it meets a polygon."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm4npp.simulation.helix import TESLA_CM
from fm4npp.simulation.planes import on_cylinders, on_planes, surface_radius
from tests.simulation.test_helix import FIELD, stepped


def reach(points, num_planes):
    """(N,) largest distance from the beam along any normal of the polygon: its radius on the polygon itself."""
    angle = (np.arange(num_planes) + 0.5) * 2 * np.pi / num_planes
    return (points[:, :1] * np.cos(angle) + points[:, 1:2] * np.sin(angle)).max(axis=1)


def cartesian(places):
    return np.stack([places.radius * np.cos(places.phi), places.radius * np.sin(places.phi), places.z], axis=1)


def placed(position, momentum, charge, radius, num_planes, field=FIELD):
    count = len(position)
    return on_planes(
        position, momentum, np.broadcast_to(charge, count), np.full(count, radius), np.full(count, num_planes), field
    )


def random_crossings(count, rng, radius, transverse=(0.1, 3.0)):
    phi, heading = rng.uniform(-np.pi, np.pi, (2, count))
    momentum = rng.uniform(*transverse, count)[:, None] * np.stack(
        [np.cos(heading), np.sin(heading), rng.uniform(-2, 2, count)], axis=1
    )
    return np.stack([radius * np.cos(phi), radius * np.sin(phi), np.full(count, 3.0)], axis=1), momentum


crossings = st.tuples(st.floats(-3.1, 3.1), st.floats(-3.1, 3.1), st.floats(0.03, 5), st.floats(-2, 2))


@settings(max_examples=60, deadline=None)
@given(
    crossing=crossings,
    charge=st.sampled_from([-1, 1]),
    layer=st.sampled_from([(60.0, 12), (190.0, 12), (31.0, 144), (31.0, 6), (75.0, 144)]),
)
def test_a_path_is_followed_to_the_polygon(crossing, charge, layer):
    (phi, heading, transverse, slope), (radius, num_planes) = crossing, layer
    position = np.array([radius * np.cos(phi), radius * np.sin(phi), 3.0])
    momentum = transverse * np.array([np.cos(heading), np.sin(heading), slope])
    cosine = np.cos(phi - heading)
    if abs(cosine) < 0.01:
        return  # grazes the cylinder: the integration cannot tell out from in
    ways = (momentum, charge) if cosine > 0 else (-momentum, -charge)  # where it came from, for one on its way in
    depth = radius / np.cos(np.pi / num_planes) - radius
    chord = min(radius + depth, transverse / TESLA_CM / FIELD) * np.pi
    path = stepped(position, *ways, chord * np.hypot(1, slope), 20_000)
    size = chord / 20_000
    back = np.flatnonzero(np.hypot(path[1:, 0], path[1:, 1]) < radius - size)
    path = path[: back[0] + 1] if len(back) else path
    distance = reach(path, num_planes)
    out = np.flatnonzero(distance > radius)
    place = placed(position[None], momentum[None], charge, radius, num_planes)
    assert radius <= place.radius[0] * (1 + 1e-12) <= (radius + depth) * (1 + 2e-12)
    if abs(distance.max() - radius) < 3 * size:
        return  # touches the polygon
    if not len(out):
        # at most the gap to the polygon: the closest point to a plane may be beyond its edge, or inside the cylinder
        assert 0 < place.gap[0] <= radius - distance.max() + 1e-2 * depth + 3 * size
        return
    assert place.gap[0] == 0
    np.testing.assert_allclose(cartesian(place)[0], path[out[0]], atol=3 * size * np.hypot(1, slope) + 2e-3)


def test_places_are_on_the_polygon_and_on_the_circle_of_the_track():
    rng = np.random.default_rng(1)
    radius, num_planes = 75.367, 144
    position, momentum = random_crossings(20_000, rng, radius)
    charge = rng.choice([-1, 1], len(position))
    place = placed(position, momentum, charge, radius, num_planes)
    there = place.gap == 0
    assert there.mean() > 0.97  # the rest grazes the layer
    points = cartesian(place)
    np.testing.assert_allclose(reach(points, num_planes), radius, rtol=1e-12)
    assert place.radius.max() <= radius / np.cos(np.pi / num_planes) * (1 + 1e-12)
    assert place.radius.max() > radius * 1.0002  # their edge is at 1.000238
    transverse = np.hypot(*momentum[:, :2].T)
    circle = transverse / (TESLA_CM * FIELD)
    # a positive particle turns clockwise: its centre is to the right
    centre = position[:, :2] + (charge * circle / transverse)[:, None] * momentum[:, [1, 0]] * [1, -1]
    np.testing.assert_allclose(np.hypot(*(points[:, :2] - centre)[there].T), circle[there], rtol=1e-10)
    chord = np.hypot(*(points - position)[:, :2].T)
    arc = 2 * circle * np.arcsin(chord / 2 / circle)
    outward = np.sign((position * momentum)[:, :2].sum(axis=1))
    expected = 3.0 + outward * arc * momentum[:, 2] / transverse
    np.testing.assert_allclose(place.z[there], expected[there], atol=1e-9)


def test_the_angle_is_that_to_the_plane_at_the_place():
    rng = np.random.default_rng(2)
    position, momentum = random_crossings(2_000, rng, 190.0, (0.5, 5.0))
    place = placed(position, momentum, 1, 190.0, 12)
    there = place.gap == 0
    points = cartesian(place)
    heading = np.arctan2(momentum[:, 1], momentum[:, 0])
    circle = np.hypot(*momentum[:, :2].T) / (TESLA_CM * FIELD)
    outward = np.sign((position * momentum)[:, :2].sum(axis=1))
    turn = 2 * np.arcsin(np.hypot(*(points - position)[:, :2].T) / 2 / circle) * outward
    normal = (np.floor(place.phi / (np.pi / 6)) + 0.5) * np.pi / 6
    expected = np.abs(np.cos(heading - turn - normal))
    np.testing.assert_allclose(place.cosine[there], expected[there], atol=1e-9)


@pytest.mark.parametrize("field", [0.0, 1e-6])
def test_straight_tracks_stay_straight(field):
    rng = np.random.default_rng(3)
    position, momentum = random_crossings(2_000, rng, 60.0)
    place = placed(position, momentum, 1, 60.0, 12, field)
    reached = place.gap == 0
    assert reached.mean() > 0.999
    step = (cartesian(place) - position)[reached]
    across = np.cross(step, momentum[reached]) / np.linalg.norm(momentum[reached], axis=1)[:, None]
    assert np.abs(across).max() < 1e-3


def test_a_layer_of_matter_a_hair_off_its_nominal_radius_changes_nothing():
    """Surfaces of the same radius are moved apart by a micron."""
    rng = np.random.default_rng(4)
    position, momentum = random_crossings(2_000, rng, 31.372)
    on, off = (placed(position * [k, k, 1], momentum, 1, 31.372, 144) for k in (1.0, 1 + 3e-6))
    steep = on.cosine > 0.2
    assert np.abs(cartesian(on) - cartesian(off))[steep].max() < 2e-3
    assert reach(cartesian(off), 144) == pytest.approx(31.372, rel=1e-12)


def test_cylinders():
    places = on_cylinders(np.array([[0.0, -3.0, 7.0], [4.0, 0.0, 1.0]]), np.array([[3.0, 4.0, 9.0], [-2.0, 0.0, 1.0]]))
    np.testing.assert_allclose(places.phi, [-np.pi / 2, 0.0])
    np.testing.assert_allclose(places.radius, [3.0, 4.0])
    np.testing.assert_allclose(places.cosine, [0.8, 1.0])
    assert places.z.tolist() == [7.0, 1.0]
    assert places.gap.tolist() == [0.0, 0.0]


@settings(max_examples=50, deadline=None)
@given(phi=st.floats(-10, 10), num_planes=st.sampled_from([3, 12, 144]))
def test_the_radius_of_a_polygon(phi, num_planes):
    radius = surface_radius(np.array([phi, phi]), np.array([50.0, 50.0]), np.array([num_planes, 0]))
    points = radius[:, None] * [np.cos(phi), np.sin(phi), 0.0]
    assert reach(points[:1], num_planes)[0] == pytest.approx(50.0, rel=1e-9)
    assert radius[1] == 50.0


def test_nothing_gives_nothing():
    empty = np.empty((0, 3))
    assert len(placed(empty, empty, 1, 1.0, 12).phi) == 0
    assert len(on_cylinders(empty, empty).phi) == 0
