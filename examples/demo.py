"""The whole way once: events, a pretrained backbone, frozen; heads on it and on two controls; tracks and a picture.

    python examples/demo.py --output runs/demo

Six to ten minutes on two cores. The three rows of the table differ only in what the heads read: the blocks of the
pretrained backbone, the blocks of the same backbone with random weights, or the raw coordinates and energies.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from fm4npp import detectors
from fm4npp.data import EventDataset, write_events
from fm4npp.evaluation import evaluate, predict_events
from fm4npp.files import read_json, write_json
from fm4npp.modeling import FM4NPPModel
from fm4npp.plotting import draw_event
from fm4npp.processing import FM4NPPProcessor
from fm4npp.simulation import ParticleGun, simulate
from fm4npp.training import AdaptConfig, PretrainConfig, adapt, pretrain
from fm4npp.training.config import parse, read_config

DETECTOR = "sphenix-tpc"
SPLITS = {"pretrain": (2000, 1), "train": (400, 2), "validation": (60, 3), "test": (100, 4)}
"""Events and seed of each set; no two share an event."""
GUN = ParticleGun(mean_primaries=6.0)
TOKENS = 3072
PRETRAIN_STEPS = 400
HEADS: dict[str, dict[str, Any]] = {
    "track-finding": {"type": "track-finding", "num_queries": 40},
    "noise-tagging": {"type": "noise-tagging", "class_weights": "balanced"},
}
HEAD_STEPS = {"track-finding": 180, "noise-tagging": 90}
console = Console(highlight=False, soft_wrap=True)


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Say what is done, and remember how long it took."""
    console.print(f"- {name} ...", end=" ")
    start = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start, 1)
    console.print(f"{seconds[name]:.0f} s")


def make_events(folder: Path, scale: float) -> dict[str, Path]:
    """Simulate every set of events."""
    detector = detectors.load(DETECTOR)
    files = {name: folder / f"{name}.parquet" for name in SPLITS}
    for name, (count, seed) in SPLITS.items():
        write_events(simulate(detector, max(int(count * scale), 8), seed, GUN), files[name])
    return files


def pretrain_backbone(files: dict[str, Path], folder: Path, steps: int) -> dict[str, Any]:
    """Pretrain on the events without looking at their labels."""
    values = read_config("fm4npp")
    values["data"] = {"train": [files["pretrain"]], "validation": [files["validation"]], "fit_events": 500}
    values["training"] |= {"steps": steps, "tokens_per_batch": TOKENS, "warmup_steps": 30, "validate_every": 150}
    return pretrain(parse(PretrainConfig, values), folder)


def random_twin(pretrained: Path, folder: Path) -> None:
    """The same model with random weights: the control that shows what pretraining adds."""
    torch.manual_seed(1234)
    FM4NPPModel(FM4NPPProcessor.from_pretrained(pretrained).config).save_pretrained(folder)


