"""Mean and standard deviation of a stream of events."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

RESOLUTION = 1e-6
"""Standard deviations below this are rounding (float32 coordinates near 1 differ by 6e-8); they stay unscaled."""


class Moments:
    """Mean and standard deviation of masked numbers, one event after the other.

    Args:
        shape: (k, c).
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.count, self.total, self.squares = np.zeros((shape[0], 1)), np.zeros(shape), np.zeros(shape)

    def add(self, values: Array, valid: Array) -> None:
        """Take in (N, k, c) float64 where (N, k) is true; values elsewhere must be 0."""
        self.count += valid.sum(axis=0)[:, None]
        self.total += values.sum(axis=0)
        self.squares += np.square(values).sum(axis=0)

    def mean_and_std(self) -> tuple[Array, Array]:
        """(k, c) each; mean 0 and deviation 1 in slots that nothing was seen of."""
        seen = np.maximum(self.count, 1)
        mean = self.total / seen
        std = np.sqrt(np.maximum(self.squares / seen - mean**2, 0))
        return mean, np.where(std > RESOLUTION, std, 1.0)
