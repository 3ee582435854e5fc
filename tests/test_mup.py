from __future__ import annotations

import copy
import io
import json
import math
import os
import signal

import pytest
import torch
from typer.testing import CliRunner

from fm4npp import backbones
from fm4npp.checkpoint import read_tensors
from fm4npp.cli import app
from fm4npp.configuration import FM4NPPConfig
from fm4npp.errors import ConfigurationError
from fm4npp.modeling import FM4NPPModel
from fm4npp.plotting.coordinate_check import draw_coordinates, relative_to_narrowest
from fm4npp.training import AdaptConfig, PretrainConfig, mup, pretrain
from fm4npp.training.config import ModelConfig, TrainingConfig, parse
from fm4npp.training.coordinate_check import activations, coordinate_check, growth
from fm4npp.training.guards import Interrupted
from fm4npp.training.schedule import RowAdamW, decays, parameter_groups
from tests.conftest import tiny_config

BASE, WIDTH = 32, 128
MUP = TrainingConfig(parameterization="mup", mup_base_width=BASE)
PAPER = TrainingConfig(parameterization="mup", mup_base_width=BASE, mup_rule="paper")
EXTRA = {"mamba2": {"head_dim": 16}}
"""What a backbone needs to be this small."""


def spec(name="mamba2", width=WIDTH, **fields):
    return {"type": name, "width": width, "num_layers": 2, **EXTRA.get(name, {}), **fields}


def model_of(backbone, seed=0, **fields):
    torch.manual_seed(seed)
    return FM4NPPModel(tiny_config(backbone=backbone, embedding={"projection": "learned"}, **fields))


def parameterized(backbone, training, seed=0):
    """A model, its learning-rate multipliers, and the standard model of the same seed."""
    model = model_of(backbone, seed)
    return model, mup.parameterize(model, backbone, training), model_of(backbone, seed)


def per_row(multipliers):
    """(rows,) multipliers of one parameter."""
    return torch.cat([torch.full((count,), multiplier) for count, multiplier in multipliers])


# ---- multipliers


def test_multipliers_of_a_mamba2_model_by_hand():
    """Width 128 against 32: widths and states four times as many, N = 8, inner width 256, 16 heads."""
    model, found, standard = parameterized(spec(), MUP)
    z, x, B, C, dt = slice(0, 256), slice(256, 512), slice(512, 520), slice(520, 528), slice(528, 544)
    mixer, before = model.backbone.layers[1].mixer, standard.backbone.layers[1].mixer
    rates = per_row(found["backbone.layers.1.mixer.in_proj.weight"])
    for rows, rate, initial in ((z, 1 / 4, 1), (x, 1 / 4, 1), (B, 1 / 4, 1), (C, 1 / 16, 1 / 4), (dt, 1 / 4, 1)):
        assert (rates[rows] == rate).all()
        assert torch.equal(mixer.in_proj.weight[rows], before.in_proj.weight[rows] * initial)
    bias = per_row(found["backbone.layers.1.mixer.conv1d.bias"])
    assert (bias[:264] == 1).all()
    assert (bias[264:] == 1 / 4).all()
    assert torch.equal(mixer.conv1d.bias[:264], before.conv1d.bias[:264])
    assert torch.equal(mixer.conv1d.bias[264:], before.conv1d.bias[264:] / 4)
    assert set(per_row(found["backbone.layers.1.mixer.out_proj.weight"]).tolist()) == {1 / 4}
    assert set(per_row(found["output.weight"]).tolist()) == {1 / 4}
    assert not model.output.weight.any()
    ones = ("conv1d.weight", "dt_bias", "A_log", "D", "norm.weight")
    for name in [f"backbone.layers.0.mixer.{local}" for local in ones] + [
        "backbone.layers.0.norm.weight",
        "backbone.norm_f.weight",
        "output.bias",
        "embedding.position_projection",
        "embedding.feature_projections.sphenix-tpc",
    ]:
        assert set(per_row(found[name]).tolist()) == {1}
        assert torch.equal(model.get_parameter(name), standard.get_parameter(name))


