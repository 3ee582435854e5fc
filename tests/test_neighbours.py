import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fm4npp.errors import ConfigurationError, DataError
from fm4npp.geometry import Geometry
from fm4npp.objectives import neighbours, neighbours_blocked
from fm4npp.objectives.neighbours import compact, compiled_search, exists, next_nearest, passed_share

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
    np.testing.assert_array_equal(exists(actual), expected[1])
    np.testing.assert_array_equal(actual, expected[0])


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
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(neighbours_blocked.ROWS_PER_BLOCK, "cpu", rows)
        actual = next_nearest(coordinates, rank, k, compiled=False)
    assert_same(actual, brute_force(coordinates, rank, k))


def test_compiled_equals_fallback_where_many_are_equally_far():
    """Events longer than a block, of few distinct distances: limits cannot separate the k nearest from the rest."""
    for seed in range(400):
        random = np.random.default_rng(seed)
        steps, k = random.choice([1, 3, 5]), int(random.integers(1, 41))
        coordinates = (random.integers(0, steps + 1, (random.integers(100, 151), 3)) / steps).astype(np.float32)
        rank = TPC.causal_rank(coordinates)
        found = next_nearest(coordinates, rank, k, compiled=False)
        np.testing.assert_array_equal(next_nearest(coordinates, rank, k), found, err_msg=f"seed {seed}")
        if seed < 20:
            assert_same(found, brute_force(coordinates, rank, k))


@BOTH
@pytest.mark.parametrize("size", [6, 8])
@pytest.mark.parametrize("k", [1, 26, 30, 200])
def test_voxels_have_neighbours_in_order_of_rank(compiled, size, k):
    coordinates = np.stack(np.meshgrid(*[np.arange(size)] * 3), axis=-1).reshape(-1, 3).astype(np.float32)
    coordinates = np.random.default_rng(0).permutation(coordinates)
    rank = TPC.causal_rank(coordinates)
    assert_same(next_nearest(coordinates, rank, k, compiled=compiled), brute_force(coordinates, rank, k))


@BOTH
def test_identical_points_are_neighbours_in_order_of_rank(compiled):
    coordinates, rank = np.zeros((300, 3)), np.random.default_rng(0).permutation(300)
    assert_same(next_nearest(coordinates, rank, 7, compiled=compiled), brute_force(coordinates, rank, 7))


@BOTH
@pytest.mark.parametrize("points", [tracks(400), np.random.default_rng(2).uniform(0, 1, (400, 3)), np.zeros((90, 3))])
def test_an_outward_bound_changes_no_neighbour(compiled, points):
    """Distances in cm, and the radius as the bound: found at a radius alone, where |r - r'| is the distance."""
    coordinates = points.astype(np.float32)
    coordinates[::3, :2] = coordinates[0, :2]
    rank, positions = TPC.causal_rank(coordinates), TPC.positions(coordinates)
    outward = coordinates[:, 2] * 50.0 + 30.0
    expected = brute_force(positions, rank, 20)
    assert_same(next_nearest(positions, rank, 20, outward=outward, compiled=compiled), expected)
    assert_same(next_nearest(positions, rank, 20, outward=np.zeros(len(rank)), compiled=compiled), expected)
    assert_same(next_nearest(positions, rank, 20, compiled=compiled), expected)


def test_the_fallback_is_bounded_in_memory_and_never_looks_at_all_pairs(monkeypatch):
    sizes, measure = [], neighbours_blocked.squared_distances

    def counted(origins, points, periodic):
        sizes.append(origins.shape[1] * points.shape[2])
        return measure(origins, points, periodic)

    monkeypatch.setattr(neighbours_blocked, "squared_distances", counted)
    monkeypatch.setitem(neighbours_blocked.PAIRS_PER_BLOCK, "cpu", 2**15)
    coordinates = np.random.default_rng(0).uniform(0, 1, (3000, 3)).astype(np.float32)
    next_nearest(coordinates, TPC.causal_rank(coordinates), 5, compiled=False)
    assert max(sizes) <= 2**15
    assert sum(sizes) < 3000**2 / 4


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
        np.testing.assert_array_equal(*both)


@BOTH
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_small_events(compiled, count):
    coordinates = tracks(count)
    index = next_nearest(coordinates, TPC.causal_rank(coordinates), 30, compiled=compiled)
    valid = exists(index)
    assert (index.shape, index.dtype, valid.shape) == ((count, 30), np.int64, (count, 30))
    assert sorted(valid.sum(axis=1)) == list(range(count))
    np.testing.assert_array_equal(index[~valid], np.nonzero(~valid)[0])


@BOTH
def test_a_periodic_axis_wraps(compiled):
    coordinates = np.array([[0.5, 0.01, 0.1], [0.5, 0.98, 0.2], [0.5, 0.30, 0.2]], dtype=np.float32)
    rank = np.arange(3)
    assert next_nearest(coordinates, rank, 1, PLAIN, compiled=compiled)[0] == 2
    assert next_nearest(coordinates, rank, 1, PHI, compiled=compiled)[0] == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200])
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


@pytest.mark.gpu
@pytest.mark.parametrize("periodic", [PLAIN, PHI])
def test_a_gpu_gives_the_same_indices(periodic):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    voxels = np.random.default_rng(0).integers(0, 12, (3000, 3)) / 12
    for coordinates in (tracks(6000), voxels.astype(np.float32)):
        rank = TPC.causal_rank(coordinates)
        on_cpu = next_nearest(coordinates, rank, 30, periodic, compiled=False)
        np.testing.assert_array_equal(next_nearest(coordinates, rank, 30, periodic, device="cuda"), on_cpu)


def test_a_device_is_torchs_business(monkeypatch):
    monkeypatch.setattr(neighbours, "compiled_search", lambda: pytest.fail("numba has no devices"))
    coordinates = tracks(50)
    rank = TPC.causal_rank(coordinates)
    assert_same(next_nearest(coordinates, rank, 4, device="cpu"), brute_force(coordinates, rank, 4))


@pytest.mark.parametrize(("count", "dtype"), [(0, np.uint16), (2**16, np.uint16), (2**16 + 1, np.uint32)])
def test_compact_indices_lose_nothing(count, dtype):
    index = np.arange(count)[:, None]
    assert compact(index).dtype == dtype
    np.testing.assert_array_equal(compact(index), index)
    assert not exists(compact(index)).any()


def test_passed_share_is_what_a_loop_counts():
    events = [tracks(120), tracks(0), tracks(1), tracks(60, seed=1)]
    passed = total = 0
    indices = []
    for coordinates in events:
        scanned = coordinates[np.random.default_rng(0).permutation(len(coordinates))]
        index, valid = brute_force(scanned, TPC.causal_rank(scanned), 6)
        for i, slot in zip(*np.nonzero(valid), strict=True):
            passed += index[i, slot] < i
            total += 1
        indices.append(next_nearest(scanned, TPC.causal_rank(scanned), 6))
    assert 0.2 < passed / total < 0.8
    assert passed_share(iter(indices)) == passed / total
    assert passed_share([]) == passed_share(indices[1:3]) == 0
    outwards = events[0][TPC.causal_order(events[0])]
    assert passed_share([next_nearest(outwards, np.arange(120), 6)]) == 0


def test_importing_the_objective_does_not_import_torch():
    code = "import sys, fm4npp.objectives.k_next_nearest; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
