"""Decay products of particles that flew elsewhere than straight."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fm4npp.simulation.decays import Children, released, rotated
from fm4npp.simulation.particles import concatenate
from tests.simulation.toys import shots


def test_children_of_several_parents():
    children = Children(np.array([-1, 3, 0, 0, -1, 3, 3]))
    child, place = children.of(np.array([3, 4, 0]))
    assert sorted(zip(place.tolist(), child.tolist(), strict=True)) == [(0, 1), (0, 5), (0, 6), (2, 2), (2, 3)]
    child, place = children.of(np.array([0, 3]))
    assert sorted(zip(place.tolist(), child.tolist(), strict=True)) == [(0, 2), (0, 3), (1, 1), (1, 5), (1, 6)]
    assert len(children.of(np.array([1, 2]))[0]) == 0
    assert len(Children(np.empty(0, np.int64)).of(np.array([1]))[0]) == 0


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_products_are_turned_with_their_parent(seed):
    """Angles among all of them are kept: an ancestor too short-lived to be tracked may have flown a little further."""
    rng = np.random.default_rng(seed)
    parent, first, second = rng.normal(size=(3, 3))
    offset, position, now = rng.normal(size=(3, 3))
    flight = 7.0
    vertex = np.array([1.0, 2.0, 3.0])
    end = vertex + flight * parent / np.linalg.norm(parent) + offset
    table = concatenate([shots("K+", parent, vertex), shots("pi+", [first, second], end)])
    table = replace(table, flight=np.array([flight, np.inf, np.inf]))
    both = np.array([1, 2])
    places, momenta = released(table, np.zeros(2, int), both, np.tile(position, (2, 1)), np.tile(now, (2, 1)))
    before = np.stack([parent / np.linalg.norm(parent), offset, first, second])
    after = np.stack([now / np.linalg.norm(now), places[0] - position, *momenta])
    np.testing.assert_allclose(after @ after.T, before @ before.T, rtol=1e-6, atol=1e-7)
    assert np.linalg.det(after[[0, 2, 3]]) * np.linalg.det(before[[0, 2, 3]]) > 0
    np.testing.assert_allclose(places[0], places[1])


def test_the_smallest_rotation():
    east, north, up = np.eye(3)
    turned = rotated(np.stack([east, north, up]), np.tile(east, (3, 1)), np.tile(north, (3, 1)))
    np.testing.assert_allclose(turned, [north, -east, up], atol=1e-15)
    np.testing.assert_allclose(rotated(up[None], east[None], east[None]), up[None])
