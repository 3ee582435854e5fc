"""Kill a pretraining run with SIGKILL, many times over its length: does it end as one that nobody disturbed?

    python benchmarks/kill_and_resume.py --kills 20 --workers 2

Two real runs of `fm4npp pretrain` on events that are simulated first. One is left alone. The other is killed at random
moments of its steps, validations and saves, and now and then while it starts; each time `--resume` goes on. Of several
processes that train together (`--processes 2`) sometimes all are killed with their launcher, sometimes one alone. In
the end weights, optimizer, generators, positions, counters and records are compared bit by bit. Needs /proc (Linux).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from fm4npp import detectors
from fm4npp.data import write_events
from fm4npp.simulation import ParticleGun, simulate
from fm4npp.training import state
from fm4npp.training.records import METRICS_NAME

CLOCK = {"events_per_second", "tokens_per_second", "seconds_elapsed", "wait_share"}
"""What a record says that depends on the time it took."""
STARTING = 0.2
"""Share of the kills that hit a run which has not come to its next step yet."""
ORPHAN_SECONDS = 15.0
"""Loader workers look every 5 s whether the process they work for is still there."""


@dataclass(frozen=True)
class Kill:
    """One kill.

    Attributes:
        victim: which processes.
        recorded: step that was recorded last.
        saved: step that can be resumed from; -1 if there is none.
    """

    victim: str
    recorded: int
    saved: int


# ---- the run


def prepared(folder: Path, options: argparse.Namespace) -> list[str]:
    """Simulate events and write a configuration; the command that trains on them, without --output."""
    detector, gun = detectors.build("sphenix-tpc"), ParticleGun(mean_primaries=3.0)
    for number, (split, count) in enumerate((("train", 48), ("validation", 8)), 1):
        write_events(simulate(detector, count, number, gun), folder / f"{split}.parquet")
    values = {
        "model": {
            "serializer": {"type": "raster-scan", "num_bins": [4, 4, 5]},
            "objective": {"type": "k-nnn", "k": 4, "targets": "offset"},
            "backbone": {"type": "mamba2", "width": 32, "num_layers": 2, "state_size": 4, "head_dim": 16},
        },
        "data": {split: [str(folder / f"{split}.parquet")] for split in ("train", "validation")},
        "training": {
            "steps": options.steps,
            "tokens_per_batch": 1000,
            "events_per_step": 5,
            "warmup_steps": options.steps // 10,
            "ema": 0.9,
            "validate_every": 10,
            "save_every": options.save_every,
            "log_every": 1,
            "num_workers": options.workers,
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={options.processes}"]
    program = str(Path(sys.executable).with_name("fm4npp"))
    command = [program, "pretrain", "--config", str(folder / "config.yaml")]
    return [sys.executable, *launcher, *command] if options.processes > 1 else command


def started(command: list[str], run: Path, log: Path, *more: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    with log.open("ab") as handle:
        return subprocess.Popen(
            [*command, "--output", str(run), *more],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=handle,
            start_new_session=True,
        )


def to_the_end(command: list[str], run: Path, log: Path, *more: str) -> float:
    """Let it finish; the seconds it took."""
    begin = time.perf_counter()
    if started(command, run, log, *more).wait() != 0:
        raise SystemExit(f"the run failed: {log.read_text()[-2000:]}")
    return time.perf_counter() - begin


# ---- killing


def children(number: int) -> list[int]:
    """Processes started by a process, and by these; launchers start theirs in sessions of their own."""
    try:
        own = [int(text) for text in Path(f"/proc/{number}/task/{number}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return own + [found for child in own for found in children(child)]


def alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def killed(process: subprocess.Popen[bytes], processes: int) -> tuple[str, list[int]]:
    """Kill one process, or a launcher with all it started; who it was, and processes that are to end by themselves."""
    if processes == 1:
        left = children(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        return "the run", left
    ranks = [int(text) for text in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    left = [worker for rank in ranks for worker in children(rank)]
    alone = random.randrange(2 * processes)
    chosen = [ranks[alone]] if alone < len(ranks) == processes else [process.pid, *ranks]
    for number in chosen:
        os.kill(number, signal.SIGKILL)
    process.wait()
    return ("one process" if len(chosen) == 1 else "all processes"), left


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 300.0) -> bool:
    """Wait until something has happened; False if the process ends, or too much time goes by, before that."""
    limit = time.monotonic() + seconds
    while not happened():
        if process.poll() is not None or time.monotonic() > limit:
            return False
        time.sleep(0.002)
    return True


def records(run: Path) -> list[dict[str, Any]]:
    """Whole lines only: the run is at work."""
    path = run / METRICS_NAME
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def recorded(run: Path) -> int:
    return max((record["step"] for record in records(run)), default=-1)


def disturbed(command: list[str], run: Path, log: Path, options: argparse.Namespace) -> tuple[list[Kill], int]:
    """Kill and resume; what was hit, and how many loader workers did not end by themselves."""
    targets = sorted(random.uniform(0, options.steps) for _ in range(options.kills))
    found: list[Kill] = []
    orphans: list[int] = []
    startup, step_seconds = 5.0, 0.1
    for target in targets:
        begin = time.monotonic()
        process = started(command, run, log, *(["--resume"] if found else []))
        if random.random() < STARTING:
            time.sleep(random.uniform(0, startup))
        else:
            before = recorded(run)
            wait_for(lambda before=before: recorded(run) != before, process)  # records after the checkpoint are cut
            startup = time.monotonic() - begin
            if not wait_for(lambda target=target: recorded(run) >= int(target), process):
                break
            time.sleep(random.uniform(0, 3 * step_seconds))
        if process.poll() is not None:
            break
        victim, left = killed(process, options.processes)
        orphans += left
        found.append(Kill(victim, recorded(run), newest_step(run)))
        print(f"{len(found):3}  {victim:14} after step {found[-1].recorded:4}, saved {found[-1].saved:4}", flush=True)
    limit = time.monotonic() + ORPHAN_SECONDS
    while any(map(alive, orphans)) and time.monotonic() < limit:
        time.sleep(0.2)
    return found, sum(map(alive, orphans))


def newest_step(run: Path) -> int:
    return max((step for step, _ in state.states(run / state.FOLDER_NAME)), default=-1)


# ---- comparing


def differences(first: Path, second: Path) -> list[str]:
    """What is not equal to the bit in two finished runs."""
    one, two = state.newest(first), state.newest(second)
    if one is None or two is None or one.step != two.step:
        return ["the last step"]
    found = [
        f"{kind}: {name}"
        for kind in one.tensors.keys() | two.tensors.keys()
        for name in one.tensors.get(kind, {}).keys() | two.tensors.get(kind, {}).keys()
        if not _equal(one.tensors[kind].get(name), two.tensors[kind].get(name))
    ]
    values, others = (timeless(saved.values["run"]) for saved in (one, two))
    found += [f"state: {key}" for key in values.keys() | others.keys() if values.get(key) != others.get(key)]
    both = [[timeless(record) for record in records(run)] for run in (first, second)]
    found += ["number of records"] if len(both[0]) != len(both[1]) else []
    return found + [f"record of step {a['step']}" for a, b in zip(*both, strict=False) if a != b]


def _equal(first: torch.Tensor | None, second: torch.Tensor | None) -> bool:
    return first is not None and second is not None and torch.equal(first, second)


def timeless(values: dict[str, Any]) -> dict[str, Any]:
    """Without what depends on the clock, and on the length of its digits."""
    kept = {name: value for name, value in values.items() if name not in CLOCK | {"records"}}
    if "progress" in kept:
        kept["progress"] = {**kept["progress"], "seconds": 0.0}
    return kept


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--save-every", type=int, default=5, help="steps between checkpoints")
    parser.add_argument("--workers", type=int, default=0, help="processes that prepare events")
    parser.add_argument("--processes", type=int, default=1, help="processes that train together")
    parser.add_argument("--seed", type=int, default=6, help="of the moments")
    options = parser.parse_args(arguments)
    random.seed(options.seed)
    with tempfile.TemporaryDirectory(prefix="kill-and-resume-") as place:
        folder = Path(place)
        command, log = prepared(folder, options), folder / "stderr.txt"
        seconds = to_the_end(command, folder / "straight", log)
        found, orphans = disturbed(command, folder / "killed", log, options)
        to_the_end(command, folder / "killed", log, "--resume")
        different = differences(folder / "straight", folder / "killed")
        traces = log.read_text(errors="replace").count("Traceback")
    redone = sum(max(kill.recorded - max(kill.saved, 0), 0) for kill in found)
    print(f"{len(found)} kills over {options.steps} steps ({seconds:.0f} s undisturbed), {redone} steps done again,")
    print(f"{options.processes} processes, {options.workers} loader workers of each, {orphans} of these left over,")
    print(f"{traces} tracebacks on stderr: " + (f"DIFFERENT in {', '.join(different[:9])}" if different else "EQUAL"))
    if len(found) < options.kills:
        print(f"only {len(found)} of {options.kills} kills: the run ended before the others; give it more --steps")
    return int(bool(different) or len(found) < options.kills)


if __name__ == "__main__":
    sys.exit(main())
