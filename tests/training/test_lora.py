from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fm4npp.errors import CheckpointError, ConfigurationError
from fm4npp.modeling import FM4NPPModel
from fm4npp.training.lora import LoRAConfig, adapter_tensors, inject, merge
from tests.conftest import rehash, tiny_config

NOISE = {"type": "noise-tagging", "width": 16, "num_layers": 1}
BACKBONES = {
    "mamba2": {"type": "mamba2", "width": 32, "num_layers": 2, "state_size": 4, "head_dim": 16},
    "mamba1": {"type": "mamba1", "width": 32, "num_layers": 2, "state_size": 4},
}
TARGETS = {"mamba2": ("in_proj", "out_proj"), "mamba1": ("in_proj", "out_proj", "x_proj", "dt_proj")}


@pytest.fixture(scope="module")
def batch(events, processor):
    return processor(sorted(events, key=len)[:3], targets=False)


def new_model(processor, kind="mamba2", head="noise") -> FM4NPPModel:
    torch.manual_seed(3)
    config = processor.config.updated(backbone=tiny_config(backbone=BACKBONES[kind]).backbone)
    model = FM4NPPModel(config)
    if head:
        model.add_head(head, NOISE)
    return model


def adapted(processor, kind="mamba2", **fields) -> FM4NPPModel:
    model = new_model(processor, kind)
    torch.manual_seed(5)
    inject(model, LoRAConfig(**{"rank": 2, "alpha": 6.0, "targets": TARGETS[kind], **fields}))
    return model


def train(model, batch, steps=4) -> list[float]:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def blocks(model, batch) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack(model(**batch).block_outputs)


def trained_parts(model) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def weight_of(model, layer, name):
    return getattr(model.backbone.layers[layer].mixer, name).weight


@pytest.mark.parametrize("kind", BACKBONES)
def test_a_new_adapter_changes_nothing_and_is_all_that_trains(processor, batch, kind):
    plain, model = new_model(processor, kind), adapted(processor, kind)
    assert torch.equal(blocks(plain, batch), blocks(model, batch))
    assert all(
        torch.equal(value, model._golden_outputs(batch)[name]) for name, value in plain._golden_outputs(batch).items()
    )
    # A, (rank, inputs), and B, (outputs, rank), for every target of both blocks; and the head.
    sides = [sum(weight_of(plain, layer, name).shape) for layer in range(2) for name in TARGETS[kind]]
    head = sum(p.numel() for p in plain.heads.parameters())
    assert model.num_parameters() == 2 * sum(sides) + head


@pytest.mark.parametrize(
    ("kind", "compiled", "precision", "checkpoint_gradients"),
    [
        ("mamba2", True, "float32", False),
        ("mamba2", True, "bfloat16", True),
        ("mamba2", False, "float32", True),
        ("mamba2", False, "bfloat16", False),
        ("mamba1", False, "float32", True),
        ("mamba1", False, "bfloat16", False),
    ],
)
def test_gradients_reach_every_matrix(processor, batch, kind, compiled, precision, checkpoint_gradients, monkeypatch):
    monkeypatch.setenv("FM4NPP_COMPILED", str(int(compiled)))
    model = adapted(processor, kind)
    model.backbone.checkpoint_gradients = checkpoint_gradients
    with torch.no_grad():  # while B is zero nothing reaches A
        for name, parameter in trained_parts(model).items():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        model(**batch).loss.backward()
    found = {name: p.grad for name, p in trained_parts(model).items() if name.startswith("backbone")}
    assert len(found) == 2 * 2 * len(TARGETS[kind])
    for name, gradient in found.items():
        assert gradient is not None, name
        assert gradient.isfinite().all(), name
        assert gradient.abs().max() > 0, name
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


