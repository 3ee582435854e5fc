import itertools
import math
import warnings

import pytest
import torch
from pydantic import ValidationError

from fm4npp.batch import EventBatch, HiddenStates
from fm4npp.errors import DataError
from fm4npp.heads import HeadContext, registry
from fm4npp.heads.attention import MultiHeadAttention, attention_mask
from fm4npp.heads.matching import TrackLoss
from fm4npp.heads.track_finder import TrackFinder, TrackFinderConfig
from fm4npp.metrics import per_event_ari
from fm4npp.testing.heads import CONTEXT, make_sample

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
    bias = torch.log(torch.sigmoid(outputs["mask_logits"][0, 0].float()) + 1e-6).double()
    queries = head.queries
    normed = layer.cross_norm(queries) + head.query_positions
    queries = queries + naive_attention(layer.cross_attention, normed, points, bias)
    normed = layer.self_norm(queries)
    queries = queries + naive_attention(layer.self_attention, normed, normed, torch.zeros(5, 5, dtype=torch.float64))
    queries = queries + layer.feed_forward(queries)
    torch.testing.assert_close(outputs["mask_logits"][1, 0], head.track_embedding(queries) @ points.T)
    torch.testing.assert_close(outputs["class_logits"][1, 0], head.classifier(queries))


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
    sizes = [len(event) for event in events]
    torch.manual_seed(1)
    outputs = {
        "class_logits": torch.randn(3, 5, 5, 2, dtype=torch.float64),
        "mask_logits": torch.randn(3, 5, 5, 7, dtype=torch.float64),
        "mask": torch.arange(7) < torch.tensor(sizes)[:, None],
    }
    expected = dict.fromkeys(("class", "dice", "focal"), 0.0)
    for level, (event, track_id) in itertools.product(range(3), enumerate(events)):
        masks = outputs["mask_logits"][level, event, :, : len(track_id)]
        for name, value in event_loss(outputs["class_logits"][level, event], masks, track_id, config).items():
            expected[name] += value / len(events)
    losses = head.loss(outputs, sample.batch)
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(expected, rel=1e-5)


def test_padding_is_no_track():
    sample = labelled((50, 3), [1] * 50 + [-1] * 3)
    outputs = finder()(*sample)
    outputs["mask_logits"][:, 1] = 1e3
    losses = finder().loss(outputs, sample.batch)
    alone = {name: values[:, :1] for name, values in outputs.items() if name != "mask"} | {"mask": outputs["mask"][:1]}
    only_first = finder().loss(alone, labelled((50,), [1] * 50).batch)
    for name in ("dice", "focal"):
        assert losses[name].item() == pytest.approx(only_first[name].item() / 2)


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
    sample = labelled((9,), range(9))
    with pytest.warns(UserWarning, match=r"9 tracks and the head 5 queries.*raise num_queries"):
        losses = head.loss(head(*sample), sample.batch)
    assert all(loss.isfinite() for loss in losses.values())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head.loss(head(*sample), sample.batch)


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
    classes, masks = torch.tensor(class_logits)[None, None], torch.tensor(mask_logits)[None, None]
    outputs = {
        "class_logits": torch.cat([-classes, classes]),
        "mask_logits": torch.cat([-masks, masks]),
        "mask": torch.ones(1, masks.shape[-1], dtype=torch.bool),
    }
    batch = EventBatch(offsets=torch.tensor([0, masks.shape[-1]]), labels={})
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


@pytest.mark.parametrize("fields", [{"width": 30}, {"num_querys": 3}, {"loss": {"dise": 1}}, {"num_queries": 0}])
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
    head = TrackFinder(TrackFinderConfig(num_queries=60, width=32, hidden=64), context)
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        sum(head.loss(head(hidden, batch), batch).values()).backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), 1.0)
        optimizer.step()
    found = head.predict(head(hidden, batch), batch)["track_id"]
    for event in (slice(0, 40), slice(40, 70)):
        assert per_event_ari(track_id[event].numpy(), found[event].numpy()) > 0.9
