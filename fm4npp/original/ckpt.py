"""A released `.ckpt` file to a configuration and tensors of this project."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fm4npp.configuration import FM4NPPConfig
from fm4npp.errors import CheckpointError
from fm4npp.files import sha256
from fm4npp.original.layout import HEADS, Misfit, check, configuration, expected_shapes, measure, renamed
from fm4npp.original.unpickling import load_torch

STATE = "model_state"
"""Where the released code keeps the parameters, beside `iters`, `epoch` and the state of the optimizer."""
PARALLEL = "module."
"""Begins every name if the model was saved inside DistributedDataParallel."""
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
"""Kinds of numbers that single precision holds exactly."""


@dataclass(frozen=True)
class Original:
    """A checkpoint of the authors', in this project's terms.

    Attributes:
        config: sizes and components; `training` holds the file's name, its SHA-256, steps and epoch.
        tensors: the state of `FM4NPPModel(config)`, single precision; they may lie in the file until they are copied.
        sha256: of the file.
        iterations: optimizer steps, if the file says so.
        epoch: number of the epoch it was saved in, if the file says so.
    """

    config: FM4NPPConfig
    tensors: Mapping[str, Tensor]
    sha256: str
    iterations: int | None
    epoch: int | None


def read(path: str | Path, *, trust_pickle: bool = False) -> Original:
    """Read a released backbone, Mamba-2 or Mamba-1, of any size.

    The sizes are inferred from the shapes, and every tensor must then be there, in its shape, and none else.

    Args:
        path: the `.ckpt` file.
        trust_pickle: unpickle in full a file that holds more than tensors, plain values and NumPy arrays. This runs
            whatever code is in the file.

    Raises:
        CheckpointError: if the file is damaged, holds something else, or wants to be unpickled in full.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    content = load_torch(path, trust_pickle)
    try:
        state = _state(content)
        tensors = _tensors(state)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        sizes = measure(shapes)
        check(shapes, expected_shapes(sizes))
        _finite(tensors)
    except Misfit as error:
        raise CheckpointError(f"{path}: {error}") from error
    digest = sha256(path)
    iterations, epoch = _count(content, "iters"), _count(content, "epoch")
    training = {"source": path.name, "sha256": digest, "step": iterations, "epoch": epoch}
    config = configuration(sizes).updated(training={key: value for key, value in training.items() if value is not None})
    return Original(config, renamed(tensors, sizes), digest, iterations, epoch)


def _state(content: Any) -> dict[str, Any]:
    """The parameters by their names in the released code, without the prefix of DistributedDataParallel."""
    state = content.get(STATE) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        found = ", ".join(repr(key)[:30] for key in list(content)[:8]) if isinstance(content, dict) else ""
        found = found or type(content).__name__
        raise Misfit(f"holds no {STATE} (found: {found}), so it is none of the released backbones; {HEADS}")
    strange = [name for name in state if not (isinstance(name, str) and re.fullmatch(r"[\w.-]{1,200}", name))]
    if strange:
        raise Misfit(f"holds a parameter called {repr(strange[0])[:80]}, which no model has")
    names = {name.removeprefix(PARALLEL): value for name, value in state.items()}
    if len(names) != len(state):
        raise Misfit(f"holds parameters twice, with and without the prefix {PARALLEL!r}")
    return names


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Parameters to dense single-precision tensors."""
    tensors = {}
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
            raise Misfit(f"{name} is no dense tensor")
        if value.dtype not in DTYPES:
            raise Misfit(f"{name} is {value.dtype}, not one of {', '.join(map(str, DTYPES))}")
        tensors[name] = value.detach().to(torch.float32)
    return tensors


def _finite(tensors: Mapping[str, Tensor]) -> None:
    wrong = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if wrong:
        raise Misfit(f"has values that are not finite in {', '.join(wrong[:8])}")


def _count(content: Mapping[str, Any], key: str) -> int | None:
    value = content.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
