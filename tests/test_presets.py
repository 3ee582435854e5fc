from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fm4npp.configuration import WIDTHS, FM4NPPConfig
from fm4npp.modeling import FM4NPPModel
from fm4npp.training import PretrainConfig
from fm4npp.training.config import ModelConfig, parse, read_yaml

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", [*WIDTHS, "released-code"])
def test_presets_are_the_papers_recipe(name):
    values = read_yaml(ROOT / f"configs/{name}.yaml")
    loop = values["training"]
    config = parse(PretrainConfig, values, ["data.train=some.parquet"])
    if name in WIDTHS:
        assert config.model.size == name
        expected = (2e-4, 0.01, 10_000, 0.1, 256, 50_000 if name in ("m1", "m2") else 100_000)
    else:
        expected = (2e-4, 0.1, 1000, 0.1, 64, 50_000)
    keys = ("learning_rate", "weight_decay", "warmup_steps", "clip_norm", "events_per_step", "steps")
    assert tuple(loop[key] for key in keys) == expected


@pytest.mark.parametrize("name", list(WIDTHS))
def test_presets_tell_the_number_of_parameters(name):
    path = ROOT / f"configs/{name}.yaml"
    model_config = parse(ModelConfig, read_yaml(path)["model"])
    with torch.device("meta"):
        model = FM4NPPModel(FM4NPPConfig.create(**model_config.fields([])))
    trained = model.num_parameters()
    assert (
        f"{trained:,} trained parameters and {model.num_parameters(trainable=False) - trained:,} frozen"
        in path.read_text()
    )
