"""Mistakes are found before anything slow starts."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml
from typer.testing import CliRunner

from fm4npp import detectors
from fm4npp.cli import app
from fm4npp.data import EventDataset, write_events
from fm4npp.errors import ConfigurationError, DataError, FM4NPPError
from fm4npp.modeling import FM4NPPModel
from fm4npp.simulation import ParticleGun, simulate
from fm4npp.training import pretrain
from fm4npp.training.config import PretrainConfig, parse
from fm4npp.training.inputs import check_adaptation, check_pretraining
from tests.training.runs import adapt_config, metrics, pretrain_config


@pytest.fixture(scope="module")
def star_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("star") / "star.parquet"
    write_events(simulate(detectors.build("star-tpc"), 8, 5, ParticleGun(mean_primaries=2.0)), path)
    return path


@pytest.mark.parametrize(
    ("override", "named"),
    [
        (
            "data.train=missing.parquet",
            "missing.parquet: no such file or folder; check the path of the training events",
        ),
        ("data.validation=[nothing-*.parquet]", "check the path of the validation events"),
        (
            "model.detectors=[star-tpc]",
            "events of 'sphenix-tpc', a detector that the model does not have; it has star-tpc",
        ),
        ("data.weights={star-tpc: 1}", "no training events of 'star-tpc'"),
    ],
)
def test_data_that_does_not_fit_is_one_line(events_files, override, named):
    with pytest.raises(FM4NPPError, match=named) as caught:
        check_pretraining(pretrain_config(events_files, [override]))
    assert "\n" not in str(caught.value)


def test_files_that_are_no_events_are_named(events_files, tmp_path):
    path = tmp_path / "torn.parquet"
    path.write_bytes(events_files["train"].read_bytes()[:-100])
    with pytest.raises(DataError, match=r"torn\.parquet"):
        check_pretraining(pretrain_config({**events_files, "validation": path}))


def test_a_heads_data_must_be_of_the_models_detectors(events_files, star_file, tmp_path):
    FM4NPPModel(pretrain_model(events_files)).save_pretrained(tmp_path)
    check_adaptation(tmp_path, adapt_config(events_files))
    with pytest.raises(DataError, match="it has sphenix-tpc"):
        check_adaptation(tmp_path, adapt_config({**events_files, "validation": star_file}))


def pretrain_model(files):
    from fm4npp.configuration import FM4NPPConfig

    return FM4NPPConfig.create(**pretrain_config(files).model.fields(["sphenix-tpc"]))


def test_streams_of_several_detectors_need_weights(events_files, star_file, tmp_path):
    overrides = [f"data.train=[{events_files['train']}, {star_file}]", "data.streaming=true"]
    with pytest.raises(ConfigurationError, match="needs the weight of each detector"):
        pretrain(pretrain_config(events_files, overrides), tmp_path)


def test_a_mixture_by_index_tells_its_detectors_apart(events_files, star_file, tmp_path):
    train, validation = [str(events_files["train"]), str(star_file)], [str(events_files["validation"]), str(star_file)]
    overrides = [f"data.train={train}", f"data.validation={validation}", "data.weights={sphenix-tpc: 1, star-tpc: 3}"]
    pretrain(pretrain_config(events_files, overrides, events_per_step=16), tmp_path)
    records = metrics(tmp_path)
    detectors_found = {"sphenix-tpc", "star-tpc"}
    validated = [record for record in records if "validation_loss" in record]
    assert all({f"validation_loss/{name}" for name in detectors_found} <= set(record) for record in validated)
    assert all({f"loss/{name}" for name in detectors_found} <= set(record) for record in records if "loss" in record)
    assert len(EventDataset(train)) == 32
    assert [record["events"] for record in records if "loss" in record] == [16] * 6


def test_configurations_are_checked_without_torch(events_files):
    program = (
        "import sys\n"
        "from fm4npp.training.config import PretrainConfig, parse\n"
        "from fm4npp.training.inputs import check_pretraining\n"
        f"check_pretraining(parse(PretrainConfig, {pretrain_config(events_files).model_dump(mode='json')!r}))\n"
        "assert 'torch' not in sys.modules and 'datasets' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


def test_the_configuration_is_printed_and_can_be_read_again(events_files, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(pretrain_config(events_files).model_dump(mode="json")))
    arguments = ["pretrain", "--config", str(path), "--output", str(tmp_path / "run"), "--print-config"]
    result = CliRunner().invoke(app, [*arguments, "training.seed=7"])
    assert result.exit_code == 0, result.output
    expected = pretrain_config(events_files, ["training.seed=7"])
    assert parse(PretrainConfig, yaml.safe_load(result.output)) == expected
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("data.features=x", "data.features"),
        ("training.ema=1.0", "training.ema"),
        ("training.trackers=[nonsense]", "training.trackers"),
        ("training.seed=-1", "training.seed"),
        ("data.train=3", "data.train"),
    ],
)
def test_settings_that_cannot_be_are_named(events_files, override, named):
    with pytest.raises(ConfigurationError, match=named):
        pretrain_config(events_files, [override])


@pytest.mark.parametrize("override", ["lora.rank=2", "training.parameterization=mup", "data.cache=x"])
def test_settings_of_heads_that_cannot_be(events_files, override):
    with pytest.raises(ConfigurationError):
        adapt_config(events_files, overrides=[override])


def test_what_is_compiled(events_files, tmp_path, monkeypatch):
    import torch

    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: compiled.append(type(self).__name__))
    pretrain(pretrain_config(events_files, steps=1, compile=True), tmp_path)
    assert compiled == ["SpacepointEmbedding"]
