"""The continuation objective against its definition written out, and the serializer of the same links."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fm4npp import detectors
from fm4npp.errors import DataError, NotFittedError
from fm4npp.links import straightest_links
from fm4npp.objectives.continuation import Continuation
from fm4npp.serializers.tracklets import Tracklets
from fm4npp.testing import check_objective

TPC = detectors.build("sphenix-tpc").geometry
STEPS = (1, 3)


def event(size, seed=0):
    random = np.random.default_rng(seed)
    return random.random((size, 3)).astype(np.float32), {"energy": random.random(size).astype(np.float32) * 100}


def slow_targets(points, energy, nearest):
    """Slot by slot: where the way leads, not scaled; None where it leads nowhere."""
    outer, inner = straightest_links(TPC.positions(points), TPC.outward(points))
    logs = np.log1p(energy.astype(np.float64))
    found = []
    for here in range(len(points)):
        row, ends, passed = [], [], []
        for links in (outer, inner):
            way = [here]
            while links[way[-1]] != way[-1]:
                way.append(links[way[-1]])
            reached = [way[step] for step in STEPS if step < len(way)]
            passed += reached
            for number, step in enumerate(STEPS):
                row.append((way[step], np.mean(logs[reached[: number + 1]])) if step < len(way) else None)
            ends.append(way[-1])
        mean = np.mean(logs[passed]) if passed else logs[here]
        slots = [None if slot is None else (offset(points, here, slot[0]), slot[1]) for slot in row]
        slots += [(points[end].astype(np.float64), mean) for end in ends]
        rank = TPC.causal_rank(points)
        later = [other for other in range(len(points)) if rank[other] > rank[here]]
        later.sort(key=lambda other: np.linalg.norm(offset(points, here, other)))
        slots += [(offset(points, here, other), logs[other]) for other in later[:nearest]]
        found.append(slots + [None] * (nearest - len(later[:nearest])))
    return found


def offset(points, here, other):
    difference = points[other].astype(np.float64) - points[here]
    difference[1] -= np.round(difference[1])  # the shorter way round
    return difference


@given(st.integers(1, 25), st.integers(0, 99))
def test_targets_are_those_of_the_definition(size, seed):
    points, features = event(size, seed)
    objective = Continuation(steps=STEPS, nearest=2, energy=True).fit([(points, features)], TPC)
    found = objective.targets(points, TPC, features)
    values = found["places"] * np.array(objective.std) + np.array(objective.mean)
    expected = slow_targets(points, features["energy"], 2)
    np.testing.assert_array_equal(found["valid"], [[slot is not None for slot in row] for row in expected])
    for row, slots in zip(values, expected, strict=True):
        for value, slot in zip(row, slots, strict=True):
            if slot is not None:
                np.testing.assert_allclose(value, [*slot[0], slot[1]], atol=2e-5)


@pytest.mark.parametrize("nearest", [0, 3])
@pytest.mark.parametrize("energy", [False, True])
def test_the_contract_with_all_options(nearest, energy):
    check_objective(Continuation, steps=(1, 4), nearest=nearest, energy=energy)


def test_stored_indices_give_the_same_targets():
    points, features = event(40)
    objective = Continuation(energy=True).fit([(points, features)], TPC)
    plain = objective.targets(points, TPC, features)
    stored = objective.targets(points, TPC, features, objective.indices(points, TPC))
    for name, values in plain.items():
        np.testing.assert_array_equal(values, stored[name])
    with pytest.raises(DataError, match=r"places of shape \(39, 28\) .* are not those of 40 spacepoints"):
        objective.targets(points, TPC, features, objective.indices(points, TPC)[:-1])


def test_what_is_wrong_is_said():
    points, features = event(5)
    with pytest.raises(NotFittedError, match="call processor.fit"):
        Continuation().targets(points, TPC, features)
    with pytest.raises(ValueError, match="steps: must increase"):
        Continuation(steps=(2, 1))
    with pytest.raises(DataError, match="there is no spacepoint"):
        Continuation().fit([(points[:0], {"energy": np.empty(0)})], TPC)
    with pytest.raises(DataError, match="not finite"):
        Continuation().indices(np.full((2, 3), np.nan), TPC)


def test_the_loss_is_the_mean_over_what_exists():
    points, features = event(30)
    objective = Continuation(steps=STEPS, nearest=2).fit([(points, features)], TPC)
    targets = {name: torch.from_numpy(values) for name, values in objective.targets(points, TPC, features).items()}
    predictions = torch.randn(30, objective.output_size, dtype=torch.float64)
    valid = targets["valid"]
    squares = (predictions.view(30, -1, 3) - targets["places"])[valid].square()
    assert objective.loss(predictions, targets) == pytest.approx(float(squares.mean()))
    assert objective.count(targets) == valid.sum()


def test_tracklets_are_read_one_after_the_other_outwards():
    """Straight tracks, which a raster scan mixes: each is one piece of the sequence."""
    angle, radius = np.linspace(-3, 3, 7), np.linspace(32, 75, 30)
    positions = np.stack(
        [np.outer(np.cos(angle), radius), np.outer(np.sin(angle), radius), np.outer(0.3 * angle, radius)], axis=2
    ).reshape(-1, 3)
    track = np.repeat(np.arange(7), 30)
    shuffled = np.random.default_rng(0).permutation(len(track))
    coordinates = TPC.coordinates(positions[shuffled])
    order = Tracklets().order(coordinates, TPC)
    sequence = track[shuffled][order]
    assert (np.diff(sequence) != 0).sum() == 6
    for number in range(7):
        assert (np.diff(coordinates[order][sequence == number, 2]) > 0).all()
