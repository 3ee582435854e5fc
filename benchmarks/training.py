"""Training: what a step of the loop costs beside the bare model's, and how long it waits for data.

    python benchmarks/training.py [--sizes m1 m2 m3] [--parts steps waiting] [--rounds 3] [--steps 12] [--tokens 8192]
        [--set training.parameterization=mup] [--quick] [--json FILE]

Simulated events of the sPHENIX TPC with about 850 spacepoints, batches of at most 8,192 of them, new models of the
paper's sizes. Everything runs through `fm4npp.training.pretrain`; the benchmark looks on where the loop takes its
batches.

Steps: after every step of the loop the bare model takes one on the same batch, in the same process: forward, backward,
AdamW. What the loop adds is clipping, the checks for numbers that are not finite, sums, counters and records.

Waiting: runs with 0, 1 and 2 loader workers, with and without `data.cache`, in turn, and one whose batches are made
before its first step. Workers take processor time from the training, which does not show in the share of the time spent
waiting; so the time of a step is compared with that of the run in memory, too. "Logged" is `wait_share` of the run's
last record, which counts the start, too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import machine
from data import make_events

from fm4npp.batch import EventBatch
from fm4npp.data import write_events
from fm4npp.modeling import FM4NPPModel
from fm4npp.training import PretrainConfig, pretrain
from fm4npp.training.batches import Batch, IndexedBatches
from fm4npp.training.config import parse

IN_MEMORY = "in memory"
WAYS = {
    IN_MEMORY: (0, False),
    **{
        f"{number} workers{', cache' if cache else ''}": (number, cache)
        for cache in (False, True)
        for number in (0, 1, 2)
    },
}
"""Where batches come from -> loader workers, and whether order and neighbours are kept."""
STARTING = 2
"""Steps at the start that are not counted: kernels are compiled, workers begin to read ahead."""

Given = Iterator[list[Batch]]


@dataclass(frozen=True)
class Setup:
    """What all runs have in common: a folder with events, counted steps, spacepoints of a batch, further settings."""

    folder: Path
    steps: int
    tokens: int
    overrides: Sequence[str] = ()

    def configuration(self, size: str, steps: int, *, workers: int = 0, cache: bool = False) -> PretrainConfig:
        kept = self.folder / "cache" if cache else None
        data = {"train": [self.folder / "events.parquet"], "fit_events": 50, "cache": kept}
        training = {"steps": steps, "tokens_per_batch": self.tokens, "num_workers": workers}
        values = {"model": {"size": size}, "data": data, "training": training}
        return parse(PretrainConfig, values, self.overrides)


@contextmanager
def replaced(give: Callable[[Given], Given]) -> Iterator[None]:
    """In here, a run takes what `give` makes of its batches."""
    original = IndexedBatches.__iter__
    IndexedBatches.__iter__ = lambda self: give(original(self))  # type: ignore[method-assign]
    try:
        yield
    finally:
        IndexedBatches.__iter__ = original  # type: ignore[method-assign]


# ---- a step


def bare_stepper(folder: Path) -> Callable[[EventBatch], None]:
    """Forward, backward and AdamW of the model that a run has begun with."""
    model = FM4NPPModel.from_pretrained(folder).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-4)

    def step(batch: EventBatch) -> None:
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()

    return step


def beside(output: Path, seconds: dict[str, list[float]]) -> Callable[[Given], Given]:
    """Take a bare step after every step of the loop, on the same batch; add the seconds of both."""

    def give(batches: Given) -> Given:
        bare = bare_stepper(output)
        for given in batches:
            start = time.perf_counter()
            yield given
            between = time.perf_counter()
            bare(given[0].events)
            seconds["bare"].append(time.perf_counter() - between)
            seconds["loop"].append(between - start)

    return give


def measure_steps(setup: Setup, size: str) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {"loop": [], "bare": []}
    output = setup.folder / f"steps-{size}"
    with replaced(beside(output, seconds)):
        # The step after the last is never asked for.
        pretrain(setup.configuration(size, STARTING + setup.steps + 1), output)
    loop, bare = seconds["loop"][STARTING:], seconds["bare"][STARTING:]
    ratios = [one / other for one, other in zip(loop, bare, strict=True)]
    medians, best = {"loop": statistics.median(loop), "bare": statistics.median(bare)}, min(loop) / min(bare)
    print(
        f"{size}  loop {medians['loop']:7.3f} s  bare {medians['bare']:7.3f} s  loop / bare {shown(spread(ratios))}"
        f"  best/best {best:.3f}"
    )
    return {**medians, "ratio": spread(ratios), "best_ratio": best, "seconds": seconds}


# ---- waiting


def watching(seconds: dict[str, list[float]], ready: int = 0) -> Callable[[Given], Given]:
    """Add the seconds that the loop waits for each step's batches, and those until it asks again.

    Args:
        seconds: "wait" and "step".
        ready: so many are taken before the first is given.
    """

    def give(batches: Given) -> Given:
        kept = iter([next(batches) for _ in range(ready)] if ready else batches)
        while True:
            asked = time.perf_counter()
            given = next(kept)
            start = time.perf_counter()
            yield given
            seconds["wait"].append(start - asked)
            seconds["step"].append(time.perf_counter() - start)

    return give


def measure_way(setup: Setup, output: Path, size: str, way: str) -> dict[str, float]:
    """One run: what it waited for the first step, the share after the start, and the seconds of a step in all."""
    workers, cache = WAYS[way]
    seconds: dict[str, list[float]] = {"wait": [], "step": []}
    total = STARTING + setup.steps + 1
    with replaced(watching(seconds, total if way == IN_MEMORY else 0)):
        pretrain(setup.configuration(size, total, workers=workers, cache=cache), output)
    waits, each = seconds["wait"][STARTING:], seconds["step"][STARTING:]
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    logged = [line["wait_share"] for line in lines if "wait_share" in line][-1]
    both = [wait + step for wait, step in zip(waits, each, strict=True)]
    return {
        "first_wait": seconds["wait"][0],
        "share": sum(waits) / sum(both),
        "logged": logged,
        "step": statistics.median(both),
    }


def measure_waiting(setup: Setup, size: str, rounds: int) -> dict[str, Any]:
    measured: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for number in range(rounds):
        for way in WAYS:
            output = setup.folder / f"{size}-{way}-{number}"
            measured[way].append(measure_way(setup, output, size, way))
    reference = [one["step"] for one in measured[IN_MEMORY]]
    return {way: summary(size, way, runs, reference) for way, runs in measured.items()}


def summary(size: str, way: str, runs: Sequence[dict[str, float]], reference: Sequence[float]) -> dict[str, Any]:
    values = {name: spread([run[name] for run in runs]) for name in runs[0]}
    values["slower"] = spread([run["step"] / other for run, other in zip(runs, reference, strict=True)])
    print(
        f"{size}  {way:17}  waiting {shown(values['share'], percent=True):26}"
        f"  logged {shown(values['logged'], percent=True):26}  first {values['first_wait']['median']:5.2f} s"
        f"  step {values['step']['median']:6.3f} s  / in memory {shown(values['slower'])}"
    )
    return values


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def shown(values: dict[str, float], *, percent: bool = False) -> str:
    median, low, high = (f"{100 * values[name]:.2f}" if percent else f"{values[name]:.3f}" for name in values)
    return f"{median} % ({low} to {high})" if percent else f"{median} ({low} to {high})"


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=["m1", "m2", "m3"])
    parser.add_argument("--parts", nargs="+", choices=["steps", "waiting"], default=["steps", "waiting"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12, help="counted steps of a run")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--events", type=int, default=300)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY.PATH=VALUE", dest="overrides")
    parser.add_argument("--quick", action="store_true", help="few small batches, to see that it runs")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if options.quick:
        options.sizes, options.rounds, options.steps, options.tokens, options.events = ["m1"], 1, 2, 512, 8
    found: dict[str, Any] = {"machine": machine(), "steps": {}, "waiting": {}}
    print(found["machine"])
    with tempfile.TemporaryDirectory() as name:
        setup = Setup(Path(name), options.steps, options.tokens, options.overrides)
        write_events(make_events(options.events), setup.folder / "events.parquet")
        for size in options.sizes:
            if "steps" in options.parts:
                found["steps"][size] = measure_steps(setup, size)
            if "waiting" in options.parts:
                found["waiting"][size] = measure_waiting(setup, size, options.rounds)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return found


if __name__ == "__main__":
    main()
