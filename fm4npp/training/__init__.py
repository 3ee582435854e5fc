"""Pretraining and adaptation: one loop, on Accelerate."""

from __future__ import annotations

from fm4npp.training.adapt import adapt
from fm4npp.training.config import AdaptConfig, PretrainConfig, TrainingConfig
from fm4npp.training.pretrain import pretrain

__all__ = ["AdaptConfig", "PretrainConfig", "TrainingConfig", "adapt", "pretrain"]
