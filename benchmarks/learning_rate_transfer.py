"""Does the learning rate found on a narrow model serve a wide one? A sweep on simulated events.

    python benchmarks/learning_rate_transfer.py --output transfer.json --plot transfer.png

Every model is pretrained on the same events for the same number of steps; the validation loss after the last step is
averaged over seeds. The best rates of the widths are compared in factors of two, in the standard parameterization and
with μP (docs/mup.md), whose base width is the smallest. About 20 minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from fm4npp import detectors
from fm4npp.data import write_events
from fm4npp.errors import FM4NPPError
from fm4npp.files import write_json
from fm4npp.simulation import ParticleGun, simulate
from fm4npp.training import PretrainConfig, pretrain
from fm4npp.training.config import parse

DETECTOR = "sphenix-tpc"
GUN = ParticleGun(mean_primaries=3.0)
SPLITS = {"train": (800, 1), "validation": (100, 2)}
"""Events and seed of each set."""
PARAMETERIZATIONS = ("standard", "mup")
Losses = dict[str, dict[int, dict[float, list[float]]]]
"""Parameterization -> width -> learning rate -> validation loss of every seed; infinite where it diverged."""


def make_events(folder: Path) -> dict[str, Path]:
    files = {name: folder / f"{name}.parquet" for name in SPLITS}
    for name, (count, seed) in SPLITS.items():
        write_events(simulate(detectors.load(DETECTOR), count, seed, GUN), files[name])
    return files


def validation_loss(files: dict[str, Path], options: argparse.Namespace, settings: dict[str, Any], width: int) -> float:
    """Pretrain one model; its loss on the validation events after the last step."""
    values = {
        "model": {
            "objective": {"type": "k-nnn", "k": options.neighbours, "targets": "offset"},
            "embedding": {"projection": "learned"},
            "backbone": {"type": options.backbone, "width": width, "num_layers": options.layers},
        },
        "data": {"train": [files["train"]], "validation": [files["validation"]], "fit_events": 200},
        "training": {
            "steps": options.steps,
            "tokens_per_batch": options.tokens,
            "warmup_steps": options.steps // 10,
            "clip_norm": 1.0,
            "validate_every": options.steps,
            "save_every": options.steps,
            "log_every": options.steps,
            "mup_base_width": min(options.widths),
            **settings,
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        try:
            record = pretrain(parse(PretrainConfig, values), Path(folder) / "run")
        except FM4NPPError as error:
            if "loss" not in str(error):
                raise
            return math.inf  # diverged
    return float(record["validation_loss"])


def sweep(options: argparse.Namespace, files: dict[str, Path]) -> Losses:
    losses: Losses = {}
    for name in PARAMETERIZATIONS:
        for width in options.widths:
            for rate in options.rates:
                start = time.perf_counter()
                found = [
                    validation_loss(
                        files, options, {"learning_rate": rate, "parameterization": name, "seed": seed}, width
                    )
                    for seed in range(options.seeds)
                ]
                losses.setdefault(name, {}).setdefault(width, {})[rate] = found
                texts = " ".join(f"{loss:.4f}" for loss in found)
                print(f"{name:8} width {width:4} rate {rate:.1e}: {texts} ({time.perf_counter() - start:.0f} s)")
    return losses


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def best_rate(losses: dict[float, list[float]]) -> float:
    return min(losses, key=lambda rate: mean(losses[rate]))


def table(losses: Losses) -> str:
    """Markdown: mean validation loss and half the range over seeds; the best of every column in bold."""
    columns = [(name, width) for name in losses for width in losses[name]]
    rates = sorted(losses[columns[0][0]][columns[0][1]])
    rows = ["| learning rate | " + " | ".join(f"{name}, {width}" for name, width in columns) + " |"]
    rows.append("|---" * (len(columns) + 1) + "|")
    for rate in rates:
        cells = []
        for name, width in columns:
            values = losses[name][width][rate]
            text = (
                f"{mean(values):.4f} ± {(max(values) - min(values)) / 2:.4f}" if max(values) < math.inf else "diverged"
            )
            cells.append(f"**{text}**" if rate == best_rate(losses[name][width]) else text)
        rows.append(f"| {rate:.1e} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def verdict(losses: Losses) -> dict[str, dict[str, float]]:
    """Best rate of the narrowest and the widest, the factors of two between them, and what using the first costs."""
    found = {}
    for name, by_width in losses.items():
        narrow, wide = min(by_width), max(by_width)
        small, large = best_rate(by_width[narrow]), best_rate(by_width[wide])
        found[name] = {
            f"best_at_{narrow}": small,
            f"best_at_{wide}": large,
            "steps_of_two": math.log2(large / small),
            "excess_loss_when_transferred": mean(by_width[wide][small]) - mean(by_width[wide][large]),
        }
    return found


def plot(losses: Losses, output: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.8), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    for ax, (name, by_width) in zip(figure.subplots(1, len(losses), sharey=True), losses.items(), strict=True):
        for (width, by_rate), colour in zip(by_width.items(), ("#3f90da", "#bd1f01", "#ffa90e"), strict=False):
            rates = [rate for rate in sorted(by_rate) if max(by_rate[rate]) < math.inf]
            ax.plot(rates, [mean(by_rate[rate]) for rate in rates], marker="o", label=f"width {width}", color=colour)
            for seed in range(len(by_rate[rates[0]])):
                ax.plot(rates, [by_rate[rate][seed] for rate in rates], ".", markersize=3, color=colour, alpha=0.6)
            ax.axvline(best_rate(by_rate), color=colour, linewidth=0.8, linestyle=":")
        ax.set(xscale="log", xlabel="learning rate", title=name)
        grid = sorted(next(iter(by_width.values())))
        ax.set_xticks(grid, labels=[f"{rate:.1e}" for rate in grid], fontsize=7)
        ax.minorticks_off()
        ax.legend(frameon=False)
    figure.axes[0].set_ylabel("validation loss after the last step")
    figure.savefig(output)


def numbers(convert: type) -> Any:
    return lambda text: [convert(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=numbers(int), default=[64, 256])
    parser.add_argument("--rates", type=numbers(float), default=[2e-3 * 2**step for step in range(6)])
    parser.add_argument("--backbone", default="mamba2")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=512, help="spacepoints in a batch")
    parser.add_argument("--neighbours", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--plot", type=Path, help="picture to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        losses = sweep(options, make_events(Path(folder)))
    found = verdict(losses)
    print(f"\n{table(losses)}\n\n{json.dumps(found, indent=2)}\n{time.perf_counter() - start:.0f} s")
    if options.output is not None:
        write_json(options.output, {"options": {**vars(options), "output": None, "plot": None}, **found,
                                    "losses": {n: {str(w): {f"{r:.3e}": v for r, v in by_rate.items()}
                                                   for w, by_rate in by_width.items()}
                                               for n, by_width in losses.items()}})  # fmt: skip
    if options.plot is not None:
        plot(losses, options.plot)


if __name__ == "__main__":
    main()