@pytest.mark.parametrize(("width", "states"), [(64, 8), (128, 8), (512, 2), (32, 32)])
def test_the_papers_formulas_are_those_printed(width, states):
    """sigma_B ~ sqrt(Nx / Nu), sigma_C ~ 1 / sqrt(Nx Nu), eta_B ~ Nx / sqrt(Nu), eta_C ~ 1 / (Nx sqrt(Nu))."""
    base_width, base_states = 64, 4

    def ratio(formula):
        return formula(states, width) / formula(base_states, base_width)

    standard = ratio(lambda nx, nu: nu**-0.5)
    ratios = mup.Sizes(width, states).over(mup.Sizes(base_width, base_states))
    B, C = (mup.role_multipliers(role, ratios, "paper") for role in "BC")
    assert B.initialisation * standard == pytest.approx(ratio(lambda nx, nu: (nx / nu) ** 0.5))
    assert C.initialisation * standard == pytest.approx(ratio(lambda nx, nu: (nx * nu) ** -0.5))
    assert B.learning_rate == pytest.approx(ratio(lambda nx, nu: nx / nu**0.5))
    assert C.learning_rate == pytest.approx(ratio(lambda nx, nu: 1 / (nx * nu**0.5)))


def test_the_papers_rule_changes_rows_of_B_and_C_only():
    model, found, standard = parameterized(spec(), PAPER)
    derived = parameterized(spec(), MUP)[1]
    rates = per_row(found["backbone.layers.0.mixer.in_proj.weight"])
    assert (rates[512:520] == 2).all()
    assert (rates[520:528] == 1 / 8).all()
    weight, before = (each.backbone.layers[0].mixer.in_proj.weight for each in (model, standard))
    assert torch.equal(weight[512:520], before[512:520] * 2)
    assert torch.equal(weight[520:528], before[520:528] / 2)
    assert set(per_row(found["backbone.layers.0.mixer.conv1d.bias"]).tolist()) == {1}
    assert torch.equal(rates[:512], per_row(derived["backbone.layers.0.mixer.in_proj.weight"])[:512])


def test_a_state_size_that_is_given_does_not_grow():
    found = parameterized(spec(state_size=4), MUP)[1]
    assert set(per_row(found["backbone.layers.0.mixer.in_proj.weight"]).tolist()) == {1 / 4}
    assert set(per_row(found["backbone.layers.0.mixer.conv1d.bias"]).tolist()) == {1}


@pytest.mark.parametrize("name", backbones.names())
@pytest.mark.parametrize("rule", ["derived", "paper"])
def test_at_the_base_width_only_the_readout_differs(name, rule):
    training = TrainingConfig(parameterization="mup", mup_base_width=WIDTH, mup_rule=rule)
    model, found, standard = parameterized(spec(name), training)
    assert all(set(per_row(rows).tolist()) == {1} for rows in found.values())
    for key, parameter in model.named_parameters():
        assert torch.equal(parameter, standard.get_parameter(key)) == (key != "output.weight")


def test_the_standard_parameterization_touches_nothing():
    model, found, standard = parameterized(spec(), TrainingConfig())
    assert found == {}
    assert all(torch.equal(p, standard.get_parameter(name)) for name, p in model.named_parameters())


# ---- roles


@pytest.mark.parametrize("name", backbones.names())
def test_every_parameter_of_every_backbone_has_a_role(name):
    detectors = ["sphenix-mvtx", "sphenix-intt"]  # two subsystems: there is a detector embedding too
    model = model_of(spec(name), detectors=detectors)
    found = mup.parts(model)
    assert set(found) == {key for key, _ in model.named_parameters()}
    for key, rows in found.items():
        assert sum(part.num_rows for part in rows) == len(model.get_parameter(key))
        for part in rows:
            mup.role_multipliers(part.role, mup.Sizes(2, 2, 2))
    roles = {part.role for rows in found.values() for part in rows}
    assert {"z", "x", "B", "C", "dt", "A", "D", "dt_bias", "conv", "out_proj", "norm", "readout"} <= roles


