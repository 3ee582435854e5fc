"""From files to batches: seconds of every step, against the released loader's algorithm on the same events.

    OMP_NUM_THREADS=1 python benchmarks/data.py [--events 48] [--rounds 3] [--quick] [--json FILE]

Simulated events of the sPHENIX TPC with a mean of 834 spacepoints, that of the labelled test set of TPCpp-10M; one
thread. The released loader's algorithm is written here in torch, as the baseline: all differences of an event at once
(N x N x 3), top-k of each row, and padding to the longest event of the batch.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Timing, interleave, machine, ratio, shown
from scipy.spatial import cKDTree
from torch import Tensor

from fm4npp import detectors
from fm4npp.configuration import FM4NPPConfig
from fm4npp.convert import convert
from fm4npp.data import read_events
from fm4npp.event import Event
from fm4npp.geometry import Geometry
from fm4npp.objectives.neighbours import compiled_search, next_nearest, passed_share
from fm4npp.processing import FM4NPPProcessor, settle_ties
from fm4npp.simulation import ParticleGun, simulate

Array = np.ndarray[Any, Any]
Steps = dict[str, Timing]

MEAN, LONGEST, BATCH, K, PADDING = 834, 3200, 16, 30, -100.0
"""The released loader's: mean of its test set, longest event that it takes, batch, neighbours, what it pads with."""


def make_events(number: int, seed: int = 0) -> list[Event]:
    """Simulated events with a mean of about `MEAN` spacepoints, none longer than `LONGEST`."""
    gun = ParticleGun(mean_primaries=15.0)
    made = simulate(detectors.build("sphenix-tpc"), 2 * number, seed, gun)
    return [event for event in made if 1 < len(event) <= LONGEST][:number]


def make_processor(events: Sequence[Event]) -> FM4NPPProcessor:
    config = FM4NPPConfig.create(
        detectors=["sphenix-tpc"],
        serializer="raster-scan",
        objective={"type": "k-nnn", "k": K},
        backbone={"type": "mamba2", "width": 32, "num_layers": 1, "state_size": 4, "head_dim": 16},
    )
    return FM4NPPProcessor(config).fit(events)


def uniform(number: int) -> Array:
    """(N, 3) float32 uniform points."""
    return np.random.default_rng(number).uniform(0, 1, (number, 3)).astype(np.float32)


# --- the released loader's algorithm ---------------------------------------------------------------------------------


