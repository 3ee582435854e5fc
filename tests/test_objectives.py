import json
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fm4npp import objectives
from fm4npp.errors import ConfigurationError, DataError, NotFittedError
from fm4npp.geometry import Geometry
from fm4npp.objectives import neighbours_blocked
from fm4npp.objectives.k_next_nearest import KNextNearest
from fm4npp.objectives.losses import masked_mean_squared_error
from fm4npp.objectives.moments import Moments
from fm4npp.objectives.neighbours import compiled_search, next_nearest
from fm4npp.objectives.next_spacepoint import NextSpacepoint

TPC = Geometry(low=(-2, -np.pi, 30), high=(2, np.pi, 80), group_boundaries=(40, 57))
PLAIN, PHI = (False, False, False), (False, True, False)
needs_numba = pytest.mark.skipif(compiled_search() is None, reason="numba is not installed")
BOTH = pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_numba)])


def brute_force(coordinates, rank, k, periodic=PLAIN):
    """(index, valid) by sorting all pairs, in float64."""
    points = np.asarray(coordinates, dtype=np.float64)
    index, valid = np.tile(np.arange(len(points))[:, None], k), np.zeros((len(points), k), dtype=bool)
    for i in range(len(points)):
        candidates = [j for j in range(len(points)) if rank[j] > rank[i]]
        distances = {}
        for j in candidates:
            total = 0.0
            for axis in range(3):
                difference = points[j, axis] - points[i, axis]
                if periodic[axis]:
                    difference -= np.floor(difference + 0.5)
                total += difference * difference
            distances[j] = total
        nearest = sorted(candidates, key=lambda j: (distances[j], rank[j]))[:k]
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
@pytest.mark.parametrize("scale", [1, 1e-22, 1e18])
@pytest.mark.parametrize("sample", ["uniform", "tracks", "clusters"])
def test_neighbours_equal_brute_force_on_larger_events(compiled, sample, scale):
    random = np.random.default_rng(0)
    coordinates = {
        "uniform": random.uniform(0, 1, (300, 3)),
        "tracks": tracks(300),
        "clusters": random.uniform(0, 1, (6, 3))[random.integers(0, 6, 300)] + random.normal(0, 1e-6, (300, 3)),
    }[sample]
    coordinates = (coordinates * scale).astype(np.float32)
    rank = TPC.causal_rank(coordinates)
    assert_same(next_nearest(coordinates, rank, 12, compiled=compiled), brute_force(coordinates, rank, 12))


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


def energies(count, seed=0):
    return {"energy": np.random.default_rng(seed).exponential(200, count).astype(np.float32)}


def test_absolute_targets_are_the_neighbours_coordinates():
    coordinates = tracks(40)
    targets = KNextNearest(k=5).targets(coordinates, TPC, {})
    index, valid = brute_force(coordinates, TPC.causal_rank(coordinates), 5)
    np.testing.assert_array_equal(targets["valid"], valid)
    np.testing.assert_array_equal(targets["neighbours"], np.where(valid[..., None], coordinates[index], 0))
    assert targets["neighbours"].dtype == np.float32


@pytest.mark.parametrize("periodic", [False, True])
def test_offset_targets_are_standardised_differences(periodic):
    coordinates, features = tracks(60), energies(60)
    objective = KNextNearest(k=4, targets="offset", energy=True, periodic=periodic).fit([(coordinates, features)], TPC)
    targets = objective.targets(coordinates, TPC, features)
    index, valid = brute_force(coordinates, TPC.causal_rank(coordinates), 4, PHI if periodic else PLAIN)
    offset = coordinates[index].astype(float) - coordinates[:, None]
    if periodic:
        assert (np.abs(offset[:, :, 1]) > 0.5).any()
        offset[:, :, 1] -= np.round(offset[:, :, 1])
    values = np.concatenate([offset, np.log1p(features["energy"].astype(float))[index][:, :, None]], axis=2)
    for slot in range(4):
        seen = values[valid[:, slot], slot]
        expected = (values[:, slot] - seen.mean(axis=0)) / seen.std(axis=0)
        expected = np.where(valid[:, slot, None], expected, 0)
        np.testing.assert_allclose(targets["neighbours"][:, slot], expected, rtol=1e-5, atol=1e-6)


