"""Heads beside track finding and point classification: what they learn, estimate and refuse."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fm4npp.batch import EventBatch
from fm4npp.errors import ConfigurationError, DataError
from fm4npp.evaluation import evaluate
from fm4npp.event import Event
from fm4npp.heads import HeadContext
from fm4npp.heads.classes import balanced
from fm4npp.heads.edge_clusterer import EdgeClusterer, canonical, neighbour_edges
from fm4npp.heads.encoder import EncoderConfig, attended
from fm4npp.heads.event_classifier import EventClassifier, EventClassifierConfig
from fm4npp.heads.multitask import Multitask, MultitaskConfig, TaskConfig
from fm4npp.heads.point_classifier import NoiseTagger, NoiseTaggerConfig
from fm4npp.heads.quantities import QuantitiesConfig
from fm4npp.heads.regressors import PointRegressor, TrackRegressor, TrackRegressorConfig, track_index
from fm4npp.modeling import FM4NPPModel
from fm4npp.processing import FM4NPPProcessor
from fm4npp.testing.heads import CONTEXT, make_sample
from tests.conftest import tiny_config


def labelled(**labels):
    size = len(next(iter(labels.values())))
    return Event(
        positions=np.ones((size, 3)), features=np.empty((size, 0)), labels=labels, event_id=3, source="a.parquet"
    )


def learn(head, sample, steps=60):
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.stack(list(head.loss(head(*sample), sample.batch).values())).sum()
        torch.autograd.backward(loss)
        optimizer.step()
    return head.predict(head(*sample), sample.batch), loss.item()


# ---- classes


def test_balanced_weights_are_those_of_the_formula():
    events = [labelled(is_noise=np.array([0, 0, 0, 1], bool)), labelled(is_noise=np.array([0, 0], bool))]
    assert balanced(iter(events), {"is_noise": 2})["is_noise"] == pytest.approx((6 / (2 * 5), 6 / (2 * 1)))
    assert balanced([labelled(kind=np.array([0, 2, -1]))], {"kind": 4})["kind"] == pytest.approx((1, 1, 1, 1))


def test_tasks_take_their_weights_in_one_reading():
    events = [labelled(kind=np.array([0, 0, 1]), is_noise=np.array([True, False, False]))]
    tasks = (
        TaskConfig(label="kind", num_classes=2, class_weights="balanced"),
        TaskConfig(label="is_noise", num_classes=2, class_weights="balanced"),
        TaskConfig(label="other", num_classes=2, class_weights=(1, 2)),
    )
    fitted = MultitaskConfig(tasks=tasks).fit(iter(events))
    assert [task.class_weights for task in fitted.tasks] == [(0.75, 1.5), (0.75, 1.5), (1, 2)]


def test_weights_that_cannot_be_had_are_one_line():
    with pytest.raises(DataError, match="no training event has a known 'kind'"):
        balanced([labelled(kind=np.array([-1, -1]))], {"kind": 2})
    with pytest.raises(DataError, match="a.parquet: event 3: label 'kind' has the class 5, the head only 0 to 1"):
        balanced([labelled(kind=np.array([5]))], {"kind": 2})
    with pytest.raises(DataError, match="class_weights='balanced' needs training events"):
        NoiseTagger(NoiseTaggerConfig(class_weights="balanced"), CONTEXT)
    with pytest.raises(ValueError, match="3 class_weights for num_classes 2"):
        NoiseTaggerConfig(class_weights=(1, 2, 3))


def test_weights_multiply_the_entropy_of_their_class():
    sample = make_sample((9, 4), {"is_noise"})
    torch.manual_seed(0)
    heads = [
        NoiseTagger(NoiseTaggerConfig(class_weights=weights), CONTEXT) for weights in (None, (2.0, 2.0), (1.0, 0.0))
    ]
    for head in heads[1:]:
        head.load_state_dict(heads[0].state_dict())
    plain, doubled, signal = (head.loss(head(*sample), sample.batch)["cross_entropy"].item() for head in heads)
    assert doubled == pytest.approx(2 * plain, rel=1e-5)
    assert 0 < signal < plain


def test_tasks_share_everything_but_their_last_layers():
    config = MultitaskConfig(
        tasks=(TaskConfig(label="kind", num_classes=3, weight=2.0), TaskConfig(label="is_noise", num_classes=2)),
        width=32,
    )
    head = Multitask(config, CONTEXT)
    sample = make_sample((20, 11), head.needed)
    predictions, _ = learn(head, sample)
    for label in ("kind", "is_noise"):
        known = sample.batch.labels[label] >= 0
        assert (predictions[label] == sample.batch.labels[label])[known].float().mean() > 0.95
    losses = head.loss(head(*sample), sample.batch)
    assert set(losses) == {"kind", "is_noise"}
    with pytest.raises(ValueError, match="tasks: every label once"):
        MultitaskConfig(tasks=(TaskConfig(label="kind", num_classes=3),) * 2)


def test_events_are_told_apart_by_a_few_of_their_spacepoints():
    head = EventClassifier(EventClassifierConfig(width=32, num_heads=2), CONTEXT)
    sample = make_sample((30, 5, 12, 40, 1, 8), head.needed)
    sample.batch.labels["event.trigger"] = torch.tensor([1.0, 0, 1, 0, torch.nan, 0])
    for start in sample.batch.offsets[[0, 2]].tolist():
        sample.hidden.blocks[0][start] += 5
    predictions, _ = learn(head, sample)
    assert predictions["event.trigger"][[0, 1, 2, 3, 5]].tolist() == [1, 0, 1, 0, 0]
    assert predictions["event.trigger_probability"].shape == (6, 2)
    with pytest.raises(ValueError, match="label: must begin with 'event.'"):
        EventClassifierConfig(label="trigger")


# ---- numbers


def test_the_scale_is_that_of_what_is_known():
    random = np.random.default_rng(0)
    values = random.normal(5, 3, 100)
    events = [labelled(height=np.where(np.arange(50) < 40, part, np.nan)) for part in np.split(values, 2)]
    config = QuantitiesConfig(quantities=("height",)).fit(events)
    known = np.concatenate([values[:40], values[50:90]])
    assert config.mean == pytest.approx((known.mean(),))
    assert config.std == pytest.approx((known.std(),))
    with pytest.raises(DataError, match="no training event has a known 'height'"):
        QuantitiesConfig(quantities=("height",)).fit([labelled(height=np.array([np.nan]))])
    with pytest.raises(DataError, match="mean and std of the quantities need training events"):
        PointRegressor(QuantitiesConfig(), CONTEXT)


def test_numbers_are_estimated_in_their_own_unit():
    config = QuantitiesConfig(quantities=("particle.pt",), mean=(100.0,), std=(20.0,), width=32)
    head = PointRegressor(config, CONTEXT)
    sample = make_sample((30, 20), head.needed)
    truth = 100 + 20 * sample.hidden.blocks[0][:, 0]
    sample.batch.labels["particle.pt"] = truth.masked_fill(torch.arange(50) < 5, torch.nan)
    before = head.loss(head(*sample), sample.batch)["particle.pt"].item()
    predictions, loss = learn(head, sample)
    assert loss < 0.1 * before
    assert (predictions["particle.pt"] - truth)[5:].abs().mean() < 5


def test_all_spacepoints_of_a_track_get_its_estimate():
    config = TrackRegressorConfig(mean=(0.0,), std=(1.0,), width=32)
    head = TrackRegressor(config, CONTEXT)
    sample = make_sample((30, 20), head.needed)
    track = sample.batch.labels["track_id"] = torch.arange(50) % 5 - 1
    found = head.predict(head(*sample), sample.batch)["particle.log_pt"]
    event = torch.arange(50) >= 30
    for part in (event, ~event):
        for number in range(4):
            assert len(set(found[part & (track == number)].tolist())) == 1
        assert len(set(found[part & (track < 0)].tolist())) == int((part & (track < 0)).sum())


def test_every_track_counts_the_same_in_the_loss():
    head = TrackRegressor(TrackRegressorConfig(mean=(0.0,), std=(1.0,), width=32), CONTEXT)
    sample = make_sample((10,), head.needed)
    sample.batch.labels["track_id"] = torch.tensor([0] * 8 + [1, -1])
    sample.batch.labels["particle.log_pt"] = torch.tensor([1.0] * 8 + [3.0, torch.nan])
    outputs = head(*sample)
    estimates = outputs["estimates"][:, 0]
    expected = torch.nn.functional.huber_loss(estimates[[0, 8]], torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(head.loss(outputs, sample.batch)["particle.log_pt"], expected)


@given(st.lists(st.integers(-1, 3), max_size=12), st.integers(0, 12))
def test_tracks_are_numbered_event_by_event(track_id, cut):
    track_id, cut = torch.tensor(track_id, dtype=torch.int64), min(cut, len(track_id))
    index = track_index(track_id, torch.tensor([0, cut, len(track_id)]))
    for i in range(len(track_id)):
        for j in range(len(track_id)):
            same = i == j or (track_id[i] == track_id[j] >= 0 and (i < cut) == (j < cut))
            assert (index[i] == index[j]) == same
    assert sorted(set(index.tolist())) == list(range(len(set(index.tolist()))))


def test_tracks_come_from_another_head_where_events_have_none(events):
    model = FM4NPPModel(FM4NPPProcessor(tiny_config()).fit(events).config)
    model.add_head("momenta", {"type": "track-regression", "mean": [0.0], "std": [1.0], "width": 32})
    batch = FM4NPPProcessor(model.config)(events[:3], targets=False)
    alone = model.predict(batch)["momenta"]
    unlabelled = EventBatch(batch, labels={})
    with pytest.raises(
        DataError, match="the head 'track-regression' needs track_id, which the events do not have and no other head"
    ):
        model.predict(unlabelled)
    model.add_head("tracks", {"type": "edge-clustering", "width": 32})
    found = model.predict(unlabelled)
    assert list(found) == ["momenta", "tracks"]
    known = EventBatch(batch, labels={"track_id": found["tracks"]["track_id"]})
    torch.testing.assert_close(found["momenta"], model.predict(known)["momenta"])
    torch.testing.assert_close(model.predict(batch)["momenta"], alone)  # truth goes before prediction
    model.add_head("others", {"type": "edge-clustering", "width": 32})
    with pytest.raises(DataError, match="the heads tracks and others all predict; load one head"):
        model.predict(unlabelled)
    assert "momenta" in model.predict(batch)


def test_tracks_of_another_head_are_those_that_the_label_names(events):
    model = FM4NPPModel(FM4NPPProcessor(tiny_config()).fit(events).config)
    model.add_head("momenta", {"type": "track-regression", "tracks": "layer", "mean": [0.0], "std": [1.0], "width": 32})
    model.add_head("tracks", {"type": "edge-clustering", "width": 32, "label": "layer"})
    batch = EventBatch(FM4NPPProcessor(model.config)(events[:2], targets=False), labels={})
    found = model.predict(batch)
    known = EventBatch(batch, labels={"layer": found["tracks"]["track_id"]})
    torch.testing.assert_close(found["momenta"], model.predict(known)["momenta"])


def test_a_track_is_judged_once(events):
    model = FM4NPPModel(FM4NPPProcessor(tiny_config()).fit(events).config)
    model.add_head("momenta", {"type": "track-regression", "mean": [0.0], "std": [1.0], "width": 32})
    owners = [event.labels["track_id"] for event in events[:4]]
    found = evaluate(model, FM4NPPProcessor(model.config), events[:4])["momenta"]
    assert found["num_values"] + found["num_unknown"] == sum(len(set(track[track >= 0])) for track in owners)
    assert found["num_values"] > 0


# ---- edges


def test_edges_are_the_nearest_of_either_end_the_shorter_way_round():
    random = np.random.default_rng(0)
    coordinates, offsets = torch.from_numpy(random.random((40, 3))), torch.tensor([0, 15, 15, 16, 40])
    expected = set()
    for start, stop in ((0, 15), (16, 40)):
        for here in range(start, stop):
            apart = (coordinates[start:stop] - coordinates[here]).abs()
            apart[:, 1] = torch.minimum(apart[:, 1], 1 - apart[:, 1])
            nearest = start + apart.square().sum(1).argsort()[1:4]
            expected |= {tuple(sorted((here, int(other)))) for other in nearest}
    edges = neighbour_edges(coordinates, offsets, 3, (False, True, False))
    assert [tuple(pair) for pair in edges.T.tolist()] == sorted(expected)
    assert neighbour_edges(coordinates[:1], torch.tensor([0, 1]), 3, (False,) * 3).shape == (2, 0)


def test_a_place_just_outside_the_turn_has_neighbours_too():
    coordinates = torch.tensor([[0.5, y, 0.5] for y in (-1e-20, 0.999, 1.0, 0.01, 1.02, 0.3, 0.5)])
    edges = neighbour_edges(coordinates, torch.tensor([0, 7]), 2, (False, True, False))
    assert {tuple(pair) for pair in edges.T.tolist()} >= {(0, 1), (0, 2), (3, 4)}


def test_edges_wrap_where_the_detector_does():
    def joined(detectors, **fields):
        context = HeadContext(CONTEXT.width, CONTEXT.num_blocks, CONTEXT.num_features, detectors)
        return EdgeClusterer(EdgeClusterer.Config(width=16, **fields), context).periodic

    assert joined((False, True, False)) == (False, True, False)
    assert joined((False, True, False), periodic=(False,) * 3) == (False,) * 3
    assert joined(None, periodic=(True, False, False)) == (True, False, False)
    with pytest.raises(ConfigurationError, match="differ in which coordinates are periodic; give head.periodic"):
        joined(None)


@pytest.mark.parametrize("names", [("sphenix-tpc",), ("lartpc",), ("sphenix-tpc", "lartpc")])
def test_heads_are_told_what_is_periodic_in_all_detectors(names):
    model = FM4NPPModel(tiny_config(detectors=names))
    spec = {"type": "edge-clustering", "width": 16}
    if len(names) > 1:
        with pytest.raises(ConfigurationError, match="give head.periodic"):
            model.add_head("tracks", spec)
        return
    assert model.add_head("tracks", spec).periodic == (False, names[0] == "sphenix-tpc", False)


def test_edges_that_hold_are_tracks():
    head = EdgeClusterer(EdgeClusterer.Config(width=32, edge_width=16, neighbours=4, num_layers=0), CONTEXT)
    sample = make_sample((60,), head.needed)
    track = torch.arange(60) // 15
    along = torch.arange(60) % 15 / 15
    sample.batch["coordinates"] = torch.stack([track / 8, track / 8, along], dim=1)
    sample.batch.labels["track_id"] = torch.where(track == 3, -1, track)
    for block in sample.hidden.blocks:
        block[track == 3] += 3
    predictions, _ = learn(head, sample, 80)
    found = predictions["track_id"]
    assert (found[track == 3] == -1).float().mean() > 0.8
    assert [len(set(found[track == number].tolist())) for number in range(3)] == [1, 1, 1]
    assert set(found[track < 3].tolist()) == {0, 1, 2}


def test_found_tracks_are_numbered_from_zero_in_each_event():
    component = torch.tensor([5, 5, 9, 9, 2, 7, 7, 7, 1, 1])
    coordinates = torch.rand(10, 3)
    coordinates[:, 2] = torch.tensor([0.5, 0.6, 0.1, 0.2, 0.3, 0.9, 0.8, 0.7, 0.2, 0.3])
    batch = EventBatch(coordinates=coordinates, offsets=torch.tensor([0, 5, 5, 10]))
    assert canonical(component, batch, 2).tolist() == [1, 1, 0, 0, -1, 1, 1, 1, 0, 0]


# ---- what heads begin with


@pytest.mark.parametrize("num_layers", [0, 4])
def test_attention_stays_within_an_event_however_unequal_the_lengths(num_layers):
    torch.manual_seed(0)
    layers = EncoderConfig(width=16, num_layers=num_layers, num_heads=2).layers()
    offsets = torch.tensor([0, 200, 203, 203, 500])
    points = torch.randn(500, 16)
    together = attended(points, offsets, layers)
    for start, stop in ((0, 200), (200, 203), (203, 500)):
        alone = attended(points[start:stop], torch.tensor([0, stop - start]), layers)
        torch.testing.assert_close(together[start:stop], alone)
