import itertools
import math
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fm4npp.errors import ConfigurationError
from fm4npp.heads import assignment, mask_sums
from fm4npp.heads.assignment import assign
from fm4npp.heads.matching import TrackLoss, event_sums, matching_cost, pair_dice, pair_focal, track_losses
from fm4npp.heads.true_tracks import choose_num_queries, true_tracks

ALPHA, GAMMA = 0.25, 2.0


def naive_terms(z, alpha=ALPHA, gamma=GAMMA):
    """Probability, focal term as a member and otherwise, of one logit."""
    p = 1 / (1 + math.exp(-z))
    return p, -alpha * (1 - p) ** gamma * math.log(p), -(1 - alpha) * p**gamma * math.log(1 - p)


def naive_dice(logits, track):
    p = [1 / (1 + math.exp(-z)) for z in logits]
    overlap = sum(probability for probability, inside in zip(p, track, strict=True) if inside)
    return 1 - (2 * overlap + 1) / (sum(p) + sum(track) + 1)


def naive_focal(logits, track):
    terms = [naive_terms(z)[1 if inside else 2] for z, inside in zip(logits, track, strict=True)]
    return sum(terms) / len(terms)


def example(events, num_queries=4, num_levels=2, seed=0):
    """Truth of events given by their track ids, offsets, and random logits in float64."""
    random = torch.Generator().manual_seed(seed)
    offsets = torch.tensor([0, *itertools.accumulate(map(len, events))])
    track_id = torch.tensor(list(itertools.chain(*events)), dtype=torch.int64)
    classes = torch.randn(num_levels, len(events), num_queries, 2, generator=random, dtype=torch.float64)
    masks = torch.randn(num_levels, len(track_id), num_queries, generator=random, dtype=torch.float64) * 3
    return track_id, offsets, classes, masks


EVENTS = [[4, 4, -1, 9, 9, 2, 4], [], [5], [-1, -3], [1, 2, 3, 0]]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([-7, -1, 0, 3, 2**62]), max_size=9), max_size=4),
    st.sampled_from(["background", "ignored"]),
    st.integers(1, 3),
)
def test_true_tracks_are_the_spacepoints_of_each_track(events, unlabelled, min_hits):
    track_id, offsets, *_ = example(events)
    tracks = true_tracks(track_id, offsets, unlabelled, min_hits)
    kept = [sorted({i for i in event if i >= 0 and event.count(i) >= min_hits}) for event in events]
    names = [(event, track) for event, ids in enumerate(kept) for track in ids]
    assert tracks.num_tracks == tuple(map(len, kept))
    assert tracks.event.tolist() == [event for event, _ in names]
    assert tracks.sizes.tolist() == [events[event].count(track) for event, track in names]
    assert tracks.num_rows == len(names) + len(events)
    expected = []
    for event, track in ((event, track) for event, ids in enumerate(events) for track in ids):
        ignored = track < 0 and unlabelled == "ignored"
        background = len(names) + (len(events) if ignored else event)
        expected.append(names.index((event, track)) if (event, track) in names else background)
    assert tracks.row.tolist() == expected
    counted = [sum(track >= 0 or unlabelled == "background" for track in event) for event in events]
    assert tracks.num_counted.tolist() == counted


