import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fm4npp import objectives
from fm4npp.configuration import FM4NPPConfig
from fm4npp.errors import ConfigurationError, DataError, NotFittedError
from fm4npp.event import Event
from fm4npp.geometry import Geometry
from fm4npp.objectives.k_next_nearest import KNextNearest
from fm4npp.objectives.losses import masked_mean_squared_error
from fm4npp.objectives.moments import Moments
from fm4npp.objectives.neighbours import passed_share
from fm4npp.objectives.next_spacepoint import NextSpacepoint
from fm4npp.processing import FM4NPPProcessor
from tests.test_neighbours import PHI, PLAIN, TPC, brute_force, on_grid, tracks


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
    coordinates[:, 1] = (0.2 * coordinates[:, 1] - 0.1) % 1  # on both sides of the seam
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


BOX = Geometry(system="cartesian", low=(-10, -20, -5), high=(10, 20, 5), periodic=(False,) * 3, causal_axis=0)
WIDE = Geometry(low=(-2, -np.pi, -1), high=(2, np.pi, 80))
"""Its r begins below 0, so coordinates of small r may be rounded below."""


@pytest.mark.parametrize("geometry", [TPC, BOX, WIDE])
@given(coordinates=st.one_of(on_grid(3), on_grid(10, 60), st.integers(0, 90).map(tracks)), k=st.integers(1, 12))
@settings(deadline=None, max_examples=40)
def test_cartesian_neighbours_are_nearest_in_cm(geometry, coordinates, k):
    index, valid = brute_force(geometry.positions(coordinates), geometry.causal_rank(coordinates), k)
    targets = KNextNearest(k=k, metric="cartesian").targets(coordinates, geometry, {})
    np.testing.assert_array_equal(targets["valid"], valid)
    np.testing.assert_array_equal(targets["neighbours"], np.where(valid[..., None], coordinates[index], 0))


@pytest.mark.parametrize("metric", ["normalised", "cartesian"])
@given(coordinates=st.one_of(on_grid(3), on_grid(10, 60)), k=st.integers(1, 12))
@settings(deadline=None, max_examples=25)
def test_unseen_neighbours_are_those_that_come_later_in_the_sequence(metric, coordinates, k):
    objective = KNextNearest(k=k, metric=metric, among="unseen")
    places = BOX.positions(coordinates) if metric == "cartesian" else coordinates
    index, valid = brute_force(places, np.arange(len(coordinates)), k)
    targets = objective.targets(coordinates, BOX, {})
    np.testing.assert_array_equal(targets["valid"], valid)
    np.testing.assert_array_equal(targets["neighbours"], np.where(valid[..., None], coordinates[index], 0))
    assert passed_share([objective.indices(coordinates, BOX)]) == 0


def test_unseen_neighbours_are_fitted_in_the_order_of_the_scan():
    """The offsets to later spacepoints of a scan along z are fitted, whatever order the events come in."""
    z = np.random.default_rng(2).permutation(60) / 6 - 5
    event = Event(
        positions=np.stack([0 * z, 0 * z, z], axis=1), features=np.empty((60, 0)), feature_names=(), detector="lartpc"
    )
    objective = {"type": "k-nnn", "k": 1, "among": "unseen", "targets": "offset"}
    detector = {"type": "cartesian", "name": "lartpc", "low": [-10, -10, -5], "high": [10, 10, 5], "causal_axis": 2}
    config = FM4NPPConfig.create(
        detectors=[detector], serializer="radial", objective=objective, backbone={"type": "mamba2", "width": 32}
    )
    fitted = FM4NPPProcessor(config).fit([event]).config.objective
    assert fitted.mean[0][2] == pytest.approx(1 / 60, rel=1e-4)


def test_cartesian_neighbours_know_of_no_seam_and_are_others_than_the_papers():
    coordinates = np.array([[0.5, 0.001, 0.1], [0.5, 0.999, 0.2], [0.5, 0.2, 0.2]], dtype=np.float32)
    paper, cm = (KNextNearest(k=1, metric=metric).indices(coordinates, TPC) for metric in ("normalised", "cartesian"))
    assert (paper[0], cm[0]) == (2, 1)
    offset = {"k": 1, "targets": "offset", "metric": "cartesian", "mean": [[0, 0, 0]], "std": [[1, 1, 1]]}
    straight, shorter = (
        KNextNearest(**offset, periodic=periodic).targets(coordinates, TPC, {})["neighbours"][0, 0, 1]
        for periodic in (False, True)
    )
    assert (straight, shorter) == pytest.approx((0.998, -0.002), abs=1e-6)


def test_a_position_beyond_all_numbers_is_an_error():
    with pytest.raises(DataError, match="not finite"):
        KNextNearest(metric="cartesian").targets(np.array([[1e4, 0.5, 0.5]], dtype=np.float32), TPC, {})


@pytest.mark.parametrize("metric", ["normalised", "cartesian"])
@pytest.mark.parametrize("targets", ["absolute", "offset"])
@pytest.mark.parametrize("energy", [False, True])
@given(coordinates=st.one_of(on_grid(2), st.integers(0, 80).map(tracks)), periodic=st.booleans())
@settings(deadline=None, max_examples=20)
def test_stored_indices_give_the_same_targets_bit_for_bit(metric, targets, energy, coordinates, periodic):
    features = energies(len(coordinates))
    options = {"k": 5, "targets": targets, "energy": energy, "metric": metric, "periodic": periodic}
    objective = KNextNearest(**options).fit([(tracks(40), energies(40))], TPC)
    indices = objective.indices(coordinates, TPC)
    assert (indices.shape, indices.dtype) == ((len(coordinates), 5), np.uint16)
    np.testing.assert_array_equal(
        indices, KNextNearest(k=5, metric=metric, periodic=periodic).indices(coordinates, TPC)
    )
    without = objective.targets(coordinates, TPC, features)
    for stored in (indices, indices.astype(np.int64)):
        again = objective.targets(coordinates, TPC, features, stored)
        for name, values in without.items():
            assert again[name].dtype == values.dtype
            assert again[name].tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (np.zeros((9, 5), np.uint16), "not those of 10 spacepoints"),
        (np.zeros((10, 4), np.uint16), "compute them again with k = 5"),
        (np.zeros((10, 5)), "float64"),
        (np.full((10, 5), 10, np.uint16), "outside the event"),
        (np.full((10, 5), -1), "outside the event"),
    ],
)
def test_indices_of_another_event_are_an_error(indices, message):
    with pytest.raises(DataError, match=message):
        KNextNearest(k=5).targets(tracks(10), TPC, {}, indices)


def test_an_objective_has_nothing_to_store_unless_it_says_so():
    assert NextSpacepoint().indices(tracks(3), TPC) is None


def test_targets_without_a_neighbour_are_positive_zeros():
    targets = KNextNearest(k=3).targets(-tracks(3), TPC, {})
    assert targets["neighbours"][~targets["valid"]].tobytes() == bytes(4 * 3 * int((~targets["valid"]).sum()))


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
        ({"metric": "manhattan"}, "metric: "),
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
        half = masked_mean_squared_error(predictions, targets.bfloat16(), valid)
    assert loss.dtype == half.dtype == torch.float32
    assert loss.item() == half.item() == pytest.approx(predictions[0, 0].item() ** 2, rel=1e-5)


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
