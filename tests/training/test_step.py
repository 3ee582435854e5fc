"""One optimizer step: the same however its events are packed, and none at all if it would do harm."""

from __future__ import annotations

import copy

import pytest
import torch
from accelerate import Accelerator

from fm4npp import detectors
from fm4npp.data import EventDataset, write_events
from fm4npp.errors import FM4NPPError
from fm4npp.modeling import FM4NPPModel
from fm4npp.processing import FM4NPPProcessor
from fm4npp.simulation import ParticleGun, simulate
from fm4npp.training import adapt, pretrain
from fm4npp.training.average import WeightAverage
from fm4npp.training.batches import Batch
from fm4npp.training.sources import Preparing
from fm4npp.training.step import Step
from fm4npp.training.validation import validation_losses
from tests.conftest import tiny_config
from tests.training.runs import adapt_config, metrics, pretrain_config, saved


@pytest.fixture
def model(processor):
    torch.manual_seed(0)
    return FM4NPPModel(processor.config)


def stepper(model, **options):
    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    objective = model.config.objective
    settings = {"clip_norm": 1e9, "precision": "fp32", **options}
    return Step(
        accelerator,
        model,
        optimizer,
        config=model.config,
        weight=lambda batch: objective.count(batch.targets),
        **settings,
    )


def batches_of(processor, events, *sizes):
    found, start = [], 0
    for size in sizes:
        chosen = events[start : start + size]
        found.append(Batch(processor(chosen), tuple(str(event.event_id) for event in chosen)))
        start += size
    return found


@pytest.mark.parametrize("sizes", [(3, 9), (1, 1, 10), (6, 6), (1,) * 12])
def test_accumulation_computes_what_one_batch_does(processor, events, model, sizes):
    other = copy.deepcopy(model)
    one = stepper(model)(batches_of(processor, events, 12))
    many = stepper(other)(batches_of(processor, events, *sizes))
    assert many.losses["loss"] == pytest.approx(one.losses["loss"], rel=1e-6)
    assert many.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-5)
    for first, second in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)


def test_a_batch_that_does_not_count_adds_nothing(processor, events, model):
    other = copy.deepcopy(model)
    first, second = batches_of(processor, events, 5, 4)
    alone = stepper(model)([first])
    beside = stepper(other)([first, second._replace(counts=False)])
    assert beside.losses == alone.losses
    assert (beside.events, beside.tokens) == (alone.events, alone.tokens)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-8)


def spoil_loss(model, batch):
    batch.events.targets["neighbours"][0, 0, 0] = float("nan")


def spoil_one_gradient(model, batch):
    parameter = model.backbone.layers[0].norm.weight
    parameter.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([3]), float("nan")))


def spoil_with_infinity(model, batch):
    model.output.weight.register_hook(lambda gradient: gradient * float("inf"))


@pytest.mark.parametrize("spoil", [spoil_loss, spoil_one_gradient, spoil_with_infinity])
def test_a_step_that_is_not_finite_changes_nothing(processor, events, model, spoil):
    step = stepper(model)
    (batch,) = batches_of(processor, events, 4)
    spoil(model, batch)
    before = copy.deepcopy(model.state_dict())
    outcome = step([batch])
    assert not outcome.taken
    assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())


def test_gradients_are_clipped_as_one_vector(processor, events, model):
    before = [parameter.detach().clone() for parameter in model.parameters()]
    outcome = stepper(model, clip_norm=0.01)(batches_of(processor, events, 4))
    assert outcome.gradient_norm > 0.02
    change = (
        sum(float((one - two).detach().square().sum()) for one, two in zip(model.parameters(), before, strict=True))
        ** 0.5
    )
    assert change == pytest.approx(0.1 * 0.01, rel=1e-3)


@pytest.mark.parametrize("tokens", [1, 300, 100_000])
def test_validation_does_not_depend_on_the_batches(events_files, processor, model, tokens):
    dataset = EventDataset([events_files["validation"]])
    step = stepper(model)
    prepare = Preparing(processor, targets=True)
    (expected,) = batches_of(processor, list(dataset), len(dataset))
    found = validation_losses(step, dataset, prepare, tokens=tokens)
    assert list(found) == ["validation_loss"]
    assert found["validation_loss"] == pytest.approx(model(**expected.events).loss.item(), rel=1e-5)


def test_losses_of_each_detector(tmp_path):
    star = list(simulate(detectors.build("star-tpc"), 3, 5, ParticleGun(mean_primaries=2.0)))
    sphenix = list(simulate(detectors.build("sphenix-tpc"), 3, 5, ParticleGun(mean_primaries=2.0)))
    for name, events in (("a", star), ("b", sphenix)):
        write_events(events, tmp_path / f"{name}.parquet")
    processor = FM4NPPProcessor(tiny_config(detectors=["star-tpc", "sphenix-tpc"])).fit(star + sphenix)
    torch.manual_seed(0)
    model = FM4NPPModel(processor.config)
    alone = {name: model(**processor(own)).loss.item() for name, own in (("star", star), ("sphenix", sphenix))}
    dataset = EventDataset([tmp_path / "a.parquet", tmp_path / "b.parquet"])
    found = validation_losses(stepper(model), dataset, Preparing(processor, targets=True), tokens=100_000)
    assert found["validation_loss/star-tpc"] == pytest.approx(alone["star"], rel=1e-5)
    assert found["validation_loss/sphenix-tpc"] == pytest.approx(alone["sphenix"], rel=1e-5)
    outcome = stepper(model)([Batch(processor([star[0], *sphenix, *star[1:]]), ("",))])
    assert outcome.losses["loss/star-tpc"] == pytest.approx(alone["star"], rel=1e-5)
    assert outcome.losses["loss/sphenix-tpc"] == pytest.approx(alone["sphenix"], rel=1e-5)


