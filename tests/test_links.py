"""Straightest links: what a particle's next spacepoint is guessed to be."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fm4npp.links import CANDIDATES, NEARER, STEEPEST, follow, joined, straightest_links


def slow_links(positions, outward):
    """The definition, pair by pair."""
    links = []
    for here, point in enumerate(positions):
        distance = np.linalg.norm(positions - point, axis=1)
        near = [other for other in np.argsort(distance, kind="stable") if other != here][:CANDIDATES]
        way = {other: (positions[other] - point) / distance[other] for other in near}
        rise = {other: (outward[other] - outward[here]) / distance[other] for other in near}
        out = [other for other in near if rise[other] > STEEPEST]
        inn = [other for other in near if rise[other] < -STEEPEST]
        if out and inn:
            far = distance[near[-1]]
            costs = {
                (i, o): way[i] @ way[o] + NEARER * (distance[i] + distance[o]) / far
                for i, o in itertools.product(inn, out)
            }
            inner, outer = min(costs, key=costs.get)
        else:
            inner, outer = (inn or [here])[0], (out or [here])[0]
        links.append((outer, inner))
    return np.array(links, dtype=np.int64).reshape(-1, 2).T


@given(st.integers(0, 2**32 - 1), st.integers(0, 40))
def test_links_are_those_of_the_definition(seed, size):
    positions = np.random.default_rng(seed).normal(size=(size, 3)) * 10
    outward = np.hypot(positions[:, 0], positions[:, 1])
    np.testing.assert_array_equal(straightest_links(positions, outward), slow_links(positions, outward))


def fan(num_tracks=5, num_layers=12):
    """Straight tracks through layers 2 cm apart, and which track each spacepoint is on."""
    radius = np.arange(1, num_layers + 1) * 2.0 + 20
    angle = np.linspace(0, 1.5, num_tracks)
    positions = np.stack(
        [np.outer(np.cos(angle), radius), np.outer(np.sin(angle), radius), np.outer(angle - 0.7, radius)], axis=2
    ).reshape(-1, 3)
    return positions, np.repeat(np.arange(num_tracks), num_layers)


def test_straight_tracks_are_followed_from_end_to_end():
    positions, track = fan()
    order = np.random.default_rng(0).permutation(len(positions))
    positions, track = positions[order], track[order]
    radius = np.hypot(positions[:, 0], positions[:, 1])
    outer, inner = straightest_links(positions, radius)
    np.testing.assert_array_equal(track[outer], track)
    np.testing.assert_array_equal(track[inner], track)
    assert (radius[outer] >= radius).all()
    assert (radius[inner] <= radius).all()
    groups = joined(outer)
    assert len(set(zip(groups.tolist(), track.tolist(), strict=True))) == len(set(track.tolist())) == len(set(groups))
    innermost = radius == radius.min()
    reached = follow(outer, (1, 11, 12))[innermost]
    np.testing.assert_allclose(radius[reached[:, 0]] - radius.min(), 2)
    np.testing.assert_allclose(radius[reached[:, 1]], radius.max())
    np.testing.assert_array_equal(reached[:, 2], np.flatnonzero(innermost))  # the way is one link too short


def test_links_do_not_depend_on_the_order_of_the_spacepoints():
    random = np.random.default_rng(1)
    positions = random.normal(size=(60, 3)) * 20
    outward = np.hypot(positions[:, 0], positions[:, 1])
    order = random.permutation(60)
    place = np.argsort(order)
    for link, moved in zip(
        straightest_links(positions, outward), straightest_links(positions[order], outward[order]), strict=True
    ):
        np.testing.assert_array_equal(place[link[order]], moved)


@pytest.mark.parametrize("size", [0, 1])
def test_lonely_spacepoints_are_linked_to_nothing(size):
    for link in straightest_links(np.ones((size, 3)), np.ones(size)):
        np.testing.assert_array_equal(link, np.arange(size))
        assert follow(link, (1, 2)).shape == (size, 2)
        assert joined(link).shape == (size,)


def test_coincident_spacepoints_are_no_way_out():
    link, _ = straightest_links(np.ones((5, 3)), np.ones(5))
    np.testing.assert_array_equal(link, np.arange(5))
