"""Learning rate over steps, and which parameters decay."""

from __future__ import annotations

import math
from typing import Any

from torch import nn


def learning_rate_factor(step: int, steps: int, warmup_steps: int, final: float) -> float:
    """Linear warm-up, then half a cosine (paper section 5.1); a function of the step alone.

    Args:
        step: steps done, 0 before the first.
        steps: of the whole run.
        warmup_steps: steps over which the factor rises linearly; the first step has 1 / warmup_steps.
        final: factor at the last step.

    Returns:
        What the peak learning rate is multiplied by for the next step.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min((step - warmup_steps) / max(steps - 1 - warmup_steps, 1), 1.0)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW groups of the trainable parameters: matrices decay; vectors (norms, biases, A_log, D, dt_bias) do not."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
