"""An exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """The average of a model's trainable weights over the steps: average = decay * average + (1 - decay) * weights.

    In the first steps the decay is (1 + n) / (10 + n) where that is smaller, so that the initial weights are
    forgotten (the rule of TensorFlow's ExponentialMovingAverage).

    Args:
        model: whose weights are averaged; the average starts at them.
        decay: in one step.

    Attributes:
        weights: parameter -> its average, on the device of the parameter and sharded like it.
        updates: number of steps so far.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self._model = model
        self.weights: dict[str, Tensor] = {name: p.detach().clone() for name, p in self._trained()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights after one more step."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, parameter in self._trained():
            self.weights[name].lerp_(parameter.detach(), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averages in place of its weights."""
        kept = self._exchange(self.weights)
        try:
            yield
        finally:
            self._exchange(kept)

    @torch.no_grad()
    def _exchange(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        kept = {name: parameter.detach().clone() for name, parameter in self._trained()}
        for name, parameter in self._trained():
            parameter.copy_(weights[name])
        return kept

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self._model.named_parameters() if p.requires_grad]
