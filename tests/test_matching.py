import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fm4npp.heads.matching import hungarian, pair_dice, pair_focal, track_members

ALPHA, GAMMA = 0.25, 2.0


def naive_dice(logits, track):
    p = [1 / (1 + math.exp(-z)) for z in logits]
    overlap = sum(probability for probability, inside in zip(p, track, strict=True) if inside)
    return 1 - (2 * overlap + 1) / (sum(p) + sum(track) + 1)


def naive_focal(logits, track, alpha=ALPHA, gamma=GAMMA):
    total = 0.0
    for z, inside in zip(logits, track, strict=True):
        p = 1 / (1 + math.exp(-z))
        total -= alpha * (1 - p) ** gamma * math.log(p) if inside else (1 - alpha) * p**gamma * math.log(1 - p)
    return total / len(logits)


def padded_example(sizes, num_queries=4, num_tracks=3, garbage=37.0):
    """Random logits and tracks in float64; what is padding holds garbage that must not matter."""
    random = torch.Generator().manual_seed(0)
    longest = max(sizes)
    mask = torch.arange(longest) < torch.tensor(sizes)[:, None]
    logits = torch.randn(len(sizes), num_queries, longest, generator=random, dtype=torch.float64) * 3
    owner = torch.randint(-1, num_tracks, (len(sizes), longest), generator=random)
    members = (owner[:, None] == torch.arange(num_tracks)[:, None]) & mask[:, None]
    return logits.masked_fill(~mask[:, None], garbage), members.double(), mask


@pytest.mark.parametrize(
    ("pairwise", "naive"),
    [(pair_dice, naive_dice), (lambda *arguments: pair_focal(*arguments, ALPHA, GAMMA), naive_focal)],
    ids=["dice", "focal"],
)
def test_pair_losses_equal_the_definition(pairwise, naive):
    sizes = (7, 1, 4)
    logits, members, mask = padded_example(sizes)
    costs = pairwise(logits, members, mask)
    assert costs.shape == (3, 4, 3)
    for event, query, track in itertools.product(range(3), range(4), range(3)):
        size = sizes[event]
        expected = naive(logits[event, query, :size].tolist(), members[event, track, :size].tolist())
        assert costs[event, query, track].item() == pytest.approx(expected, rel=1e-12)


def test_pair_losses_of_an_event_without_spacepoints_are_zero():
    mask = torch.zeros(1, 1, dtype=torch.bool)
    logits, members = torch.full((1, 2, 1), 5.0), torch.zeros(1, 3, 1)
    assert torch.equal(pair_dice(logits, members, mask), torch.zeros(1, 2, 3))
    assert torch.equal(pair_focal(logits, members, mask, ALPHA, GAMMA), torch.zeros(1, 2, 3))


def test_perfect_masks_cost_nothing():
    members = torch.tensor([[[1.0, 1, 0, 0], [0, 0, 1, 0]]])
    mask = torch.ones(1, 4, dtype=torch.bool)
    logits = (members * 2 - 1) * 100
    for cost in (pair_dice(logits, members, mask), pair_focal(logits, members, mask, ALPHA, GAMMA)):
        assert torch.equal(cost.diagonal(dim1=1, dim2=2), torch.zeros(1, 2))
        assert (cost[0, 0, 1] > 0.2) & (cost[0, 1, 0] > 0.2)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_saturated_logits_keep_loss_and_gradient_finite(gamma):
    logits = torch.tensor([[[-1e4, -50.0, 0.0, 50.0, 1e4]]], requires_grad=True)
    mask = torch.ones(1, 5, dtype=torch.bool)
    for members in (torch.zeros(1, 1, 5), torch.ones(1, 1, 5)):
        loss = pair_focal(logits, members, mask, ALPHA, gamma) + pair_dice(logits, members, mask)
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        assert loss.isfinite().all()
        assert gradient.isfinite().all()


def least_cost(cost):
    """The least total over all one-to-one assignments of the smaller side."""
    if cost.shape[0] < cost.shape[1]:
        cost = cost.T
    rows = itertools.permutations(range(cost.shape[0]), cost.shape[1])
    return min(sum(cost[row, column] for column, row in enumerate(choice)) for choice in rows)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_queries=st.integers(1, 5),
    counts=st.lists(st.integers(0, 5), min_size=1, max_size=3),
)
def test_hungarian_is_the_best_of_all_assignments(seed, num_queries, counts):
    cost = np.random.default_rng(seed).normal(size=(len(counts), num_queries, max(*counts, 1)))
    event, query, track = hungarian(torch.from_numpy(cost), torch.tensor(counts)).numpy()
    for index, count in enumerate(counts):
        queries, tracks = query[event == index], track[event == index]
        assert len(queries) == len(set(queries)) == len(set(tracks)) == min(num_queries, count)
        assert all(tracks < count)
        expected = least_cost(cost[index, :, :count]) if count else 0.0
        assert cost[index, queries, tracks].sum() == pytest.approx(expected)


def test_hungarian_survives_diverged_costs():
    pairs = hungarian(torch.full((1, 3, 2), torch.nan), torch.tensor([2]))
    assert pairs.shape == (3, 2)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.sampled_from([-7, -1, 0, 3, 2**62]), max_size=9), min_size=1, max_size=4))
def test_track_members_are_the_spacepoints_of_each_track(events):
    offsets = torch.tensor([0, *itertools.accumulate(map(len, events))])
    members = track_members(torch.tensor(list(itertools.chain(*events)), dtype=torch.int64), offsets)
    tracks = [sorted({track for track in event if track >= 0}) for event in events]
    assert members.shape == (len(events), max(map(len, tracks)), max(*map(len, events), 1))
    for rows, event, ids in zip(members, events, tracks, strict=True):
        assert rows[len(ids) :].sum() == 0
        for row, track in zip(rows, ids, strict=False):
            assert row.nonzero().flatten().tolist() == [hit for hit, owner in enumerate(event) if owner == track]


def test_no_events_have_no_tracks():
    members = track_members(torch.zeros(0, dtype=torch.int64), torch.tensor([0]))
    assert members.shape == (0, 0, 1)
    assert hungarian(torch.zeros(0, 5, 0), torch.zeros(0, dtype=torch.int64)).shape == (3, 0)
