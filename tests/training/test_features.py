from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fm4npp.batch import collate
from fm4npp.data import EventDataset, loader, read_events, write_events
from fm4npp.data import features as storage
from fm4npp.data.features import Layout
from fm4npp.errors import ConfigurationError, DataError, FM4NPPError
from fm4npp.modeling import FM4NPPModel
from fm4npp.processing import FM4NPPProcessor
from fm4npp.training.features import build_features, feature_store, stored_features

BATCHES = [[3, 0], [1], [2, 5, 4], [6, 7]]
HEADS = {
    "tracks": {"type": "track-finding", "num_queries": 6, "width": 16, "hidden": 16},
    "noise": {"type": "noise-tagging", "width": 16},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory, events):
    """Two files, with an event without spacepoints and one with a single one."""
    folder = tmp_path_factory.mktemp("features")
    some = [events[0], events[1].take(np.arange(0)), events[2].take(np.arange(1)), events[3]]
    write_events(some, folder / "a.parquet")
    write_events([events[5], events[6], events[8], events[11]], folder / "b.parquet")
    return [folder / "a.parquet", folder / "b.parquet"]


@pytest.fixture(scope="module")
def dataset(files):
    return EventDataset(files)


def new_model(processor, seed: int = 0) -> FM4NPPModel:
    torch.manual_seed(seed)
    model = FM4NPPModel(processor.config)
    model.freeze_backbone()
    return model.eval()


@pytest.fixture
def model(processor):
    return new_model(processor)


@pytest.fixture
def store(dataset, model, processor, tmp_path):
    return stored_features(dataset, model, processor, tmp_path / "stored")


def load(dataset, processor, stored=None, num_workers=0):
    def prepare(event, **known):
        return processor.prepare(event, targets=False, **known)

    return loader(dataset, BATCHES, prepare, collate, stored=stored, num_workers=num_workers)


def never(*arguments, **named):
    raise AssertionError("computed again")


@pytest.mark.parametrize(("tokens_per_batch", "num_workers"), [(1, 0), (400, 2), (10_000, 0)])
def test_hidden_states_are_those_without_the_store(dataset, model, processor, tmp_path, tokens_per_batch, num_workers):
    stored = stored_features(dataset, model, processor, tmp_path, tokens_per_batch=tokens_per_batch)
    for batch, plain in zip(load(dataset, processor, stored, num_workers), load(dataset, processor), strict=True):
        expected, found = model.hidden_states(plain), model.hidden_states(batch)
        assert torch.equal(batch.order, plain.order)
        assert "hidden" not in plain
        assert torch.equal(found.embedding, expected.embedding)
        assert torch.equal(found.last, expected.last)
        assert len(found.blocks) == len(expected.blocks)
        assert all(torch.equal(*pair) for pair in zip(found.blocks, expected.blocks, strict=True))


def test_the_mean_of_the_blocks(dataset, model, processor, tmp_path):
    stored = stored_features(dataset, model, processor, tmp_path, kind="mixed")
    for batch, plain in zip(load(dataset, processor, stored), load(dataset, processor), strict=True):
        expected = torch.stack(model.hidden_states(plain).blocks).double().mean(0)
        for block in model.hidden_states(batch).blocks:
            torch.testing.assert_close(block.double(), expected, rtol=1e-6, atol=1e-8)