def test_the_average_follows_its_formula(model):
    average = WeightAverage(model, 0.9)
    name, parameter = next((name, each) for name, each in model.named_parameters() if each.requires_grad)
    expected = parameter.detach().double()
    for number in range(1, 30):
        with torch.no_grad():
            parameter += 0.1
        average.update()
        decay = min(0.9, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * parameter.detach().double()
    torch.testing.assert_close(average.weights[name].double(), expected, rtol=1e-5, atol=1e-6)
    now = parameter.detach().clone()
    with average.applied():
        assert torch.equal(parameter, average.weights[name])
    assert torch.equal(parameter, now)


# ---- whole runs


def not_a_number(monkeypatch, steps):
    """Spoil the gradients of some steps."""
    from fm4npp.training import sharding

    clip, count = sharding.clip_gradients, iter(range(1, 1000))

    def spoiled(model, norm):
        if next(count) in steps:
            next(each.grad for each in model.parameters() if each.grad is not None).fill_(float("nan"))
        return clip(model, norm)

    monkeypatch.setattr(sharding, "clip_gradients", spoiled)


def test_skipped_steps_are_counted(events_files, tmp_path, monkeypatch):
    not_a_number(monkeypatch, {2, 3, 5})
    pretrain(pretrain_config(events_files, skip_limit=3), tmp_path)
    records = [record for record in metrics(tmp_path) if "loss" in record]
    assert [record["skipped"] for record in records] == [0, 1, 2, 2, 3, 3]
    assert [record["gradient_norm"] is None for record in records] == [False, True, True, False, True, False]


def test_too_many_skipped_in_a_row_stop_the_run(events_files, tmp_path, monkeypatch):
    not_a_number(monkeypatch, {3, 4, 5})
    config = pretrain_config(events_files, skip_limit=3, save_every=1, keep_checkpoints=9)
    with pytest.raises(FM4NPPError, match=r"3 steps in a row .*the events of the last one: .*event \d+") as caught:
        pretrain(config, tmp_path)
    assert "\n" not in str(caught.value)
    assert saved(tmp_path).step == 4
    assert all(tensor.isfinite().all() for tensor in saved(tmp_path).tensors["model"].values())


def test_validation_that_is_not_finite_stops_before_the_first_step(events_files, tmp_path, monkeypatch):
    from fm4npp.training import loop

    monkeypatch.setattr(loop, "validation_losses", lambda *args, **named: {"validation_loss": float("nan")})
    with pytest.raises(FM4NPPError, match="untrained model is not finite"):
        pretrain(pretrain_config(events_files), tmp_path)
    assert not [record for record in metrics(tmp_path) if "loss" in record]


def test_a_later_validation_that_is_not_finite_is_never_the_best(events_files, tmp_path, monkeypatch):
    from fm4npp.training import loop

    values = iter([3.0, float("nan"), 2.0, 2.5])
    monkeypatch.setattr(loop, "validation_losses", lambda *args, **named: {"validation_loss": next(values)})
    with pytest.warns(UserWarning, match="step 2: the validation loss is not finite"):
        best = pretrain(pretrain_config(events_files, validate_every=2), tmp_path)
    assert (best["step"], best["validation_loss"]) == (4, 2.0)
    assert FM4NPPModel.from_pretrained(tmp_path).config.training["step"] == 4


def test_patience_ends_the_run(events_files, tmp_path, monkeypatch):
    from fm4npp.training import loop

    values = iter([3.0, 2.0, 2.5, 2.0, 1.0])
    monkeypatch.setattr(loop, "validation_losses", lambda *args, **named: {"validation_loss": next(values)})
    best = pretrain(pretrain_config(events_files, steps=9, validate_every=1, patience=2), tmp_path)
    assert best["step"] == 1
    assert saved(tmp_path).step == 3
    assert pretrain(pretrain_config(events_files, steps=9, validate_every=1, patience=2), tmp_path, resume=True) == best


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_other_tunings_resume_too(events_files, tmp_path, tuning):
    pretrain(pretrain_config(events_files, steps=2), tmp_path / "base")
    head = {"type": "noise-tagging", "width": 16}
    config = adapt_config(events_files, head, [f"tuning={tuning}"], steps=4, save_every=1)

    class Killed(Exception):
        pass

    def kill(record):
        if record["step"] == 3:
            raise Killed

    adapt(tmp_path / "base", config, tmp_path / "straight")
    with pytest.raises(Killed):
        adapt(tmp_path / "base", config, tmp_path / "killed", report=kill)
    adapt(tmp_path / "base", config, tmp_path / "killed", resume=True)
    one, two = saved(tmp_path / "straight"), saved(tmp_path / "killed")
    assert all(torch.equal(values, two.tensors["model"][name]) for name, values in one.tensors["model"].items())
