"""The runs below a folder, read from what training leaves there; torch is not imported."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from fm4npp.errors import DataError
from fm4npp.inspection.run_records import Records, read_records

RUN, METRICS, STATUS, LOCK, CONFIG = "run.json", "metrics.jsonl", "status.json", ".lock", "config.json"
CHECKPOINTS = "checkpoints"
STATUSES = ("running", "finished", "stopped", "failed")
Values = Mapping[str, Any]


@dataclass(frozen=True)
class TrainingRun:
    """What is known of a run; None where nothing is.

    Attributes:
        folder: of the run.
        command: pretrain or adapt.
        what: model and detectors of a pretraining; head and model of an adaptation.
        loss: what the losses measure; only runs of the same may be compared.
        status: running, finished, stopped, failed; killed if it says that it is running but no process holds its lock;
            unknown without a `status.json`.
        message: why it stopped or failed.
        step: optimizer steps done.
        steps: optimizer steps of the whole run.
        records: losses and rates.
        started: when.
        problems: what could not be read, a line each.
    """

    folder: Path
    command: str | None
    what: str
    loss: str
    status: str
    message: str
    step: int | None
    steps: int | None
    records: Records
    started: datetime
    problems: tuple[str, ...] = field(default=())


def find_runs(folder: str | Path) -> list[TrainingRun]:
    """Every run at or below a folder, sorted by start.

    Args:
        folder: a run, or a folder of runs at any depth.

    Raises:
        DataError: if the folder cannot be listed or there is no run.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError("is not a folder", file=root, remedy="give a run's --output, or a folder of runs")
    found = [read_run(path) for path in _folders(root)]
    if not found:
        raise DataError(f"no run in it (no {RUN} at any depth)", file=root, remedy="give a folder of runs")
    return sorted(found, key=lambda run: (run.started.timestamp(), str(run.folder)))


def read_run(folder: Path) -> TrainingRun:
    """What is known of the run in a folder; damage is told in `problems`, never raised."""
    problems: list[str] = []
    run = _json(folder / RUN, problems)
    config = _mapping(run, "config") or run  # the first format was the configuration alone
    model = _json(folder / CONFIG, problems, needed=False)
    status = _json(folder / STATUS, problems, needed=False)
    records = read_records(folder / METRICS, problems)
    command = _command(run, config)
    return TrainingRun(
        folder=folder,
        command=command,
        what=_head(run, config) if command == "adapt" else _model(run, config, model),
        loss=_type(config.get("head")) if command == "adapt" else _objective(config, model),
        status=_status(folder, status),
        message=_text(status.get("message")),
        step=_first_count(status.get("step"), records.step),
        steps=_first_count(status.get("steps"), _mapping(config, "training").get("steps")),
        records=records,
        started=_started(run, folder),
        problems=tuple(problems),
    )


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock on a file.

    It is asked by a shared lock, for which reading the file is enough and which leaves nothing behind.
    """
    try:
        import fcntl
    except ImportError:  # no POSIX system
        return _is_locked_elsewhere(path)
    try:
        with path.open("rb") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is none, or it may not be read
        return False
    return False


def _is_locked_elsewhere(path: Path) -> bool:
    from filelock import FileLock, Timeout

    try:
        if path.exists():
            FileLock(path).acquire(timeout=0).lock.release()
    except Timeout:
        return True
    except OSError:
        return False
    return False


def _folders(root: Path) -> Iterator[Path]:
    """Folders with a run; runs may lie inside a run, but nothing is looked for in checkpoints and hidden folders."""
    for folder, inner, files in os.walk(root):
        inner[:] = sorted(name for name in inner if name != CHECKPOINTS and not name.startswith("."))
        if RUN in files:
            yield Path(folder)


def _json(path: Path, problems: list[str], *, needed: bool = True) -> dict[str, Any]:
    """The object in a JSON file; nothing where it is damaged, which is a problem, or absent, which may be none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if needed:
            problems.append(f"{path}: is missing")
        return {}
    except OSError as error:
        problems.append(f"{path}: cannot be read ({error.strerror or error})")
        return {}
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        problems.append(f"{path}: is damaged (no JSON)")
        return {}
    if not isinstance(value, dict):
        problems.append(f"{path}: is damaged (no JSON object)")
        return {}
    return value


def _command(run: Values, config: Values) -> str | None:
    given = run.get("command")
    if isinstance(given, str):
        return given
    return "pretrain" if "objective" in _mapping(config, "model") else "adapt" if "head" in config else None


def _model(run: Values, config: Values, model: Values) -> str:
    """Such as "m1, 12 layers, sphenix-tpc"."""
    asked, built = _mapping(config, "model"), _mapping(model, "backbone")
    backbone = built or _mapping(asked, "backbone")
    size, width, layers = asked.get("size"), backbone.get("width"), backbone.get("num_layers")
    named = _list(model.get("detectors")) or _list(asked.get("detectors"))
    names = [_name(detector) for detector in named] or [
        _text(file.get("detector")) for file in _list(run.get("data")) if isinstance(file, Mapping)
    ]
    parts = [
        _text(size) or (f"width {width}" if width else ""),
        f"{layers} layers" if layers else "",
        "+".join(dict.fromkeys(name for name in names if name)),
    ]
    return ", ".join(part for part in parts if part)


def _head(run: Values, config: Values) -> str:
    """Such as "track-finding on runs/a"."""
    model = _text(_mapping(run, "base").get("path"))
    return " on ".join(part for part in (_type(config.get("head")), model) if part)


def _objective(config: Values, model: Values) -> str:
    given = model.get("objective") or _mapping(config, "model").get("objective")
    targets = _text(given.get("targets")) if isinstance(given, Mapping) else ""
    return ", ".join(part for part in (_type(given), targets) if part)


def _status(folder: Path, status: Values) -> str:
    given = status.get("status")
    if given not in STATUSES:
        return "unknown"
    return "killed" if given == "running" and not is_locked(folder / LOCK) else str(given)


def _started(run: Values, folder: Path) -> datetime:
    """As the run says, otherwise when its description was written."""
    try:
        return datetime.fromisoformat(run["started"]).astimezone()
    except (KeyError, TypeError, ValueError, OverflowError):
        return datetime.fromtimestamp((folder / RUN).stat().st_mtime).astimezone()


def _mapping(values: Values, key: str) -> Values:
    found = values.get(key)
    return found if isinstance(found, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""


def _type(specification: Any) -> str:
    return _text(specification.get("type") if isinstance(specification, Mapping) else specification)


def _name(detector: Any) -> str:
    """A detector's own name, or that of its type."""
    return (_text(detector.get("name")) if isinstance(detector, Mapping) else "") or _type(detector)


def _first_count(*values: Any) -> int | None:
    counts = (value for value in values if isinstance(value, int | float) and not isinstance(value, bool))
    return next((int(value) for value in counts if math.isfinite(value) and value >= 0), None)
