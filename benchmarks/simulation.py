"""Speed of the simulation: events a second and where the time goes, hits a second against pile-up, memory.

    OMP_NUM_THREADS=1 python benchmarks/simulation.py [--events 10000] [--workers 2] [--quick] [--gun] [--json FILE]

Minimum-bias p+p collisions at RHIC in the TPC of sPHENIX; `--gun` takes the particle gun instead of PYTHIA. The start
of the generator (seconds, once a process) is given on its own and not part of the rates of one process.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from common import machine

from fm4npp import detectors
from fm4npp.data import write_events
from fm4npp.detectors import Detector
from fm4npp.event import Event
from fm4npp.simulation import ParticleGun, Pythia8, simulate
from fm4npp.simulation import events as events_module
from fm4npp.simulation.events import block_events, block_size
from fm4npp.simulation.generator import Generator
from fm4npp.simulation.production import produce

SEED = 1
PAGE = os.sysconf("SC_PAGE_SIZE")


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


@contextmanager
def timed_parts(names: Sequence[str]) -> Iterator[tuple[dict[str, float], dict[str, Any]]]:
    """Note the seconds that some functions of `fm4npp.simulation.events` take, and what they returned last."""
    spent, returned = dict.fromkeys(names, 0.0), {}

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            took, returned[name] = seconds(lambda: function(*arguments))
            spent[name] += took
            return returned[name]

        return call

    originals = {name: getattr(events_module, name) for name in names}
    try:
        for name, function in originals.items():
            setattr(events_module, name, watched(name, function))
        yield spent, returned
    finally:
        for name, function in originals.items():
            setattr(events_module, name, function)


def steps(detector: Detector, generator: Generator, num_blocks: int) -> dict[str, float]:
    """Seconds an event of every step of making and writing blocks of events, and counts an event; one process."""
    size = block_size(0.0)
    num_hits = num_particles = num_crossings = 0
    whole = writing = 0.0
    with timed_parts(("overlay", "transport", "measure")) as (spent, returned), tempfile.TemporaryDirectory() as folder:
        for block in range(num_blocks):
            took, events = seconds(lambda block=block: block_events(detector, generator, SEED, block, size))
            whole += took
            writing += seconds(lambda events=events: write_events(events, Path(folder) / "events.parquet"))[0]
            num_hits += sum(map(len, events))
            num_particles += len(returned["transport"].particles)
            num_crossings += len(returned["transport"].crossings)
    found = {
        "generation": spent["overlay"],
        "transport": spent["transport"],
        "measurement": spent["measure"],
        "labels and events": whole - sum(spent.values()),
        "writing": writing,
    }
    counts = {"hits": num_hits, "particles": num_particles, "crossings": num_crossings}
    return {name: value / (num_blocks * size) for name, value in {**found, **counts}.items()}


def pileup(detector: Detector, generator: Generator, means: Sequence[float], num_hits: int) -> list[dict[str, float]]:
    """Hits a second against the mean number of further collisions; about `num_hits` hits at each."""
    found = []
    each = 0.0
    for mean in means:
        count = max(2, round(num_hits / (each * (1 + mean)))) if each else 2 * block_size(0.0)
        took, sizes = seconds(
            lambda mean=mean, count=count: [len(e) for e in simulate(detector, count, SEED, generator, pileup=mean)]
        )
        each = each or float(np.mean(sizes))
        row = {"pileup": mean, "events": count, "hits": float(np.mean(sizes)), "seconds": took / sum(sizes)}
        found.append(row | {"most": max(sizes)})
    return found


def resident(process: int | None = None) -> int:
    """Bytes of this process and all that it started (Linux); 0 elsewhere."""
    own = process or os.getpid()
    try:
        pages = int(Path(f"/proc/{own}/statm").read_text().split()[1])
        tasks = Path(f"/proc/{own}/task").glob("*/children")
        children = {int(child) for task in tasks for child in task.read_text().split()}
    except (OSError, IndexError):
        return 0
    return pages * PAGE + sum(map(resident, children))


@contextmanager
def watching(every: float = 0.1) -> Iterator[list[int]]:
    """Note `resident` in a list from now on."""
    noted: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(every):
            noted.append(resident())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield noted
    finally:
        done.set()
        watcher.join()


def memory(detector: Detector, generator: Generator, num_events: int, rows: int = 8) -> list[tuple[int, int]]:
    """(Events written, resident bytes) while a file is written in this process."""
    found: list[tuple[int, int]] = []

    def counted(events: Iterator[Event]) -> Iterator[Event]:
        for number, event in enumerate(events, 1):
            yield event
            if number % max(1, num_events // rows) == 0:
                found.append((number, resident()))

    with tempfile.TemporaryDirectory() as folder:
        events = simulate(detector, num_events, SEED, generator)
        write_events(counted(iter(events)), Path(folder) / "events.parquet")
    return found


def production(detector: Detector, generator: Generator, num_events: int, workers: int) -> dict[str, Any]:
    """Events a second of `fm4npp simulate`, start of the processes and of PYTHIA in them included."""
    with tempfile.TemporaryDirectory() as folder, watching() as noted:
        path = Path(folder) / "events.parquet"
        took, _ = seconds(lambda: produce(detector, generator, num_events, SEED, path, workers=workers))
        size = path.stat().st_size
    quarters = [max(part, default=0) for part in np.array_split(noted, 4)] if len(noted) >= 4 else []
    return {
        "workers": workers,
        "events": num_events,
        "seconds": took,
        "bytes": size,
        "resident": [int(value) for value in quarters],
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000, help="of the runs with several processes")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--gun", action="store_true", help="the particle gun instead of PYTHIA")
    parser.add_argument("--quick", action="store_true", help="a few events and little pile-up")
    parser.add_argument("--json", type=Path, help="write all figures here")
    options = parser.parse_args(arguments)
    num_events, blocks, means, num_hits = options.events, 4, (0.0, 5.0, 20.0, 50.0, 80.0), 400_000
    if options.quick:
        num_events, blocks, means, num_hits = min(num_events, 40), 1, (0.0, 2.0), 1
    print(machine())
    detector = detectors.build("sphenix-tpc")
    generator: Generator = ParticleGun() if options.gun else Pythia8(facility="rhic-pp")

    start, _ = seconds(lambda: block_events(detector, generator, SEED, 0, 2))
    spent = steps(detector, generator, blocks)
    timed = {name: value for name, value in spent.items() if name not in ("hits", "particles", "crossings")}
    whole = sum(timed.values())
    print(f"\n{generator.source}, sphenix-tpc; start {start:.1f} s; a mean event: {spent['hits']:.0f} spacepoints,")
    print(f"{spent['crossings']:.0f} crossings, {spent['particles']:.0f} particles; one process, in blocks")
    for name, value in timed.items():
        print(f"  {name:20} {1e3 * value:8.3f} ms an event {value / whole:7.1%}")
    print(f"  {'all':20} {1e3 * whole:8.3f} ms an event {1 / whole:7.1f} events/s")

    rows = pileup(detector, generator, means, num_hits)
    print("\npile-up, one process")
    for row in rows:
        print(
            f"  {row['pileup']:5.0f}  {row['events']:5} events of {row['hits']:8,.0f} hits (most {row['most']:7,}) "
            f"{1 / row['seconds']:10,.0f} hits/s, {rows[0]['seconds'] / row['seconds']:.2f} of that without"
        )

    resident_rows = memory(detector, generator, num_events // 2)
    print("\nresident memory of one process while it writes a file")
    print("  " + "; ".join(f"{number:,}: {size / 2**20:.0f} MiB" for number, size in resident_rows))

    runs = [production(detector, generator, num_events, workers) for workers in sorted({1, options.workers})]
    print("\nfm4npp simulate, all included")
    for run in runs:
        held = " ".join(f"{value / 2**20:.0f}" for value in run["resident"])
        print(
            f"  {run['workers']} workers {run['events'] / run['seconds']:8.1f} events/s, "
            f"{run['bytes'] / 2**20:.1f} MiB written; resident, all processes, by quarters of the time: {held} MiB"
        )
    report = {
        "machine": machine(),
        "start": start,
        "steps": spent,
        "pileup": rows,
        "memory": resident_rows,
        "production": runs,
    }
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    return report


if __name__ == "__main__":
    main()
