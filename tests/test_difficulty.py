import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fm4npp import objectives
from fm4npp.errors import ConfigurationError, DataError, NotFittedError
from fm4npp.objectives.difficulty import bin_weight, event_difficulty, fit_difficulty_bins, spacepoint_weights
from fm4npp.objectives.k_next_nearest import KNextNearest
from fm4npp.processing import FM4NPPProcessor
from fm4npp.testing import check_objective
from tests.conftest import tiny_config
from tests.test_neighbours import PHI, PLAIN, TPC, brute_force, on_grid, tracks

KINDS = pytest.mark.parametrize("rescale", ["difficulty", "inverse"])
SIZES = (80, 0, 1, 20, 2, 200, 45)
SCALED = {"targets": "offset", "energy": True}


def energies(count):
    return {"energy": np.random.default_rng(count).exponential(200, count).astype(np.float32)}


def spread(coordinates, factor):
    """The same event, stretched in eta and phi."""
    return (coordinates * np.array([factor, factor, 1])).astype(np.float32)


EVENTS = [(spread(tracks(size, size), 1 + 0.1 * size), energies(size)) for size in SIZES]


def slow_difficulty(places, rank, k, periodic=PLAIN):
    """Mean distance over all pairs, one by one; None if there is no pair."""
    index, valid = brute_force(places, rank, k, periodic)
    found = []
    for i, j in np.argwhere(valid):
        difference = [float(a) - float(b) for a, b in zip(places[index[i, j]], places[i], strict=True)]
        difference = [d - round(d) if wraps else d for d, wraps in zip(difference, periodic, strict=True)]
        found.append(sum(d * d for d in difference) ** 0.5)
    return sum(found) / len(found) if found else None


@pytest.mark.parametrize(("metric", "periodic"), [("normalised", False), ("normalised", True), ("cartesian", False)])
@given(coordinates=st.one_of(on_grid(3), on_grid(10), st.integers(0, 50).map(tracks)), k=st.integers(1, 8))
@settings(deadline=None, max_examples=10)
def test_difficulty_is_the_mean_distance_of_the_neighbours_that_exist(metric, periodic, coordinates, k):
    objective = KNextNearest(k=k, metric=metric, periodic=periodic)
    places = TPC.positions(coordinates) if metric == "cartesian" else coordinates
    axes = PHI if periodic else PLAIN
    index = objective.indices(coordinates, TPC).astype(np.int64)
    expected = slow_difficulty(places, TPC.causal_rank(coordinates), k, axes)
    assert event_difficulty(places, index, axes) == pytest.approx(expected or 0, rel=1e-12)


@given(coordinates=st.one_of(on_grid(3), st.integers(0, 80).map(tracks)), seed=st.integers(0, 50))
@settings(deadline=None, max_examples=40)
def test_difficulty_does_not_depend_on_the_order_of_the_input(coordinates, seed):
    shuffled = coordinates[np.random.default_rng(seed).permutation(len(coordinates))]
    found = [event_difficulty(c, KNextNearest(k=5).indices(c, TPC), PLAIN) for c in (coordinates, shuffled)]
    assert found[0] == found[1]


NUMBERS = st.one_of(st.sampled_from([0.1, 0.2, 0.3, np.nextafter(0.3, 1), 0.7]), st.floats(1e-9, 1e3))


@KINDS
@given(values=st.lists(NUMBERS, min_size=1, max_size=40), num_bins=st.integers(1, 8))
@settings(deadline=None, max_examples=100)
def test_bins_are_those_of_a_loop_and_weigh_one_in_the_mean(rescale, values, num_bins):
    edges, weights = fit_difficulty_bins([0.0, *values, 0.0], num_bins, rescale)
    assert len(edges) + 1 == len(weights) <= num_bins
    bins = [[v for v in values if sum(v >= edge for edge in edges) == number] for number in range(len(weights))]
    assert all(bins)
    assert all(max(low) < edge <= min(high) for low, edge, high in zip(bins, edges, bins[1:], strict=False))
    means = np.array([sum(members) / len(members) for members in bins])
    expected = means if rescale == "difficulty" else 1 / means
    np.testing.assert_allclose(weights / weights[0], expected / expected[0], rtol=1e-12)
    assert np.mean([bin_weight(v, edges, weights) for v in values]) == pytest.approx(1, rel=1e-12)
    KNextNearest(
        rescale=rescale,
        difficulty_bins=num_bins,
        difficulty_edges=edges.tolist(),
        difficulty_weights=weights.tolist(),
    )


