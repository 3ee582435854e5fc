"""Whether predicted probabilities are what they say: reliability, expected calibration error, Brier score, log loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm4npp.metrics.uncertainty import Interval, clopper_pearson

Array = NDArray[Any]

NUM_BINS = 15
"""Of the calibration error and the reliability table (Guo et al. 2017)."""
LEAST_PROBABILITY = float(np.finfo(np.float32).eps)
"""Taken for a smaller probability of the true class, of which the logarithm would be infinite."""


@dataclass(frozen=True)
class ReliabilityBin:
    """Spacepoints whose most probable class has a probability in one bin.

    Attributes:
        low: the bin's lower edge, which does not belong to it.
        high: the bin's upper edge, which belongs to it.
        num_hits: spacepoints in the bin.
        mean_probability: of the most probable class, None without spacepoints.
        accuracy: spacepoints of which the most probable class is the true one / all, None without any.
        interval: of the accuracy, that of Clopper and Pearson.
    """

    low: float
    high: float
    num_hits: int
    mean_probability: float | None
    accuracy: float | None
    interval: Interval | None


def equal_width_edges(num_bins: int = NUM_BINS) -> Array:
    """(B - 1,) inner edges of bins of one width between 0 and 1."""
    return np.linspace(0.0, 1.0, num_bins + 1)[1:-1]


def equal_count_edges(values: Array, num_bins: int = NUM_BINS) -> Array:
    """(B - 1,) inner edges, values themselves, of bins of about as many values; equal values share a bin."""
    if not len(values):
        return equal_width_edges(num_bins)
    edges: Array = np.quantile(values, np.arange(1, num_bins) / num_bins, method="inverted_cdf")
    return edges


def reliability_sums(top: Array, right: Array, edges: Array) -> Array:
    """What the bins of a reliability table hold.

    Args:
        top: (N,) probability of the most probable class.
        right: (N,) bool, whether that is the true one.
        edges: (B - 1,) inner edges; an edge belongs to the bin below it.

    Returns:
        (B, 3) float64: spacepoints, sum of their `top`, number of those that are right.
    """
    place, count = np.searchsorted(edges, top, side="left"), len(edges) + 1
    columns = (np.bincount(place, values, minlength=count) for values in (np.ones(len(top)), top, right))
    return np.stack(list(columns), axis=1)


def calibration_error(sums: Array) -> float | None:
    """Mean over spacepoints of |accuracy - mean probability| of their bin, from (B, 3) `reliability_sums`."""
    total = sums[:, 0].sum()
    return float(np.abs(sums[:, 1] - sums[:, 2]).sum() / total) if total else None


def reliability_table(sums: Array) -> tuple[ReliabilityBin, ...]:
    """(B, 3) `reliability_sums` of bins of one width to a table."""
    bounds = np.linspace(0.0, 1.0, len(sums) + 1).tolist()
    return tuple(
        ReliabilityBin(
            low=bounds[index],
            high=bounds[index + 1],
            num_hits=int(count),
            mean_probability=float(top / count) if count else None,
            accuracy=float(right / count) if count else None,
            interval=clopper_pearson(int(right), int(count)),
        )
        for index, (count, top, right) in enumerate(sums)
    )


def brier_scores(true: Array, probabilities: Array) -> Array:
    """(N,) classes, (N, C) probabilities to (N,) sums over the classes of (probability - 1 or 0)^2, from 0 to 2."""
    mine = probabilities[np.arange(len(true)), true].astype(np.float64)
    # sum of p^2 over the other classes plus (1 - p)^2 of the true one, which is exactly 0 if that is certain.
    squares = np.square(probabilities, dtype=np.float64)
    squares[np.arange(len(true)), true] = np.square(1.0 - mine)
    scores: Array = squares.sum(axis=1)
    return scores


def log_losses(true: Array, probabilities: Array) -> Array:
    """(N,) classes, (N, C) probabilities to (N,) minus natural logarithm of the probability of the true class."""
    mine = probabilities[np.arange(len(true)), true].astype(np.float64)
    losses: Array = -np.log(np.maximum(mine, LEAST_PROBABILITY))
    return np.maximum(losses, 0.0)
