"""Does rescaling the loss by event difficulty help (paper appendix B.7)? The same training with four losses.

    python benchmarks/difficulty.py --output difficulty.json

Simulated events of very different sizes. `none` is the mean over all numbers of a batch; the others are means over
events: with equal weights (`equal`, which separates the weights from the mean), with those of the paper
(`difficulty`), and with one over them (`inverse`). Initial weights, events and their order are the same for all four
with the same seed. All are judged by the same two validation losses without weights, and by their own training: spikes
and gradient norms are ratios, so that the scale of a loss does not matter. About 10 minutes on one core.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fm4npp import detectors
from fm4npp.batch import PreparedEvent, collate
from fm4npp.configuration import FM4NPPConfig
from fm4npp.event import Event
from fm4npp.files import write_json
from fm4npp.modeling import FM4NPPModel
from fm4npp.objectives.k_next_nearest import KNextNearest
from fm4npp.processing import FM4NPPProcessor
from fm4npp.simulation import ParticleGun, simulate
from fm4npp.training.schedule import learning_rate_factor

DETECTOR = "sphenix-tpc"
MEAN_PRIMARIES = (3.0, 8.0, 20.0)
"""Not fewer: the neighbours of a lone track are far, yet easy to predict, so that distance is no measure then."""
SPLITS = {"train": (100, 1), "validation": (30, 2)}
"""Events of each mean number of primaries, and seed."""
VARIANTS = ("none", "equal", "difficulty", "inverse")
Record = dict[str, float]


def make_events(name: str) -> list[Event]:
    """Events with at least two spacepoints: others have no neighbours."""
    count, seed = SPLITS[name]
    detector = detectors.load(DETECTOR)
    groups = [simulate(detector, count, seed, ParticleGun(mean_primaries=mean)) for mean in MEAN_PRIMARIES]
    return [event for group in groups for event in group if len(event) > 1]


def make_processor(options: argparse.Namespace, events: Sequence[Event], variant: str) -> FM4NPPProcessor:
    rescale = "difficulty" if variant == "equal" else variant
    objective = {"type": "k-nnn", "k": options.neighbours, "targets": options.targets, "rescale": rescale}
    config = FM4NPPConfig.create(
        detectors=[DETECTOR],
        objective=objective,
        embedding={"projection": "learned"},
        backbone={"type": "mamba2", "width": options.width, "num_layers": options.layers},
    )
    processor = FM4NPPProcessor(config).fit(events)
    if variant != "equal":
        return processor
    fitted = processor.config.objective
    assert isinstance(fitted, KNextNearest)
    weights = [1.0] * len(fitted.difficulty_weights or ())
    return FM4NPPProcessor(processor.config.updated(objective=fitted.replace(difficulty_weights=weights)))


def in_random_batches(events: Sequence[PreparedEvent], size: int, seed: int) -> Iterator[list[PreparedEvent]]:
    """Endless batches of so many events, every event once an epoch."""
    random = np.random.default_rng(seed)
    while True:
        order = random.permutation(len(events))
        for start in range(0, len(order) - size + 1, size):
            yield [events[index] for index in order[start : start + size]]


def train(
    options: argparse.Namespace, processor: FM4NPPProcessor, events: Sequence[PreparedEvent], seed: int
) -> tuple[FM4NPPModel, list[tuple[float, float]]]:
    """A trained model, and loss and gradient norm (before clipping) of every step."""
    torch.manual_seed(seed)
    model = FM4NPPModel(processor.config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.rate, betas=(0.9, 0.95), weight_decay=0.01)
    history = []
    batches = in_random_batches(events, options.batch, seed)
    for step in range(options.steps):
        optimizer.param_groups[0]["lr"] = options.rate * learning_rate_factor(
            step, options.steps, options.steps // 10, 0.1
        )
        loss = model(**collate(next(batches))).loss
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip)
        optimizer.step()
        history.append((loss.item(), norm.item()))
    return model, history


@torch.no_grad()
def event_losses(model: FM4NPPModel, events: Sequence[PreparedEvent]) -> tuple[np.ndarray, np.ndarray]:
    """Every event's sum of the spacepoints' mean squared errors without weights, and how many spacepoints have one."""
    sums, counts = [], []
    for event in events:
        batch = collate([event])
        neighbours, valid = batch.targets["neighbours"], batch.targets["valid"]
        predictions = model(**batch).predictions["objective"].view(neighbours.shape)
        squares = (predictions - neighbours).square().masked_fill(~valid[..., None], 0).double().sum(dim=(1, 2))
        sums.append(float((squares / (valid.sum(dim=1) * neighbours.shape[-1]).clamp(min=1)).sum()))
        counts.append(int(valid.any(dim=1).sum()))
    return np.array(sums), np.array(counts)


def difficulties(processor: FM4NPPProcessor, events: Sequence[PreparedEvent]) -> np.ndarray:
    """The weight of the paper's bin of every event: larger, more difficult."""
    return np.array([event.targets["weight"].max() / event.targets["share"].max() for event in events])


