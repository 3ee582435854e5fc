"""Pretraining and adaptation: one loop, on Accelerate.

Configurations are read and checked without torch, so that a mistake in one is found at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fm4npp.training.config import AdaptConfig, PretrainConfig, TrainingConfig

if TYPE_CHECKING:
    from fm4npp.training.adaptation import adapt
    from fm4npp.training.pretraining import pretrain

_LAZY = {"adapt": "adaptation", "pretrain": "pretraining"}

__all__ = ["AdaptConfig", "PretrainConfig", "TrainingConfig", "adapt", "pretrain"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
