from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import time

import numpy as np
import pytest
import torch

from fm4npp import detectors
from fm4npp.batch import collate
from fm4npp.data import EventDataset, IndexCache, cached, loader, read_events, write_events
from fm4npp.errors import ConfigurationError, DataError, FM4NPPError
from fm4npp.processing import FM4NPPProcessor
from fm4npp.simulation import simulate
from fm4npp.training.config import AdaptConfig, PretrainConfig, parse
from fm4npp.training.pretraining import pretrain
from tests.conftest import GUN, tiny_config
from tests.slow_cache import build_slowly

OFFSET = {"type": "k-nnn", "k": 4, "targets": "offset", "energy": True, "periodic": True}


@pytest.fixture(scope="module")
def files(tmp_path_factory, events):
    """Two files, with an event without spacepoints and one with a single one."""
    folder = tmp_path_factory.mktemp("cache")
    some = [events[0], events[1].take(np.arange(0)), events[2].take(np.arange(1)), *events[3:6]]
    write_events(some, folder / "a.parquet")
    write_events(events[6:], folder / "b.parquet")
    return [folder / "a.parquet", folder / "b.parquet"]


@pytest.fixture(scope="module")
def dataset(files):
    return EventDataset(files)


def assert_equal(first, second) -> None:
    for name in ("coordinates", "features", "detector_ids", "order"):
        assert_same_array(getattr(first, name), getattr(second, name))
    assert set(first.targets) == set(second.targets)
    for name, values in first.targets.items():
        assert_same_array(values, second.targets[name])


def assert_same_array(first, second) -> None:
    assert first.dtype == second.dtype
    assert np.array_equal(first, second)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"objective": OFFSET},
        {"objective": {"type": "k-nnn", "k": 3, "metric": "cartesian"}},
        {"objective": "next-spacepoint"},
        {"serializer": "hilbert"},
    ],
)
def test_targets_and_order_are_those_without_the_cache(dataset, events, tmp_path, fields):
    processor = FM4NPPProcessor(tiny_config(**fields)).fit(events)
    stored = cached(dataset, processor, tmp_path)
    for index, event in enumerate(dataset):
        assert_equal(processor.prepare(event), processor.prepare(event, **stored(index)))
        assert ("indices" in stored(index)) == (fields.get("objective") != "next-spacepoint")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loader_reads_the_cache(dataset, processor, tmp_path, monkeypatch, num_workers):
    batches = [[3, 0], [5, 1, 2], [11]]
    expected = list(loader(dataset, batches, processor.prepare, collate))
    stored = cached(dataset, processor, tmp_path)

    def never(*arguments):
        raise AssertionError("computed again")

    monkeypatch.setattr(type(processor.config.objective), "indices", never)
    monkeypatch.setattr(type(processor.config.objective), "_nearest", never)
    monkeypatch.setattr(type(processor.config.serializers["sphenix-tpc"]), "order", never)
    found = loader(dataset, batches, processor.prepare, collate, num_workers=num_workers, stored=stored)
    for batch, other in zip(expected, found, strict=True):
        assert torch.equal(batch.order, other.order)
        assert torch.equal(batch.targets["neighbours"], other.targets["neighbours"])
        assert torch.equal(batch.targets["valid"], other.targets["valid"])


def test_about_two_bytes_a_number(dataset, processor, tmp_path):
    stored = cached(dataset, processor, tmp_path)
    spacepoints = int(dataset.lengths[:6].sum())
    sizes = {file.name: file.stat().st_size for file in stored.path(0).iterdir()}
    assert sizes["order.npy"] == 128 + 2 * spacepoints
    assert sizes["indices.npy"] == 128 + 2 * 4 * spacepoints
    independent = np.load(stored.path(0) / "order.npy")[: int(dataset.lengths[0])]
    assert np.array_equal(independent, processor.prepare(dataset[0]).order)


