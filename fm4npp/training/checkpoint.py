"""The state of a run, for `--resume`: written whole or not at all, read without executing anything."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from fm4npp.errors import CheckpointError, first_line
from fm4npp.files import atomic_path

STATE_NAME = "last.pt"


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write the state of a run to `last.pt`, atomically.

    Args:
        folder: of the run.
        state: tensors, numbers, strings, lists and dictionaries only.
    """
    with atomic_path(folder / STATE_NAME) as temporary:
        torch.save(state, temporary)


def load_state(folder: Path) -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises:
        CheckpointError: if there is none, or it is damaged or holds more than plain values.
    """
    path = folder / STATE_NAME
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: is missing, so there is nothing to resume; start without --resume") from error
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: is damaged ({first_line(error)}); start without --resume") from error
    if not isinstance(state, dict) or "step" not in state:
        raise CheckpointError(f"{path}: is not the state of a run")
    return state
