"""Runs mutations in processes of their own, and says what became of each."""

import dataclasses
import json
import os
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from tests.fuzz.child import Batch

ROOT = Path(__file__).resolve().parents[2]
CHILD = ("-m", "tests.fuzz.child")
TIMEOUT = 250
"""Seconds a process may take."""
CRASHES = 3
"""After so many ends of the interpreter the rest is not tried."""


class Result(NamedTuple):
    """What some batches gave.

    Attributes:
        lines: one dictionary a mutation: base, seed, file, kind, seconds, outcome, detail, fault.
        truths: one a base, of its files as they were: events, spacepoints, bytes, fault.
        grown: bytes by which a process grew.
        crashes: what ended a process, with the mutation that did.
    """

    lines: list
    truths: dict
    grown: int
    crashes: list


def run(batches, folder):
    """All mutations of some batches in one process; after one that ends it, the rest in another."""
    result = Result([], {}, 0, [])
    left = [(batch, seed) for batch in batches for seed in batch.seeds]
    while left and len(result.crashes) < CRASHES:
        here = folder / f"process {len(result.crashes)}"
        here.mkdir(parents=True)
        output, said, status = _process(_batches(left), here)
        result.truths.update({line["base"]: line for line in output if "events" in line})
        result.lines.extend(line for line in output if "seed" in line)
        result = result._replace(grown=max([result.grown, *(line["grown"] for line in output if "grown" in line)]))
        if status == 0 and not said:
            break
        started = [line for line in output if "started" in line]
        result.crashes.append(f"exit status {status} in {started[-1:] or 'no mutation'}: {said[-1500:]}")
        left = left[len(started) :]
    return result


def _batches(pairs):
    """Batches of the mutations that are left."""
    grouped = groupby(pairs, key=lambda pair: pair[0].name)
    return [dataclasses.replace(pairs[0][0], seeds=[seed for _, seed in pairs]) for pairs in map(_listed, grouped)]


def _listed(group):
    return list(group[1])


def _process(batches: list[Batch], folder):
    settings = json.dumps([dataclasses.asdict(batch) for batch in batches])
    command = [sys.executable, *CHILD, str(folder), settings]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=TIMEOUT)
    return (
        [json.loads(line) for line in done.stdout.splitlines()],
        done.stderr.decode(errors="replace"),
        done.returncode,
    )
