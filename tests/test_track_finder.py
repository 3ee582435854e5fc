import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fm4npp.batch import EventBatch, HiddenStates
from fm4npp.errors import DataError, NotFittedError
from fm4npp.event import Event
from fm4npp.heads import HeadContext, mask_sums, registry
from fm4npp.heads.attention import MultiHeadAttention, attention_mask, groups_of_similar_length
from fm4npp.heads.matching import TrackLoss
from fm4npp.heads.track_finder import TrackFinder, TrackFinderConfig
from fm4npp.metrics import per_event_ari
from fm4npp.testing.heads import CONTEXT, make_sample, select

SMALL = TrackFinderConfig(num_queries=5, width=16, hidden=24, num_heads=2)


def finder(config=SMALL, seed=0):
    torch.manual_seed(seed)
    return TrackFinder(config, CONTEXT).eval()


def labelled(sizes, track_id):
    sample = make_sample(sizes, ["track_id"])
    sample.batch.labels["track_id"] = torch.tensor(track_id, dtype=torch.int64)
    return sample


@pytest.mark.parametrize("width", [256, 1024, 1536])
def test_released_number_of_parameters(width):
    head = registry.get("track-finding")(TrackFinderConfig(), HeadContext(width, num_blocks=12, num_features=1))
    assert sum(parameter.numel() for parameter in head.parameters()) == 2_121_230 + 259 * width
    assert all(parameter.requires_grad for parameter in head.parameters())


def naive_attention(attention, queries, keys, bias):
    """One event, head by head, softmax written out: queries (Q, W), keys (S, W), bias (Q, S)."""
    size = queries.shape[1] // attention.num_heads
    parts = []
    for head in range(attention.num_heads):
        columns = slice(head * size, (head + 1) * size)
        query, key, value = (
            (values @ linear.weight.T + linear.bias)[:, columns]
            for values, linear in ((queries, attention.query), (keys, attention.key), (keys, attention.value))
        )
        weights = torch.exp(query @ key.T / math.sqrt(size) + bias)
        parts.append(weights / weights.sum(dim=1, keepdim=True) @ value)
    return torch.cat(parts, dim=1) @ attention.output.weight.T + attention.output.bias


@pytest.mark.parametrize("biased", [True, False])
def test_attention_equals_the_definition(biased):
    torch.manual_seed(0)
    attention = MultiHeadAttention(12, 3).double()
    sizes = (4, 1, 7, 0)
    queries, keys = (torch.randn(len(sizes), count, 12, dtype=torch.float64) for count in (5, 7))
    bias = torch.randn(len(sizes), 5, 7, dtype=torch.float64)
    mask = torch.arange(7) < torch.tensor(sizes)[:, None]
    attended = attention(queries, keys, mask, bias if biased else None)
    for event, size in enumerate(sizes[:3]):
        expected = naive_attention(
            attention, queries[event], keys[event, :size], bias[event, :, :size] if biased else torch.zeros(5, size)
        )
        torch.testing.assert_close(attended[event], expected)
    assert torch.equal(attended[3], torch.zeros(5, 12, dtype=torch.float64))
    torch.testing.assert_close(attention(queries[2:3], keys[2:3]), attention(queries[2:3], keys[2:3], mask[2:3]))


def test_every_query_has_a_key_to_attend_to():
    # Some kernels make a softmax over nothing 0, others make it not a number.
    mask = torch.tensor([[True, True, False], [False, False, False]])
    assert attention_mask(mask, None).flatten(1).tolist() == [[True, True, False], [True, True, True]]
    biased = attention_mask(mask, torch.full((2, 1, 3), 0.5))
    assert biased.flatten(1).tolist() == [[0.5, 0.5, -math.inf], [0.5, 0.5, 0.5]]


def test_a_level_attends_by_the_claims_of_the_level_before():
    head = finder().double()
    sample = make_sample((6,), ["track_id"])
    hidden = HiddenStates(
        *(tuple(map(torch.Tensor.double, x)) if isinstance(x, tuple) else x.double() for x in sample[0])
    )
    outputs = head(hidden, sample.batch)
    points, layer = head._points(hidden, sample.batch), head.layers[0]
    bias = torch.log(torch.sigmoid(outputs["mask_logits"][0].float()) + 1e-6).double().T
    queries = head.queries
    normed = layer.cross_norm(queries) + head.query_positions
    queries = queries + naive_attention(layer.cross_attention, normed, points, bias)
    normed = layer.self_norm(queries)
    queries = queries + naive_attention(layer.self_attention, normed, normed, torch.zeros(5, 5, dtype=torch.float64))
    queries = queries + layer.feed_forward(queries)
    torch.testing.assert_close(outputs["mask_logits"][1], points @ head.track_embedding(queries).T)
    torch.testing.assert_close(outputs["class_logits"][1, 0], head.classifier(queries))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([0, 1, 5, 64, 65, 127, 128, 129, 500, 4000]), max_size=8))
