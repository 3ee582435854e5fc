"""The second half of this file is what two processes run; they meet over gloo, on CPUs."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from fm4npp.data import read_events, write_events
from fm4npp.errors import CheckpointError, ConfigurationError
from fm4npp.modeling import FM4NPPModel
from fm4npp.processing import FM4NPPProcessor
from fm4npp.training import sharding
from fm4npp.training.schedule import RowAdamW, parameter_groups
from tests.conftest import tiny_config

STEPS, SAVED, ACCUMULATED = 4, 2, 4
"""Steps of a run, steps after which it is saved, and batches of a step, on all processes together."""
LEARNING_RATE = 1e-3
KINDS = {"copies": ("pretrain", "full"), "parts": ("pretrain", "frozen", "full")}
"""What is trained by copies of the model (DDP), and by parts of it (FSDP2)."""


@pytest.fixture(scope="module")
def folder(events, tmp_path_factory):
    """A fitted model, and twelve events."""
    folder = tmp_path_factory.mktemp("sharding")
    torch.manual_seed(0)
    FM4NPPModel(FM4NPPProcessor(tiny_config()).fit(events).config).save_pretrained(folder / "model")
    write_events(events, folder / "events.parquet")
    return folder


@pytest.fixture
def trained(folder):
    """A model after two steps, and its optimizer."""
    return run(folder, alone(), "alone", "pretrain", steps=2)


# ---- one process


def test_weights_and_optimizer_come_back_to_the_bit(folder, trained):
    weights, state = sharding.trainable(trained.model), sharding.optimizer_state(trained.optimizer, trained.model)
    assert weights.keys() == {name for name, p in trained.model.named_parameters() if p.requires_grad}
    assert state.keys() == {f"{name}.{key}" for name in weights for key in ("step", "exp_avg", "exp_avg_sq")}
    weights, state = copy.deepcopy((weights, state))
    again = prepared(folder, alone(), "alone", "pretrain")
    sharding.load_trainable(again.model, weights)
    # As Accelerate wraps it.
    wrapped = SimpleNamespace(optimizer=again.optimizer, param_groups=again.optimizer.param_groups)
    sharding.load_optimizer(wrapped, again.model, state)
    for _ in range(2):
        assert step(again, 2) == step(trained, 2)
    for one, other in zip(
        (sharding.trainable(again.model), sharding.optimizer_state(wrapped, again.model)),
        (sharding.trainable(trained.model), sharding.optimizer_state(trained.optimizer, trained.model)),
        strict=True,
    ):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_process_that_does_not_write_keeps_nothing(trained):
    assert sharding.trainable(trained.model, keep=False) == {}
    assert sharding.optimizer_state(trained.optimizer, trained.model, keep=False) == {}


def test_what_does_not_fit_is_one_line_and_changes_nothing(trained):
    weights = copy.deepcopy(sharding.trainable(trained.model))
    fewer = {name: values + 1 for name, values in weights.items() if name != "output.bias"}
    cases = [
        (fewer, "lacks the trained weights 'output.bias'"),
        (
            {**weights, "head.a": torch.zeros(1), "head.b": torch.zeros(1)},
            "unknown trained weights 'head.a' and 1 more",
        ),
        ({**weights, "output.bias": torch.zeros(3)}, "'output.bias' is (3,) of torch.float32, not (12,)"),
        ({**weights, "output.bias": weights["output.bias"].double()}, "of torch.float64, not (12,) of torch.float32"),
    ]
    for tensors, message in cases:
        with pytest.raises(CheckpointError) as caught:
            sharding.load_trainable(trained.model, tensors)
        assert message in str(caught.value)
    assert all(torch.equal(values, weights[name]) for name, values in sharding.trainable(trained.model).items())
    state = copy.deepcopy(sharding.optimizer_state(trained.optimizer, trained.model))
    for name in ("nothing.exp_avg", "output.bias.exp_avg"):
        with pytest.raises(CheckpointError, match=name):
            sharding.load_optimizer(trained.optimizer, trained.model, {**state, name: torch.zeros(3)})
    found = sharding.optimizer_state(trained.optimizer, trained.model)
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_an_optimizer_of_other_weights_is_noticed(trained):
    trained.model.output.requires_grad_(False)
    with pytest.raises(ValueError, match="remembers weights that the model does not train"):
        sharding.optimizer_state(trained.optimizer, trained.model)


def test_what_a_head_does_not_read_is_frozen(folder):
    ready = prepared(folder, alone(), "alone", "full")
    own = dict(ready.model.named_parameters())
    assert not any(own[name].requires_grad for name in ("backbone.norm_f.weight", "output.weight", "output.bias"))
    assert all(own[name].requires_grad for name in own if "mixer" in name or name.startswith("heads"))
    with pytest.raises(ConfigurationError, match="depends on no weight"):
        sharding.freeze_unread(ready.model, torch.zeros(()))


def test_gradients_are_clipped_to_the_norm(trained):
    for parameter in trained.model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, 3.0)
    count = sum(p.numel() for p in trained.model.parameters() if p.requires_grad)
    assert sharding.clip_gradients(trained.model, 0.1) == pytest.approx(3.0 * count**0.5, rel=1e-6)
    assert sharding.clip_gradients(trained.model, 1.0) == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({}, False),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, True),
        ({"ACCELERATE_USE_FSDP": "false"}, False),
    ],
)
def test_sharding_is_asked_for_by_the_configuration_or_the_launcher(environment, asked, monkeypatch):
    for name in ("ACCELERATE_USE_FSDP", "FSDP_VERSION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert sharding.sharding_asked() is asked
    assert sharding.sharding_asked(True)


def test_what_cannot_be_sharded_is_one_line(folder, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.delenv("FSDP_VERSION", raising=False)
    with pytest.raises(ConfigurationError, match="add --fsdp_version 2"):
        sharding.sharding_asked()
    model = FM4NPPModel.from_pretrained(folder / "model")
    groups = parameter_groups(model, 0.0, {"output.weight": ((4, 1.0), (8, 0.5))})
    with pytest.raises(ConfigurationError, match="start them with accelerate launch or torchrun"):
        sharding.prepare(alone(), model, RowAdamW(groups), sharded=True)
    several = SimpleNamespace(num_processes=2, device=torch.device("cpu"))
    with pytest.raises(ConfigurationError, match="parameterization mup: .* which sharding cuts apart"):
        sharding.prepare(several, model, RowAdamW(groups), sharded=True)


# ---- two processes


@pytest.mark.slow
def test_two_processes_do_what_one_does(folder, monkeypatch):
    """Losses, gradients and weights, with copies and with parts of the weights; resumed to the bit."""
    monkeypatch.setenv("FM4NPP_COMPILED", "0")  # as in the other processes, where it saves loading the compiler
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    children = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.training.test_sharding", str(folder)],
            env={**os.environ, **together, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).parents[2],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        outcomes = [child.communicate(timeout=240)[1] for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [0, 0], "\n".join(outcomes)
    for kind in ("pretrain", "frozen", "full"):
        single = run(folder, alone(), "alone", kind, steps=STEPS)
        expected = sharding.trainable(single.model)
        for how in (how for how in KINDS if kind in KINDS[how]):
            found = load_file(folder / f"{how}-{kind}.safetensors")
            log = json.loads((folder / f"{how}-{kind}.json").read_text())
            assert [value for pair in log for value in pair] == pytest.approx(
                [value for pair in single.log for value in pair], rel=2e-6
            )
            assert found.keys() == {f"{what}/{name}" for name in expected for what in ("weight", "gradient")}
            for name, values in expected.items():
                gradient = single.gradients[name]
                assert (found[f"gradient/{name}"] - gradient).abs().max() <= 1e-6 * gradient.abs().max() + 1e-9
                # AdamW moves a weight by about the learning rate, however small its gradient.
                assert (found[f"weight/{name}"] - values).abs().max() <= 1e-3 * LEARNING_RATE


def alone() -> SimpleNamespace:
    """What an `Accelerator` of one process does; a real one would choose the device of all tests after this one."""
    return SimpleNamespace(
        num_processes=1,
        process_index=0,
        device=torch.device("cpu"),
        prepare_model=lambda model: model,
        reduce=lambda value, how: value,
    )


def prepared(folder: Path, accelerator: Any, how: str, kind: str) -> SimpleNamespace:
    """A model spread over the processes: alone, as copies or in parts; and its events in batches of two."""
    model = FM4NPPModel.from_pretrained(folder / "model", verify=False)
    model.backbone.checkpoint_gradients = kind == "full"
    processor = FM4NPPProcessor.from_pretrained(folder / "model")
    events = list(read_events(folder / "events.parquet"))
    batches = [processor(events[i : i + 2], targets=kind == "pretrain") for i in range(0, len(events), 2)]
    torch.manual_seed(0)
    if kind != "pretrain":
        model.add_head("noise", "noise-tagging")
    if kind == "frozen":
        model.freeze_backbone()
    if kind == "full":
        sharding.freeze_unread(model, model(**batches[0]).loss)
    if accelerator.process_index:
        for parameter in model.parameters():
            parameter.data += 1  # the first process's weights are taken
    optimizer = RowAdamW(parameter_groups(model, 0.01), lr=LEARNING_RATE, betas=(0.9, 0.95))
    used, optimizer = sharding.prepare(accelerator, model, optimizer, sharded=how == "parts")
    return SimpleNamespace(
        accelerator=accelerator, model=used, optimizer=optimizer, batches=batches, log=[], gradients={}
    )


def step(ready: SimpleNamespace, number: int) -> tuple[float, float]:
    """One optimizer step on four batches, whatever the number of processes; its loss and gradient norm."""
    rank, processes = ready.accelerator.process_index, ready.accelerator.num_processes
    batches = [ready.batches[(number + i) % len(ready.batches)] for i in range(ACCUMULATED)]
    total = sum(batch.num_tokens for batch in batches)
    own = batches[rank::processes]
    value = torch.zeros((), dtype=torch.float64)
    ready.optimizer.zero_grad()
    for place, batch in enumerate(own, 1):
        with sharding.no_sync(ready.model, place < len(own)):
            share = ready.model(**batch).loss * (batch.num_tokens / total)
            (share * processes).backward()
        value += share.detach()
    parameters = sharding.unwrapped(ready.model).named_parameters()
    ready.gradients = {name: sharding.full(p.grad).clone() for name, p in parameters if p.grad is not None}
    norm = sharding.clip_gradients(ready.model, 0.1)
    ready.optimizer.step()
    return float(ready.accelerator.reduce(value, "sum")), norm


def run(folder: Path, accelerator: Any, how: str, kind: str, steps: int) -> SimpleNamespace:
    ready = prepared(folder, accelerator, how, kind)
    ready.log = [step(ready, number) for number in range(steps)]
    return ready


def state(ready: SimpleNamespace) -> dict[str, torch.Tensor]:
    parts = sharding.trainable(ready.model), sharding.optimizer_state(ready.optimizer, ready.model)
    return copy.deepcopy(parts[0] | parts[1])


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def check(right: bool, what: str) -> None:
    if not right:
        raise RuntimeError(what)


def validate(ready: SimpleNamespace, rank: int) -> None:
    """Unequal work without a word, methods of the model called directly; nothing is left behind."""
    before = state(ready)
    with torch.no_grad():
        ready.model(**ready.batches[rank])
    check(same(state(ready), before), "changed by a validation")
    with sharding.gathered(ready.model) as model, torch.no_grad():
        if not rank:
            model.project(model.hidden_states(ready.batches[0]))
            for batch in ready.batches[:3]:
                model(**batch)
    check(same(state(ready), before), "changed by gathering")


def main(folder: Path) -> None:
    """What each of two processes runs."""
    both = Accelerator(cpu=True)
    for how in ("copies", "parts"):
        for kind in KINDS[how]:
            ready = run(folder, both, how, kind, SAVED)
            validate(ready, both.process_index)
            weights = copy.deepcopy(sharding.trainable(ready.model))
            remembered = copy.deepcopy(sharding.optimizer_state(ready.optimizer, ready.model))
            again = prepared(folder, both, how, kind)
            sharding.load_trainable(again.model, weights)
            sharding.load_optimizer(again.optimizer, again.model, remembered)
            check(same(state(again), weights | remembered), "not loaded to the bit")
            for each in (ready, again):
                each.log += [step(each, number) for number in range(SAVED, STEPS)]
            check(again.log == ready.log[SAVED:] and same(state(again), state(ready)), "not resumed to the bit")
            found = sharding.trainable(ready.model, keep=both.is_main_process)
            if both.is_main_process:
                tensors = {f"weight/{name}": values.clone() for name, values in found.items()}
                gradients = {f"gradient/{name}": values for name, values in ready.gradients.items()}
                save_file(tensors | gradients, folder / f"{how}-{kind}.safetensors")
                Path(folder / f"{how}-{kind}.json").write_text(json.dumps(ready.log))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(sys.stderr):
        main(Path(sys.argv[1]))
