"""Merging, against groups that are found pair by pair."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm4npp.simulation.layers import layers_of
from fm4npp.simulation.merging import Clusters, merged
from tests.simulation.toys import toy

RADII = (20.0, 33.0, 50.0, 71.0)
NEAR = {
    "merge_rphi": np.array([0.4, 3.0, 0.0, 200.0]),
    "merge_z": np.array([0.1, 2.0, 1.0, 5.0]),
    "longest_rphi": np.array([1.4, 10.5, 0.0, 0.0]),
    "longest_z": np.array([0.55, 11.0, 5.0, 0.0]),
}
LAYERS = replace(layers_of(toy(RADII)), **NEAR)


def clusters(event, layer, particle, phi, z, energy):
    whole = [np.asarray(values, np.int64) for values in (event, layer, particle)]
    return Clusters(*whole, *(np.asarray(values, np.float64) for values in (phi, z, energy)))


def rows(given):
    """Everything, in an order of its own."""
    table = np.stack([given.event, given.layer, given.particle, given.phi, given.z, given.energy], axis=1)
    return table[np.lexsort(table.T[::-1])]


def between(phi, other):
    return np.angle(np.exp(1j * (phi - other)))


def groups(given, layers):
    """Lists of indices: single linkage, by going through all pairs."""
    count = len(given)
    group = list(range(count))
    for i in range(count):
        for j in range(i):
            layer = given.layer[i]
            if (given.event[i], layer) != (given.event[j], given.layer[j]):
                continue
            across = abs(between(given.phi[i], given.phi[j])) * layers.radius[layer]
            if across < layers.merge_rphi[layer] and abs(given.z[i] - given.z[j]) < layers.merge_z[layer]:
                group = [group[i] if number == group[j] else number for number in group]
    return [[k for k in range(count) if group[k] == number] for number in sorted(set(group))]


def intervals(values, longest):
    """The interval of each value, as few equal ones as keep to the longest."""
    low, extent = min(values), max(values) - min(values)
    count = max(int(np.ceil(extent / longest)), 1)
    edges = low + extent * np.arange(1, count) / count
    return [int((value >= edges).sum()) for value in values]


def reference(given, layers):
    """What `merged` promises, one group at a time."""
    found = []
    for group in groups(given, layers):
        layer = given.layer[group[0]]
        lowest = min(group, key=lambda k: (given.z[k], given.phi[k]))
        off = {k: between(given.phi[k], given.phi[lowest]) for k in group}
        in_z = intervals([given.z[k] for k in group], layers.longest_z[layer] or np.inf)
        in_phi = intervals([off[k] for k in group], layers.longest_rphi[layer] / layers.radius[layer] or np.inf)
        for piece in sorted(set(zip(in_z, in_phi, strict=True))):
            part = [k for k, *place in zip(group, in_z, in_phi, strict=True) if tuple(place) == piece]
            energy = given.energy[part]
            weight = energy if energy.sum() > 0 else np.ones(len(part))
            shares = {}
            for k, share in zip(part, weight, strict=True):
                shares[given.particle[k]] = shares.get(given.particle[k], 0.0) + share
            owner = min(shares, key=lambda number: (-shares[number], number))
            phi = given.phi[lowest] + np.average([off[k] for k in part], weights=weight)
            z = np.average(given.z[part], weights=weight)
            found.append((given.event[part[0]], layer, owner, between(phi, 0.0), z, energy.sum()))
    return clusters(*zip(*found, strict=True))


@st.composite
def crowds(draw):
    """Up to 40 spacepoints in few places, so that many are close; energies that add up exactly."""
    count = draw(st.integers(1, 40))
    many = {"min_size": count, "max_size": count}
    centres = draw(st.lists(st.tuples(st.floats(-3.14, 3.14), st.floats(-90, 90)), min_size=1, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    layer = np.array(draw(st.lists(st.integers(0, 3), **many)))
    centre = np.array(centres)[rng.integers(0, len(centres), count)]
    size = draw(st.floats(0.1, 6.0))
    phi = centre[:, 0] + size * rng.uniform(-1, 1, count) * NEAR["merge_rphi"][layer] / np.array(RADII)[layer]
    z = centre[:, 1] + size * rng.uniform(-1, 1, count) * NEAR["merge_z"][layer]
    energy = rng.integers(0, 4, count) * draw(st.sampled_from([0, 1]))
    return clusters(
        draw(st.lists(st.integers(0, 2), **many)), layer, rng.integers(0, 5, count), between(phi, 0.0), z, energy
    )


@settings(max_examples=120, deadline=None)
@given(given=crowds())
def test_groups_are_those_found_pair_by_pair(given):
    found, expected = merged(given, LAYERS), reference(given, LAYERS)
    assert len(found) == len(expected)
    keys = ("event", "layer", "particle")
    np.testing.assert_array_equal(
        *(sorted(zip(*(getattr(c, k) for k in keys), strict=True)) for c in (found, expected))
    )
    for name in ("phi", "z"):
        spread = [np.lexsort([np.round(c.z, 6), c.layer, c.event]) for c in (found, expected)]
        values = [getattr(c, name)[order] for c, order in zip((found, expected), spread, strict=True)]
        assert np.abs(between(*values) if name == "phi" else values[0] - values[1]).max() < 1e-9
    assert found.energy.sum() == given.energy.sum()


@settings(max_examples=60, deadline=None)
@given(given=crowds(), seed=st.integers(0, 2**32))
def test_the_order_of_the_input_changes_not_one_bit(given, seed):
    shuffled = given.take(np.random.default_rng(seed).permutation(len(given)))
    np.testing.assert_array_equal(rows(merged(given, LAYERS)), rows(merged(shuffled, LAYERS)))


def test_two_that_are_close_become_one():
    """Energies 1 and 3: the mean lies at three quarters; the truth is the larger one's."""
    pair = clusters([0, 0], [0, 0], [5, 2], [0.0, 0.01], [10.0, 10.08], [1.0, 3.0])
    assert rows(merged(pair, LAYERS)).tolist() == [[0, 0, 2, pytest.approx(0.0075), pytest.approx(10.06), 4.0]]