def test_groups_are_of_similar_length(sizes):
    offsets = torch.tensor([0, *itertools.accumulate(sizes)])
    groups = groups_of_similar_length(offsets)
    assert sorted(event for group in groups for event in group.events.tolist()) == list(range(len(sizes)))
    assert len(groups) == len({max(size - 1, 63).bit_length() for size in sizes} or {0})
    for group in groups:
        own = [sizes[event] for event in group.events]
        assert max(own, default=0) <= max(2 * min(own, default=0) - 1, 64)
        assert group.offsets.tolist() == [0, *itertools.accumulate(own)]
        expected = [token for event in group.events for token in range(offsets[event], offsets[event + 1])]
        assert group.tokens.tolist() == expected


def test_long_and_short_events_are_found_as_if_alone():
    sample = make_sample((70, 3, 300, 0, 130, 64), ["track_id"])
    head = finder()
    together, offsets = head(*sample), sample.batch.offsets.tolist()
    for event, (start, stop) in enumerate(itertools.pairwise(offsets)):
        alone = head(*select(sample, torch.arange(start, stop), torch.tensor([0, stop - start])))
        torch.testing.assert_close(together["mask_logits"][:, start:stop], alone["mask_logits"])
        torch.testing.assert_close(together["class_logits"][:, event], alone["class_logits"][:, 0])


def test_the_attention_mask_is_not_detached():
    head = finder()
    head(*make_sample((9, 4), ["track_id"]))["class_logits"][-1].square().sum().backward()
    assert head.track_embedding[-1].weight.grad.abs().sum() > 0


def test_without_spacepoints_query_positions_play_no_part():
    sample = make_sample((0,), ["track_id"])
    head = finder()
    before = head(*sample)["class_logits"]
    with torch.no_grad():
        head.query_positions.zero_()
    assert torch.equal(head(*sample)["class_logits"], before)
    assert not torch.equal(finder(seed=1)(*sample)["class_logits"], before)


def event_loss(class_logits, mask_logits, track_id, config):
    """Class, Dice and focal loss of one event at one level, in plain Python, matched by trying all assignments."""
    probability = [[1 / (1 + math.exp(-z)) for z in row] for row in mask_logits.tolist()]
    chance = class_logits.softmax(1).tolist()
    tracks = [[owner == track for owner in track_id] for track in sorted({track for track in track_id if track >= 0})]

    def dice(p, t):
        return 1 - (2 * sum(a for a, b in zip(p, t, strict=True) if b) + 1) / (sum(p) + sum(t) + 1)

    def focal(p, t):
        terms = [
            0.25 * (1 - a) ** 2 * -math.log(a) if b else 0.75 * a**2 * -math.log(1 - a)
            for a, b in zip(p, t, strict=True)
        ]
        return sum(terms) / len(terms)

    def cost(query, track):
        p, t = probability[query], tracks[track]
        return -0.5 * chance[query][1] + dice(p, t) + 30 * focal(p, t)

    choices = itertools.permutations(range(len(probability)), len(tracks))
    best = min(choices, key=lambda queries: sum(cost(query, track) for track, query in enumerate(queries)))
    weights = config.loss
    return {
        "class": sum(
            -weights.class_matched * math.log(chance[query][1])
            if query in best
            else -weights.class_unmatched * math.log(chance[query][0])
            for query in range(len(probability))
        ),
        "dice": weights.dice * sum(dice(probability[query], tracks[track]) for track, query in enumerate(best)),
        "focal": weights.focal * sum(focal(probability[query], tracks[track]) for track, query in enumerate(best)),
    }


def test_loss_equals_the_definition():
    config = SMALL.model_copy(update={"loss": TrackLoss(class_matched=0.7, class_unmatched=0.2, dice=2, focal=9)})
    events = [[4, 4, -1, 9, 9, 2, 4], [], [5], [-1, -3], [1, 2, 3, 0]]
    sample = labelled(map(len, events), list(itertools.chain(*events)))
    head = finder(config).double()
    offsets = sample.batch.offsets
    torch.manual_seed(1)
    outputs = {
        "class_logits": torch.randn(3, 5, 5, 2, dtype=torch.float64),
        "mask_logits": torch.randn(3, 14, 5, dtype=torch.float64),
    }
    expected = dict.fromkeys(("class", "dice", "focal"), 0.0)
    for level, (event, track_id) in itertools.product(range(3), enumerate(events)):
        masks = outputs["mask_logits"][level, offsets[event] : offsets[event + 1]].T
        for name, value in event_loss(outputs["class_logits"][level, event], masks, track_id, config).items():
            expected[name] += value / len(events)
    losses = head.loss(outputs, sample.batch)
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, rel=1e-5)


