from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from fm4npp.checkpoint import write_tensors
from fm4npp.errors import CheckpointError, ConfigurationError, DataError
from fm4npp.modeling import FM4NPPModel
from fm4npp.processing import FM4NPPProcessor
from tests.conftest import rehash, tiny_config

HEADS = {
    "tracks": {"type": "track-finding", "num_queries": 60, "width": 32, "hidden": 32},
    "noise": {"type": "noise-tagging", "width": 32},
}


@pytest.fixture
def model(processor):
    torch.manual_seed(0)
    return FM4NPPModel(processor.config).eval()


@pytest.fixture
def batch(events, processor):
    return processor(events)


def outputs(model, batch):
    with torch.no_grad():
        return model(**batch)


def test_save_and_load_give_the_same_bits(model, batch, tmp_path):
    for name, spec in HEADS.items():
        model.add_head(name, spec)
    expected = outputs(model, batch)
    model.save_pretrained(tmp_path)
    loaded = FM4NPPModel.from_pretrained(tmp_path)
    found = outputs(loaded, batch)
    assert loaded.config == model.config
    assert torch.equal(found.loss, expected.loss)
    assert torch.equal(found.last_hidden_state, expected.last_hidden_state)
    predicted = loaded.predict(batch)
    for name, values in model.predict(batch).items():
        assert all(torch.equal(value, predicted[name][key]) for key, value in values.items())
    assert FM4NPPProcessor.from_pretrained(tmp_path).config == model.config


def test_another_process_gives_the_same_bits(model, batch, tmp_path):
    model.save_pretrained(tmp_path)
    torch.save(dict(batch), tmp_path / "batch.pt")
    code = (
        "import sys, torch, fm4npp; torch.set_num_threads(1); folder = sys.argv[1];"
        "model = fm4npp.FM4NPPModel.from_pretrained(folder);"
        "batch = torch.load(folder + '/batch.pt', weights_only=True);"
        "out = model(**batch).last_hidden_state.detach(); torch.save(out, folder + '/out.pt')"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert torch.equal(torch.load(tmp_path / "out.pt"), outputs(model, batch).last_hidden_state)


def test_shards_are_read_and_written(model, batch, tmp_path):
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    write_tensors(model, tmp_path, max_shard_size="20KB")
    rehash(tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    expected = outputs(model, batch).last_hidden_state
    assert torch.equal(outputs(FM4NPPModel.from_pretrained(tmp_path), batch).last_hidden_state, expected)
    next(tmp_path.glob("model-*.safetensors")).unlink()
    with pytest.raises(CheckpointError, match="missing"):
        FM4NPPModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "unexpected", "shape", "truncated", "garbage", "absent"])
def test_wrong_weights_are_refused_by_name(model, tmp_path, damage):
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("dt_bias"))
    if damage == "missing":
        del tensors[name]
    elif damage == "unexpected":
        name = "stranger"
        tensors[name] = torch.zeros(2)
    elif damage == "shape":
        tensors[name] = torch.zeros(99)
    if damage in ("missing", "unexpected", "shape"):
        save_file(tensors, path)
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "garbage":
        path.write_bytes(b"not a checkpoint")
    else:
        path.unlink()
    with pytest.raises(CheckpointError, match=name if damage in ("missing", "unexpected", "shape") else str(path)):
        FM4NPPModel.from_pretrained(tmp_path)


