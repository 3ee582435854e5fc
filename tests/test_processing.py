from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from fm4npp import detectors
from fm4npp.errors import ConfigurationError, DataError, NotFittedError
from fm4npp.event import Event
from fm4npp.processing import FM4NPPProcessor
from fm4npp.simulation import ParticleGun, simulate
from tests.conftest import tiny_config


def test_batch_is_packed_in_serialized_order(events, processor):
    batch = processor(events)
    sizes = [len(event) for event in events]
    assert batch.offsets.tolist() == np.concatenate([[0], np.cumsum(sizes)]).tolist()
    assert batch.num_tokens == sum(sizes)
    for i, event in enumerate(events):
        own = slice(batch.offsets[i], batch.offsets[i + 1])
        order = batch.order[own].numpy()
        assert sorted(order) == list(range(len(event)))
        geometry = processor.config.detectors[0].geometry
        assert np.array_equal(batch.coordinates[own].numpy(), geometry.coordinates(event.positions)[order])
        assert np.array_equal(batch.labels["track_id"][own].numpy(), event.labels["track_id"][order])


def test_restore_is_the_inverse_of_the_order(events, processor):
    batch = processor(events)
    restored = processor.restore({"id": batch.labels["track_id"], "xyz": batch.coordinates}, batch)
    for event, values in zip(events, restored, strict=True):
        assert np.array_equal(values["id"], event.labels["track_id"])
        expected = processor.config.detectors[0].geometry.coordinates(event.positions)
        assert np.array_equal(values["xyz"], expected)


def test_sequence_does_not_depend_on_the_order_of_the_file(events, processor):
    event = max(events, key=len)
    shuffled = event.take(np.random.default_rng(0).permutation(len(event)))
    first, second = processor([event]), processor([shuffled])
    for key in ("coordinates", "features", "detector_ids"):
        assert torch.equal(first[key], second[key])
    for key, values in first.targets.items():
        assert torch.equal(values, second.targets[key])


@pytest.mark.parametrize("serializer", ["raster-scan", "hilbert", "z-order", "radial"])
def test_coincident_spacepoints_are_told_apart_by_their_features(events, serializer):
    event = max(events, key=len)
    positions = np.array(event.positions)
    positions[10:20] = positions[10]
    positions[30:33] = positions[30]
    event = dataclasses.replace(event, positions=positions)
    objective = {"type": "k-nnn", "k": 5, "targets": "offset", "energy": True}
    processor = FM4NPPProcessor(tiny_config(serializer=serializer, objective=objective)).fit([event])
    first = processor([event])
    for seed in range(5):
        second = processor([event.take(np.random.default_rng(seed).permutation(len(event)))])
        assert torch.equal(first.coordinates, second.coordinates)
        assert torch.equal(first.features, second.features)
        assert torch.equal(first.targets["neighbours"], second.targets["neighbours"])


def test_events_without_and_with_one_spacepoint(events, processor):
    empty, single = events[0].take(np.arange(0)), events[0].take(np.arange(1))
    batch = processor([empty, single, empty])
    assert batch.offsets.tolist() == [0, 0, 1, 1]
    assert [len(values) for values in processor.restore(batch.coordinates, batch)] == [0, 1, 0]


def test_without_a_fit_nothing_is_guessed(events):
    with pytest.raises(NotFittedError):
        FM4NPPProcessor(tiny_config())(events)


def test_fit_returns_a_new_processor_and_survives_saving(events, tmp_path):
    unfitted = FM4NPPProcessor(tiny_config(objective={"type": "k-nnn", "k": 3, "targets": "offset", "energy": True}))
    fitted = unfitted.fit(events)
    assert not unfitted.config.fitted
    assert fitted.config.fitted
    fitted.save_pretrained(tmp_path)
    loaded = FM4NPPProcessor.from_pretrained(tmp_path)
    first, second = fitted(events), loaded(events)
    assert all(torch.equal(values, second.targets[name]) for name, values in first.targets.items())
    assert torch.equal(first.order, second.order)
    with pytest.raises(ConfigurationError, match="another model"):
        unfitted.save_pretrained(tmp_path)


def test_labels_are_in_a_batch_only_if_every_event_has_them(events, processor):
    unlabelled = dataclasses.replace(events[1], labels={})
    assert processor([events[0], unlabelled]).labels == {}
    assert set(processor(events).labels) >= {"track_id", "particle_class", "is_noise"}


def test_other_detectors_and_the_beam_axis_are_refused(events, processor):
    star = next(iter(simulate(detectors.build("star-tpc"), 1, 1)))
    with pytest.raises(ConfigurationError, match="star-tpc"):
        processor([star])
    on_axis = Event(np.zeros((1, 3)), np.ones((1, 1)), ("energy",), detector="sphenix-tpc", event_id=5)
    with pytest.raises(DataError, match="event 5.*beam axis"):
        processor([on_axis])


def test_every_spacepoint_keeps_its_detector_in_a_mixed_batch(events):
    silicon = list(simulate(detectors.build("sphenix-silicon"), 4, 3, ParticleGun(mean_primaries=5)))
    config = tiny_config(detectors=["sphenix-tpc", "sphenix-silicon"])
    processor = FM4NPPProcessor(config).fit([*events, *silicon])
    batch = processor([events[0], silicon[0]])
    names = np.array(list(config.subsystems))
    tpc, rest = np.split(names[batch.detector_ids.numpy()], [len(events[0])])
    assert set(tpc) == {"sphenix-tpc"}
    own = batch.order[len(events[0]) :].numpy()
    assert rest.tolist() == np.array(silicon[0].subsystems)[silicon[0].ids][own].tolist()
    assert not batch.features[len(events[0]) :].any()
