"""The tables of docs/results.md: what heads on few labels reach on the pretrained backbone and on its controls.

    python benchmarks/results.py make --silicon FOLDER_OF_TRAIN_AND_TEST --output results   # hours on two cores
    python benchmarks/results.py show results                                               # tables, from study.json

`make` prints the commands that it runs, in order. Given again it goes on where it was stopped; `--dry-run` only prints.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fm4npp.data import EventDataset, write_events

SEEDS = range(3)
VARIANTS = {
    "pretrained": "pretrained, frozen",
    "lora": "pretrained, LoRA",
    "random-init": "random weights, frozen",
    "adapter-only": "none: coordinates and features",
}
CLASSES = {"accuracy": "accuracy", "macro_precision": "macro precision", "macro_recall": "recall", "macro_f1": "F1"}
TRACKS = {
    "ari_per_event_mean": "ARI, mean of events",
    "ari_pooled": "ARI, pooled",
    "efficiency": "efficiency",
    "purity": "purity",
}
AREA = {"accuracy": "accuracy", "macro_f1": "macro F1", "probabilities.macro_roc_auc": "ROC area"}
TABLES = {
    "Simulated sPHENIX TPC: track finding": ("tpc-tracks", "track-finding", TRACKS),
    "Simulated sPHENIX TPC: particle class": ("tpc-points", "multitask/particle_class", CLASSES),
    "Simulated sPHENIX TPC: noise": ("tpc-points", "multitask/is_noise", CLASSES),
    "sPHENIX silicon: track finding": ("silicon-tracks", "track-finding", TRACKS),
    "sPHENIX silicon: particle class": ("silicon-pid", "particle-id", CLASSES),
    "sPHENIX silicon: trigger": ("silicon-trigger", "event-classification", AREA),
}
"""Heading -> study, entry of its reports, metrics and what they are called."""
SIMULATED = {"train": (24_000, 1), "labelled": (2_000, 2), "validation": (500, 9), "test": (1_000, 4)}
"""Events and seed of each simulated set."""
POINTS = "head.tasks=[{label: particle_class, num_classes: 5}, {label: is_noise, num_classes: 2}]"
TAGGER = ("--features", "head.width=128", "training.steps=400", "training.validate_every=50")
PID = (
    "--features",
    "head.width=128",
    "training.learning_rate=5e-4",
    "training.steps=200",
    "training.validate_every=20",
)
TRIGGER = ("training.learning_rate=3e-4", "training.steps=200", "training.validate_every=10")
FINDER = ("--features", "head.width=128", "head.hidden=256", "training.learning_rate=5e-4", "training.steps=400")
STUDIES = {
    "tpc-points": ("multitask", "tpc", 500, (POINTS, *TAGGER)),
    "tpc-tracks": ("track-finding", "tpc", 500, (*FINDER, "head.num_queries=80", "training.validate_every=50")),
    "silicon-trigger": ("event-classification", "silicon", 4000, TRIGGER),
    "silicon-pid": ("particle-id", "silicon", 2000, PID),
    "silicon-tracks": (
        "track-finding",
        "silicon",
        2000,
        (*FINDER, "head.num_queries=60", "training.validate_every=50"),
    ),
}
"""Study -> head, data, test events, settings."""
PARTS = {
    "tpc": {"choosing": ("validation", 0, 200), "judging-500": ("test", 0, 500)},
    "silicon": {
        "train": ("all-train", 0, 9_000),
        "labelled": ("all-train", 0, 9_000),
        "validation": ("all-train", 9_000, 10_000),
        "choosing": ("all-train", 9_000, 9_300),
        "judging-2000": ("all-test", 0, 2_000),
        "judging-4000": ("all-test", 0, 4_000),
    },
}
"""Data -> file -> the file that it is a part of, its first event and that after its last."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("--silicon", type=Path, required=True, help="folder of train.tar.xz and test.tar.xz")
    making.add_argument("--output", type=Path, required=True)
    making.add_argument("--dry-run", action="store_true")
    showing = commands.add_parser("show")
    showing.add_argument("output", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "show":
        print("\n".join(tables(arguments.output)))
        return
    for command in [*data(arguments.silicon, arguments.output), None, *runs(arguments.output)]:
        if command is not None:
            print(shlex.join(map(str, command)), flush=True)
        if not arguments.dry_run:
            subprocess.run(list(map(str, command)), check=True) if command else divide(arguments.output)


def data(silicon: Path, folder: Path) -> Iterator[list[Any]]:
    """The commands that make the events, without those whose file is there."""
    for name, (count, seed) in SIMULATED.items():
        what = ["--facility", "rhic-pp", "--events", count, "--seed", seed, "--workers", 2]
        path = folder / "tpc" / f"{name}.parquet"
        if not path.exists():
            yield ["fm4npp", "simulate", *what, "--output", path]
    for name in ("train", "test"):
        path = folder / "silicon" / f"all-{name}.parquet"
        if not path.exists():
            yield ["fm4npp", "convert", silicon / f"{name}.tar.xz", "--detector", "sphenix-silicon", "--output", path]


def divide(folder: Path) -> None:
    """Write the files that are parts of others."""
    for kind, parts in PARTS.items():
        for name, (whole, first, last) in parts.items():
            path = folder / kind / f"{name}.parquet"
            if not path.exists():
                events = EventDataset([folder / kind / f"{whole}.parquet"])
                write_events((events[index] for index in range(first, last)), path)


def runs(folder: Path) -> Iterator[list[Any]]:
    """The commands that train and judge; each goes on where it was stopped."""
    recipes = {
        "tpc": ["training.steps=5000", "training.validate_every=1000"],
        "silicon": ["training.steps=800", "training.validate_every=200", "model.backbone.chunk_size=16"],
    }
    for kind, recipe in recipes.items():
        files = [f"data.train={folder / kind}/train.parquet", f"data.validation={folder / kind}/validation.parquet"]
        for seed in SEEDS:
            output = ["--output", folder / kind / f"model-{seed}", "--resume", f"training.seed={seed}"]
            yield ["fm4npp", "pretrain", *files, *recipe, *output]
    for name, (head, kind, judged, settings) in STUDIES.items():
        models = [word for seed in SEEDS for word in ("--model", folder / kind / f"model-{seed}")]
        splits = {"--data": "labelled", "--validation": "choosing", "--test": f"judging-{judged}"}
        files = [word for option, file in splits.items() for word in (option, folder / kind / f"{file}.parquet")]
        common = ["--labels", "100,1000", "--seeds", len(SEEDS), "--output", folder / name]
        tokens = f"training.tokens_per_batch={4096 if kind == 'tpc' else 2048}"
        yield ["fm4npp", "study", "data-efficiency", *models, "--head", head, *files, *common, tokens, *settings]


def tables(folder: Path) -> Iterator[str]:
    """Markdown of all studies that are there: means over seeds and standard deviations."""
    for heading, (study, entry, metrics) in TABLES.items():
        path = folder / study / "study.json"
        if not path.exists():
            continue
        found = json.loads(path.read_text())
        yield from (f"### {heading}", "")
        if found["missing"]:
            yield from (f"**Incomplete**: {', '.join(found['missing'])}", "")
        yield f"| labels | backbone | {' | '.join(metrics.values())} | seeds |"
        yield "|---" * (len(metrics) + 3) + "|"
        order = list(VARIANTS)
        for row in sorted(found.get("summary", []), key=lambda row: (row["labels"], order.index(row["variant"]))):
            values = [spread(row["metrics"][entry][name]) for name in metrics]
            yield f"| {row['labels']:,} | {VARIANTS[row['variant']]} | {' | '.join(values)} | {row['num_seeds']} |"
        yield ""


def spread(value: dict[str, Any]) -> str:
    """Mean and standard deviation over seeds."""
    return f"{value['mean']:.3f}" + ("" if value["sd"] is None else f" ± {value['sd']:.3f}")


if __name__ == "__main__":
    main()