def test_fit_standardises_over_all_events():
    events = [(tracks(n, seed=n), energies(n, seed=n)) for n in (80, 0, 1, 50, 3)]
    objective = KNextNearest(k=6, targets="offset", energy=True).fit(iter(events), TPC)
    made = [objective.targets(coordinates, TPC, features) for coordinates, features in events]
    values = np.concatenate([targets["neighbours"] for targets in made]).astype(float)
    valid = np.concatenate([targets["valid"] for targets in made])
    for slot in range(6):
        np.testing.assert_allclose(values[valid[:, slot], slot].mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(values[valid[:, slot], slot].std(axis=0), 1, atol=1e-5)


def test_absolute_targets_with_energy_scale_the_energy_alone():
    coordinates, features = tracks(60), energies(60)
    objective = KNextNearest(k=4, energy=True)
    assert not objective.fitted
    fitted = objective.fit([(coordinates, features)], TPC)
    with_energy = fitted.targets(coordinates, TPC, features)["neighbours"]
    without = KNextNearest(k=4).targets(coordinates, TPC, {})["neighbours"]
    np.testing.assert_array_equal(with_energy[:, :, :3], without)
    assert abs(with_energy[:-4, :, 3].mean()) < 0.05
    assert fitted.output_size == 16


@given(coordinates=on_grid(2), seed=st.integers(0, 50))
@settings(deadline=None)
def test_the_targets_do_not_depend_on_the_order_of_the_input(coordinates, seed):
    objective = KNextNearest(k=5)
    shuffle = np.random.default_rng(seed).permutation(len(coordinates))
    # Identical points share their targets out among themselves, so compare in causal order.
    plain = objective.targets(coordinates, TPC, {})
    shuffled = objective.targets(coordinates[shuffle], TPC, {})
    for name, values in plain.items():
        expected = values[TPC.causal_order(coordinates)]
        np.testing.assert_array_equal(shuffled[name][TPC.causal_order(coordinates[shuffle])], expected)


@pytest.mark.parametrize("targets", ["absolute", "offset"])
@pytest.mark.parametrize("energy", [False, True])
def test_predicted_coordinates_undo_the_scale(targets, energy):
    coordinates, features = tracks(50), energies(50)
    objective = KNextNearest(k=3, targets=targets, energy=energy).fit([(coordinates, features)], TPC)
    made = objective.targets(coordinates, TPC, features)
    places = objective.predicted_coordinates(made["neighbours"].reshape(50, -1), coordinates)
    index, valid = brute_force(coordinates, TPC.causal_rank(coordinates), 3)
    np.testing.assert_allclose(places[valid], coordinates[index][valid], atol=1e-6)


def test_what_needs_a_fit_says_so():
    assert KNextNearest().fitted
    assert KNextNearest().fit([], TPC) == KNextNearest()
    for objective in (KNextNearest(targets="offset"), KNextNearest(energy=True)):
        with pytest.raises(NotFittedError, match=r"processor\.fit"):
            objective.targets(tracks(3), TPC, energies(3))
        with pytest.raises(NotFittedError):
            objective.predicted_coordinates(np.zeros((3, objective.output_size)), tracks(3))
        with pytest.raises(DataError, match="no spacepoint has a neighbour"):
            objective.fit([(tracks(1), energies(1)), (tracks(0), energies(0))], TPC)


def test_energy_must_be_there_and_above_minus_one():
    objective = KNextNearest(energy=True)
    with pytest.raises(ConfigurationError, match=r"needs the feature 'energy'.*charge"):
        objective.fit([(tracks(3), {"charge": np.ones(3)})], TPC)
    with pytest.raises(DataError, match="not above -1"):
        objective.fit([(tracks(3), {"energy": np.array([1, 2, -1.0])})], TPC)


@pytest.mark.parametrize("targets", ["absolute", "offset"])
def test_k_next_nearest_survives_json(targets):
    objective = KNextNearest(k=3, targets=targets, energy=True).fit([(tracks(50), energies(50))], TPC)
    spec = json.loads(json.dumps(objective.spec()))
    assert spec["targets"] == targets
    restored = objectives.build(spec)
    assert restored == objective
    made, again = (o.targets(tracks(20), TPC, energies(20)) for o in (objective, restored))
    np.testing.assert_array_equal(made["neighbours"], again["neighbours"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"k": 0}, "k: "),
        ({"targets": "relative"}, "targets: "),
        ({"frame": "offset"}, "frame: unknown key"),
        ({"k": 1, "targets": "offset", "mean": [[0, 0, 0]]}, "belong together"),
        ({"k": 2, "targets": "offset", "mean": [[0, 0, 0]], "std": [[1, 1, 1]]}, "mean: 2 rows of 3"),
        ({"k": 1, "targets": "offset", "mean": [[0, 0, 0]], "std": [[1, 1, 1, 1]]}, "std: 1 rows of 3"),
        ({"k": 1, "targets": "offset", "mean": [[0, 0, 0]], "std": [[1, 0, 1]]}, "std: must be positive"),
        ({"k": 1, "mean": [[0.1, 0, 0]], "std": [[1, 1, 1]]}, "absolute coordinates are not scaled"),
    ],
)
def test_wrong_fields_are_an_error(fields, message):
    with pytest.raises(ConfigurationError, match=message):
        objectives.build({"type": "k-nnn", **fields})