@pytest.mark.parametrize("size", [1, 7, 2**20])
def test_mask_sums_equal_the_definition(size, monkeypatch):
    monkeypatch.setattr(mask_sums, "CHUNK_SIZE", size)
    _, _, _, logits = example([[0] * 9])
    row = torch.tensor([0, 2, 1, 2, 4, 4, 0, 2, 3])
    sums = mask_sums.mask_sums(logits, row, 4, ALPHA, GAMMA)
    expected = torch.zeros(3, 2, 4, 4, dtype=torch.float64)
    for level, spacepoint, query in itertools.product(range(2), range(9), range(4)):
        if row[spacepoint] < 4:
            terms = naive_terms(logits[level, spacepoint, query].item())
            expected[:, level, row[spacepoint], query] += torch.tensor(terms, dtype=torch.float64)
    torch.testing.assert_close(sums, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_gradients_of_mask_sums(gamma, monkeypatch):
    monkeypatch.setattr(mask_sums, "CHUNK_SIZE", 12)
    logits, row = example([[0] * 5], num_queries=2)[3].requires_grad_(), torch.tensor([0, 3, 1, 0, 2])
    assert torch.autograd.gradcheck(lambda values: mask_sums.mask_sums(values, row, 3, ALPHA, gamma), logits)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_saturated_logits_keep_sums_and_gradient_finite(gamma):
    logits = torch.tensor([[[-1e4], [-50.0], [0.0], [50.0], [1e4]]], requires_grad=True)
    sums = mask_sums.mask_sums(logits, torch.arange(5), 5, ALPHA, gamma)
    (gradient,) = torch.autograd.grad(sums.sum(), logits)
    assert sums.isfinite().all()
    assert gradient.isfinite().all()
    torch.testing.assert_close(sums[1:, 0, [0, 4], 0], torch.tensor([[ALPHA * 1e4, 0], [0, (1 - ALPHA) * 1e4]]))


def test_half_precision_masks_are_summed_in_single():
    logits = torch.full((1, 4000, 1), 0.5, dtype=torch.bfloat16, requires_grad=True)
    sums = mask_sums.mask_sums(logits, torch.zeros(4000, dtype=torch.int64), 1, ALPHA, GAMMA)
    expected = [4000 * term for term in naive_terms(0.5)]
    torch.testing.assert_close(sums.flatten(), torch.tensor(expected), rtol=1e-4, atol=0)
    sums.sum().backward()
    assert logits.grad.dtype == torch.bfloat16


def test_costs_equal_the_definition():
    loss = TrackLoss(match_class=0.3, match_dice=2, match_focal=7)
    track_id, offsets, classes, masks = example(EVENTS)
    tracks = true_tracks(track_id, offsets)
    sums = mask_sums.mask_sums(masks, tracks.row, tracks.num_rows, ALPHA, GAMMA)
    cost = matching_cost(classes, sums, event_sums(sums, tracks), tracks, loss)
    names = [(event, track) for event, ids in enumerate(EVENTS) for track in sorted({i for i in ids if i >= 0})]
    assert cost.shape == (2, len(names), 4)
    for level, (row, (event, track)), query in itertools.product(range(2), enumerate(names), range(4)):
        logits = masks[level, offsets[event] : offsets[event + 1], query].tolist()
        members = [owner == track for owner in EVENTS[event]]
        expected = 2 * naive_dice(logits, members) + 7 * naive_focal(logits, members)
        expected -= 0.3 * classes[level, event, query].softmax(0)[1].item()
        assert cost[level, row, query].item() == pytest.approx(expected, rel=1e-9)


def test_perfect_masks_cost_nothing():
    track_id = torch.tensor([0, 0, 1, -1])
    tracks = true_tracks(track_id, torch.tensor([0, 4]))
    masks = (track_id[None, :, None] == torch.arange(2)) * 200.0 - 100
    sums = mask_sums.mask_sums(masks, tracks.row, tracks.num_rows, ALPHA, GAMMA)
    total = event_sums(sums, tracks)[:, 0]
    dice = pair_dice(sums[0, 0, :2], total[0], tracks.sizes[:, None])
    focal = pair_focal(sums[1, 0, :2], sums[2, 0, :2], total[2], tracks.num_counted)
    for cost in (dice, focal):
        assert torch.equal(cost.diagonal(), torch.zeros(2))
        assert cost[0, 1] > 0.2
        assert cost[1, 0] > 0.2


@pytest.mark.parametrize("unlabelled", ["background", "ignored"])
def test_gradients_of_the_losses(unlabelled):
    track_id, offsets, classes, masks = example([[1, 1, -1, 2], [-1], [0, 5]], num_queries=2)
    tracks = true_tracks(track_id, offsets, unlabelled)
    inputs = classes.requires_grad_(), masks.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *logits: tuple(track_losses(*logits, tracks, TrackLoss()).values()), inputs, atol=1e-6
    )


