"""The study of size, data and training length as a user runs it."""

import json
import warnings

import pytest
import yaml
from typer.testing import CliRunner

from fm4npp.cli import app
from fm4npp.data import read_events, write_events
from fm4npp.errors import ConfigurationError, DataError
from fm4npp.evaluation import probes
from fm4npp.files import read_json
from fm4npp.studies import Scaling, study
from fm4npp.studies.scaling import ABSCISSAE, fitted, frontier
from tests.training.runs import metrics, pretrain_config


def call(*arguments):
    """The command with its warnings as a user sees them."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="module")
def grid(events_files, tmp_path_factory):
    """Two widths, two lengths, probed, from the command line."""
    folder = tmp_path_factory.mktemp("scaling")
    config = pretrain_config(events_files, learning_rate=1e-2, validate_every=2)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    write_events(list(read_events(events_files["validation"])), folder / "probed.parquet")
    asked = ("--widths", "16,32", "--steps", "2,8", "--probe-events", "6")
    files = ("--config", folder / "config.yaml", "--output", folder / "s", "--probe-data", folder / "probed.parquet")
    return folder / "s", ["study", "scaling", *map(str, files), *asked]


@pytest.fixture(scope="module")
def finished(grid):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "STEPS", 5)
        result = call(*grid[1], "--json")
    assert "all widths have one learning rate" in result.stderr
    assert "one seed: how much losses differ by chance is not known" in result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_cells_are_ordinary_runs_whose_losses_are_fitted(grid, finished):
    folder, _ = grid
    assert len(finished["cells"]) == 4
    for cell in finished["cells"]:
        records = [
            record["validation_loss"]
            for record in metrics(folder / "runs" / cell["name"])
            if "validation_loss" in record
        ]
        assert cell["validation_loss"] == min(records)
        assert cell["flops"] == 6 * cell["parameters"] * cell["tokens"]
        assert {probe["measure"] for probe in cell["probes"]} >= {"macro_f1", "track_precision"}
    assert [fit["axis"] for fit in finished["fits"]] == ["width", "steps", ""]
    along = finished["fits"][1]
    assert along["held"] == {"width": 32}
    assert along["num_cells"] == 2
    assert "fewer than 4" in along["warnings"][0]


def test_pictures_and_tables(grid, finished):
    folder, _ = grid
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in ("study.png", "study-probes.png"))
    text = (folder / "study.md").read_text()
    assert "width32-steps8-seed0" in text
    assert "0 (not fitted)" in text
    assert read_json(folder / "study.json") == finished


def test_a_finished_study_is_not_repeated(grid, finished, monkeypatch):
    monkeypatch.setattr("fm4npp.studies.scaling.pretrain", None)
    result = call(*grid[1])
    assert "all cells are finished" in result.output
    assert "study.md" in result.output


def test_subsets_of_events_are_trained_on(events_files, tmp_path):
    found = study(Scaling(pretrain_config(events_files, steps=2), tmp_path / "s", events=(4, 8)))
    assert [cell["events"] for cell in found["cells"]] == [4, 8]
    sizes = [
        read_json(tmp_path / "s" / "runs" / cell["name"] / "run.json")["data"][0]["events"] for cell in found["cells"]
    ]
    assert sizes == [4, 8]
    assert any("one seed" in text for text in found["warnings"])


def test_mistakes_are_named(events_files, tmp_path):
    config = pretrain_config(events_files)
    with pytest.raises(ConfigurationError, match="nothing to scale"):
        Scaling(config, tmp_path / "a")
    with pytest.raises(DataError, match="of which 99 are wanted"):
        study(Scaling(config, tmp_path / "b", events=(99,)))
    without = config.model_copy(update={"data": config.data.model_copy(update={"validation": ()})})
    with pytest.raises(ConfigurationError, match="validation"):
        Scaling(without, tmp_path / "c", steps=(2,))
    result = CliRunner().invoke(app, ["study", "scaling", "--config", "no.yaml", "--output", str(tmp_path / "d")])
    assert result.exit_code != 0


def cell(name, width, steps, loss, flops):
    return {"name": name, "cell": {"width": width, "steps": steps, "seed": 0}, "validation_loss": loss, "flops": flops}


def test_the_frontier_is_what_no_cheaper_combination_matches():
    rows = [
        cell("a", 8, 1, 3.0, 1.0),
        cell("b", 8, 2, 2.0, 2.0),
        cell("c", 16, 1, 2.5, 3.0),
        cell("d", 16, 2, 1.0, 4.0),
    ]
    assert [row["name"] for row in frontier(rows)] == ["a", "b", "d"]


def test_runs_without_a_loss_are_left_out_of_the_fit():
    rows = [cell("a", 8, 1, 3.0, 1.0), cell("b", 8, 2, None, 2.0), cell("d", 16, 2, 1.0, 4.0)]
    found = fitted(rows, ABSCISSAE[-1], {"width": (8, 16), "steps": (1, 2), "seed": (0,)})
    assert found["cells"] == ["a", "d"]