@pytest.mark.parametrize("kind", BACKBONES)
def test_gradients_are_those_of_the_product(processor, batch, kind):
    """W' = W + s B A: dL/dA = s B^T dL/dW' and dL/dB = s dL/dW' A^T, where a plain model gives dL/dW'."""
    model = adapted(processor, kind)
    train(model, batch, 2)
    plain = new_model(processor, kind)
    plain.heads.load_state_dict(model.heads.state_dict())
    factors = adapter_tensors(model)
    with torch.no_grad():
        for layer in range(2):
            for name in TARGETS[kind]:
                weight_of(plain, layer, name).add_(by_hand(factors, layer, name))
    model.zero_grad()
    for network in (model, plain):
        network(**batch).loss.backward()
    for layer in range(2):
        for name in TARGETS[kind]:
            adapter = getattr(model.backbone.layers[layer].mixer, name)
            A, B = (part["default"].weight for part in (adapter.lora_A, adapter.lora_B))
            whole = weight_of(plain, layer, name).grad.double()
            for found, expected in (
                (A.grad, 3 * B.detach().double().T @ whole),
                (B.grad, 3 * whole @ A.detach().double().T),
            ):
                torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def by_hand(factors, layer, name, scale=3.0) -> torch.Tensor:
    """(alpha / rank) B A in float64, from the saved names."""
    prefix = f"base_model.model.layers.{layer}.mixer.{name}.lora_"
    return scale * factors[f"{prefix}B.weight"].double() @ factors[f"{prefix}A.weight"].double()


@pytest.mark.parametrize("kind", BACKBONES)
def test_training_lowers_the_loss_and_leaves_the_base_as_it_was(processor, batch, kind):
    model, plain = adapted(processor, kind), new_model(processor, kind)
    losses = train(model, batch)
    assert losses[-1] < losses[0]
    assert (blocks(model, batch) - blocks(plain, batch)).abs().max() > 1e-3
    base = {name.replace(".base_layer.", "."): value for name, value in model.state_dict().items()}
    for name, value in plain.state_dict().items():
        assert name.startswith("heads.") or torch.equal(value, base[name]), name


@pytest.mark.parametrize("kind", BACKBONES)
def test_merged_weights_are_the_base_and_the_product(processor, batch, kind):
    model, plain = adapted(processor, kind), new_model(processor, kind)
    train(model, batch)
    factors, before = adapter_tensors(model), blocks(model, batch)
    merge(model)
    for layer in range(2):
        for name in TARGETS[kind]:
            expected = weight_of(plain, layer, name).double() + by_hand(factors, layer, name)
            torch.testing.assert_close(weight_of(model, layer, name).double(), expected, rtol=0, atol=1e-7)
    torch.testing.assert_close(blocks(model, batch), before, rtol=0, atol=1e-6)
    assert list(model.state_dict()) == list(plain.state_dict())
    assert not any("peft" in type(module).__module__ for module in model.modules())
    assert model.backbone_identity()["sha256"] != plain.backbone_identity()["sha256"]
    with pytest.raises(ConfigurationError, match="no LoRA adapter"):
        merge(model)


@pytest.fixture(scope="module")
def saved(processor, batch, tmp_path_factory):
    """Folders of a base model, of a LoRA head and of a plain head on it; and the LoRA head's predictions."""
    folder = tmp_path_factory.mktemp("lora")
    new_model(processor, head="").save_pretrained(folder / "base")
    new_model(processor).save_head("noise", folder / "plain")
    model = FM4NPPModel.from_pretrained(folder / "base")
    model.add_head("noise", NOISE)
    inject(model, LoRAConfig(rank=2, alpha=6.0))
    train(model, batch)
    model.save_head("noise", folder / "lora", training={"steps": 4})
    return folder, model.predict(batch)["noise"]


def test_a_saved_head_brings_its_adapter(saved, batch, tmp_path, monkeypatch):
    folder, expected = saved
    monkeypatch.setitem(sys.modules, "peft", None)  # merging needs no peft
    model = FM4NPPModel.from_pretrained(folder / "base")
    assert model.load_head(folder / "lora") == "noise"
    found = model.predict(batch)["noise"]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)
    plain = FM4NPPModel.from_pretrained(folder / "base")
    plain.add_head("noise", NOISE).load_state_dict(load_file(folder / "lora/model.safetensors"))
    different = plain.predict(batch)["noise"]
    assert any((different[name].float() - value.float()).abs().max() > 1e-3 for name, value in expected.items())
    # The merged model is a model like any other.
    model.save_pretrained(tmp_path)
    again = FM4NPPModel.from_pretrained(tmp_path)
    assert all(torch.equal(value, again.predict(batch)["noise"][name]) for name, value in found.items())


