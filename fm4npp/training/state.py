"""The training state of a run, `RUN/checkpoints/step-00000025/`: there whole or not at all, whenever it is killed.

A state is written under a temporary name and renamed when it is on the disk. `sealed` says what is in its folder.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from fm4npp.errors import CheckpointError, first_line
from fm4npp.files import discard, reason, remove, sync, temporary_name
from fm4npp.manifest import MANIFEST_NAME
from fm4npp.training import sealed

FOLDER_NAME = "checkpoints"
REPLACED = ".replaced"
"""Ending of a state that makes room for another of the same step; readers know it, for a kill may leave it alone."""
STATE = re.compile(r"step-(\d{8,})(?:\.replaced)?")
TEMPORARY = re.compile(r"\.step-\d{8,}\.\d+\.[0-9a-f]{8}")
STEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Saved:
    """A state that was read and verified.

    Attributes:
        path: its folder.
        step: after which it was written.
        tensors: file stem -> name -> tensor, on the CPU.
        values: file stem -> JSON value.
    """

    path: Path
    step: int
    tensors: dict[str, dict[str, Tensor]]
    values: dict[str, Any]


# ---- writing


def write(
    run: str | Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    values: Mapping[str, Any],
    *,
    keep: int,
) -> Path:
    """Write the state of a run after a step; one of that step that exists already is replaced.

    One process writes: the run is locked, so that every temporary folder found is what a killed one left.

    Args:
        run: folder of the run; created if it does not exist.
        step: counted from 0.
        tensors: file stem -> name -> dense tensor of any type, shape and device; shared memory is stored twice.
        values: file stem -> JSON value with text as keys and finite numbers; tuples come back as lists.
        keep: states of this and of earlier steps that stay, at least 1. Later ones stay until the run comes to their
            step again: they are damaged, or `newest` would have returned them.

    Returns:
        The folder of the state.

    Raises:
        CheckpointError: if a value is not JSON, or if it cannot be written (disk full, quota, file-size limit, no
            permission); the states that are there stay.
        TypeError: for a tensor that is sparse, quantized, without values, or spread over processes.
        ValueError: for a negative step, `keep` below 1, or a stem that cannot name a file.
    """
    if step < 0 or keep < 1:
        raise ValueError(f"a step of at least 0 and at least 1 to keep are needed, not {step} and {keep}")
    final = Path(run) / FOLDER_NAME / folder_name(step)
    _check_stems(tensors, values)
    sealed.check_tensors(tensors)
    texts = {stem: _encoded(value, f"{final / stem}.json") for stem, value in values.items()}
    temporary = final.with_name(temporary_name(f".{final.name}"))
    try:
        _make_folder(final.parent)
        _tidy(final.parent)
        temporary.mkdir()
        sealed.fill(temporary, step, tensors, texts)
        _place(temporary, final)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(_failure(final, error, num_bytes(tensors, texts))) from error
    finally:
        with suppress(OSError):
            remove(temporary)
    _remove_old(final.parent, step, keep)
    return final


def folder_name(step: int) -> str:
    """The name of the folder of a state: `step-00000025`."""
    return f"step-{step:08d}"


def num_bytes(tensors: Mapping[str, Mapping[str, Tensor]], texts: Mapping[str, bytes]) -> int:
    """Bytes that a state takes on the disk, but for the tensors' names and the manifest."""
    sizes = [tensor.numel() * tensor.element_size() for group in tensors.values() for tensor in group.values()]
    return sum(sizes) + sum(len(text) for text in texts.values())


def _check_stems(tensors: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    for stem in (*tensors, *values):
        if not STEM.fullmatch(stem) or stem == Path(MANIFEST_NAME).stem:
            raise ValueError(f"{stem!r} cannot name a file of a checkpoint")


def _encoded(value: Any, where: str) -> bytes:
    try:
        return sealed.encoded(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: cannot be written as JSON ({first_line(error)})") from error


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        sync(folder.parent)


def _place(temporary: Path, final: Path) -> None:
    """Give a whole state its name; what has it makes room under a name that readers know."""
    if os.path.lexists(final):
        final.rename(final.with_name(final.name + REPLACED))
    temporary.rename(final)
    sync(final.parent)


def _tidy(folder: Path) -> None:
    """Remove what a killed writer left; a state that made room for one that never came gets its name back."""
    for path in list(folder.iterdir()):
        if TEMPORARY.fullmatch(path.name):
            _try_to_remove(path)
        elif path.name.endswith(REPLACED) and _step(path.name) is not None:
            final = path.with_name(path.name.removesuffix(REPLACED))
            if os.path.lexists(final):
                _try_to_remove(path)
            else:
                path.rename(final)


def _remove_old(folder: Path, step: int, keep: int) -> None:
    try:
        _tidy(folder)
        found = [path for number, path in states(folder) if number <= step]
    except OSError as error:
        warnings.warn(f"{folder}: older checkpoints cannot be removed ({reason(error)})", stacklevel=3)
        return
    for path in found[keep:]:
        _try_to_remove(path)


def _try_to_remove(path: Path) -> None:
    """What cannot be removed is no reason to stop: the state that matters is written, and the next one tries again."""
    try:
        if TEMPORARY.fullmatch(path.name):
            remove(path)
        else:
            discard(path, path.with_name(temporary_name(f".{path.name.removesuffix(REPLACED)}")))
    except OSError as error:
        warnings.warn(f"{path}: is no longer needed and cannot be removed ({reason(error)})", stacklevel=4)


def _failure(final: Path, error: Exception, size: int) -> str:
    try:
        names = [path.name for _, path in states(final.parent)]
    except OSError:
        names = []
    kept = f"the previous checkpoint {names[0]} is kept" if names else "there is no earlier checkpoint"
    return f"{final}: cannot be written ({reason(error)}); it needs {size:,} bytes; {kept}"


# ---- reading


def newest(run: str | Path) -> Saved | None:
    """The newest state of a run that is whole; a damaged one is skipped with a warning.

    Returns:
        None if the run has none.

    Raises:
        CheckpointError: if it has some and all are damaged.
    """
    folder = Path(run) / FOLDER_NAME
    problems: list[str] = []
    try:
        found = states(folder)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read ({reason(error)})") from error
    for _, path in found:
        try:
            saved = read(path)
        except CheckpointError as error:
            problems.append(str(error))
            continue
        for problem in problems:
            warnings.warn(f"{problem}; it is skipped, {path.name} is used", stacklevel=2)
        return saved
    if problems:
        raise CheckpointError(f"{problems[0]}; no other checkpoint is whole, so start anew in another folder")
    return None


def read(path: str | Path) -> Saved:
    """Read a state and verify every bit of it.

    Args:
        path: its folder.

    Raises:
        CheckpointError: naming the file that is missing, damaged, or not of the state.
    """
    path = Path(path)
    step, tensors, values = sealed.contents(path)
    if _step(path.name) not in (None, step):
        raise CheckpointError(f"{path}: is damaged (it holds step {step}, which its name denies)")
    return Saved(path, step, tensors, values)


def states(folder: Path) -> list[tuple[int, Path]]:
    """Steps and folders of all states in `RUN/checkpoints`, the newest first, whole or not; none without a folder."""
    paths = list(folder.iterdir()) if os.path.lexists(folder) else []
    found = [(step, path) for path in paths if (step := _step(path.name)) is not None]
    return sorted(found, key=lambda state: (-state[0], state[1].name))  # before the one of that step it replaced


def _step(name: str) -> int | None:
    match = STATE.fullmatch(name)
    step = int(match[1]) if match else -1
    return step if name.removesuffix(REPLACED) == folder_name(step) else None
