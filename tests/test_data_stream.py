from __future__ import annotations

import json
import random
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import _registry
from torch.utils.data import DataLoader

from fm4npp import detectors
from fm4npp.batch import collate
from fm4npp.convert import convert
from fm4npp.data import (
    EventDataset,
    EventStream,
    Mixture,
    StreamLoader,
    load,
    loader,
    read_events,
    stream_batches,
    write_events,
)
from fm4npp.data.shards import divided
from fm4npp.errors import ConfigurationError, DataError
from fm4npp.event import Event
from fm4npp.readers import events_parquet
from tests.readers import writers
from tests.test_data import same


def make(event_id: int, detector: str = "sphenix-tpc", dtype=np.float32) -> Event:
    """An event of 0 to 6 spacepoints, told by its identifier."""
    count = event_id % 7
    generator = np.random.default_rng(event_id)
    return Event(
        positions=generator.normal(40, 5, (count, 3)).astype(dtype),
        features=generator.random((count, 1)),
        feature_names=("energy" if detector == "sphenix-tpc" else "charge",),
        labels={"track_id": np.arange(count)},
        detector=detector,
        event_id=event_id,
    )


def write_star(path: Path, sizes) -> None:
    """A ROOT file as the STAR TPC detector reads it."""
    generator = np.random.default_rng(0)
    names = ("TPCHits_x", "TPCHits_y", "TPCHits_z", "TPCHits_adc")
    branches = {name: [generator.normal(80, 9, size).astype(np.float32) for size in sizes] for name in names}
    branches["TPCHits_IdTruth"] = [generator.integers(0, 3, size).astype(np.int32) for size in sizes]
    writers.root_tree(path, {"StEvent": branches})


def write_files(folder: Path, sizes, detector="sphenix-tpc", start=0, name="part") -> list[Path]:
    """Files of so many events, numbered through."""
    paths = []
    for number, size in enumerate(sizes):
        paths.append(folder / f"{name}-{number}.parquet")
        write_events((make(event_id, detector) for event_id in range(start, start + size)), paths[-1])
        start += size
    return paths


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    return write_files(tmp_path_factory.mktemp("stream"), [11, 1, 300, 20, 8])


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> list[Path]:
    return write_files(tmp_path_factory.mktemp("others"), [40, 25], "star-tpc", start=1000)


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> tuple[list[Path], list[Path]]:
    """Few events of two detectors, for tests that read them many times."""
    folder = tmp_path_factory.mktemp("few")
    return write_files(folder, [5, 1, 8]), write_files(folder, [4, 3], "star-tpc", 1000, "star")


def ids(events) -> list[int]:
    return [event.event_id for event in events]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_stream_gives_what_was_written(tmp_path, dtype):
    written = [make(number, dtype=dtype) for number in range(600)]
    write_events(written, tmp_path / "run [1] of 2.parquet")
    stream = EventStream([tmp_path / "run [1] of 2.parquet"])
    found = list(stream)
    assert all(same(a, b) for a, b in zip(found, written, strict=True))
    assert found[-1].positions.dtype == dtype
    assert stream.accounting.events_used == 600
    assert stream.accounting.spacepoints_used == sum(map(len, written))
    assert ids(stream) == ids(written)  # and again


def test_files_of_several_kinds_keep_their_own_types(tmp_path):
    write_events([make(1)], tmp_path / "a.parquet")
    write_events([make(2, dtype=np.float64)], tmp_path / "b.parquet")
    write_events([make(3, "star-tpc")], tmp_path / "c.parquet")
    stream = load(str(tmp_path / "*.parquet"), streaming=True)
    assert [event.positions.dtype for event in stream] == [np.float32, np.float64, np.float32]
    assert [event.feature_names for event in stream][2] == ("charge",)


@pytest.mark.parametrize("num_shards", range(9))
@pytest.mark.parametrize("num_shares", range(1, 7))
def test_shares_divide_everything_exactly_once(num_shards, num_shares):
    found = Counter()
    for share in range(num_shares):
        for shard, step, offset in divided(num_shards, share, num_shares):
            found.update((shard, event) for event in range(offset, 30, step))
    assert found == {(shard, event): 1 for shard in range(num_shards) for event in range(30)}
    whole = [sum(1 / step for _, step, _ in divided(num_shards, share, num_shares)) for share in range(num_shares)]
    assert max(whole) - min(whole) < 1  # no share is a whole file behind another


