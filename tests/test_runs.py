from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from fm4npp.cli import app
from fm4npp.cli import runs as commands
from fm4npp.errors import ConfigurationError, DataError
from fm4npp.inspection.run_records import read_records
from fm4npp.inspection.runs import find_runs, is_locked, read_run
from fm4npp.plotting.curves import Curve, draw_curves, is_logarithmic, running_mean, thinned
from fm4npp.training import PretrainConfig, pretrain
from fm4npp.training.config import parse

PRETRAIN = {
    "model": {"size": "m1", "detectors": ["sphenix-tpc"], "objective": {"type": "k-nnn", "targets": "offset"}},
    "training": {"steps": 40},
}
ADAPT = {"name": "tracks", "head": {"type": "track-finding"}, "training": {"steps": 20}}


def made(folder, command="pretrain", config=PRETRAIN, status="finished", start="2026-01-02T10:00:00+00:00", steps=40):
    """A run as training leaves it, logged at every step and validated at every tenth."""
    folder.mkdir(parents=True)
    data = [{"path": "a.parquet", "sha256": "0" * 64, "bytes": 1, "events": 9, "detector": "star-tpc"}]
    run = {"format": 1, "command": command, "config": config, "data": data, "started": start}
    run |= {"base": {"path": "runs/a", "sha256": "0" * 64}} if command == "adapt" else {}
    (folder / "run.json").write_text(json.dumps(run))
    state = {"status": status, "step": steps, "steps": config["training"]["steps"], "message": "disk full"}
    (folder / "status.json").write_text(json.dumps(state, indent=2))
    records = [{"step": 0, "training_loss": None, "validation_loss": 9.0}]
    for step in range(1, steps + 1):
        records.append(training(step))
        if step % 10 == 0:
            validation = None if step == 20 else 5.0 - step / 10 + 4 * (step == 40)
            records.append({"step": step, "training_loss": 1.0, "validation_loss": validation})
    write(folder, records)
    return folder


def training(step, **fields):
    rates = {"learning_rate": 1e-3, "events_per_second": 20.0, "tokens_per_second": 2e4, "seconds_elapsed": 2.0 * step}
    return {"step": step, "epoch": 0, "loss": 1.0 + 9.0 / step, "events": 8, "skipped": step // 30, **rates, **fields}


def write(folder, records):
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))


