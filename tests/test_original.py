"""Files in the authors' layout, written here with random weights, against an oracle that reads the same layout."""

from __future__ import annotations

import json
import pickle
import shutil
from itertools import pairwise

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from typer.testing import CliRunner

from fm4npp import backbones, original
from fm4npp.batch import EventBatch
from fm4npp.cli import app
from fm4npp.convert import load_original_checkpoint
from fm4npp.data import write_events
from fm4npp.errors import CheckpointError, NotFittedError
from fm4npp.modeling import FM4NPPModel
from fm4npp.original.layout import configuration, expected_shapes, measure
from fm4npp.processing import FM4NPPProcessor
from tests.authors_layout import authors_state, one_line, oracle, touch, write

HAS_MAMBA1 = "mamba1" in backbones.names()
MAMBA1 = pytest.param("mamba1", marks=pytest.mark.skipif(not HAS_MAMBA1, reason="no backbone mamba1 is registered"))
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOLERANCE = 5e-6


def batch(lengths=(1, 70, 33)):
    generator = torch.Generator().manual_seed(7)
    total = sum(lengths)
    return EventBatch(
        coordinates=torch.rand(total, 3, generator=generator),
        features=torch.randn(total, 1, generator=generator),
        detector_ids=torch.zeros(total, dtype=torch.int64),
        offsets=torch.tensor([0, *lengths]).cumsum(0),
        order=torch.arange(total),
        targets={},
        labels={},
    )


@torch.no_grad()
def outputs(model, events):
    """Embedding, block outputs and predictions, as `oracle` gives them."""
    out = model(**events)
    return [out.embedding, *out.block_outputs, out.predictions["objective"]]


def difference(found, expected):
    return max(float((f - e).abs().max() / e.abs().max()) for f, e in zip(found, expected, strict=True))


# ---- the same numbers


SIZES = [{}, {"width": 48, "layers": 2, "state": 5, "heads": 3, "taps": 3, "octaves": 6, "k": 2}]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("kind", ["mamba2", MAMBA1])
def test_a_converted_model_computes_what_the_oracle_computes(tmp_path, kind, parallel, sizes):
    state = authors_state(kind, **sizes)
    model = load_original_checkpoint(write(tmp_path / "a.ckpt", state, parallel=parallel))
    events = batch()
    alone = [
        oracle(state, kind, events.features[start:stop], events.coordinates[start:stop])
        for start, stop in pairwise(events.offsets.tolist())
    ]
    expected = [torch.cat(parts) for parts in zip(*alone, strict=True)]
    assert difference(outputs(model, events), expected) < TOLERANCE
    assert len(expected) == sizes.get("layers", 3) + 2
    assert model.config.backbone["type"] == kind
    assert model.config.objective.k == sizes.get("k", 5)


@pytest.mark.parametrize("rows", ["lin_B.weight", "lin_C.weight", "in_proj.weight"])
def test_the_oracle_notices_rows_in_another_order(tmp_path, rows):
    """So the test above can fail: reversing rows of one matrix in one block changes the predictions."""
    state = authors_state()
    model = load_original_checkpoint(write(tmp_path / "a.ckpt", state))
    events = batch((40,))
    name = f"mamba_layers.1.1.{rows}"
    wrong = oracle({**state, name: state[name].flip(0)}, "mamba2", events.features, events.coordinates)
    assert difference(outputs(model, events), wrong) > 1e-2


def test_a_checkpoint_that_is_saved_again_gives_the_same_bits(tmp_path):
    model = load_original_checkpoint(write(tmp_path / "a.ckpt"))
    model.save_pretrained(tmp_path / "model")
    loaded = FM4NPPModel.from_pretrained(tmp_path / "model")
    events = batch()
    for one, other in zip(outputs(loaded, events), outputs(model, events), strict=True):
        assert torch.equal(one, other)
    assert loaded.config.training["step"] == 50000
    assert not any(parameter.requires_grad for parameter in loaded.embedding.parameters())