def test_mamba1_rows_by_hand():
    """Width 128: inner width 256, 8 states, rank 8; `in_proj` is [x | z], `x_proj` [dt | B | C]."""
    shapes = {
        "in_proj.weight": (512, 128),
        "x_proj.weight": (24, 256),
        "dt_proj.weight": (256, 8),
        "A_log": (256, 8),
        "out_proj.weight": (128, 256),
    }
    sizes, parts = mup.MIXERS["mamba1"](shapes)
    assert sizes == mup.Sizes(128, 8, 8)
    assert parts["in_proj.weight"] == (mup.Part("x", 256), mup.Part("z", 256))
    assert parts["x_proj.weight"] == (mup.Part("dt", 8), mup.Part("B", 8), mup.Part("C", 8))
    assert mup.role_multipliers("dt_proj", sizes.over(mup.Sizes(32, 2, 2))).learning_rate == 1 / 4


def test_an_unknown_parameter_or_backbone_is_refused(monkeypatch):
    model = model_of(spec())
    model.backbone.layers[0].mixer.extra = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(ConfigurationError, match=r"mixer\.extra.*standard"):
        mup.parameterize(model, spec(), MUP)
    with pytest.raises(ConfigurationError, match=r"heads\.noise"):
        mup.parameterize(
            FM4NPPModel(tiny_config(heads={"noise": {"type": "noise-tagging", "width": 32}})), spec(width=32), MUP
        )
    monkeypatch.setattr(mup, "MIXERS", {})
    with pytest.raises(ConfigurationError, match=r"'mamba2'.*standard"):
        mup.parameterize(model_of(spec()), spec(), MUP)


def test_a_base_width_that_is_impossible_is_named():
    with pytest.raises(ConfigurationError, match="mup_base_width.*head_dim"):
        mup.parameterize(model_of(spec()), spec(), TrainingConfig(parameterization="mup", mup_base_width=3))


def test_heads_are_trained_in_the_standard_parameterization():
    values = {"name": "a", "head": {"type": "noise-tagging"}, "data": {"train": ["x"]}}
    with pytest.raises(ConfigurationError, match="parameterization"):
        parse(AdaptConfig, {**values, "training": {"parameterization": "mup"}})


# ---- weight decay and step sizes


@pytest.mark.parametrize("name", backbones.names())
@pytest.mark.parametrize("training", [TrainingConfig(), MUP], ids=["standard", "mup"])
def test_what_decays_is_decided_by_name(name, training):
    model, multipliers, _ = parameterized(spec(name), training)
    names = {id(parameter): key for key, parameter in model.named_parameters()}
    decay = {names[id(p)]: g["weight_decay"] for g in parameter_groups(model, 0.1, multipliers) for p in g["params"]}
    assert set(decay) == set(names.values())
    spared = {key for key, value in decay.items() if value == 0}
    ends = ("A_log", ".D", "dt_bias", "bias", "norm.weight", "norm_f.weight")
    assert spared == {key for key in names.values() if key.endswith(ends)}
    assert {value for key, value in decay.items() if key not in spared} == {0.1}


def test_matrices_called_like_constants_do_not_decay():
    matrix, vector = torch.zeros(2, 2), torch.zeros(2)
    assert not any(decays(f"layers.0.mixer.{name}", matrix) for name in ("A_log", "D", "dt_bias", "dt_proj.bias"))
    assert not decays("norm.weight", vector)
    assert decays("in_proj.weight", matrix)
    assert decays("conv1d.weight", matrix[:, None])


@pytest.mark.parametrize("name", backbones.names())
@pytest.mark.parametrize("parameterization", ["standard", "mup"])
def test_pretraining_starts_with_log_uniform_step_sizes(events_files, tmp_path, name, parameterization):
    """The released code's initialisation sets every bias to zero, those of the step sizes too."""
    config = pretrain_config(
        events_files, parameterization, backbone=spec(name), steps=1, warmup_steps=0, learning_rate=1e-12
    )
    pretrain(config, tmp_path / "run")
    tensors = read_tensors(tmp_path / "run")
    biases = [v for key, v in tensors.items() if key.endswith(("dt_bias", "dt_proj.bias"))]
    dt = torch.nn.functional.softplus(torch.cat(biases).double())
    assert 0.999e-3 < dt.min() < dt.max() < 0.1001
    thirds = torch.histc(dt.log(), 3, math.log(1e-3), math.log(0.1))
    assert len(dt) >= 32
    assert (thirds > 0.1 * len(dt)).all()


