"""Runs mutations in processes of their own, and says what became of each."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from tests.fuzz.child import SECONDS, Batch

ROOT = Path(__file__).resolve().parents[2]
CRASHES = 3
"""After so many ends of the interpreter the rest of a batch is not tried."""


class Result(NamedTuple):
    """What a batch gave.

    Attributes:
        lines: one dictionary a mutation: seed, file, kind, seconds, outcome, detail, fault.
        truth: of the file as it was: events, spacepoints, bytes, fault.
        grown: bytes by which the process grew.
        crashes: what ended the process, with the mutation that did.
    """

    lines: list
    truth: dict
    grown: int
    crashes: list


def run(batch, folder):
    """All mutations of a batch; after one that ends the process, the rest in another."""
    lines, crashes, grown, truth = [], [], 0, {}
    seeds = list(batch.seeds)
    while seeds and len(crashes) < CRASHES:
        here = folder / f"{batch.name.replace(' ', '-')}-{len(crashes)}"
        here.mkdir(parents=True)
        output, said, status = _process(dataclasses.replace(batch, seeds=seeds), here)
        truth = truth or next((line for line in output if "events" in line), {})
        lines += [line for line in output if "seed" in line]
        grown = max([grown, *(line["grown"] for line in output if "grown" in line)])
        started = [line for line in output if "started" in line]
        if status == 0 and not said:
            break
        crashes.append(f"exit status {status} in {started[-1:] or 'no mutation'}: {said[-1500:]}")
        seeds = seeds[len(started) :]
    return Result(lines, truth, grown, crashes)


def _process(batch, folder):
    settings = json.dumps(dataclasses.asdict(batch))
    command = [sys.executable, "-m", "tests.fuzz.child", str(folder), settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=20 * SECONDS)
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode(errors="replace"), done.returncode
