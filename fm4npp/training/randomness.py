"""The state of every random number generator that a step may draw from, without pickle."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor


def random_state() -> dict[str, Any]:
    """The global generators of torch (on every device), NumPy and Python, of this process, as JSON."""
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002 (whoever uses it goes on too)
    version, internal, gauss_next = random.getstate()
    return {
        "torch": _text(torch.get_rng_state()),
        "devices": [_text(state) for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else [],
        "numpy": {**numpy_state, "state": {**numpy_state["state"], "key": numpy_state["state"]["key"].tolist()}},
        "python": [version, list(internal), gauss_next],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Set them to what `random_state` gave."""
    torch.set_rng_state(_tensor(state["torch"]))
    if state["devices"] and len(state["devices"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([_tensor(text) for text in state["devices"]])
    inner = {**state["numpy"]["state"], "key": np.asarray(state["numpy"]["state"]["key"], dtype=np.uint32)}
    np.random.set_state({**state["numpy"], "state": inner})  # noqa: NPY002
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))


def _text(state: Tensor) -> str:
    return bytes(state.numpy()).hex()


def _tensor(text: str) -> Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
