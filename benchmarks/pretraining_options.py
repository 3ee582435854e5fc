"""Which way of pretraining teaches most? One change at a time, judged by probes on labelled events, with controls.

    fm4npp simulate --facility rhic-pp --events 30000 --seed 1 --workers 2 --output train.parquet
    fm4npp simulate --facility rhic-pp --events 2000 --seed 2 --workers 2 --output labelled.parquet
    fm4npp simulate --facility rhic-pp --events 1000 --seed 3 --workers 2 --output validation.parquet
    python benchmarks/pretraining_options.py --data . --output options --seeds 3

Every option is a chain of changes to the paper's recipe at a size for two cores; random weights of the same
architecture and raw coordinates stand beside it. What is there is not computed again: the folder may be given as often
as needed, and each pretraining run goes on where it was killed. `--only NAME` runs one option. About 4 minutes of one
core for each pretraining run of 600 steps, and 2 for its probes.
"""

from __future__ import annotations

import argparse
import statistics
from itertools import chain, islice
from pathlib import Path
from typing import Any

from fm4npp.data import EventDataset
from fm4npp.evaluation.probing import Settings, probe
from fm4npp.event import Event
from fm4npp.files import read_json, write_json
from fm4npp.modeling import FM4NPPModel
from fm4npp.training import PretrainConfig, pretrain
from fm4npp.training.config import parse

MODEL: dict[str, Any] = {"backbone": {"type": "mamba2", "width": 64, "num_layers": 6, "state_size": 16}}
TRAINING = {"tokens_per_batch": 4096, "learning_rate": 4e-3, "warmup_steps": 50, "clip_norm": 1.0}
LEARNED, ENERGY = "model.embedding={projection: learned}", "model.objective.energy=true"
OFFSETS = ("model.objective={type: k-nnn, targets: offset}", LEARNED)
LINKED = ("model.objective=continuation", LEARNED, ENERGY, "model.serializer=tracklets")
OPTIONS: dict[str, tuple[str, ...]] = {
    "paper": (),
    "paper, embedding learned": (LEARNED,),
    "offsets": OFFSETS,
    "offsets, energies": (*OFFSETS, ENERGY),
    "offsets, energies, 10 neighbours": (*OFFSETS, ENERGY, "model.objective.k=10"),
    "offsets, energies, shorter way round": (*OFFSETS, ENERGY, "model.objective.periodic=true"),
    "offsets, energies, distances in cm": (*OFFSETS, ENERGY, "model.objective.metric=cartesian"),
    "offsets, energies, outwards": (*OFFSETS, ENERGY, "model.serializer=radial"),
    "offsets, energies, Hilbert curve": (*OFFSETS, ENERGY, "model.serializer=hilbert"),
    "offsets, energies, tracklets": (*OFFSETS, ENERGY, "model.serializer=tracklets"),
    "next spacepoint": ("model.objective=next-spacepoint", LEARNED),
    "continuation, raster scan": (*LINKED[:3],),
    "continuation": LINKED,
    "continuation, no neighbours": (*LINKED, "model.objective.nearest=0"),
    "continuation, alternate": (*LINKED, "model.backbone.alternate=true"),
    "continuation, alternate, 2e-3": (*LINKED, "model.backbone.alternate=true", "training.learning_rate=2.0e-3"),
    "continuation, alternate, 8e-3": (*LINKED, "model.backbone.alternate=true", "training.learning_rate=8.0e-3"),
}
MEASURES = (
    ("particle class", "linear", "macro_f1"),
    ("noise", "linear", "average_precision"),
    ("log pT", "linear", "spearman"),
    ("track separation", "triplet map", "track_precision"),
)
"""Task, probe and measure of the table's columns."""
REPRESENTATION = "blocks"


def train(name: str, seed: int, options: argparse.Namespace) -> Path:
    """A pretraining run; one that is finished is not repeated."""
    folder = options.output / "runs" / f"{name.replace(', ', '+').replace(' ', '-')}+{seed}"
    status = folder / "status.json"
    if status.exists() and read_json(status)["status"] == "finished":
        return folder
    training = {**TRAINING, "steps": options.steps, "validate_every": options.steps, "seed": seed}
    data = {"train": [options.data / "train.parquet"], "validation": [options.data / "validation.parquet"]}
    values = {"model": MODEL, "data": {**data, "fit_events": 1000}, "training": {**training, "save_every": 200}}
    pretrain(parse(PretrainConfig, values, OPTIONS[name]), folder, resume=True)
    return folder


def judge(folder: Path, labelled: list[Event], judged: list[Event], *, controls: bool) -> dict[str, Any]:
    """The probes of a run, kept beside it."""
    path = folder / ("probes-and-controls.json" if controls else "probes.json")
    if not path.exists():
        settings = Settings(
            representations=(REPRESENTATION,),
            controls=("random-init", "raw") if controls else (),
            depths=("linear",),
            max_spacepoints=30_000,
        )
        write_json(path, probe(FM4NPPModel.from_pretrained(folder), labelled, judged, settings))
    found: dict[str, Any] = read_json(path)
    return found


def measured(report: dict[str, Any], source: str) -> list[list[float]]:
    """For each measure the values of a source, one for each of its seeds."""
    return [
        [
            score[measure]
            for score in report["scores"]
            if (score["task"], score["probe"], score["source"]) == (task, kind, source)
        ]
        for task, kind, measure in MEASURES
    ]


def row(name: str, columns: list[list[float]]) -> str:
    """Mean and standard deviation over seeds, in Markdown."""
    cells = [
        f"{statistics.mean(values):.3f}" + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else "")
        for values in columns
    ]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of train, labelled and validation.parquet")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--events", type=int, default=250, help="labelled events to train probes, and to judge them")
    parser.add_argument("--only", nargs="*", default=list(OPTIONS), choices=list(OPTIONS), metavar="NAME")
    options = parser.parse_args()
    labelled, judged = (
        list(islice(EventDataset([options.data / f"{name}.parquet"]), options.events))
        for name in ("labelled", "validation")
    )
    print("| | " + " | ".join(f"{task}, {measure}" for task, _, measure in MEASURES) + " |")
    print("|---|" + "---|" * len(MEASURES))
    for name in options.only:
        runs = [train(name, seed, options) for seed in range(options.seeds)]
        # Random weights know nothing of the data: those of one run, over seeds, stand for all.
        reports = [judge(run, labelled, judged, controls=number == 0) for number, run in enumerate(runs)]
        print(row(f"{name}: random weights", measured(reports[0], "random-init")), flush=True)
        each = [measured(report, "model") for report in reports]
        print(row(name, [list(chain(*values)) for values in zip(*each, strict=True)]), flush=True)
    print(row("raw coordinates and features", measured(reports[0], "raw")))


if __name__ == "__main__":
    main()