def dense_neighbours(coordinates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest of the points further down the list, from all N x N x 3 differences.

    Args:
        coordinates: (N, 3), sorted outwards.
        k: neighbours wanted.

    Returns:
        (N, k, 3) their coordinates and (N, k) their distances; `PADDING` and inf where there is none.
    """
    difference = coordinates[None, :, :] - coordinates[:, None, :]
    distance = difference.square().sum(dim=2).sqrt()
    earlier = torch.ones_like(distance, dtype=torch.bool).tril()
    distance = distance.masked_fill(earlier, torch.inf)
    values, index = distance.topk(min(k, len(coordinates)), dim=1, largest=False)
    places = coordinates.new_full((len(coordinates), k, 3), PADDING)
    distances = coordinates.new_full((len(coordinates), k), torch.inf)
    places[:, : index.shape[1]] = coordinates[index].masked_fill(values.isinf()[..., None], PADDING)
    distances[:, : index.shape[1]] = values
    return places, distances


def dense_item(event: Event, geometry: Geometry, scan: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """One event as the released loader makes it: (N, 4) scaled points and (N, 3 k) targets, in order of the boxes.

    Args:
        event: the event.
        geometry: of its detector.
        scan: inner bin edges of each axis.
    """
    x, y, z = torch.from_numpy(event.positions.astype(np.float32)).T
    radius = (x.square() + y.square()).sqrt()
    natural = torch.stack([torch.asinh(z / radius), torch.atan2(y, x), radius], dim=1)
    low, high = torch.tensor(geometry.low), torch.tensor(geometry.high)
    coordinates = (natural - low) / (high - low)
    energy = (torch.from_numpy(np.array(event.feature("energy"))) - 253.0982) / 268.7093
    outwards = coordinates[:, 2].argsort(stable=True)
    coordinates, energy = coordinates[outwards], energy[outwards]
    targets, _ = dense_neighbours(coordinates, K)
    eta, phi, r = (torch.bucketize(coordinates[:, axis].contiguous(), edges) for axis, edges in enumerate(scan))
    order = ((r * (len(scan[1]) + 1) + phi) * (len(scan[0]) + 1) + eta).argsort(stable=True)
    points = torch.cat([energy[:, None], coordinates], dim=1)
    return points[order], targets.flatten(1)[order]


def dense_batch(events: Sequence[Event], geometry: Geometry, scan: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Points and targets of several events, padded to the longest."""
    items = [dense_item(event, geometry, scan) for event in events]
    points = torch.nn.utils.rnn.pad_sequence([item[0] for item in items], batch_first=True, padding_value=PADDING)
    targets = torch.nn.utils.rnn.pad_sequence([item[1] for item in items], batch_first=True, padding_value=PADDING)
    return points, targets


# --- what is timed ---------------------------------------------------------------------------------------------------


def preparation(events: Sequence[Event], rounds: int) -> Steps:
    """`Event` to batches of 16, ours packed, the baseline's padded; and our steps on their own."""
    processor = make_processor(events)
    detector = processor.config.detectors[0]
    geometry, serializer = detector.geometry, processor.config.serializers[detector.name]
    scan = tuple(torch.tensor(edges[1:-1]) for edges in serializer.edges)
    groups = [events[start : start + BATCH] for start in range(0, len(events), BATCH)]
    coordinates = [geometry.coordinates(event.positions) for event in events]
    serialized = [points[serializer.order(points, geometry)] for points in coordinates]
    pairs = list(zip(coordinates, events, strict=True))

    def serialize() -> None:
        for points, event in pairs:
            settle_ties(serializer.order(points, geometry), points, event.features)

    objective = processor.config.objective
    return interleave(
        {
            "released algorithm": lambda: [dense_batch(group, geometry, scan) for group in groups],
            "fm4npp": lambda: [processor(group) for group in groups],
            "serialization": serialize,
            "targets": lambda: [objective.targets(points, geometry, {}) for points in serialized],
        },
        rounds,
    )


def searches(sizes: Sequence[int], rounds: int, largest_fallback: int) -> dict[int, Steps]:
    """The k nearest of uniform points further out, by number of points; a k-d tree finds those of all points."""
    geometry = detectors.build("sphenix-tpc").geometry
    found = {}
    for number in sizes:
        points = uniform(number)
        rank = geometry.causal_rank(points)
        functions: dict[str, Callable[[], Any]] = {}
        if compiled_search() is not None:
            functions["numba"] = lambda points=points, rank=rank: next_nearest(points, rank, K, compiled=True)
        if number <= largest_fallback:
            functions["torch"] = lambda points=points, rank=rank: next_nearest(points, rank, K, compiled=False)
        functions["k-d tree"] = lambda points=points, number=number: cKDTree(points).query(points, min(K, number))
        found[number] = interleave(functions, rounds)
    return found


def write_shard(folder: Path, events: Sequence[Event], *, labels: bool, save: Callable[..., None]) -> Path:
    """Events as one shard of TPCpp-10M: `spacepoints_000.npz` with rows of energy, x, y, z, and its label files."""
    folder.mkdir()
    points = [np.column_stack([event.features[:, 0], event.positions]).astype(np.float32) for event in events]
    sizes = np.array([len(event) for event in events])
    columns = {"spacepoints": np.concatenate(points)}
    if labels:
        columns |= {
            "track_ids": np.concatenate([event.labels["track_id"] for event in events]),
            "pid_labels": np.concatenate([event.labels["particle_class"] for event in events]).astype(np.int32),
            "noise_tags": np.concatenate([event.labels["is_noise"] for event in events]),
        }
    for stem, data in columns.items():
        save(folder / f"{stem}_000.npz", data=data, size=sizes)
    return folder / "spacepoints_000.npz"


def files(events: Sequence[Event], rounds: int) -> Steps:
    """TPCpp npz to events Parquet, and events Parquet back to `Event`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = {
            "unlabelled, stored": write_shard(folder / "stored", events, labels=False, save=np.savez),
            "unlabelled": write_shard(folder / "plain", events, labels=False, save=np.savez_compressed),
            "labelled": write_shard(folder / "labelled", events, labels=True, save=np.savez_compressed),
        }
        functions: dict[str, Callable[[], Any]] = {}
        for kind, shard in shards.items():
            parquet = folder / f"{kind}.parquet"
            functions[f"convert npz, {kind}"] = lambda shard=shard, parquet=parquet: convert(
                [shard], "sphenix-tpc", parquet
            )
        for kind in ("unlabelled", "labelled"):
            parquet = folder / f"{kind}.parquet"
            functions[f"read Parquet, {kind}"] = lambda parquet=parquet: sum(1 for _ in read_events(parquet))
        for function in functions.values():
            function()  # the first call loads the readers
        return interleave(functions, rounds)


def passed(events: Sequence[Event]) -> dict[str, float]:
    """The share of targets that the raster scan has passed, by what is predicted."""
    processor = make_processor(events)
    found = {}
    for metric in ("normalised", "cartesian"):
        for k in (5, K):
            objective = processor.config.objective.replace(k=k, metric=metric)
            changed = FM4NPPProcessor(processor.config.updated(objective=objective))
            found[f"{metric}, k = {k}"] = passed_share(changed.indices(event)[1] for event in events)
    return found


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=48)
    parser.add_argument("--files", type=int, default=2000, help="events in the files")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a few events and small searches")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args(arguments)
    num_events, num_in_files, rounds = options.events, options.files, options.rounds
    sizes: tuple[int, ...] = (500, 1000, 2000, 10_000, 50_000)
    if options.quick:
        num_events, num_in_files, rounds, sizes = min(num_events, 8), min(num_in_files, 20), 1, (100, 500)
    torch.set_num_threads(1)
    print(machine())

    events = make_events(num_events)
    steps = preparation(events, rounds)
    mean = float(np.mean([len(event) for event in events]))
    print(f"\n{num_events} events, mean {mean:.0f} spacepoints, longest {max(map(len, events))}; k = {K}")
    for name, timing in steps.items():
        each = timing.median / num_events
        print(f"  {name:20} {1e3 * each:9.3f} ms an event {1 / each:10,.0f} events/s")
    gain = ratio(steps, "released algorithm", "fm4npp")
    print(f"  packed batches are {shown(gain)} x the released algorithm")
    shares = passed(events)
    print("  targets that the scan has passed: " + "; ".join(f"{name}: {share:.1%}" for name, share in shares.items()))

    print(f"\nsearch, k = {K}, ms (a k-d tree searches all points, not those further out)")
    timings = searches(sizes, rounds, largest_fallback=10_000)
    for number, by_name in timings.items():
        print(f"  {number:7,}  " + "  ".join(f"{name} {1e3 * t.median:9.2f}" for name, t in by_name.items()))

    stored = make_events(num_in_files, seed=1)
    through = files(stored, rounds)
    print(f"\n{len(stored)} events in a file")
    for name, timing in through.items():
        print(f"  {name:32} {len(stored) / timing.median:10,.0f} events/s")

    report = {
        "machine": machine(),
        "mean": mean,
        "seconds": {name: t.seconds for name, t in steps.items()},
        "ratio": gain,
        "passed": shares,
        "search": {n: {name: t.seconds for name, t in by.items()} for n, by in timings.items()},
        "files": {"events": len(stored), **{name: t.seconds for name, t in through.items()}},
    }
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    return report


if __name__ == "__main__":
    main()