def test_a_failed_save_leaves_the_previous_checkpoint(model, batch, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*arguments, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fm4npp.pretrained.write_tensors", fail)
    with pytest.raises(CheckpointError, match="No space left"):
        model.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_head_is_saved_alone_and_loads_on_its_backbone_only(model, batch, processor, tmp_path):
    model.save_pretrained(tmp_path / "model")
    model.add_head("tracks", HEADS["tracks"])
    expected = model.predict(batch)
    model.save_head("tracks", tmp_path / "head")
    assert json.loads((tmp_path / "head/head.json").read_text())["backbone"]["sha256"]
    assert len(load_file(tmp_path / "head/model.safetensors")) < len(model.state_dict())

    loaded = FM4NPPModel.from_pretrained(tmp_path / "model")
    assert loaded.load_head(tmp_path / "head") == "tracks"
    for name, values in expected["tracks"].items():
        assert torch.equal(values, loaded.predict(batch)["tracks"][name])

    torch.manual_seed(1)
    stranger = FM4NPPModel(processor.config)
    with pytest.raises(CheckpointError, match="another backbone"):
        stranger.load_head(tmp_path / "head")
    assert not stranger.heads


def test_heads_alone_train_on_a_frozen_backbone(model, batch):
    model.add_head("noise", HEADS["noise"])
    model.freeze_backbone()
    before = model.backbone_identity()["sha256"]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    batch["targets"] = {}
    model(**batch).loss.backward()
    optimizer.step()
    assert model.backbone_identity()["sha256"] == before
    assert all(p.grad is None for p in model.backbone.parameters())


def test_a_head_on_coordinates_does_not_run_the_backbone(model, batch, monkeypatch):
    model.add_head("noise", {**HEADS["noise"], "inputs": ["coordinates"]})
    monkeypatch.setattr(model.backbone, "forward", lambda *arguments: pytest.fail("the backbone ran"))
    assert len(model.predict(batch)["noise"]["is_noise"]) == batch.num_tokens


def test_an_event_does_not_depend_on_its_batch_mates(model, events, processor):
    model.add_head("noise", HEADS["noise"])
    together = processor(events)
    whole = outputs(model, together)
    for i, event in enumerate(events):
        alone = outputs(model, processor([event]))
        own = slice(together.offsets[i], together.offsets[i + 1])
        assert torch.equal(whole.last_hidden_state[own], alone.last_hidden_state)
        assert torch.equal(whole.predictions["objective"][own], alone.predictions["objective"])


@pytest.mark.parametrize("name", ["objective", "a.b", "", "keys", "Upper"])
def test_impossible_head_names_are_refused(model, name):
    with pytest.raises(ConfigurationError, match="cannot be the name"):
        model.add_head(name, "noise-tagging")


def test_predicting_and_labels_are_checked(model, batch):
    with pytest.raises(ConfigurationError, match="no head"):
        model.predict(batch)
    model.add_head("noise", HEADS["noise"])
    with pytest.raises(ConfigurationError, match="already"):
        model.add_head("noise", HEADS["noise"])
    del batch["labels"]["is_noise"]
    with pytest.raises(DataError, match="is_noise"):
        model.require_labels(batch)


@pytest.mark.parametrize("name", ["fm4npp-m7", "/nowhere/at/all", "./here"])
def test_what_cannot_be_found_is_one_line(name):
    with pytest.raises(CheckpointError, match="no such folder") as caught:
        FM4NPPModel.from_pretrained(name)
    assert "\n" not in str(caught.value)


def test_pushing_uploads_a_whole_checkpoint(model, batch, monkeypatch, tmp_path):
    pushed = {}

    class Api:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, **options):
            return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, *, folder_path, **options):
            shutil.copytree(folder_path, tmp_path / "pushed")
            pushed.update(options)
            return "commit"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    assert model.push_to_hub("someone/model") == "commit"
    assert pushed["repo_id"] == "someone/model"
    loaded = FM4NPPModel.from_pretrained(tmp_path / "pushed")
    assert torch.equal(outputs(loaded, batch).last_hidden_state, outputs(model, batch).last_hidden_state)


def test_a_card_says_what_is_inside_until_somebody_changes_it(model, tmp_path):
    model.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.library_name == "fm4npp"
    assert "sphenix-tpc" in card.text
    assert "random" in card.text
    trained = copy.deepcopy(model)
    trained.config = trained.config.updated(training={"step": 17})
    trained.save_pretrained(tmp_path)
    assert "step 17" in (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text("mine")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_components_of_several_detectors_run_together(events):
    config = tiny_config(detectors=["sphenix-tpc", "sphenix-silicon"])
    model = FM4NPPModel(config)
    assert any("detector" in name for name, _ in model.embedding.named_parameters())


def test_importing_the_package_does_not_import_torch():
    code = "import sys, fm4npp; sys.exit('torch' in sys.modules or 'pyarrow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
