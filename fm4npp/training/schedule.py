"""Learning rate over steps and over parameters, and which parameters decay."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

NO_DECAY = ("A_log", "D", "dt_bias")
"""State-space constants, which take no weight decay whatever their shape: A_log of a Mamba-1 block is a matrix."""
RowMultipliers = tuple[tuple[int, float], ...]
"""Consecutive rows of a parameter (its first axis): how many, and what their learning rate is multiplied by."""


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


def decays(name: str, parameter: Tensor) -> bool:
    """Whether a parameter takes weight decay: matrices and convolution taps do; norms, biases and `NO_DECAY` do not."""
    last = name.rpartition(".")[2]
    return parameter.ndim >= 2 and last not in NO_DECAY and not last.endswith("bias")


def parameter_groups(
    model: nn.Module, weight_decay: float, multipliers: Mapping[str, RowMultipliers] | None = None
) -> list[dict[str, Any]]:
    """Groups for `RowAdamW` of the trainable parameters, those that decay first.

    Args:
        model: whose parameters are trained.
        weight_decay: of the parameters that decay, see `decays`.
        multipliers: parameter -> learning-rate multipliers of all its rows; 1 where it is not named.

    Returns:
        Groups with the keys `params`, `weight_decay`, `multiplier` (of the learning rate) and `rows`: `[start, stop,
        multiplier]` of the rows whose own multiplier comes on top of the group's.
    """
    groups: dict[tuple[bool, float, tuple[tuple[int, int, float], ...]], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            multiplier, rows = _relative_rows((multipliers or {}).get(name, ((len(parameter), 1.0),)))
            groups.setdefault((decays(name, parameter), multiplier, rows), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if decay else 0.0,
            "multiplier": multiplier,
            "rows": [list(part) for part in rows],
        }
        for (decay, multiplier, rows), parameters in sorted(groups.items(), key=lambda item: not item[0][0])
    ]


def _relative_rows(parts: RowMultipliers) -> tuple[float, tuple[tuple[int, int, float], ...]]:
    """The first rows' multiplier, and `(start, stop, multiplier / that)` of the rows that differ from them."""
    reference, start, rows = parts[0][1], 0, []
    for count, multiplier in parts:
        if multiplier != reference:
            rows.append((start, start + count, multiplier / reference))
        start += count
    return reference, tuple(rows)


class RowAdamW(torch.optim.AdamW):
    """AdamW that honours the `rows` of `parameter_groups`; without any it is AdamW to the bit.

    A multiplier scales the whole step of its rows, decay included, as a learning rate does.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One optimizer step."""
        kept = [
            (parameter[start:stop], parameter[start:stop].clone(), multiplier)
            for group in self.param_groups
            for start, stop, multiplier in group.get("rows", ())
            for parameter in group["params"]
        ]
        loss = super().step(closure)
        for rows, before, multiplier in kept:
            rows.copy_(before.lerp(rows, multiplier))
        return loss