def test_unlabelled_spacepoints_and_short_tracks_as_configured():
    sample = labelled((7,), [4, 4, 4, -1, 9, -1, 9])
    short = labelled((7,), [4, 4, 4, -1, -1, -1, -1])
    outputs = finder()(*sample)

    def losses(batch, **settings):
        return {
            name: loss.item()
            for name, loss in finder(SMALL.model_copy(update=settings)).loss(outputs, batch.batch).items()
        }

    assert losses(sample, min_hits=3) == losses(short)
    assert losses(sample, min_hits=2) == losses(sample)
    assert losses(sample, unlabelled="ignored") != losses(sample)
    assert losses(short, unlabelled="ignored")["focal"] < losses(short)["focal"] * 7 / 3


def test_track_ids_are_only_names():
    sample = labelled((8,), [3, 3, 7, 7, 7, 0, -1, -1])
    renamed = labelled((8,), [2**40, 2**40, 1, 1, 1, 2, -5, -1])
    head = finder()
    losses, others = (head.loss(head(*example), example.batch) for example in (sample, renamed))
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(
        {name: loss.item() for name, loss in others.items()}, rel=1e-6
    )


def test_more_tracks_than_queries_warn_once():
    head = finder()
    sample = labelled((9, 5), [*range(9), *range(5)])
    message = r"1 of 2 events have more tracks \(up to 9\) than the head has queries \(5\).*raise num_queries"
    with pytest.warns(UserWarning, match=message):
        losses = head.loss(head(*sample), sample.batch)
    assert all(loss.isfinite() for loss in losses.values())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head.loss(head(*sample), sample.batch)


def test_diverged_outputs_make_the_loss_not_a_number():
    head, sample = finder(), labelled((4,), [1, 1, 2, -1])
    outputs = {name: torch.full_like(values, torch.nan) for name, values in head(*sample).items()}
    assert all(loss.isnan() for loss in head.loss(outputs, sample.batch).values())
    assert head.predict(outputs, sample.batch)["track_id"].tolist() == [-1] * 4


def test_missing_label_is_explained():
    sample = make_sample((4,), ["is_noise"])
    head = finder()
    with pytest.raises(DataError, match=r"no label 'track_id' \(they have: is_noise\)"):
        head.loss(head(*sample), sample.batch)


def test_a_batch_without_events():
    sample = make_sample((), ["track_id"])
    head = finder()
    outputs = head(*sample)
    assert sum(head.loss(outputs, sample.batch).values()).item() == 0
    assert head.predict(outputs, sample.batch)["track_id"].shape == (0,)


def predicted(class_logits, mask_logits, threshold=0.0):
    """Predictions for one event from the logits of its queries, (Q, 2) and (Q, S), at the last of two levels."""
    classes, masks = torch.tensor(class_logits)[None, None], torch.tensor(mask_logits).T[None]
    outputs = {"class_logits": torch.cat([-classes, classes]), "mask_logits": torch.cat([-masks, masks])}
    batch = EventBatch(offsets=torch.tensor([0, masks.shape[1]]), labels={})
    return finder(SMALL.model_copy(update={"score_threshold": threshold})).predict(outputs, batch)


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def test_prediction_is_the_query_of_the_highest_class_times_mask():
    # Query 2 has the highest mask everywhere but is likelier no track; query 1 is surer to be a track than query 0.
    outcome = predicted([[0.0, 0.1], [0.0, 3.0], [1.0, 0.0]], [[1.0, 3.0], [0.9, -1.0], [9.0, 9.0]])
    assert outcome["track_id"].dtype == torch.int64
    assert outcome["track_id"].tolist() == [1, 0]
    scores = [sigmoid(3.0) * sigmoid(0.9), sigmoid(0.1) * sigmoid(3.0)]
    assert outcome["track_score"].tolist() == pytest.approx(scores)


def test_prediction_below_the_threshold_is_unassigned():
    outcome = predicted([[0.0, 3.0]], [[2.0, -2.0]], threshold=0.5)
    assert outcome["track_id"].tolist() == [0, -1]
    assert outcome["track_score"].tolist() == pytest.approx([sigmoid(3.0) * sigmoid(2.0), sigmoid(3.0) * sigmoid(-2.0)])


