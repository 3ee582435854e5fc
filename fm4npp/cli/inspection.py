"""What `fm4npp inspect` prints of data files, events files, checkpoints and heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fm4npp.cli.distributions import SHOWN, distributed
from fm4npp.data import Accounting
from fm4npp.errors import DataError

Summary = dict[str, Any]

MANY_COLUMNS, FEW_COLUMNS = 24, 12
"""Columns of a table that are all printed; else how many are."""
MANY_TABLES = 6
"""Tables that are printed."""
LONG = 60
"""Characters of a type that are printed."""


def is_model(path: Path) -> bool:
    """Whether a path is the folder of a checkpoint or of a head."""
    if not path.is_dir():
        return False  # before torch is imported
    from fm4npp.configuration import CONFIG_NAME
    from fm4npp.files import current
    from fm4npp.pretrained import HEAD_CONFIG_NAME

    return any((current(path, name) / name).is_file() for name in (CONFIG_NAME, HEAD_CONFIG_NAME))


def folder(path: Path) -> Summary:
    """Components, sizes and hashes of a checkpoint or a head.

    Raises:
        DataError: for any other folder.
        CheckpointError: if it is damaged.
    """
    from fm4npp.checkpoint import read_tensors
    from fm4npp.configuration import CONFIG_NAME
    from fm4npp.errors import CheckpointError
    from fm4npp.files import current, read_json
    from fm4npp.modeling import FM4NPPModel
    from fm4npp.pretrained import HEAD_CONFIG_NAME

    head, place = current(path, HEAD_CONFIG_NAME), current(path, CONFIG_NAME)
    if (head / HEAD_CONFIG_NAME).exists():
        description = read_json(head / HEAD_CONFIG_NAME, CheckpointError)
        count = sum(tensor.numel() for tensor in read_tensors(path).values())
        return {"kind": "head", "path": str(path), "parameters": count, **description}
    if not (place / CONFIG_NAME).exists():
        raise DataError("is neither a checkpoint nor a head", file=path)
    model = FM4NPPModel.from_pretrained(path)
    config = model.config
    return {
        "kind": "checkpoint",
        "path": str(path),
        **model.backbone_identity(),
        "golden_difference": model.verify(place),
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


def lines(summary: Summary) -> list[str]:
    """A summary as text for people."""
    if "tables" in summary:
        return _described(summary)
    if summary["kind"] == "scan":
        return _scanned(summary)
    special = ("accounting", "content", "content_verified", *SHOWN)
    text = _aligned({key: value for key, value in summary.items() if key not in special})
    text += distributed(summary)
    text += accounted(summary["accounting"]) if "accounting" in summary else []
    if summary.get("content_verified"):
        hashes = summary["content"]
        text.append(f"content verified: {hashes if isinstance(hashes, str) else f'{len(hashes)} files'}")
    return text


def accounted(accounting: Summary) -> list[str]:
    """What became of everything that was read, in lines."""
    counted = Accounting.from_dict(accounting)
    text = [
        f"events read: {counted.events_read} = {counted.events_used} used"
        f" + {counted.rejected_events.total()} rejected; {counted.empty_events} empty",
        f"spacepoints read: {counted.spacepoints_read} = {counted.spacepoints_used} used"
        f" + {counted.rejected_spacepoints.total()} rejected"
        + (f" + {counted.other_subsystems} of other subsystems" if counted.other_subsystems else ""),
    ]
    return text + [f"  {line}" for line in counted.lines() if "rejected" in line]


def _described(summary: Summary) -> list[str]:
    size = f", {summary['bytes']:,} bytes" if summary["bytes"] is not None else ""
    text = [f"{summary['path']}: format {summary['reader']}{size}"]
    for table in summary["tables"][:MANY_TABLES]:
        text += ["", *_table(table)]
    if (more := len(summary["tables"]) - MANY_TABLES) > 0:
        text += ["", f"and {more} more tables (all with --json)"]
    text += ["", *_detectors(summary)]
    proposal = f"fm4npp inspect {summary['path']} --propose > my_detector.yaml"
    return [*text, "", f"A detector to start from: {proposal}"]


def _table(table: Summary) -> list[str]:
    columns = {name or "(its only column)": kind for name, kind in table["columns"].items()}
    rows = f"{table['rows']:,} rows, " if table["rows"] is not None else ""
    text = [f"{table['name']}: {rows}{len(columns)} columns"]
    shown = dict(list(columns.items())[: MANY_COLUMNS if len(columns) <= MANY_COLUMNS else FEW_COLUMNS])
    width = max(map(len, shown), default=0)
    text += [
        f"  {name:<{width}}  {kind if len(kind) <= LONG else kind[: LONG - 3] + '...'}" for name, kind in shown.items()
    ]
    more = len(columns) - len(shown)
    return text + ([f"  and {more} more (all with --json)"] if more > 0 else [])


def _detectors(summary: Summary) -> list[str]:
    found = summary["detectors"]
    text = ["No registered detector makes events of it."] if not found else []
    text += [f"  The nearest is {near['detector']}: {near['error']}" for near in summary["nearest"]]
    for trial in found[:1]:
        text += [f"Read by --detector {trial['detector']}; its first events:", *(f"  {line}" for line in _trial(trial))]
    if others := [f"{trial['detector']} ({trial['spacepoints']} spacepoints)" for trial in found[1:]]:
        text.append(f"Columns of the same names are also read by {', '.join(others)}: choose what wrote the file.")
    if summary["not_tried"]:
        text.append(f"Not tried, as opening the file takes long: {', '.join(summary['not_tried'])}")
    return text


def _trial(trial: Summary) -> list[str]:
    per_event = trial["spacepoints_per_event"]
    accounting = Accounting.from_dict(trial["accounting"])
    left_out = accounting.spacepoints_read - accounting.spacepoints_used
    text = [
        f"{trial['events']} events, {trial['spacepoints']} spacepoints ({_plain(per_event['mean'])} an event); "
        f"{left_out} left out, {trial['share_outside_bounds']:.1%} of the rest outside the bounds",
        "; ".join(f"{name} {_plain(low)} to {_plain(high)}" for name, (low, high) in trial["ranges"].items()),
    ]
    tracks = f"; {_plain(trial['tracks_per_event']['mean'])} tracks an event" if "tracks_per_event" in trial else ""
    return [*text, f"labels: {', '.join(trial['labels']) or 'none'}{tracks}"]


def _scanned(summary: Summary) -> list[str]:
    without = summary["spacepoints_without_target"]
    return [
        f"{summary['path']}: {summary['objective']['type']} behind {summary['serializer']}, fitted to "
        f"{summary['events']} events of {summary['detector']}",
        f"targets that the scan has passed already: {summary['passed_share']:.2%}",
        f"targets a spacepoint: {summary['targets_per_spacepoint']:.4g} in the mean; "
        f"{without} of {summary['spacepoints']} spacepoints have none",
    ]


def _aligned(summary: Summary, indent: str = "") -> list[str]:
    width = max((len(key) for key in summary), default=0)
    text = []
    for key, value in summary.items():
        if isinstance(value, dict):
            text += [f"{indent}{key}", *_aligned(value, indent + "  ")] if value else []
        elif value is not None:
            text.append(f"{indent}{key:<{width}}  {_plain(value)}")
    return text


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