def train(model, dataset, processor, name, stored=None, steps=4):
    """A head trained for a few steps; its losses, and its weights."""
    torch.manual_seed(1)
    head = model.add_head(name, HEADS[name])
    if stored is not None and stored.layout.kind == "mixed":
        model.freeze_layer_mix()
    optimizer = torch.optim.AdamW([p for p in head.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    model.train()
    for _, batch in zip(range(steps), load(dataset, processor, stored), strict=False):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, {key: value.clone() for key, value in head.state_dict().items()}


def test_two_heads_from_one_store_are_those_without_it(dataset, processor, store, monkeypatch):
    plain = {name: train(new_model(processor), dataset, processor, name) for name in HEADS}
    monkeypatch.setattr("fm4npp.backbones.stack.StackBackbone.forward", never)
    for name, (losses, weights) in plain.items():
        found_losses, found = train(new_model(processor), dataset, processor, name, store)
        assert found_losses == losses
        assert len(set(losses)) == len(losses)  # it learned something
        assert all(torch.equal(found[key], values) for key, values in weights.items())


@pytest.mark.parametrize("name", HEADS)
def test_a_head_trained_on_the_mean_runs_on_the_model(dataset, model, processor, tmp_path, name):
    stored = stored_features(dataset, model, processor, tmp_path, kind="mixed")
    train(model, dataset, processor, name, stored)
    assert not model.heads[name].inputs.mix.weight.any()
    model.eval()
    for batch, plain in zip(load(dataset, processor, stored), load(dataset, processor), strict=True):
        found, expected = model(**batch).predictions[name], model(**plain).predictions[name]
        for key in found:
            torch.testing.assert_close(found[key], expected[key], rtol=1e-4, atol=1e-4)
        assert model.predict(batch)[name].keys() == model.predict(plain)[name].keys()


def change_weights(model, processor, dataset):
    with torch.no_grad():
        model.backbone.norm_f.weight[0] += 1e-6
    return dataset


def change_data(model, processor, dataset):
    path = dataset.paths[1]
    write_events(list(read_events(path))[:2], path)
    return EventDataset(dataset.paths)


REFUSED = {
    "backbone": (change_weights, {}),
    "data": (change_data, {}),
    "kind": (lambda model, processor, dataset: dataset, {"kind": "mixed"}),
    "dtype": (lambda model, processor, dataset: dataset, {"dtype": "bfloat16"}),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_of_something_else_is_refused(files, model, processor, tmp_path, what):
    dataset = EventDataset([shutil.copy(path, tmp_path) for path in files])
    stored_features(dataset, model, processor, tmp_path / "stored", tokens_per_batch=2000)
    change, options = REFUSED[what]
    dataset = change(model, processor, dataset)
    with pytest.raises(ConfigurationError, match=rf"something else: another {what} \(.*remove this one$") as caught:
        stored_features(dataset, model, processor, tmp_path / "stored", **options)
    assert "\n" not in str(caught.value)
    assert "another" not in str(caught.value).replace(f"another {what}", "").replace("another folder", "")
    stored_features(dataset, model, processor, tmp_path / "other", **options)


def test_another_order_of_the_tokens_is_refused(dataset, model, events, store):
    other = FM4NPPProcessor(model.config).fit(events[:3])
    with pytest.raises(ConfigurationError, match="another serializer; name"):
        feature_store(dataset, model, other, store.folder)


def test_what_was_moved_is_found_and_same_names_are_told_apart(files, model, processor, tmp_path, store):
    (tmp_path / "elsewhere").mkdir()
    moved = EventDataset([files[1], shutil.copy(files[0], tmp_path / "elsewhere")])
    assert feature_store(moved, model, processor, store.folder).missing == []
    shutil.copy(files[1], tmp_path / "elsewhere" / "a.parquet")
    same_name = EventDataset([files[0], tmp_path / "elsewhere" / "a.parquet", tmp_path / "elsewhere" / "a.parquet"])
    both = stored_features(same_name, model, processor, store.folder)
    assert len({both.path(part) for part in range(3)}) == 2
    plain = processor([same_name[6]], targets=False)
    assert np.array_equal(both(6)["hidden"]["last"], model.hidden_states(plain).last.numpy())


def test_nothing_is_computed_twice(dataset, model, processor, store, monkeypatch):
    monkeypatch.setattr(model, "hidden_states", never)
    assert store.bytes_needed == 0
    again = stored_features(dataset, model, processor, store.folder)
    assert np.array_equal(again(3)["hidden"]["last"], store(3)["hidden"]["last"])
    assert b"FM4NPPModel" not in pickle.dumps(store)  # no model goes to a loader's workers
    assert np.array_equal(pickle.loads(pickle.dumps(store))(3)["order"], store(3)["order"])


def test_bytes_and_progress(dataset, model, processor, tmp_path):
    for kind, dtype, bytes_per_token in (("raw", "float32", 4 + 4 * 32 * 4), ("mixed", "bfloat16", 4 + 3 * 32 * 2)):
        store = feature_store(dataset, model, processor, tmp_path / kind, kind=kind, dtype=dtype)
        assert store.bytes_needed == int(dataset.lengths.sum()) * bytes_per_token
        done = []
        build_features(store, model, processor, tokens_per_batch=300, progress=done.append)
        assert done[-1] == len(dataset)
        assert done == sorted(set(done))
        assert len(done) > 3
        written = sum(file.stat().st_size for file in (tmp_path / kind).glob("*/*.npy"))
        assert 0 < written - store.layout.bytes_per_token * int(dataset.lengths.sum()) < 4096


def test_a_full_disk_is_found_before(dataset, model, processor, tmp_path, monkeypatch):
    store = feature_store(dataset, model, processor, tmp_path / "not" / "there")
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, store.bytes_needed))
    store.check_space()
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 100))
    with pytest.raises(ConfigurationError, match=r"need 0\.000\d+ GB and 1e-07 GB are free") as caught:
        build_features(store, model, processor)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


