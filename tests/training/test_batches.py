"""Which events are in which step, on which process."""

from __future__ import annotations

from collections import Counter
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fm4npp.data import EventDataset, EventStream
from fm4npp.errors import DataError
from fm4npp.training.batches import (
    IndexedBatches,
    StreamedBatches,
    by_detector,
    dealt,
    epoch_order,
    packed,
    step_batches,
)
from fm4npp.training.sources import Preparing

LENGTHS = st.lists(st.integers(0, 50), min_size=1, max_size=40).map(np.array)
STEPS = st.none() | st.integers(1, 12)


@given(LENGTHS, st.integers(1, 120), STEPS, st.integers(1, 5), st.integers(0, 3), st.integers(0, 3))
def test_every_event_is_counted_once_an_epoch_by_one_process(lengths, tokens, events, processes, seed, epoch):
    order = epoch_order([np.arange(len(lengths))], None, seed, epoch)
    steps = step_batches(order, lengths, tokens, events, processes)
    counted = Counter()
    for step in steps:
        shares = [dealt(step, rank, processes) for rank in range(processes)]
        assert len({len(share) for share in shares}) == 1
        assert all(len(batch) == 1 or lengths[batch].sum() <= tokens for share in shares for batch, _ in share)
        own = Counter(int(index) for share in shares for batch, counts in share if counts for index in batch)
        assert events is None or sum(own.values()) <= events
        counted += own
    assert counted == Counter(range(len(lengths)))


@given(LENGTHS, st.integers(1, 120), st.integers(1, 12), st.integers(1, 5))
def test_steps_of_events_do_not_depend_on_the_number_of_processes(lengths, tokens, events, processes):
    order = epoch_order([np.arange(len(lengths))], None, 0, 0)
    one = step_batches(order, lengths, tokens, events, 1)
    many = step_batches(order, lengths, tokens, events, processes)
    assert [[batch.tolist() for batch in step] for step in one] == [[b.tolist() for b in step] for step in many]


@given(st.lists(st.integers(1, 30), min_size=2, max_size=4), st.data())
def test_weights_set_how_often_a_detectors_events_come(sizes, data):
    weights = data.draw(st.lists(st.floats(0.1, 10), min_size=len(sizes), max_size=len(sizes)))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    parts = [np.arange(start, stop) for start, stop in pairwise(starts)]
    total, epochs = sum(sizes), 5
    seen = Counter()
    for epoch in range(epochs):
        order = epoch_order(parts, weights, 3, epoch)
        assert len(order) == total
        share = [int(np.isin(order, part).sum()) for part in parts]
        assert np.allclose(share, np.array(weights) / sum(weights) * total, atol=1)
        seen.update(order.tolist())
    for part in parts:  # passes go on from epoch to epoch, so that no event comes much more often than another
        counts = [seen[index] for index in part.tolist()]
        assert max(counts) - min(counts) <= 1


def test_epochs_and_seeds_differ_but_repeat():
    part = [np.arange(50)]
    orders = [epoch_order(part, None, seed, epoch).tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert orders[0] == orders[3]
    assert len({tuple(order) for order in orders}) == 3
    assert sorted(orders[0]) == list(range(50))


def indexed(events_files, processor, **options):
    dataset = EventDataset([events_files["train"]])
    return IndexedBatches(dataset, Preparing(processor), **{"tokens": 600, **options})


def names(steps):
    return [[batch.names for batch in step] for step in steps]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("options", [{}, {"events": 5}], ids=["batch", "events"])
def test_workers_give_the_same_batches(events_files, processor, options):
    expected = names(islice(indexed(events_files, processor, **options), 12))
    for workers in (2, 4):
        assert names(islice(indexed(events_files, processor, num_workers=workers, **options), 12)) == expected


@pytest.mark.parametrize("stop", [0, 3, 7, 13])
@pytest.mark.parametrize("kind", ["indexed", "streamed"])
def test_goes_on_where_it_stopped(events_files, processor, kind, stop):
    def batches():
        if kind == "indexed":
            return indexed(events_files, processor, events=4)
        stream = EventStream([events_files["train"]], seed=1, buffer=5)
        return StreamedBatches(stream, Preparing(processor), tokens=600, events=4)

    straight, first, second = batches(), batches(), batches()
    expected = names(islice(straight, 20))
    before = names(islice(first, stop))
    second.load_state_dict(first.state_dict())
    assert before + names(islice(second, 20 - stop)) == expected


def test_streams_count_events_and_carry_on_over_epochs(events_files, processor):
    stream = EventStream([events_files["train"]], seed=1, buffer=5)
    batches = StreamedBatches(stream, Preparing(processor), tokens=600, events=7)
    steps = list(islice(batches, 8))
    assert all(sum(len(batch.names) for batch in step) >= 7 for step in steps)
    counts = Counter(name for step in steps for batch in step for name in batch.names)
    assert len(counts) == 24
    assert max(counts.values()) - min(counts.values()) <= 1


def test_a_stream_without_events_for_a_process_is_an_error(events_files, processor):
    stream = EventStream([events_files["train"]], rank=30, world_size=31)
    with pytest.raises(DataError, match="without events"):
        next(iter(StreamedBatches(stream, Preparing(processor), tokens=600)))


def test_a_missing_label_names_the_event(events_files, processor):
    dataset = EventDataset([events_files["train"]])
    batches = IndexedBatches(dataset, Preparing(processor, labels=frozenset({"nonsense"})), tokens=600)
    with pytest.raises(DataError, match="event .*no label 'nonsense'"):
        next(iter(batches))


def test_detectors_are_told_apart(events_files):
    assert list(by_detector(EventDataset([events_files["train"]]))) == ["sphenix-tpc"]
    assert [batch.tolist() for batch in packed(np.array([2, 0, 1]), np.array([5, 4, 9]), 8)] == [[2], [0], [1]]
    assert [batch.tolist() for batch in packed(np.array([0, 1]), np.array([5, 4, 9]), 9)] == [[0, 1]]
