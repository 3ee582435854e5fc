from __future__ import annotations

import json
import threading
from itertools import pairwise

import pytest
import torch

from fm4npp.checkpoint import read_tensors
from fm4npp.errors import ConfigurationError, DataError
from fm4npp.modeling import FM4NPPModel
from fm4npp.training import AdaptConfig, adapt, pretrain
from fm4npp.training.config import TrainingConfig, parse
from fm4npp.training.schedule import learning_rate_factor, parameter_groups
from tests.conftest import tiny_config
from tests.training.runs import adapt_config, losses, metrics, pretrain_config


@pytest.fixture(scope="module")
def pretrained(events_files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "pretrained"
    pretrain(pretrain_config(events_files), folder)
    return folder


def test_pretraining_leaves_a_checkpoint_and_its_story(pretrained, events, processor):
    model = FM4NPPModel.from_pretrained(pretrained)
    assert model.config.fitted
    assert model.config.training["validation_loss"] > 0
    records = metrics(pretrained)
    assert [record["step"] for record in records if "loss" in record] == [1, 2, 3, 4, 5, 6]
    assert [record["step"] for record in records if "validation_loss" in record] == [0, 3, 6]
    assert records[0]["step"] == 0
    assert records[0]["validation_loss"] > 0
    run = json.loads((pretrained / "run.json").read_text())
    assert run["config"]["training"]["steps"] == 6
    assert run["data"][0]["events"] == 24
    assert json.loads((pretrained / "status.json").read_text())["status"] == "finished"


def test_loss_falls(events_files, tmp_path):
    pretrain(pretrain_config(events_files, steps=40, learning_rate=5e-3, validate_every=20), tmp_path)
    found = list(losses(tmp_path).values())
    assert sum(found[-10:]) / 10 < 0.97 * sum(found[:5]) / 5


def test_the_same_seed_gives_the_same_weights(events_files, tmp_path):
    for name in ("a", "b"):
        pretrain(pretrain_config(events_files), tmp_path / name)
    pretrain(pretrain_config(events_files, seed=1), tmp_path / "c")
    first, second, third = (read_tensors(tmp_path / name) for name in "abc")
    assert all(torch.equal(values, second[name]) for name, values in first.items())
    assert any(not torch.equal(values, third[name]) for name, values in first.items())


def test_a_run_is_not_overwritten(events_files, pretrained):
    with pytest.raises(ConfigurationError, match="not empty"):
        pretrain(pretrain_config(events_files), pretrained)


def test_adapting_stores_the_head_alone(pretrained, events_files, tmp_path):
    before = {path.name: path.read_bytes() for path in pretrained.iterdir() if path.is_file()}
    best = adapt(pretrained, adapt_config(events_files), tmp_path / "head")
    assert best["validation_loss"] > 0
    assert {path.name: path.read_bytes() for path in pretrained.iterdir() if path.is_file()} == before
    names = set(read_tensors(tmp_path / "head"))
    assert not any(name.startswith("backbone") for name in names)
    model = FM4NPPModel.from_pretrained(pretrained)
    assert model.load_head(tmp_path / "head") == "tracks"


def test_the_backbone_can_be_trained_too(pretrained, events_files, tmp_path):
    config = parse(AdaptConfig, adapt_config(events_files).model_dump(), ["tuning=full"])
    adapt(pretrained, config, tmp_path / "whole")
    model = FM4NPPModel.from_pretrained(tmp_path / "whole")
    assert list(model.heads) == ["tracks"]
    assert model.backbone_identity()["sha256"] != FM4NPPModel.from_pretrained(pretrained).backbone_identity()["sha256"]


def test_missing_labels_stop_before_training(pretrained, events_files, events, tmp_path):
    import dataclasses

    from fm4npp.data import write_events

    path = tmp_path / "unlabelled.parquet"
    write_events([dataclasses.replace(event, labels={}) for event in events], path)
    with pytest.raises(DataError, match="track_id"):
        adapt(pretrained, adapt_config({"train": path, "validation": path}), tmp_path / "head")


def test_empty_data_stops_before_training(events, tmp_path):
    import numpy as np

    from fm4npp.data import write_events

    path = tmp_path / "empty.parquet"
    write_events([event.take(np.arange(0)) for event in events], path)
    with pytest.raises(DataError, match="no spacepoints"):
        pretrain(pretrain_config({"train": path, "validation": path}), tmp_path / "run")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("training.stepz=3", "stepz"),
        ("training.steps=0", "training.steps"),
        ("training.learning_rate=fast", "learning_rate"),
        ("model.size=m9", "m6"),
        ("data.train=[]", "data.train"),
        ("nonsense", "key.path=value"),
        ("model.backbone.width.deep=3", "no further keys"),
    ],
)
def test_a_mistake_in_the_configuration_is_one_line(events_files, override, named):
    with pytest.raises(ConfigurationError, match=named) as caught:
        pretrain_config(events_files, overrides=[override])
    assert "\n" not in str(caught.value)


def test_overrides_reach_into_components(events_files):
    config = pretrain_config(
        events_files, overrides=["model.objective.k=7", "model.serializer=hilbert", "training.seed=5"]
    )
    assert config.model.objective["k"] == 7
    assert config.model.serializer == "hilbert"
    assert config.training.seed == 5


def test_schedule_is_linear_then_cosine():
    factors = [learning_rate_factor(step, 100, 10, 0.1) for step in range(100)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert factors[10] == pytest.approx(1.0)
    assert factors[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(factors[10:]))
    assert learning_rate_factor(0, 1, 0, 0.1) == pytest.approx(1.0)


def test_only_matrices_decay():
    model = FM4NPPModel(tiny_config())
    decayed, spared = parameter_groups(model, 0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert not any(
        "A_log" in names[id(p)] or "dt_bias" in names[id(p)] or "norm" in names[id(p)] for p in decayed["params"]
    )
    assert spared["weight_decay"] == 0
    assert len(decayed["params"]) + len(spared["params"]) == sum(p.requires_grad for p in model.parameters())


def test_training_runs_outside_the_main_thread(events_files, tmp_path):
    failures = []

    def run():
        try:
            pretrain(pretrain_config(events_files, steps=2), tmp_path / "thread")
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(60)
    assert not failures
    assert not thread.is_alive()


def test_bfloat16_products_train_both(events_files, tmp_path):
    for name, precision in (("model", "bf16"), ("single", "fp32")):
        pretrain(pretrain_config(events_files, precision=precision), tmp_path / name)
    assert losses(tmp_path / "model")[1] != losses(tmp_path / "single")[1]
    assert losses(tmp_path / "model")[1] == pytest.approx(losses(tmp_path / "single")[1], rel=0.02)
    inputs = ["blocks", "embedding", "coordinates"]
    for name in ("track-finding", "noise-tagging"):
        head = {"type": name, "width": 32, "inputs": inputs} | ({"hidden": 32} if name == "track-finding" else {})
        adapt(tmp_path / "model", adapt_config(events_files, head, precision="bf16"), tmp_path / name)
        assert all(record["loss"] > 0 for record in metrics(tmp_path / name) if "loss" in record)
    first = FM4NPPModel.from_pretrained(tmp_path / "model")
    assert all(parameter.dtype == torch.float32 for parameter in first.parameters())


def test_defaults_are_the_papers_recipe():
    config = TrainingConfig()
    assert (config.learning_rate, config.weight_decay, config.clip_norm) == (2e-4, 0.01, 0.1)
