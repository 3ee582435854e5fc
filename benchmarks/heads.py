"""Track finding against hits and tracks: time of a training step and of inference, matching's share, peak memory.

    python benchmarks/heads.py [--hits 500 1000 2000 5000 10000] [--tracks 30 100 300] [--rounds 3] [--threads 1]
                               [--quick] [--json FILE]

The released adapter's sizes (width 256, two decoder layers) on made-up outputs of a frozen backbone of 12 blocks of
width 256. One event a step, its spacepoints spread over the tracks at random, as many queries as `num_queries: auto`
chooses; and one batch of a long and many short events. Every point is measured in a process of its own. Seconds are
those of the processor (the best of the rounds), which a machine shared with others disturbs less; memory is what the
process has at most beyond model, inputs and gradients' first use.

Exit status 1 if the cost of a step grows faster than hits x queries.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine

from fm4npp.heads.assignment import assign
from fm4npp.heads.base import HeadContext
from fm4npp.heads.mask_sums import mask_sums
from fm4npp.heads.matching import event_sums, matching_cost
from fm4npp.heads.track_finder import TrackFinder, TrackFinderConfig
from fm4npp.heads.true_tracks import choose_num_queries, true_tracks
from fm4npp.testing.heads import Sample, make_sample

CONTEXT = HeadContext(width=256, num_blocks=12, num_features=1)
UNEQUAL = (10_000, *(100,) * 60)
LARGE = 2000
"""Spacepoints from which on exponents are fitted: below, what every call costs hides how the cost grows."""
TOLERANCE = 0.1
"""Of an exponent: the spread from run to run."""
Point = dict[str, Any]


def example(sizes: Sequence[int], num_tracks: int) -> Sample:
    sample = make_sample(sizes, ["track_id"], CONTEXT)
    random = torch.Generator().manual_seed(0)
    sample.batch.labels["track_id"] = torch.randint(0, num_tracks, (sum(sizes),), generator=random)
    return sample


def peak_memory() -> float:
    """MB of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def best(function: Callable[[], Any], rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return min(seconds)


def measure(sizes: Sequence[int], num_tracks: int, rounds: int) -> Point:
    """One point of the grid, in this process."""
    torch.manual_seed(0)
    num_queries = choose_num_queries([num_tracks])
    head = TrackFinder(TrackFinderConfig(num_queries=num_queries), CONTEXT)
    optimizer = torch.optim.AdamW(head.parameters())
    sample = example(sizes, num_tracks)

    def train(sample: Sample = sample) -> None:
        optimizer.zero_grad()
        torch.stack(list(head.loss(head(*sample), sample.batch).values())).sum().backward()
        optimizer.step()

    @torch.no_grad()
    def infer() -> None:
        head.predict(head(*sample), sample.batch)

    train(example((10,), 1))
    before = peak_memory()
    infer()
    memory_inference = peak_memory() - before
    train()
    memory_training = peak_memory() - before
    return {
        "hits": sum(sizes),
        "tracks": num_tracks,
        "queries": num_queries,
        "training": best(train, rounds),
        "inference": best(infer, rounds),
        **matching(head, sample, rounds),
        "memory_training": memory_training,
        "memory_inference": memory_inference,
    }


@torch.no_grad()
def matching(head: TrackFinder, sample: Sample, rounds: int) -> dict[str, float]:
    """Seconds of the sums over the masks, which the loss needs too, of the costs made of them, of the assignment."""
    outputs, weights = head(*sample), head.config.loss
    tracks = true_tracks(sample.batch.labels["track_id"], sample.batch.offsets)

    def summed() -> torch.Tensor:
        rows = tracks.row, tracks.num_rows
        return mask_sums(outputs["mask_logits"], *rows, weights.focal_alpha, weights.focal_gamma)

    def costs() -> torch.Tensor:
        return matching_cost(outputs["class_logits"], sums, event_sums(sums, tracks), tracks, weights)

    sums = summed()
    table = costs()
    return {
        "sums": best(summed, rounds),
        "cost": best(costs, rounds),
        "assignment": best(lambda: assign(table, tracks.num_tracks), rounds),
    }


def measure_apart(sizes: Sequence[int], num_tracks: int, rounds: int, threads: int) -> Point:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--threads", str(threads), "--rounds", str(rounds)]
    point = json.dumps([list(sizes), num_tracks])
    result = subprocess.run([*command, "--point", point], capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{sum(sizes)} hits, {num_tracks} tracks: {result.stderr.strip().splitlines()[-1:]}")
    found: Point = json.loads(result.stdout)
    return found


def exponents(points: Sequence[Point], name: str) -> dict[str, float]:
    """Least-squares powers of the cost in hits x queries together, and in each of them."""
    cost, hits, queries = (np.log([point[key] for point in points]) for key in (name, "hits", "queries"))
    one = np.ones_like(cost)
    together, *_ = np.linalg.lstsq(np.stack([hits + queries, one], axis=1), cost, rcond=None)
    apart, *_ = np.linalg.lstsq(np.stack([hits, queries, one], axis=1), cost, rcond=None)
    return {"hits x queries": float(together[0]), "hits": float(apart[0]), "queries": float(apart[1])}


def shown(point: Point) -> str:
    milliseconds = {name: 1000 * point[name] for name in ("training", "inference", "sums", "cost", "assignment")}
    share = (point["cost"] + point["assignment"]) / point["training"]
    return (
        f"{point['hits']:7,} {point['tracks']:6} {point['queries']:7}   {milliseconds['training']:8.0f}"
        f" {milliseconds['inference']:9.0f}   {milliseconds['sums']:5.0f} {milliseconds['cost']:5.0f}"
        f" {milliseconds['assignment']:10.0f} {share:6.1%}   {point['memory_training']:8.0f}"
        f" {point['memory_inference']:9.0f}"
    )


HEADER = (
    "                         milliseconds         of a training step, ms           peak memory, MB\n"
    "   hits tracks queries   training inference    sums  cost assignment  share   training inference"
)


def verdict(points: Sequence[Point]) -> dict[str, dict[str, float]]:
    """The exponents of training and inference, of the large events; of all if those are not of several sizes."""
    large = [point for point in points if point["hits"] >= LARGE]
    fitted = large if len({point["hits"] for point in large}) > 1 else points
    return {name: exponents(fitted, name) for name in ("training", "inference")}


def arguments_of(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hits", type=int, nargs="+", default=[500, 1000, 2000, 5000, 10_000])
    parser.add_argument("--tracks", type=int, nargs="+", default=[30, 100, 300])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="tiny events in this process, only to see that it runs")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = arguments_of(argv)
    torch.set_num_threads(arguments.threads)
    if arguments.point:
        print(json.dumps(measure(*arguments.point, arguments.rounds)))
        return 0
    print(machine(), HEADER, sep="\n", flush=True)
    if arguments.quick:
        points = [measure((hits,), tracks, rounds=1) for hits in (50, 100) for tracks in (2, 20)]
        print(*map(shown, points), sep="\n")
        unequal = None
    else:
        points = []
        for hits in arguments.hits:
            for tracks in arguments.tracks:
                points.append(measure_apart((hits,), tracks, arguments.rounds, arguments.threads))
                print(shown(points[-1]), flush=True)
        unequal = measure_apart(UNEQUAL, 100, arguments.rounds, arguments.threads)
        print(shown(unequal), "  a batch of an event of 10,000 hits and 60 of 100")
    powers = verdict(points)
    for name, found in powers.items():
        print(f"{name}: cost ~ " + ", ".join(f"({key})^{power:.2f}" for key, power in found.items()))
    passed = all(power <= 1 + TOLERANCE for found in powers.values() for power in found.values())
    print(f"cost grows {'no faster' if passed else 'FASTER'} than hits x queries")
    if arguments.json:
        report = {"machine": machine(), "points": points, "unequal": unequal, "exponents": powers}
        arguments.json.write_text(json.dumps(report, indent=1))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
