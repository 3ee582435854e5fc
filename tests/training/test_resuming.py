"""A run that was stopped anywhere ends as if it had not been."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState

from fm4npp import detectors
from fm4npp.data import write_events
from fm4npp.errors import CheckpointError, ConfigurationError
from fm4npp.simulation import ParticleGun, simulate
from fm4npp.training import adapt, pretrain
from fm4npp.training.guards import Interrupted, locked
from fm4npp.training.randomness import random_state, restore_random_state
from fm4npp.training.resuming import differences
from tests import crashes
from tests.training.runs import adapt_config, assert_same_run, losses, metrics, pretrain_config, saved

LENGTH = {"steps": 60, "validate_every": 20, "save_every": 7, "warmup_steps": 5}


@pytest.fixture(scope="module")
def star_file(tmp_path_factory):
    """A few events of another detector."""
    path = tmp_path_factory.mktemp("star") / "star.parquet"
    write_events(simulate(detectors.build("star-tpc"), 16, 5, ParticleGun(mean_primaries=2.0)), path)
    return path


class Killed(Exception):
    pass


def killed_at(step):
    def report(record):
        if record["step"] == step and "loss" in record:
            raise Killed

    return report


def stopped_at(step, number=signal.SIGTERM):
    def report(record):
        if record["step"] == step and "loss" in record:
            os.kill(os.getpid(), number)

    return report


def go_on(config, folder, *steps):
    """A run that is killed after every one of these steps, and ends at last."""
    for place, step in enumerate(steps):
        with pytest.raises(Killed):
            pretrain(config, folder, resume=place > 0, report=killed_at(step))
    pretrain(config, folder, resume=True)


@pytest.fixture(scope="module")
def straight(events_files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    pretrain(pretrain_config(events_files, ["training.ema=0.9"], events_per_step=5, **LENGTH), folder)
    return folder


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_killed_and_resumed_is_the_same_run(events_files, straight, tmp_path, workers):
    overrides = ["training.ema=0.9", f"training.num_workers={workers}"]
    go_on(pretrain_config(events_files, overrides, events_per_step=5, **LENGTH), tmp_path, 25)
    assert_same_run(straight, tmp_path)


def test_killed_again_and_again_is_the_same_run(events_files, straight, tmp_path):
    config = pretrain_config(events_files, ["training.ema=0.9"], events_per_step=5, **LENGTH)
    go_on(config, tmp_path, 1, 8, 9, 33, 59)
    assert_same_run(straight, tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_streamed_mixture_goes_on_where_it_stopped(events_files, star_file, tmp_path, workers):
    files = {**events_files, "train": events_files["train"]}
    overrides = [
        f"data.train=[{files['train']}, {star_file}]",
        "data.streaming=true",
        "data.buffer=6",
        "data.weights={sphenix-tpc: 2, star-tpc: 1}",
        "data.validation=[]",
        f"training.num_workers={workers}",
    ]
    config = pretrain_config(files, overrides, **{**LENGTH, "steps": 30})
    pretrain(config, tmp_path / "straight")
    go_on(config, tmp_path / "killed", 13)
    assert_same_run(tmp_path / "straight", tmp_path / "killed")
    records = [record for record in metrics(tmp_path / "killed") if "loss" in record]
    assert {"loss/sphenix-tpc", "loss/star-tpc"} <= set().union(*records)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_finishes_the_step_and_saves(events_files, tmp_path, number):
    config = pretrain_config(events_files, steps=6)
    with pytest.raises(Interrupted, match="--resume") as caught:
        pretrain(config, tmp_path, report=stopped_at(4, number))
    assert caught.value.status == 128 + number
    assert saved(tmp_path).step == 4
    assert json.loads((tmp_path / "status.json").read_text())["status"] == "stopped"


def test_adaptation_resumes_too(events_files, straight, tmp_path):
    config = adapt_config(events_files, steps=6, save_every=2)
    adapt(straight, config, tmp_path / "straight")
    with pytest.raises(Killed):
        adapt(straight, config, tmp_path / "killed", report=killed_at(3))
    adapt(straight, config, tmp_path / "killed", resume=True)
    assert_same_run(tmp_path / "straight", tmp_path / "killed")


def test_learning_rates_do_not_depend_on_resumes(straight, events_files):
    rates = [record["learning_rate"] for record in metrics(straight) if "loss" in record]
    assert len(rates) == 60
    assert rates[4] == max(rates) == 1e-3
    assert rates == sorted(rates[:5]) + sorted(rates[5:], reverse=True)


def test_a_finished_run_is_left_as_it_is(events_files, tmp_path):
    config = pretrain_config(events_files)
    best = pretrain(config, tmp_path)
    before = metrics(tmp_path)
    assert pretrain(config, tmp_path, resume=True) == best
    assert metrics(tmp_path) == before


def test_nothing_to_resume_begins(events_files, tmp_path):
    with pytest.warns(UserWarning, match="no checkpoint to resume from; the run begins"):
        pretrain(pretrain_config(events_files), tmp_path, resume=True)
    assert saved(tmp_path).step == 6


def test_another_run_is_not_resumed(events_files, tmp_path):
    pretrain(pretrain_config(events_files), tmp_path)
    other = pretrain_config(events_files, ["model.objective.k=5"], seed=3)
    with pytest.raises(CheckpointError, match=r"model.objective.k: 4, now 5; training.seed: 0, now 3"):
        pretrain(other, tmp_path, resume=True)
    more_often = pretrain_config(events_files, save_every=1, log_every=2, num_workers=1)
    pretrain(more_often, tmp_path, resume=True)
    moved = tmp_path.with_name("moved.parquet")
    moved.write_bytes(events_files["train"].read_bytes())
    pretrain(pretrain_config({**events_files, "train": moved}), tmp_path, resume=True)
    changed = {**events_files, "train": events_files["validation"]}
    with pytest.raises(CheckpointError, match="data.train"):
        pretrain(pretrain_config(changed), tmp_path, resume=True)


def test_other_threads_are_told(events_files, tmp_path):
    config = pretrain_config(events_files)
    with pytest.raises(Killed):
        pretrain(config, tmp_path, report=killed_at(2))
    torch.set_num_threads(2)
    try:
        with pytest.warns(UserWarning, match="1 threads and goes on with 2"):
            pretrain(config, tmp_path, resume=True)
    finally:
        torch.set_num_threads(1)


def test_one_run_to_a_folder(events_files, tmp_path):
    with locked(tmp_path), pytest.raises(ConfigurationError, match="another run is writing there"):
        pretrain(pretrain_config(events_files), tmp_path)
    pretrain(pretrain_config(events_files), tmp_path)


def test_random_numbers_go_on():
    state = json.loads(json.dumps(random_state()))
    drawn = [torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()]  # noqa: NPY002
    restore_random_state(state)
    assert [torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()] == drawn  # noqa: NPY002


def test_differences_name_the_key():
    found = list(differences({"config": {"a": {"b": 1}}, "c": 2}, {"config": {"a": {"b": 3}}, "d": 4}))
    assert found == ["a.b: 1, now 3", "c: 2, now None", "d: None, now 4"]


# ---- real processes


def command(config, folder, *more, processes=1):
    path = folder.with_name("config.yaml")
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    fm4npp = str(Path(sys.executable).with_name("fm4npp"))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    run = [fm4npp, "pretrain", "--config", str(path), "--output", str(folder), *more]
    return [*launch, *run] if processes > 1 else run


def on_two_processes(function):
    """Run a function on processes that train together; they have nothing to import, as those of a launcher have."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {**ENVIRONMENT, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}

    def process(rank):
        os.environ |= {**together, "RANK": rank, "LOCAL_RANK": rank}
        AcceleratorState._reset_state(reset_partial_state=True)
        torch.set_num_threads(1)
        function()

    children = [crashes.start(lambda rank=rank: process(rank)) for rank in "01"]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]