@pytest.mark.parametrize("seed", [None, 3])
@pytest.mark.parametrize(("world_size", "num_workers"), [(1, 0), (3, 0), (7, 0), (2, 2)])
def test_every_event_once_over_ranks_and_workers(files, seed, world_size, num_workers):
    for epoch in (0, 1):
        found = []
        for rank in range(world_size):
            stream = load(files, streaming=True, seed=seed, buffer=50, rank=rank, world_size=world_size)
            stream.set_epoch(epoch)
            found += ids(DataLoader(stream, batch_size=None, num_workers=num_workers))
        assert sorted(found) == list(range(340))


def test_shuffling_depends_on_seed_and_epoch_alone(files):
    def order(seed, epoch):
        stream = EventStream(files, seed=seed, buffer=100)
        stream.set_epoch(epoch)
        return ids(stream)

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4
    assert sorted(order(1, 0)) == list(range(340))
    shuffled = np.array(order(1, 0))
    assert (np.abs(np.diff(shuffled)) == 1).mean() < 0.1
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    order(1, 0)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert np.array_equal(before[2], np.random.get_state()[1])  # noqa: NPY002


def test_a_buffer_of_large_events_is_full_early(files, monkeypatch):
    monkeypatch.setattr("fm4npp.data.stream.BUFFERED_SPACEPOINTS", 12)
    found = ids(EventStream(files[2:3], seed=0, buffer=10_000))
    assert sorted(found) == list(range(12, 312))
    assert max(abs(number - 12 - place) for place, number in enumerate(found)) <= 12


def mixture(files, others, stop, seed=5):
    streams = [EventStream(files, seed=seed, buffer=30), EventStream(others, seed=None)]
    return Mixture(streams, [3, 1], seed=seed, stop=stop)


