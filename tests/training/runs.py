"""Small runs, and how two of them are compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from fm4npp.training import AdaptConfig, PretrainConfig
from fm4npp.training.config import parse
from fm4npp.training.state import Saved, newest

MODEL = {
    "serializer": {"type": "raster-scan", "num_bins": [4, 4, 5]},
    "objective": {"type": "k-nnn", "k": 4, "targets": "offset"},
    "backbone": {"type": "mamba2", "width": 32, "num_layers": 2, "state_size": 4, "head_dim": 16},
}
HEAD = {"type": "track-finding", "num_queries": 60, "width": 32, "hidden": 32}


def pretrain_config(files, overrides=(), **training) -> PretrainConfig:
    settings = {"steps": 6, "tokens_per_batch": 600, "warmup_steps": 2, "learning_rate": 1e-3, "validate_every": 3}
    values = {
        "model": MODEL,
        "data": {"train": [str(files["train"])], "validation": [str(files["validation"])]},
        "training": {**settings, "save_every": 100, "log_every": 1, **training},
    }
    return parse(PretrainConfig, values, overrides)


def adapt_config(files, head=HEAD, overrides=(), **training) -> AdaptConfig:
    data = {"train": [str(files["train"])], "validation": [str(files["validation"])]}
    settings = {"steps": 4, "tokens_per_batch": 600, "warmup_steps": 1, "validate_every": 2, "log_every": 1}
    values = {"name": "tracks", "head": head, "data": data, "training": {**settings, **training}}
    return parse(AdaptConfig, values, overrides)


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> dict[int, float]:
    return {record["step"]: record["loss"] for record in metrics(folder) if "loss" in record}


def timeless(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records without what depends on the clock."""
    clock = {"events_per_second", "tokens_per_second", "seconds_elapsed", "wait_share"}
    return [{name: value for name, value in record.items() if name not in clock} for record in records]


def saved(folder: Path) -> Saved:
    found = newest(folder)
    assert found is not None
    return found


def assert_same_run(first: Path, second: Path) -> None:
    """Weights, optimizer, generators, positions, counters and records are equal to the bit."""
    one, two = saved(first), saved(second)
    assert one.step == two.step
    assert {kind: set(tensors) for kind, tensors in one.tensors.items()} == {
        kind: set(tensors) for kind, tensors in two.tensors.items()
    }
    different = [
        f"{kind}: {name}"
        for kind, tensors in one.tensors.items()
        for name, tensor in tensors.items()
        if not torch.equal(tensor, two.tensors[kind][name])
    ]
    assert not different
    values = [state.values["run"] for state in (one, two)]
    for value in values:
        value["progress"]["seconds"] = 0.0
        value["records"] = 0
    assert values[0] == values[1]
    assert timeless(metrics(first)) == timeless(metrics(second))