ENVIRONMENT = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}


def finish(arguments):
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=250, check=False, env=ENVIRONMENT)
    assert result.returncode == 0, result.stderr
    return result


@pytest.mark.slow
def test_two_processes_killed_and_resumed_are_the_same_run(events_files, tmp_path):
    config = pretrain_config(events_files, events_per_step=5, **{**LENGTH, "steps": 30})
    on_two_processes(lambda: pretrain(config, tmp_path / "straight"))
    arguments = command(config, tmp_path / "killed", processes=2)
    process = subprocess.Popen(arguments, env=ENVIRONMENT, start_new_session=True, stderr=subprocess.DEVNULL)
    folder = tmp_path / "killed"
    while process.poll() is None and not (folder / "checkpoints/step-00000014").exists():
        time.sleep(0.01)
    # The launcher starts its processes in sessions of their own.
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for number in (process.pid, *map(int, children)):
        os.kill(number, signal.SIGKILL)
    process.wait()
    assert saved(folder).step < 30
    on_two_processes(lambda: pretrain(config, folder, resume=True))
    assert_same_run(tmp_path / "straight", folder)
    # One process that accumulates computes the same up to the order of sums.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pretrain(config, tmp_path / "one")
    one, two = losses(tmp_path / "one"), losses(folder)
    assert one == pytest.approx(two, rel=1e-4)
    validated = [
        [record["validation_loss"] for record in metrics(run) if "validation_loss" in record]
        for run in (tmp_path / "one", folder)
    ]
    assert validated[0][0] == pytest.approx(validated[1][0], rel=1e-6)
    with pytest.raises(CheckpointError, match="processes: 2, now 1"):
        pretrain(config, folder, resume=True)
