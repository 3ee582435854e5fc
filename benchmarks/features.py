"""Adaptation from stored hidden states: seconds of a step and megabytes of an event, beside running the backbone.

    OMP_NUM_THREADS=1 python benchmarks/features.py [--events 24] [--rounds 3] [--size m3] [--quick] [--json FILE]

Simulated events of the sPHENIX TPC with about 1,000 spacepoints, a new model of one of the paper's sizes, frozen, and
one head at a time. A step is all of it: reading and packing the events, forward, backward, optimizer. One thread, no
loader workers; every way takes the same batches in turn. What remains of a step is the head's own work.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from common import Timing, interleave, machine, ratio, shown
from data import make_events

from fm4npp.batch import collate
from fm4npp.configuration import FM4NPPConfig
from fm4npp.data import EventDataset, loader, token_budget_batches, write_events
from fm4npp.data.features import FeatureStore
from fm4npp.modeling import FM4NPPModel
from fm4npp.processing import FM4NPPProcessor
from fm4npp.training.features import build_features, feature_store

HEADS = ("noise-tagging", "track-finding")
WAYS = {
    "raw float32": ("raw", "float32"),
    "raw bfloat16": ("raw", "bfloat16"),
    "mixed float32": ("mixed", "float32"),
    "mixed bfloat16": ("mixed", "bfloat16"),
}
COMPUTED = "computed"


def make_store(way: str, dataset: EventDataset, model: FM4NPPModel, processor: FM4NPPProcessor, folder: Path) -> Any:
    """The store, and what it took: seconds, megabytes of an event."""
    kind, dtype = WAYS[way]
    store = feature_store(dataset, model, processor, folder / way, kind=kind, dtype=dtype)
    needed, start = store.bytes_needed, time.perf_counter()
    build_features(store, model, processor)
    return store, {"build_seconds": time.perf_counter() - start, "mb_per_event": needed / 1e6 / len(dataset)}


def make_steps(
    config: FM4NPPConfig, name: str, dataset: EventDataset, store: FeatureStore | None, tokens: int
) -> Callable[[], None]:
    """One pass over the events, an optimizer step for every batch."""
    torch.manual_seed(0)
    model, processor = FM4NPPModel(config), FM4NPPProcessor(config)
    model.freeze_backbone()
    head = model.add_head("head", name)
    if store is not None and store.layout.kind == "mixed":
        model.freeze_layer_mix()
    optimizer = torch.optim.AdamW([p for p in head.parameters() if p.requires_grad])
    batches = token_budget_batches(dataset.lengths, tokens)

    def prepare(event: Any, **stored: Any) -> Any:
        return processor.prepare(event, targets=False, **stored)

    def steps() -> None:
        for batch in loader(dataset, batches, prepare, collate, stored=store):
            loss = model(**batch).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return steps


def measure(config: FM4NPPConfig, dataset: EventDataset, folder: Path, rounds: int, tokens: int) -> dict[str, Any]:
    torch.manual_seed(0)
    model, processor = FM4NPPModel(config), FM4NPPProcessor(config)
    model.freeze_backbone()
    stores, costs = {}, {}
    for way in WAYS:
        stores[way], costs[way] = make_store(way, dataset, model, processor, folder)
        print(f"{way:15} {costs[way]['mb_per_event']:7.2f} MB an event, built in {costs[way]['build_seconds']:.1f} s")
    found: dict[str, Any] = {"stores": costs, "heads": {}}
    num_batches = len(token_budget_batches(dataset.lengths, tokens))
    for name in HEADS:
        ways: Mapping[str, Callable[[], None]] = {
            way: make_steps(config, name, dataset, stores.get(way), tokens) for way in (COMPUTED, *WAYS)
        }
        timings = interleave(ways, rounds)
        found["heads"][name] = {way: report(name, way, timings, num_batches) for way in ways}
    return found


def report(name: str, way: str, timings: Mapping[str, Timing], num_batches: int) -> dict[str, Any]:
    faster = ratio(timings, COMPUTED, way)
    seconds = timings[way].median / num_batches
    print(f"{name:15} {way:15} {seconds:7.3f} s a step, {shown(faster)} times faster")
    return {"seconds_per_step": seconds, "faster": faster}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", default="m3")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--quick", action="store_true", help="a small model and few events, to see that it runs")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    number, size, rounds = (4, "m1", 1) if options.quick else (options.events, options.size, options.rounds)
    events = make_events(number)
    config = FM4NPPProcessor(FM4NPPConfig.named(size)).fit(events).config
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_events(events, folder / "events.parquet")
        dataset = EventDataset([folder / "events.parquet"])
        print(f"{len(events)} events, {dataset.lengths.mean():.0f} spacepoints each, {size}")
        found = measure(config, dataset, folder, rounds, options.tokens)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "size": size, **found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