def judged(sums: np.ndarray, counts: np.ndarray, bins: np.ndarray) -> Record:
    losses = sums / counts
    return {
        "per event": float(losses.mean()),
        "per spacepoint": float(sums.sum() / counts.sum()),
        "easiest bin": float(losses[bins == bins.min()].mean()),
        "hardest bin": float(losses[bins == bins.max()].mean()),
    }


def stability(history: Sequence[tuple[float, float]], warmup: int) -> Record:
    """Largest ratio of consecutive losses, and of a gradient norm to the median of all, after the warm-up."""
    losses, norms = np.array(history[warmup:]).T
    return {
        "largest loss ratio": float((losses[1:] / losses[:-1]).max()),
        "spread of log loss steps": float(np.log(losses[1:] / losses[:-1]).std()),
        "largest/median norm": float(norms.max() / np.median(norms)),
        "norm std/mean": float(norms.std() / norms.mean()),
        "median norm": float(np.median(norms)),
    }


def measure(options: argparse.Namespace) -> dict[str, list[Record]]:
    events, validation = make_events("train"), make_events("validation")
    processors = {name: make_processor(options, events, name) for name in VARIANTS}
    prepared = {name: [processors[name].prepare(event) for event in events] for name in VARIANTS}
    held_out = [processors["difficulty"].prepare(event) for event in validation]
    bins = difficulties(processors["difficulty"], held_out)
    sizes = sorted(len(event) for event in events)
    objective = processors["difficulty"].config.objective.model_dump()
    print(f"{len(events)} events of {sizes[0]} to {sizes[-1]} spacepoints, median {sizes[len(sizes) // 2]}")
    print("edges", objective["difficulty_edges"], "weights", objective["difficulty_weights"])
    found: dict[str, list[Record]] = {name: [] for name in VARIANTS}
    for seed in options.seeds:
        for name in VARIANTS:
            start = time.perf_counter()
            model, history = train(options, processors[name], prepared[name], seed)
            record = {**judged(*event_losses(model.eval(), held_out), bins), **stability(history, options.steps // 10)}
            found[name].append(record)
            texts = ", ".join(f"{key} {value:.4f}" for key, value in record.items())
            print(f"seed {seed} {name}: {texts} ({time.perf_counter() - start:.0f} s)", flush=True)
    return found


def table(found: dict[str, list[Record]]) -> str:
    """Markdown: mean and standard deviation over seeds."""
    keys = list(found[VARIANTS[0]][0])
    rows = ["| loss | " + " | ".join(keys) + " |", "|---" * (len(keys) + 1) + "|"]
    for name, records in found.items():
        values = [[record[key] for record in records] for key in keys]
        spreads = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in values]
        cells = [f"{statistics.mean(v):.4f} ± {spread:.4f}" for v, spread in zip(values, spreads, strict=True)]
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", choices=("offset", "absolute"), default="offset")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--neighbours", type=int, default=10)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--batch", type=int, default=4, help="events in a batch")
    parser.add_argument("--rate", type=float, default=4e-3, help="peak learning rate")
    parser.add_argument("--clip", type=float, default=1.0, help="gradient norm; 0.1 in the paper")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(options)
    print(f"\n{table(found)}")
    if options.output is not None:
        values: dict[str, Any] = {"options": {**vars(options), "output": None}, "runs": found}
        write_json(options.output, values)


if __name__ == "__main__":
    main()