def test_large_events_take_four_bytes(processor, events, tmp_path):
    large = events[0].take(np.resize(np.arange(len(events[0])), 65_600))
    write_events([large, events[1]], tmp_path / "large.parquet")
    dataset = EventDataset([tmp_path / "large.parquet"])

    class Fast:
        index_key = staticmethod(processor.index_key)

        @staticmethod
        def indices(event):
            order = np.arange(len(event))[::-1]
            return order, np.stack([order, order], axis=1)

    stored = cached(dataset, Fast(), tmp_path / "cache")
    assert stored(0)["order"].dtype == np.uint32
    assert stored(0)["order"].tolist() == list(range(65_600))[::-1]
    assert stored(1)["indices"].tolist() == [[n, n] for n in range(len(events[1]))][::-1]


def key(dataset, processor, folder):
    return {IndexCache(dataset, processor, folder).path(part).name for part in range(len(dataset.paths))}


def test_any_other_ingredient_is_another_folder(files, dataset, events, tmp_path):
    def fitted(**fields):
        return FM4NPPProcessor(tiny_config(**fields)).fit(events)

    known = key(dataset, fitted(), tmp_path)
    assert len(known) == 2
    assert key(dataset, fitted(), tmp_path) == known
    others = {
        "k": fitted(objective={"type": "k-nnn", "k": 5}),
        "metric": fitted(objective={"type": "k-nnn", "k": 4, "metric": "cartesian"}),
        "periodic": fitted(objective={"type": "k-nnn", "k": 4, "periodic": True}),
        "objective": fitted(objective="next-spacepoint"),
        "serializer": fitted(serializer="hilbert"),
        "bins": fitted(serializer={"type": "raster-scan", "num_bins": [4, 4, 6]}),
        "fit": FM4NPPProcessor(tiny_config()).fit(events[:3]),
        "geometry": fitted(detectors=[{"type": "sphenix-tpc", "radius": [31.0, 76.0]}]),
    }
    for processor in others.values():
        assert not known & key(dataset, processor, tmp_path)
    write_events(
        (event.take(np.arange(len(event))[::-1]) for event in read_events(files[0])), tmp_path / "other.parquet"
    )
    assert not known & key(EventDataset([tmp_path / "other.parquet"]), fitted(), tmp_path)


def test_what_the_neighbours_do_not_depend_on_is_not_in_the_key(files, dataset, events, tmp_path):
    objective = {"type": "k-nnn", "k": 4}
    known = key(dataset, FM4NPPProcessor(tiny_config(objective=objective)).fit(events), tmp_path)
    offset = FM4NPPProcessor(tiny_config(objective={**objective, "targets": "offset"})).fit(events)
    scaled = offset.config.objective.replace(mean=[[1] * 3] * 4, std=[[2] * 3] * 4)
    for processor in (offset, FM4NPPProcessor(offset.config.updated(objective=scaled))):
        assert key(dataset, processor, tmp_path) == known
    shutil.copy(files[0], tmp_path / "renamed.parquet")  # nor on the name of the file
    renamed = EventDataset([files[1], tmp_path / "renamed.parquet"])
    assert key(renamed, offset, tmp_path) == known


def test_each_file_is_computed_once(files, dataset, processor, tmp_path):
    computed = []
    cached(EventDataset(files[:1]), processor, tmp_path, progress=computed.append)
    cached(EventDataset([files[0], files[0]]), processor, tmp_path, progress=computed.append)
    assert computed == [6]
    cached(dataset, processor, tmp_path, progress=computed.append)
    assert computed == [6, 6]
    assert len(list(tmp_path.iterdir())) == 2


def damage_bytes(folder):
    content = bytearray((folder / "indices.npy").read_bytes())
    content[-3] ^= 1
    (folder / "indices.npy").write_bytes(content)


def damage_header(folder):
    content = (folder / "order.npy").read_bytes()
    (folder / "order.npy").write_bytes(content.replace(b"<u2", b"<i2", 1))


def shorten(folder):
    content = (folder / "indices.npy").read_bytes()
    (folder / "indices.npy").write_bytes(content[:-8])