def test_loading_and_merging_give_the_same_bits(saved):
    folder, _ = saved
    loaded = FM4NPPModel.from_pretrained(folder / "base")
    loaded.load_head(folder / "lora")
    model = FM4NPPModel.from_pretrained(folder / "base")
    model.add_head("noise", NOISE)
    inject(model, LoRAConfig(rank=2, alpha=6.0))
    stored = load_file(folder / "lora/adapter_model.safetensors")
    own = {f"base_model.model.{name.replace('.default', '')}": p for name, p in model.backbone.named_parameters()}
    with torch.no_grad():
        for name, value in stored.items():
            own[name].copy_(value)
    merge(model)
    assert model.backbone_identity()["sha256"] == loaded.backbone_identity()["sha256"]


def test_peft_reads_the_adapter(saved):
    from peft import PeftModel

    folder, _ = saved
    loaded, fresh = (FM4NPPModel.from_pretrained(folder / "base") for _ in range(2))
    loaded.load_head(folder / "lora")
    PeftModel.from_pretrained(fresh.backbone, str(folder / "lora"))
    for layer in range(2):
        for name in TARGETS["mamba2"]:
            wrapped = getattr(fresh.backbone.layers[layer].mixer, name)
            merged = wrapped.base_layer.weight + wrapped.get_delta_weight("default")
            torch.testing.assert_close(merged, weight_of(loaded, layer, name), rtol=0, atol=1e-7)


def test_the_saved_files_are_not_pickled(saved):
    folder, _ = saved
    names = {path.name for path in (folder / "lora").iterdir()}
    assert names == {
        "head.json",
        "model.safetensors",
        "adapter_model.safetensors",
        "adapter_config.json",
        "hashes.json",
    }
    stored = json.loads((folder / "lora/adapter_config.json").read_text())
    assert (stored["peft_type"], stored["r"], stored["lora_alpha"]) == ("LORA", 2, 6.0)


def test_an_adapter_must_be_alone_on_its_backbone(saved):
    folder, _ = saved
    model = FM4NPPModel.from_pretrained(folder / "base")
    model.load_head(folder / "lora")
    with pytest.raises(CheckpointError, match=r"changed by the LoRA adapter of lora.*a model of its own") as caught:
        model.load_head(folder / "plain", "second")
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="changed by the LoRA adapter of lora"):
        model.load_head(folder / "lora", "second")
    other = FM4NPPModel.from_pretrained(folder / "base")
    other.load_head(folder / "plain")
    before = other.backbone_identity()
    with pytest.raises(CheckpointError, match=r"other heads \(noise\)"):
        other.load_head(folder / "lora", "second")
    assert other.backbone_identity() == before
    assert list(other.heads) == ["noise"]


def test_another_base_is_refused(saved, processor):
    folder, _ = saved
    torch.manual_seed(11)
    with pytest.raises(CheckpointError, match="another backbone"):
        FM4NPPModel(processor.config).load_head(folder / "lora")