@pytest.mark.parametrize(
    ("changed", "becomes"),
    [
        ({}, 1),
        ({"phi": [0.0, 0.4 / 20]}, 2),
        ({"z": [10.0, 10.101]}, 2),
        ({"event": [0, 1]}, 2),
        ({"layer": [0, 1]}, 2),
        ({"layer": [2, 2]}, 2),
        ({"phi": [np.pi - 0.005, -np.pi + 0.005]}, 1),
        ({"phi": [np.pi, -np.pi + 0.021]}, 2),
    ],
)
def test_what_is_close(changed, becomes):
    """Less than 0.4 cm along r-phi and 0.1 cm along z, in one event and one layer; azimuth is periodic."""
    given = {"event": [0, 0], "layer": [0, 0], "particle": [0, 1], "phi": [0.0, 0.0199], "z": [10.0, 10.09]}
    assert len(merged(clusters(**{**given, **changed, "energy": [1.0, 1.0]}), LAYERS)) == becomes


def test_the_mean_across_the_end_of_the_azimuth_is_there():
    pair = clusters([0, 0], [0, 0], [0, 1], [np.pi - 0.004, -np.pi + 0.008], [1.0, 1.0], [1.0, 1.0])
    assert merged(pair, LAYERS).phi == pytest.approx(-np.pi + 0.002)


def test_without_energy_all_count_the_same():
    three = clusters([0] * 3, [0] * 3, [7, 4, 4], [0.0, 0.003, 0.006], [1.0, 1.01, 1.05], [0.0] * 3)
    result = rows(merged(three, LAYERS))
    assert result.tolist() == [[0, 0, 4, pytest.approx(0.003), pytest.approx(1.02), 0.0]]


def test_shares_of_one_particle_add_up_and_equals_go_to_the_smaller_index():
    given = clusters([0] * 3, [0] * 3, [9, 3, 9], [0.0, 0.001, 0.002], [1.0] * 3, [2.0, 3.0, 2.0])
    assert merged(given, LAYERS).particle.tolist() == [9]
    assert merged(replace(given, energy=np.array([2.0, 4.0, 2.0])), LAYERS).particle.tolist() == [3]


def test_a_curler_that_moves_slowly_along_the_beam_makes_clusters_of_limited_length():
    """200 turns 0.05 cm apart are 9.95 cm, one chain; the longest cluster is 0.55 cm."""
    turns = 200
    z = 0.05 * np.arange(turns)
    result = merged(clusters([0] * turns, [0] * turns, [0] * turns, [1.0] * turns, z, [1.0] * turns), LAYERS)
    expected = int(np.ceil(z[-1] / 0.55))
    assert len(result) == expected == 19
    assert result.energy.sum() == turns
    assert set(result.energy) <= {10.0, 11.0}
    assert all(0.45 < b - a < 0.6 for a, b in pairwise(np.sort(result.z)))


def test_a_track_along_a_layer_makes_clusters_of_limited_width():
    steps = 50
    phi = np.pi - 0.2 + 0.3 / 20 * np.arange(steps)  # across the end of the azimuth
    result = merged(
        clusters([0] * steps, [0] * steps, [0] * steps, between(phi, 0), [0] * steps, [1.0] * steps), LAYERS
    )
    assert len(result) == int(np.ceil(0.3 * (steps - 1) / 1.4)) == 11


def test_nothing_to_do():
    empty = clusters(*[[]] * 6)
    assert len(merged(empty, LAYERS)) == 0
    one = clusters([0], [0], [0], [0.0], [0.0], [1.0])
    assert rows(merged(one, LAYERS)).tolist() == rows(one).tolist()
    rng = np.random.default_rng(0)
    many = clusters(*rng.integers(0, 3, (3, 300)), rng.uniform(-3, 3, 300), rng.uniform(-9, 9, 300), np.ones(300))
    none = replace(LAYERS, merge_rphi=np.zeros(4))
    np.testing.assert_array_equal(rows(merged(many, none)), rows(many))


def test_a_busy_event_is_merged_as_its_layers_are():
    """50,000 at once: the same as one layer after the other, and nothing closer than the merging distance is left."""
    rng = np.random.default_rng(1)
    count = 50_000
    layer = rng.integers(0, 2, count)
    given = clusters(
        np.zeros(count), layer, np.arange(count), rng.uniform(-np.pi, np.pi, count), rng.uniform(-99, 99, count),
        rng.integers(1, 9, count),
    )  # fmt: skip
    layers = replace(LAYERS, merge_rphi=np.array([0.1, 0.2, 0.0, 0.0]), merge_z=np.array([0.1, 0.2, 0.0, 0.0]))
    together = merged(given, layers)
    apart = [merged(given.take(layer == number), layers) for number in (0, 1)]
    np.testing.assert_array_equal(rows(together), np.concatenate([rows(part) for part in apart]))
    assert together.energy.sum() == given.energy.sum()
    lost = (count - len(together)) / count
    pairs = sum(  # expected pairs: each two are close with the share of the surface that one covers
        25_000**2 / 2 * (4 * d * d) / (2 * np.pi * r * 198) for d, r in ((0.1, 20.0), (0.2, 33.0))
    )
    assert lost * count == pytest.approx(pairs, rel=0.05)