@pytest.mark.parametrize(
    ("kind", "width", "total", "trainable"),
    [
        ("mamba2", 256, 4_923_386, 4_907_002),
        ("mamba2", 1536, 174_784_026, 174_685_722),
        pytest.param("mamba1", 256, 5_295_962, 5_279_578, marks=MAMBA1.marks),
    ],
)
def test_the_released_sizes_have_the_published_numbers_of_parameters(kind, width, total, trainable):
    heads = width // 32 if kind == "mamba2" else width // 16
    with torch.device("meta"):
        state = authors_state(kind, width, layers=12, state=width // 16, heads=heads, k=30)
        shapes = {name: tuple(value.shape) for name, value in state.items()}
        sizes = measure(shapes)
        model = FM4NPPModel(configuration(sizes))
    assert expected_shapes(sizes) == shapes
    assert sum(value.numel() for value in state.values()) == total
    assert model.num_parameters(trainable=False) == total
    assert model.num_parameters() == trainable
    assert model.config.backbone["state_size"] == width // 16
    if kind == "mamba2":
        assert model.config.backbone["head_dim"] == 64


def test_half_precision_is_taken_and_double_precision_is_not(tmp_path):
    half = {name: value.half() for name, value in authors_state().items()}
    found = original.read(write(tmp_path / "a.ckpt", half))
    assert all(value.dtype == torch.float32 for value in found.tensors.values())
    double = {name: value.double() for name, value in half.items()}
    with pytest.raises(CheckpointError, match="float64"):
        original.read(write(tmp_path / "b.ckpt", double))


# ---- what is refused


def damage(state, how):
    """What is done to the parameters, and what a refusal must name."""
    name = "mamba_layers.1.1.conv1d.bias"
    match how:
        case "missing":
            del state[name]
            return name
        case "missing embedding":
            del state["embedder.proj"]
            return "missing embedder.proj"
        case "missing mark":
            del state["mamba_layers.0.1.lin_B.weight"]
            return "missing mamba_layers.0.1.lin_B.weight"
        case "layer":
            for key in [key for key in state if key.startswith("mamba_layers.1.")]:
                del state[key]
            return "missing mamba_layers.1.0.weight"
        case "extra":
            state["stranger"] = torch.zeros(2)
            return "unexpected stranger"
        case "shape":
            state[name] = torch.zeros(99)
            return f"{name} has shape (99,)"
        case "first shape":
            state["mamba_layers.0.1.lin_C.weight"] = torch.zeros(9, 64)
            return "lin_C.weight has shape (9, 64)"
        case "axes":
            state["embedder.proj"] = torch.zeros(64)
            return "embedder.proj has shape (64,)"
        case "empty":
            state["mamba_layers.0.1.A_log"] = torch.zeros(0)
            return "A_log has shape (0,)"
        case "k":
            state["output_layer.weight"] = torch.zeros(16, 64)
            return "output_layer.weight has shape (16, 64)"
        case "octaves":
            state["embedder.embed.projection"] = torch.zeros(64, 64)
            return "embedder.embed.projection has shape (64, 64)"
        case "heads":
            state["mamba_layers.0.1.A_log"] = torch.zeros(3)
            return "does not divide 128"
        case "nan":
            state[name][3] = float("nan")
            return f"not finite in {name}"
        case "both kinds":
            state["mamba_layers.0.1.x_proj.weight"] = torch.zeros(2, 2)
            return "both"
        case "whole number":
            state[name] = torch.zeros(136, dtype=torch.int64)
            return f"{name} is torch.int64"
        case "no tensor":
            state[name] = [1.0]
            return f"{name} is no dense tensor"
        case "sparse":
            state[name] = torch.zeros(136).to_sparse()
            return f"{name} is no dense tensor"
        case "name":
            state["a\nb"] = torch.zeros(2)
            return "'a\\nb'"
        case "twice":
            state["module.norm.weight"] = state["norm.weight"]
            return "twice"
    raise ValueError(how)


DAMAGES = (
    "missing", "missing embedding", "missing mark", "layer", "extra", "shape", "first shape", "axes", "empty", "k",
    "octaves", "heads", "nan", "both kinds", "whole number", "no tensor", "sparse", "name", "twice",
)  # fmt: skip


@pytest.mark.parametrize("how", DAMAGES)
def test_parameters_that_are_not_exactly_a_models_are_refused_by_name(tmp_path, how):
    state = authors_state()
    named = damage(state, how)
    with pytest.raises(CheckpointError) as caught:
        load_original_checkpoint(write(tmp_path / "a.ckpt", state))
    one_line(caught, named, "a.ckpt")


def test_a_refusal_lists_eight_problems_and_counts_the_rest(tmp_path):
    state = authors_state() | {f"stranger_{i}": torch.zeros(1) for i in range(11)}
    with pytest.raises(CheckpointError) as caught:
        original.read(write(tmp_path / "a.ckpt", state))
    assert one_line(caught, "and 3 more").count("unexpected") == 8


@pytest.mark.parametrize("content", ["absent", "empty", "text", "cut", "stub", "pickle", "list", "weights", "folder"])
def test_files_that_are_no_checkpoint_are_one_line(tmp_path, content):
    path = write(tmp_path / "a.ckpt")
    whole = path.read_bytes()
    if content in ("list", "weights"):
        torch.save([1, 2] if content == "list" else authors_state(), path)
    else:
        path.unlink()
    written = {"empty": b"", "text": b"hello\nworld", "cut": whole[:-50], "stub": whole[:100]}
    if content in written:
        path.write_bytes(written[content])
    elif content == "pickle":
        path.write_bytes(pickle.dumps({"model_state": {"a": 1}}))
    elif content == "folder":
        path.mkdir()
    with pytest.raises(CheckpointError) as caught:
        original.read(path)
    one_line(caught, str(path))


@pytest.mark.parametrize("key", ["model_state", "state_dict"])
def test_a_head_is_refused_with_what_to_do(tmp_path, key):
    head = {"embedder.proj": torch.zeros(1, 64), "class_mlp.0.weight": torch.zeros(4), "prototypes": torch.zeros(3, 4)}
    torch.save({"epoch": 1, key: head}, tmp_path / "head.ckpt")
    with pytest.raises(CheckpointError) as caught:
        original.read(tmp_path / "head.ckpt")
    one_line(caught, "heads", "fm4npp adapt")


class Plain:
    """Like a scheduler that was saved whole."""


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_is_run_unless_it_is_trusted(tmp_path, zipped):
    marker, path = tmp_path / "ran", tmp_path / "a.ckpt"
    content = {"iters": 1, "model_state": authors_state(), "scheduler": touch(marker)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError) as caught:
        original.read(path)
    one_line(caught, "posix.system", "trust_pickle=True", "--trust-pickle")
    assert not marker.exists()
    assert original.read(path, trust_pickle=True).iterations == 1
    assert marker.exists()


def test_a_trusted_file_whose_classes_are_not_installed_is_one_line(tmp_path, monkeypatch):
    path = write(tmp_path / "a.ckpt", scheduler=Plain())
    monkeypatch.delattr("tests.test_original.Plain")
    with pytest.raises(CheckpointError) as caught:
        original.read(path)
    one_line(caught, "tests.test_original.Plain", "trust")
    with pytest.raises(CheckpointError) as caught:
        original.read(path, trust_pickle=True)
    one_line(caught, "cannot be unpickled", "Plain")


def test_numbers_and_arrays_of_numpy_are_no_reason_to_refuse(tmp_path):
    path = write(tmp_path / "a.ckpt", best=np.float64(0.5), history=np.arange(4), iters=np.int64(7))
    admitted = set(torch.serialization.get_safe_globals())
    found = original.read(path)
    assert found.iterations is None
    assert found.epoch == 3
    assert set(torch.serialization.get_safe_globals()) == admitted


def test_files_of_old_pytorch_versions_are_read(tmp_path):
    torch.save({"model_state": authors_state()}, tmp_path / "a.ckpt", _use_new_zipfile_serialization=False)
    found = original.read(tmp_path / "a.ckpt")
    assert found.iterations is None
    assert "step" not in found.config.training


# ---- bin edges


@pytest.fixture
def edges_file(tmp_path, events):
    """Edges at equal counts of the simulated events, as the authors write them."""
    geometry = FM4NPPProcessor(configuration(measure(shapes_of(authors_state())))).config.detectors[0].geometry
    points = np.concatenate([geometry.coordinates(event.positions) for event in events]).astype(np.float64)
    values = [np.quantile(points[:, axis], np.linspace(0, 1, bins + 1)) for axis, bins in enumerate((8, 8, 6))]
    path = tmp_path / "edges.pkl"
    path.write_bytes(
        pickle.dumps({name: list(axis) for name, axis in zip(("Eta", "Phi", "Radius"), values, strict=True)})
    )
    return path


def shapes_of(state):
    return {name: tuple(value.shape) for name, value in state.items()}


def test_events_are_normalised_and_ordered_as_in_the_released_code(tmp_path, events, edges_file):
    """By boxes, r slowest and eta fastest, and by r inside a box; ties of r are in another order than the authors'."""
    model = load_original_checkpoint(write(tmp_path / "a.ckpt"), bin_edges=edges_file)
    assert model.config.training["bin_edges"]["source"] == edges_file.name
    boundaries = [torch.tensor(values) for values in pickle.loads(edges_file.read_bytes()).values()]
    for event in events:
        found = FM4NPPProcessor(model.config)([event], targets=False)
        x, y, z = event.positions.astype(np.float64).T
        r = np.sqrt(x**2 + y**2)
        eta, phi = np.arctanh(z / np.sqrt(r**2 + z**2)), np.arctan2(y, x)
        low, high = 31.371997833251953, 75.38493347167969
        points = np.stack([(eta + 2) / 4, (phi + np.pi) / (2 * np.pi), (r - low) / (high - low)], axis=1)
        energy = ((event.feature("energy") - 253.0982) / 268.7093)[found.order.numpy()]
        points = torch.from_numpy(points.astype(np.float32))
        cells = [
            torch.bucketize(points[:, axis].contiguous(), boundaries[axis].float()).clamp(1, bins)
            for axis, bins in enumerate((8, 8, 6))
        ]
        box = (cells[2] * 8 + cells[1]) * 8 + cells[0]
        by_radius = torch.argsort(points[:, 2], stable=True)
        expected = by_radius[torch.argsort(box[by_radius], stable=True)]
        assert torch.equal(box[found.order], box[expected])
        assert torch.equal(points[found.order][:, 2], points[expected][:, 2])
        assert torch.allclose(found.coordinates, points[found.order], atol=1e-6)
        assert np.allclose(found.features[:, 0], energy, atol=1e-5)


# ---- the released names


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub that gives a small file; the list holds what it was asked for."""
    asked = []
    folder = tmp_path / "snapshots" / COMMIT
    folder.mkdir(parents=True)

    def download(repo_id, filename, **options):
        asked.append((repo_id, filename, options))
        path = folder / filename
        return str(path if path.exists() else write(path))

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    return asked


@pytest.mark.parametrize(("alias", "file"), [("m3", "m1"), ("m4", "m3"), ("m5", "m4"), ("m6", "m5")])
def test_a_released_name_is_downloaded_and_converted_once(tmp_path, hub, monkeypatch, alias, file):
    download = {"cache_dir": tmp_path / "cache", "token": "secret", "local_files_only": True}
    model = FM4NPPModel.from_pretrained(f"fm4npp-{alias}", revision="v1", **download)
    options = {**download, "revision": "v1", "force_download": False}
    assert hub == [("FM4NPP/PP_collision", f"pp_nerf_{file}_k30.ckpt", options)]
    events = batch((40,))
    assert (
        difference(outputs(model, events), oracle(authors_state(), "mamba2", events.features, events.coordinates))
        < TOLERANCE
    )
    assert model.identity == {"name": f"fm4npp-{alias}", "revision": "v1"}
    training = model.config.training
    assert training["revision"] == COMMIT
    assert len(training["sha256"]) == 64

    monkeypatch.setattr("fm4npp.original.released.read", lambda *arguments, **named: pytest.fail("it was read again"))
    again = FM4NPPModel.from_pretrained(f"fm4npp-{alias}", **download)
    assert all(
        torch.equal(one, other) for one, other in zip(outputs(again, events), outputs(model, events), strict=True)
    )
    assert FM4NPPProcessor.from_pretrained(f"fm4npp-{alias}", **download).config == model.config
    assert (tmp_path / "cache/fm4npp" / f"fm4npp-{alias}-{COMMIT[:16]}" / "config.json").exists()


def test_a_download_that_is_forced_is_converted_again(tmp_path, hub):
    FM4NPPModel.from_pretrained("fm4npp-m3", cache_dir=tmp_path)
    write(next((tmp_path / "snapshots").rglob("*.ckpt")), authors_state(k=2))
    assert FM4NPPModel.from_pretrained("fm4npp-m3", cache_dir=tmp_path).config.objective.k == 5
    assert FM4NPPModel.from_pretrained("fm4npp-m3", cache_dir=tmp_path, force_download=True).config.objective.k == 2


def test_a_released_processor_is_there_before_the_model_and_needs_edges(tmp_path, hub, events):
    processor = FM4NPPProcessor.from_pretrained("fm4npp-m3")
    assert not (tmp_path / "home").exists()
    with pytest.raises(NotFittedError, match="fit"):
        processor(events)
    assert FM4NPPModel.from_pretrained("fm4npp-m3").config == processor.config
    assert (tmp_path / "home/fm4npp").exists()
    assert processor.fit(events)(events).num_events == len(events)


@pytest.mark.parametrize("load", [FM4NPPModel.from_pretrained, FM4NPPProcessor.from_pretrained])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fm4npp-m1", ("never released", "fm4npp-m3")),
        ("fm4npp-m2", ("never released", "fm4npp-m6")),
        ("fm4npp-m7", ("no such folder", "did you mean", "fm4npp-m4")),
        ("fm4npp-m6", ("pp_nerf_m5_k30.ckpt", "FM4NPP/PP_collision", "by hand", "fm4npp convert-checkpoint")),
    ],
)
def test_names_that_cannot_be_had_are_one_line_with_what_to_do(tmp_path, load, name, words):
    with pytest.raises(CheckpointError) as caught:
        load(name, cache_dir=tmp_path, local_files_only=True)
    one_line(caught, name, *words)


def test_a_folder_of_that_name_comes_first(tmp_path, monkeypatch):
    load_original_checkpoint(write(tmp_path / "a.ckpt")).save_pretrained(tmp_path / "fm4npp-m3")
    monkeypatch.chdir(tmp_path)
    assert FM4NPPModel.from_pretrained("fm4npp-m3").config.width == 64


# ---- the command


def call(*arguments, status=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result


def test_the_command_writes_a_checkpoint_and_says_what_is_left_to_do(tmp_path, events):
    path = write(tmp_path / "a.ckpt", parallel=True)
    result = call("convert-checkpoint", path, tmp_path / "out", "--json")
    assert "--bin-edges" in result.stdout
    summary = json.loads(result.stdout.splitlines()[-1])
    assert not summary["fitted"]
    assert summary["step"] == 50000
    assert summary["frozen_parameters"] == 64 * 64
    assert summary["parameters"] + 64 * 64 == sum(value.numel() for value in authors_state().values())
    assert {file.name for file in (tmp_path / "out").iterdir()} >= {"config.json", "model.safetensors", "README.md"}
    assert "random" not in (tmp_path / "out/README.md").read_text()
    assert FM4NPPModel.from_pretrained(tmp_path / "out").config.training["sha256"] == summary["sha256"]


def test_the_command_takes_edges_or_fits_them_and_records_which(tmp_path, events, edges_file):
    path = write(tmp_path / "a.ckpt")
    write_events(events, tmp_path / "events.parquet")
    result = call("convert-checkpoint", path, tmp_path / "theirs", "--bin-edges", edges_file)
    assert "not the file that the authors released" in result.stdout
    result = call("convert-checkpoint", path, tmp_path / "own", "--fit", tmp_path / "events.parquet")
    assert f"fitted to {len(events)} events of events.parquet" in result.stdout
    theirs, own = (FM4NPPProcessor.from_pretrained(tmp_path / name) for name in ("theirs", "own"))
    assert theirs.config.training["bin_edges"]["source"] == "edges.pkl"
    assert own.config.training["bin_edges"]["events"] == len(events)
    assert own.config.serializers == FM4NPPProcessor(original.read(path).config).fit(events).config.serializers
    for processor in (theirs, own):
        assert processor(events).num_tokens == sum(len(event) for event in events)


def test_the_command_downloads_a_released_name(tmp_path, hub):
    call("convert-checkpoint", "fm4npp-m4", tmp_path / "out")
    assert FM4NPPModel.from_pretrained(tmp_path / "out").config.training["source"] == "pp_nerf_m3_k30.ckpt"


def test_the_command_runs_code_only_when_it_is_told_to(tmp_path):
    marker = tmp_path / "ran"
    path = write(tmp_path / "a.ckpt", scheduler=touch(marker))
    refused = call("convert-checkpoint", path, tmp_path / "out", status=1)
    assert "--trust-pickle" in refused.stderr
    assert not marker.exists()
    assert not (tmp_path / "out").exists()
    call("convert-checkpoint", path, tmp_path / "out", "--trust-pickle")
    assert marker.exists()


@pytest.mark.parametrize("mistake", ["full", "file", "absent", "damaged", "edges", "both"])
def test_a_mistake_is_one_line_and_changes_nothing(tmp_path, mistake):
    path, out = write(tmp_path / "a.ckpt"), tmp_path / "out"
    options = []
    if mistake == "full":
        out.mkdir()
        (out / "mine").write_text("mine")
    elif mistake == "file":
        out.write_text("mine")
    elif mistake == "absent":
        path.unlink()
    elif mistake == "damaged":
        path.write_bytes(path.read_bytes()[:1000])
    elif mistake == "edges":
        (tmp_path / "edges.pkl").write_bytes(b"no pickle")
        options = ["--bin-edges", tmp_path / "edges.pkl"]
    else:
        options = ["--bin-edges", path, "--fit", path]
    before = sorted(tmp_path.rglob("*"))
    result = call("convert-checkpoint", path, out, *options, status=1)
    assert len(result.stderr.strip().splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
    shutil.rmtree(tmp_path)
