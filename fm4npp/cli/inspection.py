"""What `fm4npp inspect` says of events files, checkpoints and heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fm4npp.errors import DataError
from fm4npp.event import PARTICLE_CLASSES

Summary = dict[str, Any]


def events_file(path: Path) -> Summary:
    """Counts, ranges and labels of an events file (Parquet).

    Raises:
        DataError: for any other file.
    """
    from fm4npp.data import read_events
    from fm4npp.files import sha256
    from fm4npp.readers.events_parquet import read_metadata

    metadata = read_metadata(path)
    sizes, tracks = [], []
    ranges: dict[str, tuple[float, float]] = {}
    classes, noise, labelled = np.zeros(len(PARTICLE_CLASSES), dtype=np.int64), 0, 0
    subsystems = np.zeros(max(len(metadata["subsystems"]), 1), dtype=np.int64)
    for event in read_events(path):
        sizes.append(len(event))
        columns = dict(zip("xyz", event.positions.T, strict=True)) | {
            name: event.feature(name) for name in event.feature_names
        }
        for name, values in columns.items():
            if len(values):
                low, high = ranges.get(name, (np.inf, -np.inf))
                ranges[name] = (min(low, float(values.min())), max(high, float(values.max())))
        subsystems += np.bincount(event.ids, minlength=len(subsystems))
        if "track_id" in event.labels:
            tracks.append(len(np.unique(event.labels["track_id"][event.labels["track_id"] >= 0])))
        if "particle_class" in event.labels:
            known = event.labels["particle_class"]
            classes += np.bincount(known[known >= 0], minlength=len(classes))
        if "is_noise" in event.labels:
            noise += int(event.labels["is_noise"].sum())
            labelled += len(event)
    hits = int(sum(sizes))
    summary: Summary = {
        "kind": "events file",
        "path": str(path),
        "sha256": sha256(path),
        **{key: metadata[key] for key in ("detector", "version", "features", "labels", "particles", "scalars")},
        "events": len(sizes),
        "empty_events": sizes.count(0),
        "spacepoints": hits,
        "spacepoints_per_event": {"mean": hits / len(sizes), "max": max(sizes)} if sizes else {},
        "spacepoints_of": dict(zip(metadata["subsystems"], subsystems.tolist(), strict=False)),
        "ranges": {name: list(values) for name, values in ranges.items()},
    }
    if tracks:
        summary["tracks_per_event"] = {"mean": float(np.mean(tracks)), "max": int(max(tracks))}
    if classes.any():
        summary["particle_classes"] = dict(zip(PARTICLE_CLASSES, classes.tolist(), strict=True))
    if labelled:
        summary["noise_share"] = noise / labelled
    return summary


def folder(path: Path) -> Summary:
    """Components, sizes and hashes of a checkpoint or a head.

    Raises:
        DataError: for any other folder.
        CheckpointError: if it is damaged.
    """
    from fm4npp.checkpoint import read_tensors
    from fm4npp.configuration import CONFIG_NAME
    from fm4npp.errors import CheckpointError
    from fm4npp.files import read_json
    from fm4npp.modeling import FM4NPPModel
    from fm4npp.pretrained import HEAD_CONFIG_NAME

    if (path / HEAD_CONFIG_NAME).exists():
        description = read_json(path / HEAD_CONFIG_NAME, CheckpointError)
        count = sum(tensor.numel() for tensor in read_tensors(path).values())
        return {"kind": "head", "path": str(path), "parameters": count, **description}
    if not (path / CONFIG_NAME).exists():
        raise DataError("is neither a checkpoint nor a head", file=path)
    model = FM4NPPModel.from_pretrained(path)
    config = model.config
    return {
        "kind": "checkpoint",
        "path": str(path),
        **model.backbone_identity(),
        "golden_difference": model.verify(path),
        "parameters": model.num_parameters(),
        "frozen_parameters": model.num_parameters(trainable=False) - model.num_parameters(),
        "backbone": config.backbone,
        "embedding": config.embedding.model_dump(mode="json"),
        "objective": {k: v for k, v in config.objective.spec().items() if not isinstance(v, list)},
        "detectors": [detector.name for detector in config.detectors],
        "serializers": {name: s.registered_name for name, s in config.serializers.items()},
        "fitted": config.fitted,
        "heads": {name: spec["type"] for name, spec in config.heads.items()},
        "training": {key: value for key, value in config.training.items() if key != "run"},
    }


def lines(summary: Summary, indent: str = "") -> list[str]:
    """The summary as aligned text."""
    width = max((len(key) for key in summary), default=0)
    text = []
    for key, value in summary.items():
        if isinstance(value, dict):
            text += [f"{indent}{key}", *lines(value, indent + "  ")] if value else []
        else:
            text.append(f"{indent}{key:<{width}}  {_plain(value)}")
    return text


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