DAMAGES = {
    "a bit": damage_bytes,
    "the type": damage_header,
    "the length": shorten,
    "an absent array": lambda folder: (folder / "order.npy").unlink(),
    "an absent manifest": lambda folder: (folder / "manifest.json").unlink(),
    "half a manifest": lambda folder: (folder / "manifest.json").write_text('{"key": {'),
    "no manifest": lambda folder: (folder / "manifest.json").write_text("[1, 2]"),
    "another key": lambda folder: (folder / "manifest.json").write_text(json.dumps({"key": 1, "arrays": {}})),
    "no checksums": lambda folder: (folder / "checksums.npy").write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_an_error(files, processor, tmp_path, damage):
    dataset = EventDataset(files[1:])
    DAMAGES[damage](cached(dataset, processor, tmp_path).path(0))
    stored = cached(dataset, processor, tmp_path)
    with pytest.raises(DataError, match="remove the folder") as caught:
        list(map(stored, range(len(dataset))))
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_said(dataset, processor, tmp_path):
    with pytest.raises(DataError, match="build"):
        IndexCache(dataset, processor, tmp_path)(0)
    (tmp_path / "file").write_text("")
    with pytest.raises(FM4NPPError, match="cannot be written"):
        cached(dataset, processor, tmp_path / "file" / "cache")


def test_a_failure_leaves_nothing(dataset, processor, tmp_path, monkeypatch):
    count = 0
    whole = processor.indices

    def fail(event):
        nonlocal count
        count += 1
        if count == 8:  # in the second file
            raise DataError("no good")
        return whole(event)

    monkeypatch.setattr(processor, "indices", fail)
    with pytest.raises(DataError, match="no good"):
        cached(dataset, processor, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.undo()
    stored = cached(dataset, processor, tmp_path)
    assert_equal(processor.prepare(dataset[7]), processor.prepare(dataset[7], **stored(7)))


def start(*arguments):
    process = multiprocessing.get_context("spawn").Process(target=build_slowly, args=arguments)
    process.start()
    return process


def test_a_killed_process_leaves_nothing_that_is_used(files, dataset, processor, tmp_path):
    process = start(files[:1], processor, tmp_path, 60)
    while not list(tmp_path.glob(".*")):
        assert process.is_alive()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert len(list(tmp_path.glob(".*"))) == 1
    assert len(IndexCache(dataset, processor, tmp_path).missing) == 2
    stored = cached(dataset, processor, tmp_path)
    assert not list(tmp_path.glob(".*"))
    assert_equal(processor.prepare(dataset[0]), processor.prepare(dataset[0], **stored(0)))


def test_two_processes_at_once(files, dataset, processor, tmp_path):
    both = [start(files, processor, tmp_path, 0.01) for _ in range(2)]
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert len(list(tmp_path.iterdir())) == 2
    stored = cached(dataset, processor, tmp_path, progress=lambda done: pytest.fail("computed again"))
    for index, event in enumerate(dataset):
        assert_equal(processor.prepare(event), processor.prepare(event, **stored(index)))


def config(events_files, **data):
    return parse(
        PretrainConfig,
        {
            "model": {
                "serializer": {"type": "raster-scan", "num_bins": [4, 4, 5]},
                "objective": {"type": "k-nnn", "k": 4, "targets": "offset"},
                "backbone": {"type": "mamba2", "width": 32, "num_layers": 1, "state_size": 4, "head_dim": 16},
            },
            "data": {"train": [str(events_files["train"])], "validation": [str(events_files["validation"])], **data},
            "training": {"steps": 3, "tokens_per_batch": 600, "warmup_steps": 1},
        },
    )


def test_training_is_the_same_with_the_cache(events_files, tmp_path):
    plain = pretrain(config(events_files), tmp_path / "plain")
    kept = config(events_files, cache=str(tmp_path / "cache"))
    assert pretrain(kept, tmp_path / "first") == plain
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert pretrain(kept, tmp_path / "second") == plain
    with pytest.raises(ConfigurationError, match="data.cache"):
        parse(AdaptConfig, {"name": "a", "head": {}, "data": {"train": ["x"], "cache": "y"}})


def test_other_detectors_have_their_own_key(tmp_path, events, files):
    star = detectors.build("star-tpc")
    write_events(simulate(star, 3, 1, GUN), tmp_path / "star.parquet")
    processor = FM4NPPProcessor(tiny_config(detectors=["sphenix-tpc", "star-tpc"]))
    mixed = EventDataset([files[0], tmp_path / "star.parquet"])
    processor = processor.fit(mixed)
    stored = cached(mixed, processor, tmp_path / "cache")
    for index in (0, len(mixed) - 1):
        assert_equal(processor.prepare(mixed[index]), processor.prepare(mixed[index], **stored(index)))