def test_ignored_spacepoints_are_as_if_they_were_not_there():
    track_id, offsets, classes, masks = example(EVENTS)
    masks.requires_grad_()
    losses = track_losses(classes, masks, true_tracks(track_id, offsets, "ignored"), TrackLoss())
    sum(losses.values()).backward()
    assert not masks.grad[:, track_id < 0].any()
    fewer, their_offsets, *_ = example([[track for track in event if track >= 0] for event in EVENTS])
    without = track_losses(classes, masks[:, track_id >= 0], true_tracks(fewer, their_offsets), TrackLoss())
    background = track_losses(classes, masks, true_tracks(track_id, offsets), TrackLoss())
    for name, loss in losses.items():
        torch.testing.assert_close(loss, without[name])
    assert losses["focal"] != background["focal"]


@pytest.mark.parametrize("unlabelled", ["background", "ignored"])
@pytest.mark.parametrize("events", [[[-1, -1, -4]], [[]], [[], [-1]]])
def test_what_belongs_to_no_track_is_no_track(events, unlabelled):
    track_id, offsets, classes, masks = example(events)
    tracks = true_tracks(track_id, offsets, unlabelled)
    assert sum(tracks.num_tracks) == len(tracks.event) == 0
    losses = track_losses(classes, masks, tracks, TrackLoss())
    assert losses["dice"] == losses["focal"] == 0
    torch.testing.assert_close(losses["class"], -0.1 * classes.log_softmax(3)[..., 0].sum())


def least_cost(cost):
    """The least total over all one-to-one assignments of the smaller side."""
    if cost.shape[0] < cost.shape[1]:
        cost = cost.T
    rows = itertools.permutations(range(cost.shape[0]), cost.shape[1])
    return min(sum(cost[row, column] for column, row in enumerate(choice)) for choice in rows)


@pytest.mark.parametrize(("matcher", "num_threads"), [("scipy", 1), ("scipy", 3), ("lap", 1)])
def test_the_assignment_is_the_best_of_all(matcher, num_threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_threads)

    @settings(max_examples=25, deadline=None)
    @given(st.integers(0, 10**6), st.integers(1, 5), st.lists(st.integers(0, 5), max_size=3))
    def check(seed, num_queries, counts):
        cost = np.random.default_rng(seed).normal(size=(2, sum(counts), num_queries))
        level, track, query = assign(torch.from_numpy(cost), counts, matcher).numpy()
        first = 0
        for count in counts:
            for number in range(2):
                own = (level == number) & (track >= first) & (track < first + count)
                assert len(set(track[own])) == len(set(query[own])) == own.sum() == min(num_queries, count)
                expected = least_cost(cost[number, first : first + count]) if count else 0.0
                assert cost[number, track[own], query[own]].sum() == pytest.approx(expected)
            first += count

    check()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_assignment_survives_diverged_costs(value):
    assert assign(torch.full((1, 2, 3), value), [2]).shape == (3, 2)


def test_a_missing_package_is_explained(monkeypatch):
    def missing(name):
        raise ImportError(f"no {name}")

    monkeypatch.setattr(assignment, "importlib", types.SimpleNamespace(import_module=missing))
    with pytest.raises(ConfigurationError, match=r"needs lapx, .* \(no lap\); pip install lapx, or choose 'scipy'"):
        assign(torch.zeros(1, 1, 1), [1], "lap")


@pytest.mark.parametrize(
    ("num_tracks", "margin", "expected"),
    [([3, 40, 7], 1.2, 48), ([40], 1.0, 40), ([41], 1.0, 48), ([1], 1.2, 8), ([], 1.2, 8), ([300], 1.2, 360)],
)
def test_choice_of_the_number_of_queries(num_tracks, margin, expected):
    assert choose_num_queries(num_tracks, margin) == expected