def adapt_head(model: Path, head: str, inputs: list[str], files: dict[str, Path], folder: Path, steps: int) -> None:
    """Train a head on a frozen model."""
    values = {
        "name": head,
        "head": {**HEADS[head], "inputs": inputs},
        "data": {"train": [files["train"]], "validation": [files["validation"]]},
        "training": {
            "steps": steps,
            "tokens_per_batch": TOKENS,
            "learning_rate": 5e-4,
            "weight_decay": 1e-4,
            "warmup_steps": 20,
            "clip_norm": 1.0,
            "validate_every": max(steps // 3, 1),
        },
    }
    adapt(model, parse(AdaptConfig, values), folder)


def judge(model: Path, heads: list[Path], files: dict[str, Path]) -> dict[str, Any]:
    """Metrics on the held-out events."""
    loaded = FM4NPPModel.from_pretrained(model)
    for head in heads:
        loaded.load_head(head)
    return evaluate(loaded, FM4NPPProcessor(loaded.config), EventDataset([files["test"]]), tokens_per_batch=TOKENS)


def draw(model: Path, head: Path, files: dict[str, Path], output: Path, index: int = 3) -> None:
    """One held-out event, truth beside prediction."""
    loaded = FM4NPPModel.from_pretrained(model)
    loaded.load_head(head)
    events = islice(EventDataset([files["test"]]), index, index + 1)
    event, predictions = next(predict_events(loaded, FM4NPPProcessor(loaded.config), events))
    geometry = detectors.load(DETECTOR).geometry
    draw_event(event, predictions["track-finding"]["track_id"], output=output, geometry=geometry)


def check_reload(model: Path, files: dict[str, Path]) -> None:
    """The checkpoint gives the same numbers after saving and loading, to the last bit."""
    loaded = FM4NPPModel.from_pretrained(model)
    batch = FM4NPPProcessor.from_pretrained(model)(list(islice(EventDataset([files["test"]]), 4)))
    loaded.save_pretrained(model.parent / "copy")
    again = FM4NPPModel.from_pretrained(model.parent / "copy")
    with torch.no_grad():
        same = torch.equal(loaded(**batch).predictions["objective"], again(**batch).predictions["objective"])
    if not same:
        raise SystemExit("the reloaded checkpoint predicts something else")


def table(results: dict[str, dict[str, Any]], num_events: int) -> Table:
    """The results for people."""
    shown = Table(title=f"{num_events} held-out events of {DETECTOR}", title_justify="left", box=SIMPLE)
    shown.add_column("heads read", no_wrap=True)
    for column in ("ARI", "pooled", "eff.", "purity", "noise", "prec.", "recall"):
        shown.add_column(column, justify="right", no_wrap=True)
    for name, metrics in results.items():
        tracks, noise = metrics["track-finding"], metrics["noise-tagging"]
        values = [tracks[key] for key in ("ari_per_event_mean", "ari_pooled", "efficiency", "purity")]
        values += [noise[key] for key in ("accuracy", "macro_precision", "macro_recall")]
        shown.add_row(name, *("-" if value is None else f"{value:.3f}" for value in values))
    return shown


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/demo"))
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies all numbers of events and steps")
    arguments = parser.parse_args()
    output: Path = arguments.output
    if output.exists() and any(output.iterdir()):
        raise SystemExit(f"error: {output} is not empty; remove it, or give another --output")
    seconds: dict[str, float] = {}
    with timed(seconds, "simulate events"):
        files = make_events(output / "events", arguments.scale)
    with timed(seconds, "pretrain the backbone on unlabelled events"):
        best = pretrain_backbone(files, output / "pretrained", scaled(PRETRAIN_STEPS, arguments.scale))
    random_twin(output / "pretrained", output / "random")
    rows = {
        "pretrained": ("pretrained", ["blocks"]),
        "random weights": ("random", ["blocks"]),
        "raw coordinates": ("pretrained", ["coordinates"]),
    }
    results = {}
    for row, (model, inputs) in rows.items():
        folders = {head: output / "heads" / row.replace(" ", "-") / head for head in HEADS}
        for head, folder in folders.items():
            with timed(seconds, f"adapt {head}, reading {row}"):
                adapt_head(output / model, head, inputs, files, folder, scaled(HEAD_STEPS[head], arguments.scale))
        results[row] = judge(output / model, list(folders.values()), files)
    picture = output / "event.png"
    draw(output / "pretrained", output / "heads/pretrained/track-finding", files, picture)
    check_reload(output / "pretrained", files)
    write_json(output / "report.json", {"results": results, "seconds": seconds, "pretraining": best})
    report(results, seconds, best, output)


def scaled(number: int, scale: float) -> int:
    """A number of steps, at least two."""
    return max(int(number * scale), 2)


def report(results: dict[str, Any], seconds: dict[str, float], best: dict[str, Any], output: Path) -> None:
    """Print what was done and found."""
    loaded = FM4NPPModel.from_pretrained(output / "pretrained")
    events = {name: len(EventDataset([output / f"events/{name}.parquet"])) for name in SPLITS}
    steps = {head: _steps(output / f"heads/raw-coordinates/{head}") for head in HEADS}
    console.print()
    console.print(table(results, events["test"]))
    console.print(
        f"Trained: a {loaded.config.backbone['type']} backbone of {loaded.num_parameters():,} parameters, "
        f"{_steps(output / 'pretrained')} steps on {events['pretrain']} unlabelled "
        f"events (validation loss {best['validation_loss']:.4f}); on it, frozen, "
        + " and ".join(f"{head} for {count}" for head, count in steps.items())
        + f" steps on {events['train']} labelled events. {sum(seconds.values()):.0f} s in all."
    )
    console.print(
        "ARI: mean over events, and of all spacepoints at once. Efficiency and purity: double majority, whole set."
    )
    console.print("Noise: accuracy, and precision and recall, the mean over the two classes.")
    console.print("One seed and a small model: this shows how to compare, not what pretraining is worth.")
    for what, name in (("checkpoint", "pretrained"), ("picture", "event.png"), ("numbers", "report.json")):
        console.print(f"{what}: {output / name}")


def _steps(run: Path) -> int:
    return int(read_json(run / "run.json")["config"]["training"]["steps"])


if __name__ == "__main__":
    main()