def damage_adapter(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def swap_head(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({name: value + 1 for name, value in tensors.items()}, folder / "model.safetensors")


def remove_adapter(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


def describe_another(folder: Path) -> None:
    description = json.loads((folder / "head.json").read_text())
    description["adapter"]["rank"] = 4
    (folder / "head.json").write_text(json.dumps(description))
    rehash(folder)


def describe_unknown(folder: Path) -> None:
    description = json.loads((folder / "head.json").read_text())
    description["adapter"]["type"] = "tomorrow's"
    (folder / "head.json").write_text(json.dumps(description))
    rehash(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_adapter, "adapter_model.safetensors: is damaged"),
        (swap_head, "model.safetensors: is damaged"),
        (remove_adapter, "adapter_model.safetensors: cannot be read"),
        (describe_another, "does not fit the backbone"),
        (describe_unknown, "no adapter that this version can merge"),
    ],
)
def test_damage_is_found_and_changes_nothing(saved, damage, message, tmp_path):
    folder, _ = saved
    damaged = tmp_path / "damaged"
    shutil.copytree(folder / "lora", damaged)
    damage(damaged)
    model = FM4NPPModel.from_pretrained(folder / "base")
    before = model.backbone_identity()
    with pytest.raises(CheckpointError, match=message) as caught:
        model.load_head(damaged)
    assert "\n" not in str(caught.value)
    assert model.backbone_identity() == before
    assert not model.heads


def test_a_run_is_restored_by_the_names_of_its_parameters(processor, batch):
    """What a checkpoint does: the trained parameters by name, into a model that is built and adapted anew."""
    straight, first = adapted(processor), adapted(processor)
    train(straight, batch, 2)
    train(first, batch, 2)
    state = {name: p.detach().clone() for name, p in trained_parts(first).items()}
    torch.manual_seed(99)
    second = new_model(processor)
    torch.manual_seed(100)
    inject(second, LoRAConfig(rank=2, alpha=6.0))
    assert set(trained_parts(second)) == set(state)
    with torch.no_grad():
        for name, parameter in trained_parts(second).items():
            parameter.copy_(state[name])
    assert torch.equal(blocks(second, batch), blocks(straight, batch))
    assert train(second, batch, 2) == train(straight, batch, 2)


def test_the_seed_decides_the_first_weights(processor):
    first, second = (trained_parts(adapted(processor)) for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_model_with_an_open_adapter_is_not_saved_nor_given_heads(saved, processor, tmp_path):
    folder, _ = saved
    model = adapted(processor)
    with pytest.raises(ConfigurationError, match="lora.merge first"):
        model.save_pretrained(tmp_path / "whole")
    with pytest.raises(ConfigurationError, match="lora.merge first"):
        model.load_head(folder / "plain", "second")
    with pytest.raises(ConfigurationError, match="an adapter already"):
        inject(model, LoRAConfig())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"targets": ("in_proj", "q_proj")}, r"no linear layer 'q_proj'; it has: in_proj, out_proj"),
        ({"targets": ("conv1d",)}, "no linear layer 'conv1d'"),
        ({"rank": 33}, r"lora.rank 33 is larger than a side of layers.0.mixer.in_proj, \(\d+, 32\)"),
    ],
)
def test_an_adapter_that_cannot_be_is_refused(processor, fields, message):
    with pytest.raises(ConfigurationError, match=message):
        adapted(processor, **fields)


@pytest.mark.parametrize("field", [{"rank": 0}, {"alpha": 0}, {"dropout": 0.1}, {"targets": ()}])
def test_wrong_fields_are_refused(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        LoRAConfig(**field)


def test_one_block_can_be_adapted_alone(processor):
    names = [name for name in trained_parts(adapted(processor, targets=("layers.1.mixer.in_proj",))) if "lora" in name]
    assert [name.partition(".lora")[0] for name in names] == ["backbone.layers.1.mixer.in_proj"] * 2


def test_heads_that_an_adapter_cannot_serve_are_refused(processor):
    model = new_model(processor)
    model.add_head("second", NOISE)
    with pytest.raises(ConfigurationError, match="noise, second"):
        inject(model, LoRAConfig())
    model = new_model(processor, head="")
    model.add_head("noise", {**NOISE, "inputs": ["coordinates"]})
    with pytest.raises(ConfigurationError, match="does not read the backbone"):
        inject(model, LoRAConfig())


def test_without_peft_the_command_is_named(processor, monkeypatch):
    model = new_model(processor)
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ConfigurationError, match=r'pip install "fm4npp\[lora\]"') as caught:
        inject(model, LoRAConfig())
    assert "\n" not in str(caught.value)
    assert all(p.requires_grad for p in model.backbone.parameters())