def test_bins_hold_equally_many_events_and_lie_between_them():
    edges, weights = fit_difficulty_bins([8, 1, 2, 7, 3, 6, 4, 5], 4, "difficulty")
    assert edges.tolist() == [2.5, 4.5, 6.5]
    np.testing.assert_allclose(weights, np.array([1.5, 3.5, 5.5, 7.5]) / 4.5)


def test_events_beyond_those_fitted_belong_to_the_outer_bins():
    assert [bin_weight(value, [1.0, 2.0], [0.5, 1.0, 1.5]) for value in (0.0, 1e-9, 1.0, 2.0, 1e9)] == [
        0.5,
        0.5,
        1.0,
        1.5,
        1.5,
    ]


def test_weights_are_shared_among_spacepoints_with_a_neighbour():
    shared = spacepoint_weights(np.array([[1, 2], [2, 1], [2, 2]]), 3.0)
    assert {name: values.tolist() for name, values in shared.items()} == {
        "share": [0.5, 0.5, 0],
        "weight": [1.5, 1.5, 0],
    }
    assert all(values.dtype == np.float32 for values in shared.values())


def slow_loss(objective, predictions, events):
    """The paper's formula, event by event and number by number, in float64."""
    total = num_events = 0
    for rows, (coordinates, features) in zip(predictions, events, strict=True):
        plain = objective.replace(rescale="none", difficulty_edges=None, difficulty_weights=None)
        targets = plain.targets(coordinates, TPC, features)
        errors = []
        for row, neighbours, valid in zip(rows, targets["neighbours"], targets["valid"], strict=True):
            squares = [
                (float(a) - float(b)) ** 2
                for predicted, neighbour, there in zip(row.reshape(objective.k, -1), neighbours, valid, strict=True)
                for a, b in zip(predicted, neighbour, strict=True)
                if there
            ]
            errors += [sum(squares) / len(squares)] if squares else []
        difficulty = slow_difficulty(coordinates, TPC.causal_rank(coordinates), objective.k)
        if difficulty is not None:
            weight = objective.difficulty_weights[sum(difficulty >= edge for edge in objective.difficulty_edges)]
            total, num_events = total + weight * sum(errors) / len(errors), num_events + 1
    return total / num_events


def packed(objective, events):
    made = [objective.targets(coordinates, TPC, features) for coordinates, features in events]
    return {name: torch.from_numpy(np.concatenate([targets[name] for targets in made])) for name in made[0]}


@KINDS
@pytest.mark.parametrize("fields", [{}, SCALED])
def test_loss_of_a_packed_batch_is_the_papers_formula(rescale, fields):
    objective = KNextNearest(k=6, rescale=rescale, **fields).fit(EVENTS, TPC)
    assert len(set(objective.difficulty_weights)) == 4
    rows = [np.random.default_rng(size).normal(size=(size, objective.output_size)) for size in SIZES]
    loss = objective.loss(torch.from_numpy(np.concatenate(rows)).float(), packed(objective, EVENTS))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(slow_loss(objective, rows, EVENTS), rel=2e-6)


def test_what_is_masked_has_no_part_in_loss_and_gradient():
    objective = KNextNearest(k=6, rescale="difficulty").fit(EVENTS, TPC)
    targets = packed(objective, EVENTS)
    masked = (~targets["valid"])[:, :, None].expand(-1, -1, 3)
    predictions = torch.randn(masked.shape)
    expected = objective.loss(predictions.flatten(1), targets)
    spoilt = predictions.masked_fill(masked, torch.nan).requires_grad_()
    loss = objective.loss(spoilt.flatten(1), targets)
    loss.backward()
    assert torch.equal(loss, expected)
    assert spoilt.grad[~masked].all()
    assert not spoilt.grad[masked].any()


def test_events_without_neighbours_contribute_nothing():
    objective = KNextNearest(k=3, rescale="inverse").fit(EVENTS, TPC)
    lonely = [event for event in EVENTS if len(event[0]) <= 1]
    some = [event for event in EVENTS if len(event[0]) > 1]
    predictions = torch.randn(sum(len(event[0]) for event in some), 9)
    loss = objective.loss(predictions, packed(objective, some))
    more = objective.loss(torch.cat([predictions, torch.randn(1, 9)]), packed(objective, some + lonely))
    assert more.item() == pytest.approx(loss.item(), rel=1e-6)
    alone = torch.randn(1, 9, requires_grad=True)
    nothing = objective.loss(alone, packed(objective, lonely))
    nothing.backward()
    assert nothing.item() == 0
    assert not alone.grad.any()


def test_the_number_of_events_is_exact_in_a_large_batch():
    coordinates = tracks(7)
    objective = KNextNearest(k=2, rescale="difficulty").fit([(coordinates, {})], TPC)
    assert objective.difficulty_weights == (1,)
    batch = packed(objective, [(coordinates, {})] * 1000)
    predictions = batch["neighbours"].flatten(1) + 1
    assert objective.loss(predictions, batch).item() == pytest.approx(1, rel=1e-6)


