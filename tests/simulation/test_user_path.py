"""Collisions of other facilities in trackers that are YAML files: simulated, read back, pretrained on, adapted to."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fm4npp import detectors
from fm4npp.cli import app
from fm4npp.data import EventDataset, read_events
from fm4npp.modeling import FM4NPPModel

EXAMPLES = Path(__file__).parents[2] / "examples/detectors"
TINY = """
model: {backbone: {type: mamba2, width: 32, num_layers: 1, state_size: 4}, objective: {type: k-nnn, k: 4}}
training: {steps: 2, tokens_per_batch: 1024, warmup_steps: 1, learning_rate: 1.0e-3, validate_every: 2, save_every: 2}
data: {}
"""


def call(*arguments, status=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result


@pytest.mark.parametrize(("facility", "name"), [("lep-z", "aleph"), ("hera-ep", "zeus"), ("eic-ep", "eic")])
def test_a_facility_in_its_tracker_the_whole_way(facility, name, tmp_path):
    yaml, events = EXAMPLES / f"{name}_tracker.yaml", tmp_path / "events.parquet"
    report = call("simulate", "--detector", yaml, "--facility", facility, "--events", 16, "--output", events, "--json")
    summary = json.loads(report.stdout.splitlines()[-1])
    assert summary["num_events"] == 16
    assert summary["num_spacepoints"] > 100

    tracker = detectors.load(yaml)
    read = list(read_events(events))
    assert [event.event_id for event in read] == list(range(16))
    assert {event.detector for event in read} == {tracker.name}
    assert all(facility in event.source for event in read)
    assert detectors.build(EventDataset([events]).specifications[0]) == tracker  # nobody has to name it again

    (tmp_path / "tiny.yaml").write_text(TINY)
    model, head = tmp_path / "model", tmp_path / "head"
    data = (f"data.train={events}", f"data.validation={events}")
    call("pretrain", "--config", tmp_path / "tiny.yaml", *data, "--output", model)
    assert FM4NPPModel.from_pretrained(model).config.detectors == (tracker,)
    steps = ("training.steps=2", "training.warmup_steps=1", "training.tokens_per_batch=1024")
    adapt = ("adapt", "--model", model, "--head", "noise-tagging", "--data", events, "--validation", events)
    call(*adapt, "--output", head, *steps)
    call("predict", events, "--model", model, "--head", head, "--output", tmp_path / "predicted.parquet")
    assert call("display", events, "--event", 1, "--output", tmp_path / "event.png").exit_code == 0
    named = (f"model.detectors=[{yaml}]", *data)
    call("pretrain", "--config", tmp_path / "tiny.yaml", *named, "--output", tmp_path / "named")
