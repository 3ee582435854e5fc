from __future__ import annotations

import json

import pytest

from fm4npp.choices import WIDTHS
from fm4npp.configuration import FM4NPPConfig
from fm4npp.errors import CheckpointError, ConfigurationError
from fm4npp.modeling import FM4NPPModel
from tests.conftest import tiny_config

PARAMETERS = {"m1": 319_042, "m2": 1_243_178, "m3": 4_907_002, "m4": 19_496_858, "m5": 77_725_402, "m6": 174_685_722}
"""Trainable parameters of the released architecture, 12 layers and k = 30."""


@pytest.mark.parametrize("size", list(WIDTHS))
def test_named_sizes_have_the_released_parameter_counts(size):
    import torch

    with torch.device("meta"):
        model = FM4NPPModel(FM4NPPConfig.named(size))
    assert model.num_parameters() == PARAMETERS[size]
    assert model.num_parameters(trainable=False) - PARAMETERS[size] == 64 * WIDTHS[size]


def test_json_round_trip_is_exact(processor):
    config = processor.config
    again = FM4NPPConfig.create(**json.loads(json.dumps(config.json_object())))
    assert again == config
    assert again.fitted


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"detectors": ["sphenix-tpd"]}, "sphenix-tpc"),
        ({"serializer": {"type": "raster-scan", "num_bin": [1, 1, 1]}}, "num_bin"),
        ({"objective": {"type": "k-nnn", "kay": 3}}, "kay"),
        ({"backbone": {"type": "mamba2", "width": 64, "wdith": 3}}, "wdith"),
        ({"colour": "red"}, "colour"),
        ({"detectors": ["sphenix-tpc", "sphenix-tpc"]}, "every detector once"),
        ({"detectors": []}, "detectors"),
        ({"heads": {"tracks": "track-fnding"}}, "track-finding"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(fields, named):
    with pytest.raises(ConfigurationError, match=named) as caught:
        tiny_config(**fields)
    assert "\n" not in str(caught.value)


def test_unknown_size_lists_the_choices():
    with pytest.raises(ConfigurationError, match="m6"):
        FM4NPPConfig.named("m7")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', '{"backbone": {"type": "mamba9", "width": 4}}'])
def test_a_damaged_configuration_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match="config.json"):
        FM4NPPConfig.load(tmp_path)


def test_subsystems_and_features_are_the_union_over_detectors():
    config = tiny_config(detectors=["sphenix-silicon", "sphenix-tpc", "star-tpc"])
    assert list(config.subsystems) == ["sphenix-mvtx", "sphenix-intt", "sphenix-tpc", "star-tpc"]
    assert config.feature_names == ("energy",)
    assert config.subsystems["sphenix-mvtx"] == ()