# ---- the optimizer


def gradients(model, batch):
    model.zero_grad()
    model(**batch).loss.backward()


def test_without_row_multipliers_it_is_adamw_to_the_bit(processor, events):
    batch = processor(events[:3])
    first = FM4NPPModel(processor.config)
    second = copy.deepcopy(first)
    groups = parameter_groups(first, 0.1)
    assert all(group["multiplier"] == 1 and group["rows"] == [] for group in groups)
    decayed = [p for p in second.parameters() if p.requires_grad and p.ndim >= 2]
    spared = [p for p in second.parameters() if p.requires_grad and p.ndim < 2]
    plain = [{"params": decayed, "weight_decay": 0.1}, {"params": spared, "weight_decay": 0.0}]
    ours = RowAdamW(groups, lr=1e-2, betas=(0.9, 0.95))
    theirs = torch.optim.AdamW(plain, lr=1e-2, betas=(0.9, 0.95))
    for _ in range(5):
        gradients(first, batch)
        gradients(second, batch)
        ours.step()
        theirs.step()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("multiplier", [0.0, 0.125, 0.75, 3.0])
def test_row_multipliers_are_learning_rates_of_rows(multiplier):
    """Against plain AdamW on the parts as parameters of their own, in float64."""
    torch.manual_seed(0)
    whole = torch.nn.Parameter(torch.randn(6, 3, dtype=torch.float64))
    pieces = [torch.nn.Parameter(part.clone()) for part in whole.detach().split([2, 3, 1])]
    rates = (0.5, 0.5 * multiplier, 0.5)
    module = torch.nn.Module()
    module.register_parameter("weight", whole)
    groups = parameter_groups(module, 0.3, {"weight": ((2, 0.5), (3, 0.5 * multiplier), (1, 0.5))})
    assert groups[0]["rows"] == ([[2, 5, multiplier]] if multiplier != 1 else [])
    ours = RowAdamW(groups)
    theirs = torch.optim.AdamW([{"params": [p], "lr": 0.1 * r} for p, r in zip(pieces, rates, strict=True)], 1e-3,
                               weight_decay=0.3)  # fmt: skip
    for group in ours.param_groups:
        group["lr"] = 0.1 * group["multiplier"]
    for _ in range(6):
        whole.grad = torch.randn(6, 3, dtype=torch.float64)
        for piece, part in zip(pieces, whole.grad.split([2, 3, 1]), strict=True):
            piece.grad = part.clone()
        ours.step()
        theirs.step()
    torch.testing.assert_close(whole.detach(), torch.cat(pieces).detach(), rtol=1e-12, atol=1e-14)


def test_groups_survive_a_saved_state():
    model, multipliers, _ = parameterized(spec(), MUP)
    optimizer = RowAdamW(parameter_groups(model, 0.1, multipliers), lr=1e-3)
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=True)
    fresh = RowAdamW(parameter_groups(model, 0.1, multipliers), lr=1e-3)
    fresh.load_state_dict(loaded)
    assert [group["rows"] for group in fresh.param_groups] == [group["rows"] for group in optimizer.param_groups]
    assert any(group["rows"] for group in fresh.param_groups)


# ---- runs


def pretrain_config(files, parameterization="mup", backbone=None, **training) -> PretrainConfig:
    settings = {"steps": 6, "tokens_per_batch": 600, "warmup_steps": 2, "learning_rate": 1e-2, "validate_every": 3}
    values = {
        "model": {
            "serializer": {"type": "raster-scan", "num_bins": [4, 4, 5]},
            "objective": {"type": "k-nnn", "k": 4, "targets": "offset"},
            "backbone": backbone or spec(width=64),
        },
        "data": {"train": [str(files["train"])], "validation": [str(files["validation"])]},
        "training": {
            **settings,
            "log_every": 1,
            "save_every": 100,
            "mup_base_width": BASE,
            "parameterization": parameterization,
            **training,
        },
    }
    return parse(PretrainConfig, values)


