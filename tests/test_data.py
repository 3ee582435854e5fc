from __future__ import annotations

import dataclasses

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fm4npp.batch import in_batches
from fm4npp.data import EventDataset, EventWriter, loader, read_events, token_budget_batches, write_events
from fm4npp.errors import DataError


def same(first, second) -> bool:
    arrays = [(first.positions, second.positions), (first.features, second.features), (first.ids, second.ids)]
    arrays += [(values, second.labels[name]) for name, values in first.labels.items()]
    arrays += [(values, second.particles[name]) for name, values in first.particles.items()]
    return all(np.array_equal(a, b) for a, b in arrays) and first.event_id == second.event_id


def test_events_survive_the_file_exactly(events, tmp_path):
    path = tmp_path / "events.parquet"
    some = [events[0], events[1].take(np.arange(0)), *events[2:]]
    assert write_events(some, path) == len(some)
    assert all(same(a, b) for a, b in zip(some, read_events(path), strict=True))
    dataset = EventDataset([path, path])
    assert len(dataset) == 2 * len(some)
    assert dataset.lengths.tolist() == [len(event) for event in some] * 2
    assert same(dataset[len(some) + 3], some[3])
    with pytest.raises(IndexError):
        dataset[len(dataset)]


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_opens_an_events_file(events_files, streaming):
    path = str(events_files["train"])
    opened = datasets.load_dataset("parquet", data_files=path, split="train", streaming=streaming)
    row = next(iter(opened))
    event = next(iter(read_events(path)))
    assert row["x"] == event.positions[:, 0].tolist()
    assert row["track_id"] == event.labels["track_id"].tolist()


def test_nothing_is_left_when_writing_fails(events, tmp_path):
    with pytest.raises(RuntimeError), EventWriter(tmp_path / "events.parquet") as writer:
        writer.write(events[0])
        raise RuntimeError
    with pytest.raises(DataError, match="no events"):
        write_events([], tmp_path / "events.parquet")
    unlabelled = dataclasses.replace(events[1], labels={})
    with pytest.raises(DataError, match="labels"):
        write_events([events[0], unlabelled], tmp_path / "events.parquet")
    assert not list(tmp_path.iterdir())


def test_an_earlier_file_survives_a_failure(events, tmp_path):
    path = tmp_path / "events.parquet"
    write_events(events, path)
    before = path.read_bytes()
    with pytest.raises(DataError):
        write_events([], path)
    assert path.read_bytes() == before


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(1, 80), st.one_of(st.none(), st.integers(0, 9)))
def test_batches_hold_every_event_once_and_keep_the_budget(lengths, budget, seed):
    batches = token_budget_batches(lengths, budget, seed=None if seed is None else (seed, 0))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(batch and (len(batch) == 1 or sum(lengths[i] for i in batch) <= budget) for batch in batches)
    if seed is None:
        assert [index for batch in batches for index in batch] == list(range(len(lengths)))


def test_streams_are_grouped_in_order(events):
    groups = list(in_batches(events, 2 * max(map(len, events))))
    assert [id(event) for group in groups for event in group] == [id(event) for event in events]
    assert len(groups) > 1


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loading_does_not_depend_on_workers_nor_draw_random_numbers(events_files, num_workers):
    dataset = EventDataset([events_files["train"]])
    batches = token_budget_batches(dataset.lengths, 500, seed=(0, 0))
    before = torch.get_rng_state()
    found = list(loader(dataset, batches, len, list, num_workers=num_workers))
    assert torch.equal(before, torch.get_rng_state())
    assert found == [[int(dataset.lengths[i]) for i in batch] for batch in batches]


def test_a_file_needs_its_detector_and_a_known_format(tmp_path, events_files):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match="no known format"):
        list(read_events(tmp_path / "notes.txt", "sphenix-tpc"))
    with pytest.raises(DataError, match="no such file"):
        list(read_events(tmp_path / "absent.root", "sphenix-tpc"))
    with pytest.raises(DataError, match="star-tpc"):
        list(read_events(events_files["train"], "star-tpc"))