def test_prediction_without_tracks_is_unassigned():
    outcome = predicted([[1.0, 0.0], [0.5, 0.5]], [[5.0, 5.0], [5.0, 5.0]])
    assert outcome["track_id"].tolist() == [-1, -1]
    assert outcome["track_score"].tolist() == [0, 0]


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.integers(0, 6), max_size=4), st.sampled_from([0.0, 0.3]))
def test_predictions_equal_the_definition(seed, sizes, threshold):
    random = torch.Generator().manual_seed(seed)
    offsets = torch.tensor([0, *itertools.accumulate(sizes)])
    classes = torch.randn(3, len(sizes), 5, 2, generator=random)
    masks = torch.randn(3, sum(sizes), 5, generator=random)
    head = finder(SMALL.model_copy(update={"score_threshold": threshold}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mask_sums, "CHUNK_SIZE", 10)
        outcome = head.predict({"class_logits": classes, "mask_logits": masks}, EventBatch(offsets=offsets))
    for event, (start, stop) in enumerate(itertools.pairwise(offsets.tolist())):
        chance = [sigmoid(track - none) for none, track in classes[-1, event].double().tolist()]
        for spacepoint in range(start, stop):
            claims = [sigmoid(logit) for logit in masks[-1, spacepoint].double().tolist()]
            scores = {query: p * claims[query] for query, p in enumerate(chance) if p > 0.5}
            best = max(scores, key=scores.__getitem__, default=-1)
            expected = best if scores.get(best, 0) >= threshold else -1
            assert outcome["track_id"][spacepoint] == expected
            assert outcome["track_score"][spacepoint].item() == pytest.approx(scores.get(best, 0), abs=1e-6)


def events_of(*track_ids):
    return [
        Event(np.zeros((len(ids), 3)), np.zeros((len(ids), 0)), labels={"track_id": np.array(ids, dtype=np.int64)})
        for ids in track_ids
    ]


def test_the_number_of_queries_is_chosen_from_events():
    config = TrackFinderConfig(num_queries="auto", min_hits=2)
    events = events_of([0, 0, 1, 1, 2], [], [-1] * 9, [*range(30), *range(20)])
    assert config.fit(events).num_queries == 24  # 20 tracks of two spacepoints, times 1.2
    assert config.model_copy(update={"query_margin": 2.0}).fit(events).num_queries == 40
    assert TrackFinderConfig().fit(iter([])).num_queries == 150
    with pytest.raises(DataError, match=r"no track of 2 or more spacepoints in 2 training events; train on"):
        config.fit(events_of([3], [-1, -1]))
    with pytest.raises(NotFittedError, match='num_queries is "auto": fit'):
        finder(config)


@pytest.mark.parametrize(
    "fields", [{"width": 30}, {"num_querys": 3}, {"loss": {"dise": 1}}, {"num_queries": 0}, {"unlabelled": "x"}]
)
def test_wrong_configuration_is_refused(fields):
    with pytest.raises(ValidationError):
        TrackFinderConfig(**fields)


def test_configuration_survives_json():
    config = TrackFinderConfig(loss=TrackLoss(dice=3), score_threshold=0.1, inputs=("embedding",))
    assert TrackFinderConfig.model_validate(config.model_dump(mode="json")) == config


def test_mixed_precision_losses_are_finite_and_single():
    head = finder()
    sample = labelled((12, 0, 3), [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 7, 7, 7])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = head.loss(head(*sample), sample.batch)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


def test_learns_two_toy_events():
    torch.manual_seed(0)
    context = HeadContext(width=16, num_blocks=2, num_features=1)
    sizes, track_id = (40, 30), torch.cat([torch.arange(40) % 5, torch.arange(30) % 3])
    centres = torch.randn(8, 16)
    track = torch.cat([track_id[:40], track_id[40:] + 5])
    blocks = tuple(centres[track] + 0.5 * torch.randn(70, 16) for _ in range(2))
    batch = make_sample(sizes, ["track_id"], context).batch
    batch.labels["track_id"] = track_id
    hidden = HiddenStates(blocks[0], blocks, blocks[1])
    head = TrackFinder(TrackFinderConfig(num_queries=20, width=32, hidden=64), context)
    optimizer = torch.optim.AdamW(head.parameters(), lr=5e-3)
    for _ in range(50):
        optimizer.zero_grad()
        sum(head.loss(head(hidden, batch), batch).values()).backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
    found = head.predict(head(hidden, batch), batch)["track_id"]
    for event in (slice(0, 40), slice(40, 70)):
        assert per_event_ari(track_id[event].numpy(), found[event].numpy()) > 0.9
