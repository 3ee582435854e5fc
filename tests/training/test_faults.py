"""Whole runs that are killed, run out of disk, lose a worker, or are given what cannot be trained on."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from fm4npp.cli import app
from fm4npp.data import write_events
from fm4npp.errors import ConfigurationError, FM4NPPError
from fm4npp.readers.events_parquet import SUMMARY_KEY
from fm4npp.training import guards, pretrain, validation
from fm4npp.training.step import Step
from tests import crashes
from tests.training.runs import assert_same_run, metrics, pretrain_config, saved

LENGTH = {"steps": 8, "save_every": 2, "validate_every": 4, "events_per_step": 5}


@pytest.fixture(scope="module")
def straight(events_files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    pretrain(pretrain_config(events_files, **LENGTH), folder)
    return folder


def configuration(folder, config):
    path = folder.with_name(f"{folder.name}.yaml")
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return path


def at_step(number, action):
    """Do something when a step is done, in a child that dies with it."""
    count, step = itertools.count(1), Step.__call__

    def patched(self, *arguments, **named):
        outcome = step(self, *arguments, **named)
        if next(count) == number:
            action()
        return outcome

    Step.__call__ = patched


def run_command(config, folder, *more, before=lambda: None):
    """Exit status and stderr of `fm4npp pretrain` in a child; nothing that it started is there any longer."""
    arguments = ["pretrain", "--config", str(configuration(folder, config)), "--output", str(folder), *more]
    told, tell = os.pipe()  # a file would be under the limits that the run is under

    def run():
        os.setsid()
        os.dup2(tell, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
        warnings.simplefilter("default")
        before()
        try:
            app(arguments)
        except SystemExit as error:
            multiprocessing.util._exit_function()  # what ends the workers when a process ends the usual way
            os._exit(int(error.code or 0))

    child = crashes.start(run)
    os.close(tell)
    with os.fdopen(told) as lines:
        heard = lines.read().splitlines()  # until everybody who could say something has ended
    _, status = os.waitpid(child, 0)
    assert nobody_left(child)
    return os.waitstatus_to_exitcode(status), heard


def nobody_left(session, seconds=30.0):
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        try:
            os.killpg(session, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def status(folder):
    return json.loads((folder / "status.json").read_text())


# ---- killed


def test_killed_while_writing_again_and_again_is_the_same_run(events_files, straight, tmp_path):
    """In the first export, in a checkpoint, in the export of a later validation."""
    config = pretrain_config(events_files, **LENGTH)

    def killed_at(number):
        count, sync = itertools.count(1), os.fsync

        def patched(handle):
            if next(count) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            sync(handle)

        os.fsync = patched
        warnings.simplefilter("ignore")  # there may be nothing to resume from
        pretrain(config, tmp_path / "run", resume=True)

    for number in (5, 24, 20):
        child = crashes.start(lambda number=number: killed_at(number))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert 0 < saved(tmp_path / "run").step < 8
    pretrain(config, tmp_path / "run", resume=True)
    assert_same_run(straight, tmp_path / "run")


def killing_worker(step):
    def report(record):
        if record["step"] == step and "loss" in record:
            os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    return report


@pytest.mark.parametrize(("workers", "streaming"), [(1, False), (2, False), (2, True)])
def test_a_killed_worker_ends_the_run_and_names_the_last_event(events_files, tmp_path, workers, streaming):
    overrides = [f"data.streaming={str(streaming).lower()}"]
    small = {"steps": 12, "events_per_step": 1, "tokens_per_batch": 50}  # much is still to be read when one is killed
    config = pretrain_config(events_files, overrides, **{**LENGTH, **small, "num_workers": workers})
    pretrain(config, tmp_path / "straight")
    begin = time.monotonic()
    with pytest.raises(FM4NPPError, match=r"was killed .* after .*event \d+; .*--resume") as caught:
        pretrain(config, tmp_path / "run", report=killing_worker(4))
    assert time.monotonic() - begin < 30
    assert "\n" not in str(caught.value)
    assert status(tmp_path / "run")["status"] == "failed"
    pretrain(config, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "run")


def test_a_worker_killed_in_validation(events_files, straight, tmp_path, monkeypatch):
    config = pretrain_config(events_files, **{**LENGTH, "num_workers": 2})
    load = validation.load

    def killing(*arguments, **named):
        given = load(*arguments, **named)
        yield next(given)
        if (tmp_path / "run/checkpoints/step-00000002").exists():
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, signal.SIGKILL)
            time.sleep(0.5)
        yield from given

    monkeypatch.setattr(validation, "load", killing)
    with pytest.raises(FM4NPPError, match="was killed"):
        pretrain(config, tmp_path / "run")
    monkeypatch.undo()
    pretrain(config, tmp_path / "run", resume=True)
    assert_same_run(straight, tmp_path / "run")


# ---- asked to stop


def signals(*numbers, group=False):
    def send():
        guards.ECHO = 0.1
        for number in numbers:
            os.killpg(0, number) if group else os.kill(os.getpid(), number)
            time.sleep(0.2)

    return lambda: at_step(3, send)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_to_all_processes_finish_the_step(events_files, tmp_path, number):
    """As a terminal, a scheduler or a launcher sends them: to the loader's workers too."""
    config = pretrain_config(events_files, **{**LENGTH, "num_workers": 2})
    exit_status, lines = run_command(config, tmp_path / "run", before=signals(number, group=True))
    assert lines == ["error: stopped after step 3; the run is saved, continue it with --resume"]
    assert exit_status == 128 + number
    assert saved(tmp_path / "run").step == 3
    assert status(tmp_path / "run")["status"] == "stopped"