def losses(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {record["step"]: record["loss"] for record in records if "loss" in record}


def test_a_stopped_run_resumes_exactly(events_files, tmp_path):
    config = pretrain_config(events_files)
    pretrain(config, tmp_path / "straight")

    def stop(record):
        if record["step"] == 4 and "loss" in record:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted):
        pretrain(config, tmp_path / "stopped", report=stop)
    pretrain(config, tmp_path / "stopped", resume=True)
    assert losses(tmp_path / "stopped") == losses(tmp_path / "straight")
    first, second = read_tensors(tmp_path / "stopped"), read_tensors(tmp_path / "straight")
    assert all(torch.equal(values, second[name]) for name, values in first.items())


def test_pretraining_honours_the_multipliers(events_files, tmp_path):
    """One step moves each number by about its own learning rate: Adam's first step is the gradient's sign."""
    config = pretrain_config(events_files, steps=2, warmup_steps=0, weight_decay=0.0, final_learning_rate=1.0)
    pretrain(config, tmp_path / "run")
    tensors, saved = read_tensors(tmp_path / "run"), FM4NPPConfig.load(tmp_path / "run")
    torch.manual_seed(config.training.seed)
    model = FM4NPPModel(saved)
    mup.parameterize(model, spec(width=64), config.training)
    moved = {name: (tensors[name] - parameter.detach()).abs() for name, parameter in model.named_parameters()}
    rows = moved["backbone.layers.0.mixer.in_proj.weight"]  # N = 4, inner width 128
    vector = moved["backbone.layers.0.mixer.D"].median().item()
    hidden, C = rows[:256].median().item(), rows[260:264].median().item()
    assert vector == pytest.approx(2 * hidden, rel=0.2)  # the width is doubled
    assert hidden == pytest.approx(2 * C, rel=0.2)  # and so are the states


# ---- coordinate check


def check(events, training, **options):
    values = {
        "detectors": ["sphenix-tpc"],
        "serializer": {"type": "raster-scan", "num_bins": [4, 4, 5]},
        "objective": {"type": "k-nnn", "k": 4, "targets": "offset"},
        "embedding": {"projection": "learned"},
        "backbone": spec(width=32),
    }
    return coordinate_check(events, parse(ModelConfig, values), training, **options)


def test_activations_keep_their_size_with_mup_only(events):
    settings = {"learning_rate": 1e-2, "weight_decay": 0.0, "clip_norm": 1.0, "mup_base_width": 32}
    found = {}
    for name in ("standard", "mup"):
        training = TrainingConfig(**settings, parameterization=name)
        records = check(events, training, widths=(32, 64, 128), steps=5, seeds=(0, 1))
        assert {record["parameterization"] for record in records} == {name}
        found[name] = growth(records)
    layers = {"z", "x", "B", "dt", "C x N", "y", "embedding", "block update", "residual stream", "final norm"}
    assert set(found["mup"]) == {*layers, "predictions"}
    # Two states at the base width are too few for B; docs/mup.md has the check at full size.
    assert max(row.worst for layer, row in found["mup"].items() if layer != "B") < 2
    for layer in ("z", "x"):
        assert found["standard"][layer].change > 1.5 * found["mup"][layer].change
    assert found["standard"]["C x N"].worst > 4


