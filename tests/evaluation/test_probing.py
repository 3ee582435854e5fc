"""Probing as a user does it: a report with every control, comparisons on the same events, and a picture."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from fm4npp import detectors
from fm4npp.cli import app
from fm4npp.errors import ConfigurationError, DataError
from fm4npp.evaluation import probes, representations
from fm4npp.evaluation.probing import TASKS, Settings, probe
from fm4npp.evaluation.projections import project
from fm4npp.evaluation.transfer import on_detector
from fm4npp.modeling import FM4NPPModel
from fm4npp.simulation import ParticleGun, simulate

QUICK = Settings(representations=("mix",), seeds=(0, 1), depths=("linear",), folds=2, max_spacepoints=500)


@pytest.fixture(autouse=True)
def _few_steps(monkeypatch):
    monkeypatch.setattr(probes, "STEPS", 5)


@pytest.fixture
def model(processor):
    torch.manual_seed(5)
    return FM4NPPModel(processor.config)


@pytest.fixture(scope="module")
def star():
    return list(simulate(detectors.build("star-tpc"), 4, 3, ParticleGun(mean_primaries=2.0)))


def test_representations_are_the_models_own(model, events):
    wanted = representations.names(model)
    points = representations.of_events(model, events, [*wanted, "raw"], ["track_id", "particle.log_pt"])
    encoded = list(model.encode(events, outputs=["block_outputs", "last_hidden_state", "embedding"]))
    blocks = np.concatenate([found["block_outputs"] for _, found in encoded])
    for number in range(blocks.shape[1]):
        np.testing.assert_array_equal(points.features[f"block {number + 1}"], blocks[:, number])
    np.testing.assert_array_equal(points.features["blocks"], blocks.reshape(len(points), -1))
    scaled = blocks / np.sqrt(np.square(blocks).mean(axis=2, keepdims=True))
    np.testing.assert_allclose(points.features["mix"], scaled.mean(axis=1), rtol=1e-3, atol=1e-4)
    for name, output in (("last", "last_hidden_state"), ("embedding", "embedding")):
        np.testing.assert_array_equal(points.features[name], np.concatenate([found[output] for _, found in encoded]))
    raw = np.concatenate([model.config.detectors[0].geometry.coordinates(event.positions) for event in events])
    np.testing.assert_array_equal(points.features["raw"][:, :3], raw)
    np.testing.assert_array_equal(points.truths["track_id"], np.concatenate([e.labels["track_id"] for e in events]))


def test_random_controls_differ_by_their_seed_alone(model, events):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    found = [
        representations.of_events(other, events, ["last"]).features["last"]
        for other in representations.random_models(model, [0, 1, 0])
    ]
    assert torch.rand(1) == expected  # the user's own random numbers are left alone
    np.testing.assert_array_equal(found[0], found[2])
    assert np.abs(found[0] - found[1]).max() > 0.1


def test_every_task_is_judged_beside_every_control(model, events):
    report = probe(model, events[:8], events[8:], QUICK)
    assert report["skipped"] == []
    sources = {(row["source"], row["representation"], row["seed"]) for row in report["scores"]}
    own = {("model", "mix", None), ("embedding", "embedding", None), ("raw", "raw", None)}
    assert sources == own | {("random-init", "mix", 0), ("random-init", "mix", 1)}
    for task in TASKS:
        kinds = {row["probe"] for row in report["scores"] if row["task"] == task}
        assert kinds == ({"distances", "triplet map"} if task == "track separation" else {"linear"})
    compared = {(row["task"], row["control"]) for row in report["comparisons"]}
    assert compared == {(task, control) for task in TASKS for control in ("embedding", "raw", "random-init")}
    assert all(row["holm_p"] >= row["wilcoxon_p"] for row in report["comparisons"])
    json.dumps(report, allow_nan=False)


def test_without_test_events_each_is_judged_once_by_probes_that_have_not_seen_it(model, events):
    report = probe(model, events, (), QUICK)
    assert report["folds"] == 2
    assert report["num_test_events"] == len(events) - report["num_empty_events"]
    assert all(row["num_events"] <= report["num_test_events"] for row in report["comparisons"])


def test_a_model_that_is_its_own_control_is_no_better(model, events, monkeypatch):
    monkeypatch.setattr(representations, "random_models", lambda model, seeds: [model for _ in seeds])
    report = probe(model, events[:8], events[8:], QUICK)
    own = [row for row in report["comparisons"] if row["control"] == "random-init"]
    assert own
    assert all(row["mean_difference"] == 0 and row["holm_p"] == 1 for row in own)


def test_what_cannot_be_probed_is_one_line(model, events):
    with pytest.raises(ConfigurationError, match="no representation 'block 9'; there are block 1, block 2, mix"):
        probe(model, events, (), Settings(representations=("block 9",)))
    with pytest.raises(ConfigurationError, match="no control 'luck'; there are random-init"):
        probe(model, events, (), Settings(controls=("luck",)))
    with pytest.raises(DataError, match="too few events"):
        probe(model, events[:1], (), QUICK)


def test_a_model_moves_to_another_detector(model, star, events):
    moved = on_detector(model, "star-tpc", star)
    assert [one.name for one in moved.config.detectors] == ["star-tpc"]
    assert moved.config.serializers["star-tpc"].edges != model.config.serializers["sphenix-tpc"].edges
    blocks = (dict(model.backbone.named_parameters()), dict(moved.backbone.named_parameters()))
    assert all(torch.equal(value, blocks[1][name]) for name, value in blocks[0].items())
    old, new = model.embedding.feature_projections["sphenix-tpc"], moved.embedding.feature_projections["star-tpc"]
    assert torch.equal(old, new)
    with pytest.raises(ConfigurationError, match="sphenix-tpc measures energy, sphenix-mvtx nothing but positions"):
        on_detector(model, "sphenix-mvtx", star)


def test_an_event_is_shown_before_and_after_the_map(model, events):
    shown = max(events, key=len)
    spaces, tracks = project(model, [event for event in events if event is not shown], shown)
    assert list(spaces) == ["frozen features", "after a linear map"]
    assert {"PCA", "t-SNE"} <= set(spaces["frozen features"])
    for methods in spaces.values():
        assert all(places.shape == (len(tracks), 2) and np.isfinite(places).all() for places in methods.values())


def test_from_the_command_line(tmp_path, model, events_files):
    model.save_pretrained(tmp_path / "model")
    arguments = [
        "probe",
        "--model",
        tmp_path / "model",
        "--data",
        events_files["train"],
        "--output",
        tmp_path / "r.json",
    ]
    arguments += ["--test", events_files["validation"], "--representations", "mix", "--seeds", 2]
    arguments += ["--picture", tmp_path / "p.png", "--max-spacepoints", 500]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert "noise, linear, average_precision: mix 0." in result.output
    assert "track separation, triplet map: mix against random-init" in result.output
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["moved_to"] is None
    assert report["trained_for"] == ["sphenix-tpc"]
    assert len(report["data"]) == 2
    assert (tmp_path / "p.png").stat().st_size > 10_000
