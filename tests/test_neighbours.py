import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fm4npp.errors import ConfigurationError, DataError
from fm4npp.geometry import Geometry
from fm4npp.objectives import neighbours_blocked
from fm4npp.objectives.neighbours import compiled_search, next_nearest

TPC = Geometry(low=(-2, -np.pi, 30), high=(2, np.pi, 80), group_boundaries=(40, 57))
PLAIN, PHI = (False, False, False), (False, True, False)
needs_numba = pytest.mark.skipif(compiled_search() is None, reason="numba is not installed")
BOTH = pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_numba)])


def brute_force(coordinates, rank, k, periodic=PLAIN):
    """(index, valid) by measuring and sorting all pairs, in float64."""
    points = np.asarray(coordinates, dtype=np.float64)
    index, valid = np.tile(np.arange(len(points))[:, None], k), np.zeros((len(points), k), dtype=bool)
    for i in range(len(points)):
        x, y, z = (points - points[i]).T
        x, y, z = (d - np.floor(d + 0.5) if wraps else d for d, wraps in zip((x, y, z), periodic, strict=True))
        by_distance = np.lexsort((rank, x * x + y * y + z * z))
        nearest = [j for j in by_distance if rank[j] > rank[i]][:k]
        index[i, : len(nearest)], valid[i, : len(nearest)] = nearest, True
    return index, valid


def assert_same(actual, expected):
    np.testing.assert_array_equal(actual[1], expected[1])
    np.testing.assert_array_equal(actual[0], expected[0])


def on_grid(steps, max_size=24):
    """Coordinates on a coarse grid, so that ties and duplicates are common; thirds and tenths are not exact."""
    values = st.integers(0, steps).map(lambda step: step / steps)
    return st.integers(0, max_size).flatmap(lambda n: arrays(np.float32, (n, 3), elements=values))