def call(*arguments, status=0):
    result = CliRunner().invoke(app, ["runs", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result


def test_a_run_is_summarised(tmp_path):
    run = read_run(made(tmp_path / "a"))
    assert (run.command, run.what, run.loss, run.status) == ("pretrain", "m1, sphenix-tpc", "k-nnn, offset", "finished")
    assert (run.step, run.steps) == (40, 40)
    records = run.records
    assert records.best == (30, 2.0)
    assert [step for step, _ in records.validation] == [0, 10, 30, 40]
    assert records.training[-1] == (40, 1.0 + 9.0 / 40)
    assert (records.events, records.estimated, records.seconds, records.skipped) == (320, False, 80.0, 1)
    assert (records.events_per_second, records.tokens_per_second) == (20.0, 2e4)
    assert run.started.isoformat(timespec="seconds").startswith("2026-01-0")
    assert run.problems == ()


def test_the_model_that_was_built_says_more_than_what_was_asked_for(tmp_path):
    folder = made(tmp_path / "a", config={"model": {"detectors": ["mine.yaml"]}, "training": {"steps": 40}})
    backbone = {"type": "mamba2", "width": 32, "num_layers": 6}
    built = {
        "backbone": backbone,
        "detectors": [{"type": "cylindrical", "name": "mine"}],
        "objective": {"type": "k-nnn"},
    }
    (folder / "config.json").write_text(json.dumps(built))
    run = read_run(folder)
    assert run.what == "width 32, 6 layers, mine"
    assert run.loss == "k-nnn"


def test_detectors_are_those_of_the_data_where_none_are_named(tmp_path):
    config = {**PRETRAIN, "model": {"size": "m2", "objective": "k-nnn"}}
    assert read_run(made(tmp_path / "a", config=config)).what == "m2, star-tpc"


def test_runs_are_found_at_any_depth_and_sorted_by_start(tmp_path):
    made(tmp_path / "sweep" / "b", start="2026-01-01T10:00:00+02:00")
    made(tmp_path / "sweep" / "c", start="2026-01-01T09:00:00+00:00")
    made(tmp_path / "sweep" / "b" / "heads" / "t", "adapt", ADAPT, start="2026-01-03T10:00:00+00:00")
    made(tmp_path / "sweep" / "b" / "checkpoints" / "step-00000040")
    made(tmp_path / "sweep" / ".hidden")
    found = find_runs(tmp_path)
    assert [str(run.folder.relative_to(tmp_path / "sweep")) for run in found] == ["b", "c", "b/heads/t"]
    assert found[2].what == "track-finding on runs/a"
    assert [run.folder for run in find_runs(tmp_path / "sweep" / "c")] == [tmp_path / "sweep" / "c"]


@pytest.mark.parametrize("status", ["running", "finished", "stopped", "failed"])
def test_a_running_run_without_its_lock_was_killed(tmp_path, status):
    folder = made(tmp_path / "a", status=status)
    lock = folder / ".lock"
    with FileLock(lock):
        assert is_locked(lock)
        assert read_run(folder).status == status
    assert not is_locked(lock)
    assert read_run(folder).status == ("killed" if status == "running" else status)
    lock.unlink(missing_ok=True)
    assert read_run(folder).status == ("killed" if status == "running" else status)
    assert not lock.exists()


def test_asking_for_the_lock_does_not_release_it(tmp_path):
    code = "import sys, filelock; lock = filelock.FileLock(sys.argv[1]); lock.acquire(); print(1, flush=True); input()"
    path = tmp_path / ".lock"
    holder = subprocess.Popen([sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    assert all(is_locked(path) for _ in range(3))
    holder.communicate(b"\n")
    assert not is_locked(path)


def test_the_last_line_cut_by_a_kill_is_one_problem(tmp_path):
    folder = made(tmp_path / "a")
    path = folder / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    run = read_run(folder)
    (problem,) = run.problems
    assert problem.startswith(f"{path}: line 45 is no record; the last one is cut short")
    assert run.records.best == (30, 2.0)
    assert run.records.validation[-1][0] == 30


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"\xff\xfe", b'"text"', b"null", b"[" * 100_000])
@pytest.mark.parametrize("name", ["run.json", "status.json", "config.json"])
def test_a_damaged_file_is_one_problem_and_the_row_is_still_there(tmp_path, name, damage):
    folder = made(tmp_path / "a")
    (folder / name).write_bytes(damage)
    (run,) = find_runs(tmp_path)
    (problem,) = run.problems
    assert problem.startswith(f"{folder / name}: is damaged")
    assert run.records.best == (30, 2.0)
    assert run.status == ("unknown" if name == "status.json" else "finished")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)
KEYS = st.sampled_from(["command", "config", "data", "started", "model", "training", "head", "backbone", "objective",
                        "detectors", "steps", "size", "step", "loss", "validation_loss", "events", "skipped",
                        "status", "message", "seconds_elapsed"])  # fmt: skip
OBJECTS = st.recursive(
    st.dictionaries(KEYS, VALUES, max_size=4), lambda inner: st.dictionaries(KEYS, inner | VALUES, max_size=4)
)


@settings(max_examples=40, deadline=None)
@given(OBJECTS, OBJECTS, OBJECTS, st.lists(OBJECTS, max_size=4))
def test_whatever_the_files_hold_a_row_comes_out(tmp_path_factory, run, status, model, records):
    folder = tmp_path_factory.mktemp("run") / "a"
    folder.mkdir()
    for name, values in (("run.json", run), ("status.json", status), ("config.json", model)):
        (folder / name).write_text(json.dumps(values))
    write(folder, records)
    found = read_run(folder)
    assert commands._cells(found, folder)["run"] == "a"
    assert json.loads(json.dumps(commands._summary(found), allow_nan=False))["folder"] == str(folder)


def test_steps_done_again_after_a_kill_count_once(tmp_path):
    first = [training(step, loss=1.0) for step in range(1, 8)]
    path = tmp_path / "metrics.jsonl"
    write(tmp_path, [*first, {"step": 7, "training_loss": 1.0, "validation_loss": 0.1},
                     *[training(step, loss=2.0) for step in range(6, 9)]])  # fmt: skip
    problems: list[str] = []
    records = read_records(path, problems)
    assert problems == []
    assert records.training == (*((step, 1.0) for step in range(1, 6)), *((step, 2.0) for step in range(6, 9)))
    assert records.best is None
    assert records.events == 64


def test_events_are_estimated_where_not_every_step_is_logged(tmp_path):
    write(tmp_path, [training(step, events=8) for step in (5, 10, 12)])
    records = read_records(tmp_path / "metrics.jsonl", [])
    assert (records.events, records.estimated) == (96, True)


def test_a_run_of_this_tree_is_listed(events_files, tmp_path):
    model = {
        "serializer": {"type": "raster-scan", "num_bins": [4, 4, 5]},
        "objective": {"type": "k-nnn", "k": 4},
        "backbone": {"type": "mamba2", "width": 32, "num_layers": 2, "state_size": 4, "head_dim": 16},
    }
    data = {name: [str(path)] for name, path in events_files.items()}
    loop = {"steps": 2, "tokens_per_batch": 600, "warmup_steps": 1, "validate_every": 1, "log_every": 1}
    best = pretrain(parse(PretrainConfig, {"model": model, "data": data, "training": loop}), tmp_path / "run")
    (run,) = find_runs(tmp_path)
    assert (run.command, run.what) == ("pretrain", "width 32, 2 layers, sphenix-tpc")
    assert run.loss == "k-nnn, absolute"
    assert (run.step, run.steps) == (2, 2)
    assert run.records.best == (best["step"], best["validation_loss"])
    assert run.records.events is not None
    assert len(run.records.training) == len(run.records.learning_rate) == 2
    assert run.problems == ()


@pytest.mark.filterwarnings("default")
def test_the_command_lists_and_draws(tmp_path):
    made(tmp_path / "runs" / "a", status="running")
    made(tmp_path / "runs" / "[b]", "adapt", ADAPT, status="failed", start="2026-01-04T10:00:00+00:00", steps=20)
    (tmp_path / "runs" / "c").mkdir()
    (tmp_path / "runs" / "c" / "run.json").write_text("{")
    picture = tmp_path / "curves.svg"
    result = call(tmp_path / "runs", "--plot", picture, "--json")
    rows = {line.split()[0]: line for line in result.stdout.splitlines()[1:4]}
    assert list(rows) == ["a", "[b]", "c"]
    assert "killed" in rows["a"]
    assert "2 at 30" in rows["a"]
    assert "track-finding on runs/a" in rows["[b]"]
    assert "unknown" in rows["c"]
    assert "[b]: disk full" in result.stdout
    assert f"warning: {tmp_path / 'runs' / 'c' / 'run.json'}: is damaged (no JSON)" in result.stderr
    summaries = json.loads(result.stdout.splitlines()[-1])["runs"]
    assert [summary["best_step"] for summary in summaries] == [30, 10, None]
    text = picture.read_text()
    for label in ("pretrain: k-nnn, offset", "adapt: track-finding", "a", "[b]"):
        assert f">{label}<" in text


def test_a_narrow_terminal_goes_without_some_columns(tmp_path, monkeypatch):
    made(tmp_path / "a")
    monkeypatch.setattr(type(commands.out), "width", property(lambda console: 80))
    lines = call(tmp_path).stdout.splitlines()
    assert len(lines) == 3
    assert "best validation" in lines[0]
    assert "skipped" not in lines[0]
    assert lines[2].startswith("(in a wider terminal, a pipe or --json also: skipped")


@pytest.mark.parametrize(
    ("folder", "message"), [("empty", "no run in it"), ("absent", "is not a folder"), ("file", "is not a folder")]
)
def test_no_run_is_one_line(tmp_path, folder, message):
    (tmp_path / "empty" / "deep").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    result = call(tmp_path / folder, status=1)
    (line,) = result.stderr.splitlines()
    assert message in line


def test_listing_does_not_import_torch(tmp_path):
    made(tmp_path / "a")
    code = f"import sys; from fm4npp.cli import app; app(['runs', {str(tmp_path)!r}], standalone_mode=False)"
    code += "\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), max_size=30), st.integers(0, 12))
def test_the_running_mean_is_that_of_the_window(values, window):
    found = running_mean(np.array(values), window)
    for i, mean in enumerate(found):
        before = min(i, window)
        expected = values[i - before : i + before + 1]
        assert mean == pytest.approx(sum(expected) / len(expected), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 5000), st.integers(1, 400))
