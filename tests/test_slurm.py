from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STUBS = {
    "scontrol": 'if [ "$1" = show ]; then echo node-1; echo node-2; else echo "scontrol $*" >> calls; fi',
    "srun": 'while [[ $1 == -* ]]; do shift; done; echo $$ > srun.pid; export SLURM_NODEID=0; exec "$@"',
    "accelerate": 'echo "accelerate $*" >> calls; eval "$BEHAVIOUR"',
}
SLURM = {"SLURM_JOB_ID": "41", "SLURM_JOB_NODELIST": "node-[1-2]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4"}


@pytest.fixture
def job(tmp_path):
    """Starts the SLURM example with stubs of SLURM and accelerate."""
    for name, body in STUBS.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "out").mkdir()

    def start(behaviour):
        environment = {**os.environ, **SLURM, "PATH": f"{tmp_path}:{os.environ['PATH']}", "BEHAVIOUR": behaviour}
        command = ["bash", ROOT / "examples/slurm/pretrain.sbatch", "m4", "out", "data.train=a b.parquet"]
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    return start


SAY_STOPPED = """printf '{\\n  "status": "stopped",\\n  "step": 5\\n}' > out/status.json; """


@pytest.mark.parametrize(
    ("behaviour", "status", "requeued"),
    [
        ("exit 0", 0, False),
        ("exit 1", 1, False),
        ("exit 138", 138, True),
        ("exit 143", 143, True),
        ("exit 130", 130, True),
        (f"{SAY_STOPPED} exit 1", 138, True),  # what accelerate answers
        (f"{SAY_STOPPED} exit 0", 0, False),
    ],
)
def test_slurm_requeues_a_stopped_run_alone(job, tmp_path, behaviour, status, requeued):
    started = job(behaviour)
    started.communicate(timeout=30)
    assert started.returncode == status
    calls = (tmp_path / "calls").read_text()
    assert ("scontrol requeue 41" in calls) is requeued
    sizes = ("--num_machines 2", "--num_processes 8", "--machine_rank 0", "--multi_gpu")
    places = ("--main_process_ip node-1", "--main_process_port 20041", "--output out --resume data.train=a b.parquet")
    for option in (*sizes, *places):
        assert option in calls


def test_slurm_does_not_requeue_for_what_an_earlier_job_said(job, tmp_path):
    (tmp_path / "out" / "status.json").write_text('{"status": "stopped", "step": 5}')
    started = job("exit 1")
    started.communicate(timeout=30)
    assert started.returncode == 1
    assert "requeue" not in (tmp_path / "calls").read_text()


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
@pytest.mark.parametrize(("answer", "status"), [("$?", None), ("1", None), ("0", 0)])
def test_slurms_warning_reaches_the_processes_that_train(job, tmp_path, number, answer, status):
    worker = "import signal, sys, time, pathlib; "
    worker += "[signal.signal(n, lambda n, f: sys.exit(128 + n)) for n in (10, 15)]; "
    worker += "pathlib.Path('ready').touch(); time.sleep(20)"
    started = job(f'{sys.executable} -c "{worker}"; code=$?; echo $code > code; exit {answer.replace("$?", "$code")}')
    deadline = time.monotonic() + 10
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(int((tmp_path / "srun.pid").read_text()), number)
    started.communicate(timeout=10)
    assert int((tmp_path / "code").read_text()) == 128 + number
    assert started.returncode == (128 + number if status is None else status)
    assert ("scontrol requeue 41" in (tmp_path / "calls").read_text()) is (status is None)
