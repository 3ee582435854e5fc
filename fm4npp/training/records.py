"""What a run tells: a line of JSON for every record, its status, and where it came from."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from pydantic import BaseModel

from fm4npp import __version__
from fm4npp.errors import FM4NPPError
from fm4npp.files import write_json
from fm4npp.modeling import FM4NPPModel

RUN_NAME = "run.json"
METRICS_NAME = "metrics.jsonl"
STATUS_NAME = "status.json"
Metrics = dict[str, Any]


class Records:
    """The records of a run, in `metrics.jsonl` and wherever else they go; only the main process keeps any.

    Args:
        folder: of the run.
        main: whether this is the main process.
        listeners: called with every record.
    """

    def __init__(self, folder: Path, *, main: bool, listeners: Sequence[Callable[[Metrics], None]] = ()) -> None:
        self.path, self.main, self._listeners = folder / METRICS_NAME, main, listeners

    @property
    def num_bytes(self) -> int:
        """Length of the file: what was recorded before a checkpoint."""
        return self.path.stat().st_size if self.path.exists() else 0

    def cut(self, num_bytes: int) -> None:
        """Forget what was recorded after a checkpoint: those steps are done again."""
        if self.main:
            with self._writing(), self.path.open("ab") as handle:
                handle.truncate(num_bytes)

    def add(self, record: Metrics) -> None:
        """Keep a record and pass it on."""
        if not self.main:
            return
        with self._writing(), self.path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(record, allow_nan=False) + "\n")
        for listener in self._listeners:
            listener(record)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FM4NPPError(f"{self.path}: cannot be written ({error.strerror or error})") from error


def write_status(folder: Path, status: str, step: int, steps: int, message: str = "") -> None:
    """Write `status.json`: "running", "finished", "stopped" (to be resumed) or "failed", and how far the run is."""
    values = {"status": status, "step": step, "steps": steps, "message": message, "updated": _now()}
    write_json(folder / STATUS_NAME, values)


def describe(
    command: str,
    config: BaseModel,
    data: Mapping[str, Sequence[Metrics]],
    model: FM4NPPModel,
    group: PartialState,
    **more: Any,
) -> Metrics:
    """What `run.json` holds: everything that decided the result, and when it was started.

    Args:
        command: "pretrain" or "adapt".
        config: complete, with all defaults.
        data: split -> what identifies its files.
        model: on its device.
        group: the processes of the run.
        more: other entries.
    """
    return {
        "format": 1,
        "command": command,
        "config": config.model_dump(mode="json"),
        **more,
        "versions": {
            "fm4npp": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("accelerate", "numpy", "torch")},
        },
        "git": git_revision(),
        "data": [{"split": split, **file} for split, files in data.items() for file in files],
        "device": _device(model.device),
        "backend": model.backend,
        "num_processes": group.num_processes,
        "num_threads": torch.get_num_threads(),
        "parameters": {"trained": model.num_parameters(), "all": model.num_parameters(trainable=False)},
        "started": _now(),
    }


def _device(device: torch.device) -> str:
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def git_revision() -> Metrics | None:
    """The revision of the code, if it runs from a checkout of its own, and whether files differ from it."""
    root = Path(__file__).resolve().parents[2]
    with suppress(OSError, subprocess.SubprocessError):
        if (root / ".git").exists():
            return {"revision": _git(root, "rev-parse", "HEAD"), "dirty": bool(_git(root, "status", "--porcelain"))}
    return None


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