KINDS = {
    "in order": lambda files, others: EventStream([*files, *others]),
    "in short blocks": lambda files, others: EventStream([*files, *others], buffer=4),
    "shuffled": lambda files, others: EventStream([*files, *others], seed=4, buffer=9),
    "shared": lambda files, others: EventStream(files, seed=4, buffer=3, rank=0, world_size=2),
    "mixed": lambda files, others: mixture(files, others, "all"),
    "mixed to the first end": lambda files, others: mixture(files, others, "first"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_goes_on_at_any_place(few, kind):
    def new():
        return KINDS[kind](*few)

    stream = new()
    stream.set_epoch(2)
    everything, states = [], [stream.state_dict()]
    for event in stream:
        everything.append(event.event_id)
        states.append(json.loads(json.dumps(stream.state_dict())))
    states.append(stream.state_dict())  # of the finished epoch
    counts = stream.accounting.as_dict()
    assert len(everything) > 3
    places = sorted({*range(0, len(states), 3), len(states) - 2, len(states) - 1})
    for given, state in [(place, states[place]) for place in places]:
        resumed = new()
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        assert ids(resumed) == everything[given:]
        assert resumed.accounting.as_dict() == counts
        assert resumed.state_dict() == states[-1]


def test_the_next_epoch_follows_a_resumed_one(files):
    stream = EventStream(files, seed=1)
    events = iter(stream)
    first = [next(events).event_id for _ in range(5)]
    state = stream.state_dict()
    stream.set_epoch(1)
    following = ids(stream)
    resumed = EventStream(files, seed=1)
    resumed.load_state_dict(state)
    assert sorted(first + ids(resumed)) == list(range(340))
    resumed.set_epoch(1)
    assert ids(resumed) == following


def test_the_state_of_another_stream_is_refused(files, others):
    state = EventStream(files, seed=1).state_dict()
    for other in (
        EventStream(files, seed=2),
        EventStream(files[1:], seed=1),
        EventStream(files, seed=1, buffer=7),
        EventStream(files, seed=1, rank=1, world_size=2),
        mixture(files, others, "all"),
    ):
        with pytest.raises(ConfigurationError, match="state of a"):
            other.load_state_dict(state)
    with pytest.raises(ConfigurationError, match="mixture"):
        mixture(files, others, "all").load_state_dict(mixture(files, others, "first").state_dict())


def test_mixtures_keep_their_probabilities(tmp_path):
    first = write_files(tmp_path, [1000], name="first")
    second = write_files(tmp_path, [1000], "star-tpc", name="second")
    mixed = load([first[0], second[0]], streaming=True, probabilities=[0.8, 0.2], seed=1)
    assert mixed.detectors == ("sphenix-tpc", "star-tpc")
    found = Counter(event.detector for event in mixed)
    assert found["sphenix-tpc"] == 1000  # the epoch ended with it
    share = found["star-tpc"] / found.total()
    assert abs(share - 0.2) < 4 * (0.2 * 0.8 / found.total()) ** 0.5
    everything = Mixture(mixed.streams, [0.8, 0.2], stop="all")
    assert Counter(event.detector for event in everything) == {"sphenix-tpc": 1000, "star-tpc": 1000}
    assert everything.accounting.events_used == 2000


@pytest.mark.parametrize("num_workers", [0, 2])
def test_mixtures_are_shared_out(files, others, num_workers):
    found = []
    for rank in range(2):
        streams = [EventStream(paths, seed=1, rank=rank, world_size=2) for paths in (files, others)]
        found += ids(DataLoader(Mixture(streams, stop="all"), batch_size=None, num_workers=num_workers))
    assert sorted(found) == [*range(340), *range(1000, 1065)]


def spoil(path: Path, target: Path, places) -> None:
    """A copy in which some events have positions that are not finite."""
    table = pq.read_table(path)
    column = table["x"].to_pylist()
    for place in places:
        column[place][0] = float("nan")
    spoilt = table.set_column(0, table.schema.field("x"), pa.array(column, table.schema.field("x").type))
    pq.write_table(spoilt, target)


def test_events_that_cannot_be_read_are_counted_and_too_many_stop(files, tmp_path):
    spoil(files[2], tmp_path / "bad.parquet", [4, 150])  # events 16 and 162
    stream = load(tmp_path / "bad.parquet", streaming=True, max_rejected=0.01)
    assert ids(stream) == [number for number in range(12, 312) if number not in (16, 162)]
    counts = stream.accounting
    assert (counts.events_read, counts.events_used, counts.rejected_events.total()) == (300, 298, 2)
    with pytest.raises(DataError, match=r"2 of 300 events rejected.*event 16"):
        list(load(tmp_path / "bad.parquet", streaming=True))


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_a_loader_adds_up_what_its_workers_count(files, tmp_path, num_workers):
    spoil(files[2], tmp_path / "bad.parquet", [4, 150])
    stream = load([*files[:2], tmp_path / "bad.parquet"], streaming=True, max_rejected=0.01)
    batches = StreamLoader(stream, 20, len, list, num_workers=num_workers)
    assert sum(map(len, batches)) == 310
    assert batches.accounting.events_used == 310
    assert batches.accounting.rejected_events.total() == 2
    strict = load([*files[:2], tmp_path / "bad.parquet"], streaming=True)
    with pytest.raises(DataError, match=r"rejected.*event (16|162)") as caught:
        list(StreamLoader(strict, 20, len, list, num_workers=num_workers))
    assert "\n" not in str(caught.value)


def test_a_damaged_file_says_what_and_where(files, tmp_path):
    content = bytearray(files[2].read_bytes())
    content[200] ^= 0xFF
    (tmp_path / "flipped.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"flipped\.parquet"):
        list(EventStream([tmp_path / "flipped.parquet"]))
    (tmp_path / "half.parquet").write_bytes(files[2].read_bytes()[:2000])
    with pytest.raises(DataError, match=r"half\.parquet"):
        EventStream([tmp_path / "half.parquet"])
    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "foreign.parquet")
    with pytest.raises(DataError, match="no events file|not an events file"):
        EventStream([tmp_path / "foreign.parquet"])


def test_a_file_that_breaks_later_is_named(files, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.parquet").write_bytes(files[0].read_bytes())
    (folder / "b.parquet").write_bytes(files[3].read_bytes()[:1000])
    (folder / "manifest.json").write_text(json.dumps({"shards": [{"file": "a.parquet"}, {"file": "b.parquet"}]}))
    for num_workers in (0, 1):
        batches = iter(StreamLoader(load(folder, streaming=True), 10, len, list, num_workers=num_workers))
        with pytest.raises(DataError, match=r"b\.parquet") as caught:
            list(batches)
        assert "\n" not in str(caught.value)


def test_packing_keeps_the_order_and_the_budget(files):
    stream = EventStream(files)
    groups = list(stream_batches(stream, 15))
    assert [event.event_id for group in groups for event in group] == list(range(340))
    assert all(sum(map(len, group)) <= 15 for group in groups)
    assert all(sum(map(len, a)) + len(b[0]) > 15 for a, b in pairwise(groups))


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_a_loader_goes_on_after_any_batch(files, others, num_workers):
    def new():
        stream = mixture(files, others, "all")
        return StreamLoader(stream, 40, lambda event: event.event_id, list, num_workers=num_workers)

    batches = new()
    batches.set_epoch(1)
    everything, states = [], [batches.state_dict()]
    for batch in batches:
        everything.append(batch)
        states.append(json.loads(json.dumps(batches.state_dict())))
    assert sorted(event for batch in everything for event in batch) == [*range(340), *range(1000, 1065)]
    counts = batches.accounting.as_dict()
    for given in {0, 1, 2, 5, len(states) - 2, len(states) - 1}:
        resumed = new()
        resumed.load_state_dict(states[given])
        assert list(resumed) == everything[given:]
        assert resumed.accounting.as_dict() == counts
    with pytest.raises(ConfigurationError, match="workers"):
        StreamLoader(mixture(files, others, "all"), 40, len, list, num_workers=3).load_state_dict(states[1])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stream_feeds_a_model(events_files, processor, num_workers):
    stream = load([events_files["train"], events_files["validation"]], streaming=True, seed=1)
    batches = list(StreamLoader(stream, 600, processor.prepare, collate, num_workers=num_workers))
    events = [*read_events(events_files["train"]), *read_events(events_files["validation"])]
    assert sum(batch.num_tokens for batch in batches) == sum(map(len, events))
    if not num_workers:
        groups = stream_batches(stream, 600)
        for batch, group in zip(batches, groups, strict=True):
            assert torch.equal(batch.targets["neighbours"], processor(group).targets["neighbours"])


def test_an_event_that_cannot_be_prepared_is_one_line(events_files, processor):
    def fail(event):
        raise DataError("no good")

    stream = load(events_files["train"], streaming=True)
    for num_workers in (0, 1):
        for batches in (
            StreamLoader(stream, 600, fail, list, num_workers=num_workers),
            loader(EventDataset([events_files["train"]]), [[0, 1]], fail, list, num_workers=num_workers),
        ):
            with pytest.raises(DataError, match=r"event 0: no good$") as caught:
                list(batches)
            assert "\n" not in str(caught.value)


def test_other_formats_are_streamed_with_their_detector(tmp_path):
    path = tmp_path / "events.root"
    write_star(path, [3, 0, 5, 4, 2])
    expected = list(read_events(path, "star-tpc"))
    stream = load(path, streaming=True, detector="star-tpc")
    assert stream.detectors == ("star-tpc",)
    assert all(same(a, b) for a, b in zip(stream, expected, strict=True))
    shares = [load(path, streaming=True, detector="star-tpc", rank=rank, world_size=2) for rank in range(2)]
    assert sorted(ids(shares[0]) + ids(shares[1])) == sorted(ids(expected))
    events = iter(stream)
    given = [next(events).event_id for _ in range(2)]
    resumed = load(path, streaming=True, detector="star-tpc")
    resumed.load_state_dict(stream.state_dict())
    assert given + ids(resumed) == ids(expected)
    with pytest.raises(DataError, match="convert it first"):
        load(path, streaming=True)


def test_folders_patterns_and_single_files(tmp_path, files, events_files):
    convert([events_files["train"]], detectors.build("sphenix-tpc"), tmp_path / "folder")
    assert len(load(tmp_path / "folder")) == len(EventDataset([events_files["train"]]))
    assert len(list(load(tmp_path / "folder", streaming=True))) == len(EventDataset([events_files["train"]]))
    found = load([str(files[0].parent / "part-[01].parquet"), files[4]])
    assert ids(found) == [*range(12), *range(332, 340)]
    assert ids(load(files[0], detector="sphenix-tpc")) == list(range(11))


@pytest.mark.parametrize("options", [{}, {"streaming": True}])
def test_what_cannot_be_loaded_is_said(files, others, tmp_path, options, monkeypatch):
    def unreachable(name, revision=None):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset_builder", unreachable)
    with pytest.raises(DataError, match="no such file"):
        load(tmp_path / "absent.parquet", **options)
    with pytest.raises(DataError, match="nor does anything match"):
        load(str(tmp_path / "*.parquet"), **options)
    with pytest.raises(DataError, match="star-tpc"):
        load(others[0], detector="sphenix-tpc", **options)
    with pytest.raises(ConfigurationError, match="nothing"):
        load([], **options)
    with pytest.raises(ConfigurationError, match="revision"):
        load(files[0], revision="main", **options)
    with pytest.raises(ConfigurationError, match="rank"):
        load(files[0], rank=2, world_size=2, **options)
    with pytest.raises(DataError, match="neither a file.*no network"):
        load("nobody/nothing", **options)
    with pytest.raises(DataError, match="without manifest"):
        load(tmp_path, **options)


@pytest.mark.parametrize("wrong", [{"probabilities": [1]}, {"seed": 1}, {"world_size": 2}])
def test_options_of_streams_need_streaming(files, wrong):
    with pytest.raises(ConfigurationError, match="streaming"):
        load(files[0], **wrong)


@pytest.mark.parametrize("wrong", [[1.0], [1, 0], [1, -1], [1, float("nan")], [1, float("inf")]])
def test_probabilities_must_fit(files, others, wrong):
    with pytest.raises(ConfigurationError, match="probabilities"):
        load([files[0], others[0]], streaming=True, probabilities=wrong)


def test_a_mixture_needs_streams_of_one_process(files):
    with pytest.raises(ConfigurationError, match="no streams"):
        Mixture([])
    with pytest.raises(ConfigurationError, match="same rank"):
        Mixture([EventStream(files), EventStream(files, rank=1, world_size=2)])
    with pytest.raises(ConfigurationError, match="stop"):
        Mixture([EventStream(files)], stop="never")


class FakeHub(DirFileSystem):
    """hf://datasets/user/name@commit/path -> a local folder user/name@commit/path under `root`."""

    protocol = "hf"
    root = ""
    cachable = False

    def __init__(self, *args, **kwargs):
        super().__init__(path=self.root, fs=LocalFileSystem())

    @classmethod
    def _strip_protocol(cls, path):
        return path.removeprefix("hf://") if isinstance(path, str) else [cls._strip_protocol(each) for each in path]


@pytest.fixture
def hub(tmp_path, monkeypatch, files):
    """A repository user/events with three files at commit c0ffee; `datasets` finds them as it does on the real Hub."""
    folder = tmp_path / "datasets" / "user" / "events@c0ffee" / "data"
    folder.mkdir(parents=True)
    for path in (files[0], files[3], files[4]):
        (folder / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(FakeHub, "root", str(tmp_path))
    monkeypatch.setitem(_registry, "hf", FakeHub)

    def resolve_path(self, url):
        _, user, name, *inner = FakeHub._strip_protocol(url).split("/")
        return SimpleNamespace(
            repo_id=f"{user}/{name}", repo_type="dataset", revision="c0ffee", path_in_repo="/".join(inner)
        )

    def download(self, repo_id, repo_type, revision, filename, force_download):
        return str(tmp_path / "datasets" / repo_id / filename)

    monkeypatch.setattr(huggingface_hub.HfFileSystem, "resolve_path", resolve_path)
    monkeypatch.setattr(huggingface_hub.HfApi, "hf_hub_download", download)
    asked = []

    def builder(name, revision=None):
        asked.append((name, revision))
        urls = [f"hf://datasets/user/events@c0ffee/data/part-{number}.parquet" for number in (0, 3, 4)]
        return SimpleNamespace(config=SimpleNamespace(data_files={"train": urls[:2], "test": urls[2:]}))

    monkeypatch.setattr(datasets, "load_dataset_builder", builder)
    return asked


@pytest.mark.parametrize("streaming", [False, True])
def test_repositories_of_the_hub(hub, streaming):
    found = load("user/events", streaming=streaming, revision="v1")
    assert hub == [("user/events", "v1")]
    assert ids(found) == [*range(11), *range(312, 332)]
    assert found.detectors == ("sphenix-tpc",)
    assert ids(load("user/events", streaming=streaming, split="test")) == list(range(332, 340))
    with pytest.raises(DataError, match="without a split 'half'"):
        load("user/events", streaming=streaming, split="half")
    pattern = "hf://datasets/user/events@c0ffee/data/part-[03].parquet"
    assert ids(load(pattern, streaming=streaming)) == [*range(11), *range(312, 332)]
    assert events_parquet.read_metadata("hf://datasets/user/events@c0ffee/data/part-0.parquet")["detector"]


def test_reading_does_not_need_datasets():
    import subprocess

    code = "import sys, fm4npp.data; sys.exit('datasets' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("indices", [[], [3], [5, 6, 7], [310, 2, 2, 12, 11, 0], list(range(340))])
def test_several_events_at_once_are_those_one_by_one(files, indices):
    dataset = EventDataset(files)
    found = dataset.__getitems__(indices)
    assert ids(found) == indices
    assert all(same(event, make(index)) for event, index in zip(found, indices, strict=True))
    assert all(same(event, dataset[index]) for event, index in zip(found, indices, strict=True))
    with pytest.raises(IndexError):
        dataset.__getitems__([0, 340])
    assert ids(dataset) == list(range(340))


def test_an_event_by_index_that_cannot_be_read_is_an_error(files, tmp_path):
    spoil(files[2], tmp_path / "bad.parquet", [4])
    dataset = EventDataset([tmp_path / "bad.parquet"])
    assert len(dataset.__getitems__([3, 5])) == 2
    for read in (lambda: dataset[4], lambda: dataset.__getitems__([3, 4])):
        with pytest.raises(DataError, match=r"bad\.parquet.*event 16"):
            read()