@KINDS
@pytest.mark.parametrize("metric", ["normalised", "cartesian"])
@pytest.mark.parametrize("fields", [{}, SCALED])
def test_rescaled_objectives_keep_the_contract(rescale, metric, fields):
    check_objective(KNextNearest, rescale=rescale, metric=metric, k=5, **fields)


def test_without_rescale_nothing_changes():
    plain, rescaled = (KNextNearest(k=6, rescale=r, **SCALED).fit(EVENTS, TPC) for r in ("none", "difficulty"))
    assert (plain.mean, plain.std) == (rescaled.mean, rescaled.std)
    before, after = packed(plain, EVENTS), packed(rescaled, EVENTS)
    assert {*before} == {"neighbours", "valid"}
    assert {*after} == {*before, "share", "weight"}
    assert all(torch.equal(after[name], values) for name, values in before.items())
    predictions = torch.randn(sum(SIZES), plain.output_size)
    difference = (predictions.view_as(before["neighbours"]) - before["neighbours"]).masked_fill(
        ~before["valid"][..., None], 0
    )
    expected = difference.square().sum() / (4 * before["valid"].sum())
    assert torch.equal(plain.loss(predictions, before), expected)


def test_processor_fits_saves_and_uses_cached_indices(events, tmp_path):
    def fitted(**fields):
        return FM4NPPProcessor(tiny_config(objective={"type": "k-nnn", "k": 4, **fields})).fit(events)

    processor, plain = fitted(rescale="difficulty"), fitted()
    assert processor.index_key("sphenix-tpc") == plain.index_key("sphenix-tpc")
    processor.save_pretrained(tmp_path)
    again = FM4NPPProcessor.from_pretrained(tmp_path)
    objective = again.config.objective
    assert objective == processor.config.objective
    assert len(objective.difficulty_weights) == 4
    found = []
    for event in events:
        order, indices = again.indices(event)
        targets = again.prepare(event, order=order, indices=indices).targets
        expected = processor.prepare(event).targets
        assert all(targets[name].tobytes() == values.tobytes() for name, values in expected.items())
        if targets["valid"].any():
            found.append(targets["weight"].max() / targets["share"].max())
    # Fitted in the order of the file and used in the serializer's: every event is still in the bin it was fitted in.
    counts = [np.isclose(found, weight).sum() for weight in objective.difficulty_weights]
    assert sum(counts) == len(found) > 8
    assert max(counts) - min(counts) <= 1
    assert np.mean(found) == pytest.approx(1, rel=1e-6)


def test_what_needs_a_fit_says_so():
    objective = KNextNearest(rescale="difficulty")
    assert not objective.fitted
    with pytest.raises(NotFittedError, match=r"rescale.*processor\.fit"):
        objective.targets(tracks(3), TPC, {})
    assert objective.predicted_coordinates(np.zeros((3, 90)), tracks(3)).shape == (3, 30, 3)
    with pytest.raises(DataError, match="no spacepoint has a neighbour at a distance"):
        objective.fit([(tracks(1), {}), (np.zeros((4, 3)), {})], TPC)


@KINDS
def test_bins_survive_json(rescale):
    objective = KNextNearest(k=3, rescale=rescale, difficulty_bins=2).fit(EVENTS, TPC)
    assert objectives.build(json.loads(json.dumps(objective.spec()))) == objective


GOOD = {"rescale": "difficulty", "difficulty_edges": [0.1, 0.2], "difficulty_weights": [0.5, 1, 1.5]}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rescale": "size"}, "rescale: "),
        ({"difficulty_bins": 0}, "difficulty_bins: "),
        ({**GOOD, "difficulty_weights": None}, "belong together"),
        ({**GOOD, "rescale": "none"}, "with rescale only"),
        ({**GOOD, "difficulty_bins": 2}, "at most 2 are needed"),
        ({**GOOD, "difficulty_weights": [1, 2]}, "at most 4 are needed, one more than edges"),
        ({**GOOD, "difficulty_edges": [0, 0.2]}, "above 0 and increase"),
        ({**GOOD, "difficulty_edges": [0.2, 0.2]}, "above 0 and increase"),
        ({**GOOD, "difficulty_weights": [0, 1, 1.5]}, "must be positive"),
        ({**GOOD, "rescale": "inverse"}, "not those of this rescale"),
    ],
)
def test_wrong_fields_are_an_error(fields, message):
    objectives.build({"type": "k-nnn", **GOOD})
    with pytest.raises(ConfigurationError, match=message):
        objectives.build({"type": "k-nnn", **fields})