@pytest.mark.parametrize("name", backbones.names())
def test_what_is_measured_inside_a_block_is_what_the_block_computes(name, processor, events):
    """Recomputed by hand, the recurrence step by step, for the first block of one event."""
    model = FM4NPPModel(processor.config.updated(backbone=spec(name, 32)), backend="torch")
    batch = processor(events[:1])
    found = activations(model, batch)
    block = model.backbone.layers[0]
    with torch.no_grad():
        stream = model.embedding(batch.coordinates, batch.features, batch.detector_ids)
        rows = block.norm(stream) @ block.mixer.in_proj.weight.T
        inner = 64
        first, last = (inner, rows.shape[1] - len(block.mixer.D)) if name == "mamba2" else (0, inner)
        values = rows[:, first:last]
        taps, bias = block.mixer.conv1d.weight[:, 0], block.mixer.conv1d.bias
        padded = torch.cat([values.new_zeros(3, values.shape[1]), values])
        convolved = sum(padded[lag : lag + len(values)] * taps[:, lag] for lag in range(4)) + bias
        convolved = convolved * convolved.sigmoid()
        if name == "mamba2":
            B, C, dt = convolved[:, inner : inner + 2], convolved[:, inner + 2 :], rows[:, last:]
            step = (dt + block.mixer.dt_bias).exp().log1p().repeat_interleave(16, dim=1)
            A, D = (values.repeat_interleave(16) for values in (-block.mixer.A_log.exp()[:, None], block.mixer.D))
            A = A[:, None].expand(-1, 2)
        else:
            low_rank, B, C = (convolved @ block.mixer.x_proj.weight.T).split([2, 2, 2], dim=1)
            dt = low_rank @ block.mixer.dt_proj.weight.T
            step = (dt + block.mixer.dt_proj.bias).exp().log1p()
            A, D = -block.mixer.A_log.exp(), block.mixer.D
        x, state, y = convolved[:, :inner], torch.zeros(inner, 2), []
        for t in range(len(x)):
            state = (step[t][:, None] * A).exp() * state + (step[t] * x[t])[:, None] * B[t]
            y.append(state @ C[t] + D * x[t])
    for layer, expected in {"B": B, "C x N": 2 * C, "dt": dt, "x": x, "y": torch.stack(y)}.items():
        torch.testing.assert_close(found[layer][0], expected, rtol=1e-4, atol=1e-5)


def test_growth_by_hand():
    sizes = {(8, 1): (1.0, 0.0), (8, 2): (2.0, 1.0), (16, 1): (4.0, 0.0), (16, 2): (3.0, 0.25)}
    records = [
        {"layer": "a", "width": width, "step": step, "size": size, "change": change}
        for (width, step), (size, change) in sizes.items()
    ]
    found = growth(records)["a"]
    assert (found.size, found.change, found.worst) == (1.5, 0.25, 4.0)
    lines = relative_to_narrowest([{**record, "parameterization": "mup"} for record in records], "change")
    assert lines == {("a", 2): [(8, 1.0), (16, 0.25)]}


def test_fewer_events_than_steps_are_refused(events):
    with pytest.raises(ConfigurationError, match="13 steps"):
        check(events, TrainingConfig(), steps=13)


def test_the_picture_shows_both_parameterizations(tmp_path):
    records = [
        {"parameterization": name, "layer": layer, "width": width, "step": step, "size": 1.0, "change": step / width}
        for name in ("standard", "mup")
        for layer in ("z", "y")
        for width in (8, 16)
        for step in (0, 1, 2)
    ]
    text = draw_coordinates(records, tmp_path / "a.svg", note="by hand").read_text(encoding="utf-8")
    for words in ("standard parameterization", "maximal update", "by hand", "change since initialisation"):
        assert words in text
    assert draw_coordinates(records, tmp_path / "b.svg", note="by hand").read_text(encoding="utf-8") == text
    with pytest.raises(ConfigurationError, match="png"):
        draw_coordinates(records, tmp_path / "a.gif")


def test_the_command_judges_by_its_exit_status(tmp_path, monkeypatch):
    arguments = ["coordinate-check", "--widths", "32,64", "--steps", "2", "--seeds", "1", "--layers", "1"]
    result = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / "a.png"), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["widths"] == [32, 64]
    assert found["worst"]["mup"] <= 2
    assert (tmp_path / "a.png").stat().st_size > 10_000
    monkeypatch.setattr("fm4npp.training.coordinate_check.FACTOR", 1.0)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert "two widths" in result.output


@pytest.mark.parametrize("widths", ["64", "a,b", "0,64"])
def test_wrong_widths_are_one_line(widths):
    result = CliRunner().invoke(app, ["coordinate-check", "--widths", widths])
    assert result.exit_code == 1
    assert "--widths" in result.output
