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


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--gun", "pi+,mean_primaries=1e300"), "1000000"),
        (("--gun", "pi+,number=100000000"), "1000000"),
        (("--gun", "pi+,vertex_sigma_z=1e300"), "1000000"),
        (("--gun", "pi+,pt=1e300"), "high <= 1e+06"),
        (("--gun", "pi+,eta=-1000..1000"), "high <= 20"),
        (("--gun", "pi+,pt=1,pt=2"), "pt is given twice"),
        (("--facility", "lep-z", "facility=rhic-pp"), "--facility"),
        (("--facility", "lep-z", "settings=[PartonLevel:MPI = off]"), "--settings"),
        (("--pileup", "1e9"), "pileup"),
        (("--detector", "trackml"), "response"),
    ],
)
def test_what_cannot_be_simulated_is_one_line_and_no_file(arguments, named, tmp_path):
    result = call("simulate", *arguments, "--events", 2, "--output", tmp_path / "events.parquet", status=1)
    assert named in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("gun", "seen"),
    [
        ("pi+,pt=1e-6,number=5", False),
        ("e-,pt=1e6,number=5", True),
        ("gamma,pt=1e6,number=1000", True),  # about 1 % convert within the three layers
        ("pi+,eta=20,number=5", False),
        ("pi+,vertex_sigma_z=1e6,number=5", False),
    ],
)
def test_extreme_particles_fly_without_a_warning(gun, seen, tmp_path):
    events = tmp_path / "events.parquet"
    call("simulate", "--gun", gun, "--events", 2, "--detector", "sphenix-mvtx", "--output", events)
    assert any(map(len, read_events(events))) == seen
