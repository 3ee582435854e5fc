from __future__ import annotations

import importlib
import json
import math
import sys
from pathlib import Path

import pytest

from fm4npp.errors import ConfigurationError
from fm4npp.training import trackers

CONFIGURATION = {"training": {"learning_rate": 2e-4, "betas": [0.9, 0.95], "cache": None}, "files": (Path("a"),)}
FAKE = """
import json, pathlib
record = pathlib.Path(__file__).parent.parent / "calls.jsonl"
fails = record.parent / "fails"
def call(name, /, *arguments, **named):
    if fails.exists() and fails.read_text() == name:
        raise ConnectionError(f"no network for {name}\\nand more")
    print("noise on the standard output")
    with record.open("a") as handle:
        handle.write(json.dumps([name, list(arguments), named], default=str) + "\\n")
"""
WANDB = """
class Run:
    def __init__(self, id):
        self.id = id
    def log(self, values, step=None):
        call("log", values, step=step)
    def finish(self):
        call("finish")
class config:
    @staticmethod
    def update(values, allow_val_change):
        call("config", values)
def init(project, **named):
    call("init", project, **named)
    return Run(named.get("id", "id-1"))
"""
MLFLOW = """
class info:
    run_id = "run-1"
class Run:
    pass
Run.info = info
class utils:
    class validation:
        MAX_PARAM_VAL_LENGTH, MAX_PARAMS_TAGS_PER_BATCH = 6000, 100
def search_experiments(filter_string):
    return []
def create_experiment(**named):
    return "7"
def start_run(**named):
    call("init", **named)
    return Run()
def log_params(values):
    call("config", values)
def log_metrics(values, step=None):
    call("log", values, step=step)
def end_run():
    call("finish")
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Installs a stand-in of a tracker's package; returns what was called, and a switch that makes one call fail."""
    packages = tmp_path / "packages"
    monkeypatch.syspath_prepend(str(packages))
    for variable in ("WANDB_PROJECT", "WANDB_DIR", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_TAGS"):
        monkeypatch.delenv(variable, raising=False)

    class Fake:
        def install(self, name: str) -> None:
            (packages / name).mkdir(parents=True)
            (packages / name / "__init__.py").write_text(FAKE + {"wandb": WANDB, "mlflow": MLFLOW}[name])
            importlib.invalidate_caches()
            monkeypatch.delitem(sys.modules, name, raising=False)

        def fail(self, call: str) -> None:
            (packages / "fails").write_text(call)

        def calls(self) -> list[list]:
            path = packages / "calls.jsonl"
            return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    yield Fake()
    for name in ("wandb", "mlflow"):
        sys.modules.pop(name, None)


def records(first: int, last: int, scale: float = 1.0) -> list[dict]:
    return [{"step": step, "loss": scale * step, "wait_share": math.nan, "note": None} for step in range(first, last)]


def run(names, folder, steps, **options) -> None:
    started = trackers.start(names, folder, CONFIGURATION, **options)
    for record in steps:
        started.log(record)
    started.finish()
    started.finish()


def test_configuration_becomes_plain_values():
    assert trackers.flat(CONFIGURATION) == {
        "training.learning_rate": 2e-4,
        "training.betas.0": 0.9,
        "training.betas.1": 0.95,
        "training.cache": "None",
        "files.0": "a",
    }


def test_only_finite_numbers_are_drawn():
    record = {"step": 3, "loss": 1.5, "events": 7, "bad": math.inf, "none": None, "flag": True, "text": "x"}
    assert trackers.numbers(record) == {"loss": 1.5, "events": 7}


def test_nothing_is_started_by_default_or_on_other_processes(tmp_path):
    trackers.start([], tmp_path, CONFIGURATION).log({"step": 1, "loss": 1.0})
    assert trackers.start(["tensorboard"], tmp_path, CONFIGURATION, is_main_process=False).names == ()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorbord", "trackers: unknown tracker 'tensorbord'; did you mean 'tensorboard'?"),
        ("mlflow", "trackers: mlflow is not installed; pip install mlflow, or leave it out"),
    ],
)
def test_what_cannot_be_used_is_one_line(name, message, tmp_path, monkeypatch):
    # A folder that a tracker left behind is no package.
    (tmp_path / "mlflow").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigurationError) as caught:
        trackers.check([name])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_tensorboard_continues_the_curve_of_a_resumed_run(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(["tensorboard"], tmp_path, records(1, 6))
    run(["tensorboard"], tmp_path, records(4, 8, scale=10.0), resume=True, step=3)
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert found.Tags()["scalars"] == ["loss"]
    assert [(point.step, point.value) for point in found.Scalars("loss")] == [
        (1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0), (5, 50.0), (6, 60.0), (7, 70.0),
    ]  # fmt: skip
    stored = list(tmp_path.glob("tensorboard/*/hparams.yml"))
    assert len(stored) == 1
    assert "training.learning_rate: 0.0002" in stored[0].read_text()


@pytest.mark.parametrize(
    ("name", "identifier", "again"),
    [("wandb", "id-1", {"id": "id-1", "resume": "allow"}), ("mlflow", "run-1", {"run_id": "run-1"})],
)
def test_a_resumed_run_is_the_same_run(name, identifier, again, fake, tmp_path, capsys):
    fake.install(name)
    folder = tmp_path / "run"
    run([name, name], folder, records(1, 3))
    run([name], folder, records(3, 4), resume=True, step=2)
    assert [call for call, *_ in fake.calls()] == ["init", "config", "log", "log", "finish", "init", "log", "finish"]
    first, second = (named for call, _, named in fake.calls() if call == "init")
    assert again.items() <= second.items()
    assert not any(first.get(key) for key in again)
    assert {"name": "run"}.items() <= first.items() or {"run_name": "run"}.items() <= first.items()
    assert fake.calls()[2][1:] == [[{"loss": 1.0}], {"step": 1}]
    assert json.loads((folder / trackers.STATE_NAME).read_text()) == {name: identifier}
    assert capsys.readouterr().out == ""


def test_weights_and_biases_writes_beside_the_run_unless_told_otherwise(fake, tmp_path, monkeypatch):
    fake.install("wandb")
    run(["wandb"], tmp_path / "a", [])
    monkeypatch.setenv("WANDB_DIR", "elsewhere")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    run(["wandb"], tmp_path / "b", [])
    (project, first), (other, second) = (
        (arguments[0], named) for call, arguments, named in fake.calls() if call == "init"
    )
    assert (project, first["dir"], other) == (trackers.PROJECT, str(tmp_path / "a"), "mine")
    # Whether it is offline is Weights & Biases' own affair: WANDB_MODE.
    assert "dir" not in second
    assert "mode" not in first | second


def test_a_tracker_that_fails_in_mid_run_warns_once(fake, tmp_path):
    fake.install("wandb")
    fake.install("mlflow")
    started = trackers.start(["wandb", "mlflow"], tmp_path, CONFIGURATION)
    started.log({"step": 1, "loss": 1.0})
    fake.fail("log")
    with pytest.warns(UserWarning, match="left out") as caught:
        started.log({"step": 2, "loss": 1.0})
    assert [str(warning.message) for warning in caught] == [
        f"{name} is left out from here on (no network for log); metrics.jsonl has everything"
        for name in ("wandb", "mlflow")
    ]
    started.log({"step": 3, "loss": 1.0})
    started.finish()
    assert started.names == ()


def test_a_tracker_that_cannot_be_started_stops_a_new_run_and_not_a_resumed_one(fake, tmp_path):
    fake.install("wandb")
    run(["wandb"], tmp_path, [])
    fake.fail("init")
    with pytest.raises(ConfigurationError, match=r"^trackers: wandb cannot be started \(no network for init\); leave"):
        trackers.start(["wandb"], tmp_path / "new", CONFIGURATION)
    with pytest.warns(UserWarning, match=r"^wandb cannot be started \(no network for init\); metrics.jsonl has"):
        started = trackers.start(["wandb"], tmp_path, CONFIGURATION, resume=True)
    started.log({"step": 1, "loss": 1.0})
    assert json.loads((tmp_path / trackers.STATE_NAME).read_text()) == {"wandb": "id-1"}


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_note_of_the_trackers_does_not_stop_a_resumed_run(text, fake, tmp_path):
    fake.install("wandb")
    (tmp_path / trackers.STATE_NAME).write_text(text)
    with pytest.warns(UserWarning, match="the trackers begin new runs"):
        run(["wandb"], tmp_path, [], resume=True)
    assert json.loads((tmp_path / trackers.STATE_NAME).read_text()) == {"wandb": "id-1"}