def test_a_second_interrupt_ends_at_once(events_files, straight, tmp_path):
    config = pretrain_config(events_files, **{**LENGTH, "num_workers": 2})
    twice = signals(signal.SIGINT, signal.SIGINT, group=True)
    exit_status, lines = run_command(config, tmp_path / "run", before=twice)
    assert lines == ["error: interrupted after step 2; continue from the last checkpoint with --resume"]
    assert exit_status == 130
    assert status(tmp_path / "run")["status"] == "stopped"
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["step-00000000", "step-00000002"]
    pretrain(config, tmp_path / "run", resume=True)
    assert_same_run(straight, tmp_path / "run")


# ---- no room


@pytest.mark.parametrize(("limit", "named"), [(30_000, "checkpoints/step-00000004"), (60, "metrics.jsonl")])
def test_no_room_is_one_line_and_the_run_goes_on_later(events_files, straight, tmp_path, limit, named):
    config = pretrain_config(events_files, **{**LENGTH, "validate_every": 8})
    pretrain(config, tmp_path / "straight")

    def full():
        at_step(3, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY)))

    exit_status, lines = run_command(config, tmp_path / "run", before=full)
    assert exit_status == 1
    assert len(lines) == 1
    assert f"{tmp_path / 'run' / named}: cannot be written (File too large)" in lines[0]
    if "checkpoints" in named:
        assert "bytes; the previous checkpoint step-00000002 is kept" in lines[0]
        assert status(tmp_path / "run")["status"] == "failed"
    assert saved(tmp_path / "run").step == 2
    pretrain(config, tmp_path / "run", resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "run")


# ---- the folder


def test_a_second_run_is_refused_and_disturbs_nothing(events_files, straight, tmp_path):
    config = pretrain_config(events_files, **LENGTH)
    (heard, told), (waited, released) = os.pipe(), os.pipe()

    def first():
        at_step(3, lambda: (os.write(told, b"."), os.read(waited, 1)))
        pretrain(config, tmp_path / "run")

    child = crashes.start(first)
    os.read(heard, 1)
    for resume in (False, True):
        with pytest.raises(ConfigurationError, match="another run is writing there"):
            pretrain(config, tmp_path / "run", resume=resume)
    os.write(released, b".")
    assert os.waitpid(child, 0)[1] == 0
    assert_same_run(straight, tmp_path / "run")


def test_another_run_leaves_the_status_of_a_finished_one(events_files, straight):
    with pytest.raises(FM4NPPError, match="holds another run"):
        pretrain(pretrain_config(events_files, **{**LENGTH, "seed": 3}), straight, resume=True)
    assert status(straight) | {"updated": ""} == {
        "status": "finished",
        "step": 8,
        "steps": 8,
        "message": "",
        "updated": "",
    }


def test_damaged_checkpoints(events_files, straight, tmp_path):
    config = pretrain_config(events_files, **LENGTH)
    pretrain(config, tmp_path / "run")
    newest, older = sorted((tmp_path / "run/checkpoints").iterdir(), reverse=True)
    (newest / "model.safetensors").write_bytes((newest / "model.safetensors").read_bytes()[:-1])
    exit_status, lines = run_command(config, tmp_path / "run", "--resume")
    assert exit_status == 0
    assert len(lines) == 1
    assert lines[0].startswith("warning: ")
    assert lines[0].endswith("it is skipped, step-00000006 is used")
    assert_same_run(straight, tmp_path / "run")
    for folder in (newest, older):
        (folder / "run.json").unlink()
    exit_status, lines = run_command(config, tmp_path / "run", "--resume")
    assert exit_status == 1
    assert len(lines) == 1
    assert "no other checkpoint is whole" in lines[0]