LAYOUTS = {dtype: Layout("raw", dtype, 1, 1) for dtype in ("float32", "float16", "bfloat16")}
RELATIVE = {"float32": 0.0, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Half a unit in the last place of 11 bits; a whole one of 8 bits, since 2^-9 is met exactly at ties."""


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float32, array_shapes(max_dims=3), elements=st.floats(-6e4, 6e4, width=32)),
    st.sampled_from(sorted(LAYOUTS)),
)
def test_numbers_are_kept_to_the_precision_of_the_type(values, dtype):
    layout = LAYOUTS[dtype]
    stored = layout.encode("last", values)
    found = layout.decode("last", stored)
    assert found.dtype == np.float32
    assert stored.itemsize == (4 if dtype == "float32" else 2)
    assert np.allclose(found, values, rtol=RELATIVE[dtype], atol=0 if dtype == "float32" else 2.0**-25)
    assert np.array_equal(found, torch.from_numpy(values).to(getattr(torch, dtype)).float().numpy())


@pytest.mark.parametrize(
    ("value", "dtype", "remedy"),
    [(1e5, "float16", "store float32 or bfloat16"), (np.nan, "float32", "cannot be used")],
)
def test_what_cannot_be_stored_names_the_event(dataset, model, processor, tmp_path, monkeypatch, value, dtype, remedy):
    whole = model.hidden_states

    def spoilt(batch):
        hidden = whole(batch)
        if batch.num_tokens == len(dataset[3]):
            hidden.last[5, 7] = value
        return hidden

    monkeypatch.setattr(model, "hidden_states", spoilt)
    with pytest.raises(DataError, match=f"event {dataset[3].event_id}: hidden states up to .*{remedy}"):
        stored_features(dataset, model, processor, tmp_path, dtype=dtype, tokens_per_batch=1)
    assert not list(tmp_path.iterdir())


def damage_bytes(folder):
    content = bytearray((folder / "blocks.npy").read_bytes())
    content[-3] ^= 1
    (folder / "blocks.npy").write_bytes(content)


def damage_manifest(folder, **values):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | values))


DAMAGES = {
    "a bit": damage_bytes,
    "the type": lambda f: (f / "last.npy").write_bytes((f / "last.npy").read_bytes().replace(b"<f4", b"<i4", 1)),
    "the length": lambda f: (f / "embedding.npy").write_bytes((f / "embedding.npy").read_bytes()[:-128]),
    "an absent array": lambda f: (f / "order.npy").unlink(),
    "offsets": lambda f: np.save(f / "offsets.npy", np.zeros(5, int)),
    "checksums": lambda f: np.save(f / "checksums.npy", np.zeros((4, 4), np.uint32)),
    "an absent manifest": lambda f: (f / "manifest.json").unlink(),
    "half a manifest": lambda f: (f / "manifest.json").write_text('{"key": {'),
    "no key": lambda f: damage_manifest(f, key=None),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_an_error(dataset, model, processor, store, damage):
    DAMAGES[damage](store.path(1))
    with pytest.raises(DataError, match="remove the folder") as caught:
        list(map(feature_store(dataset, model, processor, store.folder), range(len(dataset))))
    assert "\n" not in str(caught.value)


def test_a_killed_process_leaves_nothing_that_is_used(dataset, model, processor, tmp_path, monkeypatch):
    monkeypatch.setattr("fm4npp.backbones.stack.StackBackbone.forward", lambda *arguments: time.sleep(60))
    process = multiprocessing.get_context("fork").Process(
        target=stored_features, args=(dataset, model, processor, tmp_path)
    )
    process.start()
    while not list(tmp_path.glob(".a-*/blocks.npy")):
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    monkeypatch.undo()
    assert feature_store(dataset, model, processor, tmp_path).missing == [0, 1]
    stored = stored_features(dataset, model, processor, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(stored.path(part).name for part in range(2))


def test_what_is_not_there_or_cannot_be_written_is_said(dataset, model, processor, tmp_path):
    with pytest.raises(DataError, match="compute them first"):
        feature_store(dataset, model, processor, tmp_path)(0)
    (tmp_path / "file").write_text("")
    with pytest.raises(FM4NPPError, match="cannot be written"):
        stored_features(dataset, model, processor, tmp_path / "file" / "stored")
    for options in ({"kind": "all"}, {"dtype": "int8"}):
        with pytest.raises(ConfigurationError, match="choose"):
            feature_store(dataset, model, processor, tmp_path, **options)


def test_what_stored_states_cannot_train_is_refused(dataset, model, processor, store, tmp_path):
    batch = next(load(dataset, processor, store))
    model.add_head("noise", HEADS["noise"])
    model(**batch).loss.backward()
    mixed = next(load(dataset, processor, stored_features(dataset, model, processor, tmp_path / "mean", kind="mixed")))
    with pytest.raises(ConfigurationError, match="freeze_layer_mix"):
        model(**mixed)
    with torch.no_grad():
        model(**mixed)
        model.heads["noise"].inputs.mix.weight[0] = 0.1
    with pytest.raises(ConfigurationError, match="'noise' has learned a mix"):
        model.freeze_layer_mix()
    model.backbone.norm_f.requires_grad_(True)
    with pytest.raises(ConfigurationError, match="freeze it"):
        model(**batch)


def test_hidden_states_of_something_else_are_refused(dataset, model, processor, store):
    batch = next(load(dataset, processor, store))
    with pytest.raises(ConfigurationError, match="not of this model"):
        model(**batch | {"hidden": {**batch.hidden, "blocks": batch.hidden["blocks"][:, :1]}})
    with pytest.raises(ConfigurationError, match="not of this model"):
        model(**batch | {"hidden": {"last": batch.hidden["last"]}})
    with pytest.raises(DataError, match="another number of spacepoints"):
        processor.prepare(dataset[3], **store(0))
    known, plain = processor.prepare(dataset[0], **store(0)), processor.prepare(dataset[1])
    with pytest.raises(ConfigurationError, match="with and without"):
        collate([known, plain])


def test_heads_that_read_no_blocks(dataset, model, processor, store):
    torch.manual_seed(2)
    model.add_head("noise", {**HEADS["noise"], "inputs": ["embedding", "coordinates"]})
    found, expected = (
        [model(**batch).loss.item() for batch in load(dataset, processor, stored)] for stored in (store, None)
    )
    assert found == expected
