"""Starting a run, or going on with one: which folder, from which state, and is it the same run?"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from fm4npp.errors import CheckpointError, ConfigurationError
from fm4npp.training.config import Strict
from fm4npp.training.guards import LOCK_NAME, locked
from fm4npp.training.state import Saved, newest, read

Value = TypeVar("Value")
HARMLESS = {
    "training": {"save_every", "keep_checkpoints", "log_every", "trackers"},
    "data": {"train", "validation", "cache", "features"},
}
"""Settings that do not change what a run computes; data is compared by its content."""


def processes() -> PartialState:
    """The processes of this run, joined into one group if a launcher started several.

    Accelerate joins processes without an accelerator only when it is told that there is none; left alone, each would
    train a model of its own and write it to the same place.
    """
    return PartialState(cpu=not torch.accelerator.is_available())


@contextmanager
def opened(folder: Path, *, resume: bool) -> Iterator[Saved | None]:
    """Hold the folder of a run, for all processes.

    Args:
        folder: created if it does not exist.
        resume: go on with the run in it, if there is one.

    Yields:
        The newest state that is whole; None for a run that begins.

    Raises:
        ConfigurationError: if another run holds the folder, or it holds anything and the run is not to be resumed.
        CheckpointError: if no saved state is whole.
    """
    group = processes()
    if not group.is_main_process:
        yield _shared(None)
        return
    with locked(folder):
        if not resume and any(path.name != LOCK_NAME for path in folder.iterdir()):
            raise ConfigurationError(f"{folder}: is not empty; use another --output, or --resume the run in it")
        saved = newest(folder) if resume else None
        if resume and saved is None:
            warnings.warn(f"{folder}: holds no checkpoint to resume from; the run begins", stacklevel=4)
        yield _shared(saved)


def _shared(saved: Saved | None) -> Saved | None:
    """What the main process found, on every process; all have looked before one writes."""
    path = broadcast((saved.path if saved is not None else None,))[0]
    return saved if processes().is_main_process or path is None else read(path)


def broadcast(value: Value | None) -> Value:
    """The main process's value, on every process."""
    values = [value]
    if processes().num_processes > 1:
        broadcast_object_list(values)
    return cast(Value, values[0])


def identity(config: Strict, data: Mapping[str, Sequence[Mapping[str, Any]]], **more: Any) -> dict[str, Any]:
    """What decides the result of a run: its configuration, the content of its data, the number of processes.

    Args:
        config: of the run.
        data: split -> `data_identity` of its files.
        more: anything else, as JSON.
    """
    values = config.model_dump(mode="json")
    for section, names in HARMLESS.items():
        values[section] = {name: value for name, value in values[section].items() if name not in names}
    if not values["data"]["streaming"]:
        values["training"].pop("num_workers")
    content = {split: [_content(file) for file in files] for split, files in data.items()}
    return {"config": values, "data": content, "processes": processes().num_processes, **more}


def _content(file: Mapping[str, Any]) -> dict[str, Any]:
    """Files may move; what is on the Hub is known by its place only."""
    return {name: value for name, value in file.items() if name != "path"} or dict(file)


def check_same(saved: Mapping[str, Any], own: Mapping[str, Any], folder: Path) -> None:
    """Refuse to resume another run.

    Raises:
        CheckpointError: naming every setting that differs.
    """
    found = list(differences(saved, own))
    if found:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise CheckpointError(
            f"{folder}: holds another run ({'; '.join(found[:5])}{more}); resume it with its own settings, data and "
            "number of processes, or use another --output"
        )


def differences(saved: Any, own: Any, where: str = "") -> Iterator[str]:
    """Where two JSON values differ, as "key.path: saved, now own"."""
    if isinstance(saved, Mapping) and isinstance(own, Mapping):
        for key in dict.fromkeys([*saved, *own]):
            yield from differences(saved.get(key), own.get(key), f"{where}.{key}".removeprefix(".config").lstrip("."))
    elif saved != own:
        yield f"{where}: {_short(saved)}, now {_short(own)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def check_threads(saved: int) -> None:
    """Say so if the number of threads differs, as the last bits of a result then may."""
    if saved != torch.get_num_threads():
        warnings.warn(
            f"the run was on {saved} threads and goes on with {torch.get_num_threads()}: its results may differ in the "
            "last bits from those of a run that was not stopped",
            stacklevel=3,
        )