def test_moments_of_constant_and_of_unseen_numbers():
    moments = Moments((2, 1))
    for _ in range(1000):
        moments.add(np.array([[[0.1], [0.0]]]), np.array([[True, False]]))
    mean, std = moments.mean_and_std()
    np.testing.assert_allclose(mean, [[0.1], [0]])
    assert std.tolist() == [[1], [1]]


def packed(objective, sizes, seed=0):
    made = [objective.targets(tracks(n, seed + n), TPC, energies(n)) for n in sizes]
    return {name: torch.from_numpy(np.concatenate([targets[name] for targets in made])) for name in made[0]}


def test_loss_equals_a_loop():
    objective = KNextNearest(k=4)
    targets = packed(objective, (10, 1, 3))
    predictions = torch.randn(14, 12, generator=torch.Generator().manual_seed(0))
    total, count = 0.0, 0
    for row in range(14):
        for slot in range(4):
            for axis in range(3):
                if targets["valid"][row, slot]:
                    difference = (
                        predictions[row, slot * 3 + axis].item() - targets["neighbours"][row, slot, axis].item()
                    )
                    total, count = total + difference**2, count + 1
    assert count == 3 * int(targets["valid"].sum())
    assert objective.loss(predictions, targets).item() == pytest.approx(total / count, rel=1e-6)


def test_loss_of_the_perfect_prediction_is_zero():
    for objective in (KNextNearest(k=4), NextSpacepoint()):
        targets = packed(objective, (10, 1, 3))
        values = next(v for v in targets.values() if v.is_floating_point())
        predictions = values.reshape(14, -1).clone().requires_grad_()
        loss = objective.loss(predictions, targets)
        loss.backward()
        assert loss.item() == 0
        assert not predictions.grad.any()


def test_what_is_masked_is_ignored_whatever_it_holds():
    objective = KNextNearest(k=4)
    targets = packed(objective, (10, 1, 3))
    predictions = torch.randn(14, 12)
    expected = objective.loss(predictions, targets)
    masked = (~targets["valid"])[:, :, None].expand(-1, -1, 3)
    for number in (float("nan"), float("inf"), 1e30):
        spoilt = predictions.view(14, 4, 3).masked_fill(masked, number).view(14, 12).requires_grad_()
        garbage = {**targets, "neighbours": targets["neighbours"].masked_fill(masked, -number)}
        loss = objective.loss(spoilt, garbage)
        loss.backward()
        assert torch.equal(loss, expected)
        assert spoilt.grad.isfinite().all()
        assert not spoilt.grad.view(14, 4, 3)[masked].any()


@pytest.mark.parametrize("sizes", [(1, 1, 1), (0,)])
@pytest.mark.parametrize("objective", [KNextNearest(k=4), NextSpacepoint()])
def test_loss_of_nothing_is_zero_with_a_zero_gradient(objective, sizes):
    predictions = torch.randn(sum(sizes), objective.output_size, requires_grad=True)
    loss = objective.loss(predictions, packed(objective, sizes))
    loss.backward()
    assert loss.item() == 0
    assert predictions.grad is not None
    assert not predictions.grad.any()


def test_loss_is_summed_in_single_precision():
    targets, valid = torch.zeros(100_000, 3), torch.ones(100_000, dtype=torch.bool)
    predictions = torch.full((100_000, 3), 0.1, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = masked_mean_squared_error(predictions, targets, valid)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(predictions[0, 0].item() ** 2, rel=1e-5)


def test_gradient_of_the_loss():
    targets, valid = torch.randn(5, 2, 3).double(), torch.tensor([[1, 1], [1, 0], [0, 0], [1, 1], [0, 1]]).bool()
    predictions = torch.randn(5, 2, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: masked_mean_squared_error(p, targets, valid), predictions)


def test_next_spacepoint_is_the_next_of_the_sequence():
    coordinates = tracks(5)
    targets = NextSpacepoint().targets(coordinates, TPC, {})
    np.testing.assert_array_equal(targets["coordinates"], [*coordinates[1:], np.zeros(3)])
    assert targets["valid"].tolist() == [True] * 4 + [False]
    assert NextSpacepoint().output_size == 3