def refused(config_file, output, *overrides):
    """The one line that a run is refused with."""
    found = CliRunner().invoke(app, ["pretrain", "--config", str(config_file), "--output", str(output), *overrides])
    assert found.exit_code == 1, found
    (line,) = found.stderr.splitlines()
    return line


def test_outputs_that_cannot_be(events_files, tmp_path):
    config = configuration(tmp_path / "run", pretrain_config(events_files))
    (tmp_path / "file").write_text("kept")
    for output in ("file", "file/run", "x" * 300):
        assert "cannot be written" in refused(config, tmp_path / output)
    assert (tmp_path / "file").read_text() == "kept"


# ---- configurations and events


@pytest.mark.parametrize("content", [b"", b"- 1\n- 2\n", bytes(range(256)), b"text", b"a: [1", b"[1, 2]: 3", b"1: 2"])
def test_files_that_are_no_configuration(tmp_path, content):
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    assert str(path) in refused(path, tmp_path / "run")


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("model.detectors=[nofile.yaml]", "nofile.yaml: cannot be read"),
        ("data.weights={nonsense: 1}", "no training events of 'nonsense'"),
        ("training.trackers=[nonsense]", "training.trackers"),
        ("training.betas=[1.0, 0.9]", "training.betas.0"),
        ("training.num_workers=100000", "training.num_workers"),
    ],
)
def test_settings_that_cannot_be(events_files, tmp_path, override, named):
    config = configuration(tmp_path / "run", pretrain_config(events_files))
    assert named in refused(config, tmp_path / "run", override)


def damaged(source, path, change):
    """An events file that `write_events` would not write."""
    table, file = pq.read_table(source), pq.ParquetFile(source)
    index = table.schema.get_field_index("x")
    column = pa.array(change(table["x"].to_pylist()), table.schema.field(index).type)
    with pq.ParquetWriter(path, table.schema, write_page_checksum=True) as writer:
        writer.write_table(table.set_column(index, table.schema.field(index), column))
        writer.add_key_value_metadata({SUMMARY_KEY: file.metadata.metadata[SUMMARY_KEY]})
    return path


@pytest.mark.parametrize("split", ["train", "validation"])
def test_events_that_cannot_be_used(events_files, tmp_path, split):
    config = configuration(tmp_path / "run", pretrain_config(events_files))
    content = events_files[split].read_bytes()
    (tmp_path / "half.parquet").write_bytes(content[: len(content) // 2])
    assert "half.parquet" in refused(config, tmp_path / "half", f"data.{split}={tmp_path}/half.parquet")

    def with_nan(values):
        values[5][0] = float("nan")
        return values

    path = damaged(events_files[split], tmp_path / "nan.parquet", with_nan)
    line = refused(config, tmp_path / "nan", f"data.{split}={path}")
    assert f"{path}: event 5: 1 spacepoints with a position that is not finite" in line


def test_events_without_neighbours(events, events_files, tmp_path):
    """Nothing to learn is said at once; a few such events among others are no matter."""
    config = configuration(tmp_path / "run", pretrain_config(events_files))
    alone = [event.take(np.arange(len(event)) < 1) for event in events]
    write_events(alone, tmp_path / "alone.parquet")
    line = refused(config, tmp_path / "run", f"data.validation={tmp_path}/alone.parquet")
    assert f"{tmp_path}/alone.parquet: nothing to predict in all these events; validate on" in line
    assert "no spacepoint has a neighbour" in refused(config, tmp_path / "fit", f"data.train={tmp_path}/alone.parquet")
    some = [alone[0], *events[1:6], events[6].take(np.arange(0)), alone[7]]
    write_events(some, tmp_path / "some.parquet")
    files = {"train": tmp_path / "some.parquet", "validation": tmp_path / "some.parquet"}
    for name, more in (("some", []), ("stream", ["data.streaming=true"])):
        pretrain(pretrain_config(files, more), tmp_path / name)
        assert all(record["loss"] > 0 for record in metrics(tmp_path / name) if "loss" in record)
