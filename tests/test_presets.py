from __future__ import annotations

import pytest
import torch

from fm4npp.configuration import WIDTHS, FM4NPPConfig
from fm4npp.errors import ConfigurationError
from fm4npp.modeling import FM4NPPModel
from fm4npp.training import PretrainConfig
from fm4npp.training.config import PRESETS, ModelConfig, parse, read_config


@pytest.mark.parametrize("name", [*WIDTHS, "released-code"])
def test_presets_are_the_papers_recipe(name):
    values = read_config(name)
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
    path = PRESETS / f"{name}.yaml"
    model_config = parse(ModelConfig, read_config(name)["model"])
    with torch.device("meta"):
        model = FM4NPPModel(FM4NPPConfig.create(**model_config.fields([])))
    trained = model.num_parameters()
    assert (
        f"{trained:,} trained parameters and {model.num_parameters(trainable=False) - trained:,} frozen"
        in path.read_text()
    )


@pytest.mark.parametrize("name", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_every_preset_is_a_whole_configuration(name):
    config = parse(PretrainConfig, read_config(name), ["data.train=some.parquet"])
    FM4NPPConfig.create(**config.model.fields(["sphenix-tpc"]))


@pytest.mark.parametrize(
    ("names", "energy"),
    [
        (["sphenix-tpc"], True),
        (["sphenix-tpc", "star-tpc"], True),
        (["sphenix-silicon"], False),
        (["sphenix"], False),  # its silicon measures none
        (["sphenix-tpc", "sphenix-mvtx"], False),
    ],
)
def test_energies_are_predicted_where_all_is_measured(names, energy):
    config = parse(ModelConfig, read_config("fm4npp")["model"])
    assert FM4NPPConfig.create(**config.fields(names)).objective.energy is energy
    told = config.model_copy(update={"objective": {**config.objective, "energy": False}})
    assert FM4NPPConfig.create(**told.fields(names)).objective.energy is False


def test_an_unknown_preset_suggests_one():
    with pytest.raises(ConfigurationError, match=r"no preset 'fm4np'; did you mean 'fm4npp'.*ends in \.yaml"):
        read_config("fm4np")