def tracks(count, seed=0):
    """Straight tracks through 48 layers: r takes few values, neighbours are far from uniform."""
    random = np.random.default_rng(seed)
    layer = random.integers(0, 48, count) / 47
    direction = random.uniform(0, 1, (count // 30 + 1, 2))[random.integers(0, count // 30 + 1, count)]
    points = np.concatenate([direction + random.normal(0, 0.003, (count, 2)), layer[:, None]], axis=1)
    return points.astype(np.float32)


@BOTH
@pytest.mark.parametrize("periodic", [PLAIN, PHI, (True, True, True)])
@given(coordinates=st.sampled_from([1, 2, 4, 10]).flatmap(on_grid), k=st.integers(1, 30))
@settings(deadline=None, max_examples=60)
def test_neighbours_equal_brute_force_with_ties_and_duplicates(compiled, periodic, coordinates, k):
    rank = TPC.causal_rank(coordinates)
    expected = brute_force(coordinates, rank, k, periodic)
    assert_same(next_nearest(coordinates, rank, k, periodic, compiled=compiled), expected)


@BOTH
@given(coordinates=on_grid(3), k=st.integers(1, 5), seed=st.integers(0, 50))
@settings(deadline=None, max_examples=60)
def test_neighbours_equal_brute_force_for_any_rank(compiled, coordinates, k, seed):
    rank = np.random.default_rng(seed).permutation(len(coordinates))
    assert_same(next_nearest(coordinates, rank, k, compiled=compiled), brute_force(coordinates, rank, k))


@given(coordinates=st.sampled_from([2, 10]).flatmap(on_grid), k=st.integers(1, 4), rows=st.integers(1, 5))
@settings(deadline=None, max_examples=100)
def test_small_blocks_look_as_far_out_as_they_must(coordinates, k, rows):
    rank = TPC.causal_rank(coordinates)
    before = neighbours_blocked.ROWS_PER_BLOCK
    try:
        neighbours_blocked.ROWS_PER_BLOCK = rows
        actual = next_nearest(coordinates, rank, k, compiled=False)
    finally:
        neighbours_blocked.ROWS_PER_BLOCK = before
    assert_same(actual, brute_force(coordinates, rank, k))


@BOTH
@pytest.mark.parametrize("periodic", [PLAIN, (True, True, True)])
@pytest.mark.parametrize("scale", [1, 1e-22, 1e22])
@pytest.mark.parametrize("sample", ["uniform", "tracks", "clusters"])
def test_neighbours_equal_brute_force_on_larger_events(compiled, sample, scale, periodic):
    random = np.random.default_rng(0)
    coordinates = {
        "uniform": random.uniform(0, 1, (300, 3)),
        "tracks": tracks(300),
        "clusters": random.uniform(0, 1, (6, 3))[random.integers(0, 6, 300)] + random.normal(0, 1e-6, (300, 3)),
    }[sample]
    coordinates = (coordinates * scale).astype(np.float32)
    rank = TPC.causal_rank(coordinates)
    expected = brute_force(coordinates, rank, 12, periodic)
    assert_same(next_nearest(coordinates, rank, 12, periodic, compiled=compiled), expected)


@BOTH
def test_distances_across_the_seam_are_exact(compiled):
    random = np.random.default_rng(0)
    coordinates = np.full((60, 3), 0.5, dtype=np.float32)
    coordinates[:, 1] = np.where(
        random.random(60) < 0.5, 1 - random.exponential(5e-7, 60), random.exponential(3e-7, 60)
    )
    rank = TPC.causal_rank(coordinates)
    expected = brute_force(coordinates, rank, 3, PHI)
    assert_same(next_nearest(coordinates, rank, 3, PHI, compiled=compiled), expected)


@needs_numba
@pytest.mark.parametrize("periodic", [PLAIN, PHI])
@pytest.mark.parametrize("k", [1, 30, 70])
def test_both_searches_agree_bit_for_bit(periodic, k):
    for coordinates in (tracks(2500), np.random.default_rng(1).uniform(0, 1, (1500, 3)).astype(np.float32)):
        rank = TPC.causal_rank(coordinates)
        both = [next_nearest(coordinates, rank, k, periodic, compiled=compiled) for compiled in (False, True)]
        assert_same(*both)


@BOTH
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_small_events(compiled, count):
    coordinates = tracks(count)
    index, valid = next_nearest(coordinates, TPC.causal_rank(coordinates), 30, compiled=compiled)
    assert (index.shape, index.dtype, valid.shape) == ((count, 30), np.int64, (count, 30))
    assert sorted(valid.sum(axis=1)) == list(range(count))
    np.testing.assert_array_equal(index[~valid], np.nonzero(~valid)[0])


@BOTH
def test_a_periodic_axis_wraps(compiled):
    coordinates = np.array([[0.5, 0.01, 0.1], [0.5, 0.98, 0.2], [0.5, 0.30, 0.2]], dtype=np.float32)
    rank = np.arange(3)
    assert next_nearest(coordinates, rank, 1, PLAIN, compiled=compiled)[0][0] == 2
    assert next_nearest(coordinates, rank, 1, PHI, compiled=compiled)[0][0] == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_coordinate_that_is_not_finite_is_an_error(value):
    with pytest.raises(DataError, match="not finite"):
        next_nearest(np.array([[0, value, 0]]), np.arange(1), 1)


def test_numba_missing_is_an_error_only_if_it_is_asked_for(monkeypatch):
    monkeypatch.setattr("fm4npp.objectives.neighbours.compiled_search", lambda: None)
    next_nearest(tracks(5), np.arange(5), 2)
    with pytest.raises(ConfigurationError, match=r"fm4npp\[fast\]"):
        next_nearest(tracks(5), np.arange(5), 2, compiled=True)


@BOTH
def test_a_large_event_needs_no_matrix_of_all_pairs(compiled):
    coordinates = np.random.default_rng(0).uniform(0, 1, (10_000, 3)).astype(np.float32)
    rank = TPC.causal_rank(coordinates)
    next_nearest(coordinates[:10], np.arange(10), 30, compiled=compiled)
    tracemalloc.start()
    try:
        next_nearest(coordinates, rank, 30, compiled=compiled)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 30e6  # a boolean matrix of all pairs would be 100 MB