def test_thinned_points_keep_to_the_limit_and_the_mean(count, limit):
    points = [(step, float(step)) for step in range(count)]
    found = thinned(points, limit)
    assert len(found) == (count if count <= limit else count // -(-count // limit))
    assert np.array_equal(found[:, 0], found[:, 1])


@pytest.mark.parametrize(
    ("losses", "expected"), [([1.0, 2.0], False), ([1.0, 9.0], True), ([-1.0, 9.0], False), ([], False)]
)
def test_the_axis_is_logarithmic_where_losses_differ_much(losses, expected):
    assert is_logarithmic([Curve("a", "x", training=list(enumerate(losses)))]) is expected


def test_the_same_curves_give_the_same_bytes(tmp_path):
    points = [(step, 1.0 + 8.0 / (step + 1)) for step in range(400)]
    curves = [Curve("run 2", "k-nnn", points, points[::50], points)]
    first, second = (draw_curves(curves, tmp_path / name).read_text() for name in ("a.svg", "b.svg"))
    assert first == second
    for text in ("k-nnn", "run 2", "step", "loss", "learning rate", "validation"):
        assert f">{text}<" in first


def test_what_cannot_be_drawn_is_one_line(tmp_path):
    with pytest.raises(DataError, match="no run has logged a loss"):
        draw_curves([Curve("a", "x")], tmp_path / "a.png")
    with pytest.raises(ConfigurationError, match="no picture format"):
        draw_curves([Curve("a", "x", [(1, 1.0)])], tmp_path / "a.gif")
