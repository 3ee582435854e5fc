"""How well scores tell one class from the rest at every threshold: ROC curve, its area, average precision.

Everything is a function of the numbers of positives and negatives at or above each threshold. Equal scores are one
threshold, so that ties are exact and their order does not matter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

CURVE_POINTS = 200
"""Most points of a curve in reports: neighbours differ by at most 2 / 199 in the sum of both rates, or by one tie."""


def threshold_counts(scores: Array, positive: Array) -> Array:
    """Positives and negatives at or above every threshold.

    Args:
        scores: (N,) finite.
        positive: (N,) bool.

    Returns:
        (K, 2) int64 for the K different scores, the highest first.
    """
    order = np.argsort(-scores)
    ordered = scores[order]
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)[: len(ordered)])
    above = np.cumsum(positive[order], dtype=np.int64)[last]
    return np.stack([above, last + 1 - above], axis=1)


def roc_auc(above: Array) -> Array:
    """Area under the ROC curve: the probability that a positive scores higher than a negative, ties counting half.

    That is the Mann-Whitney statistic over the number of pairs (Hanley and McNeil 1982).

    Args:
        above: (..., K, 2) positives and negatives at or above K thresholds, the highest first, the last below all.

    Returns:
        (...,) float64, NaN without positives or without negatives.
    """
    before = _shifted(above)
    twice_wins = ((above[..., 1] - before[..., 1]) * (above[..., 0] + before[..., 0])).sum(axis=-1)
    positives, negatives = _totals(above)
    with np.errstate(divide="ignore", invalid="ignore"):
        area: Array = twice_wins / (2 * positives * negatives)
    return area


def average_precision(above: Array) -> Array:
    """Mean over the positives of the precision at their own score: sum of (recall step) x precision, in steps.

    Args:
        above: (..., K, 2) positives and negatives at or above K thresholds, the highest first, the last below all.

    Returns:
        (...,) float64, NaN without positives or without negatives.
    """
    steps = above[..., 0] - _shifted(above)[..., 0]
    positives, negatives = _totals(above)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(steps > 0, above[..., 0] / above.sum(axis=-1), 0.0)
        mean: Array = (steps * precision).sum(axis=-1) / np.where(negatives > 0, positives, np.nan)
    return mean


def roc_curve(above: Array, num_points: int = CURVE_POINTS) -> Array:
    """Points of the ROC curve, evenly thinned along it.

    Args:
        above: (K, 2) positives and negatives at or above K thresholds, the highest first, the last below all.
        num_points: at most so many.

    Returns:
        (P, 2) float64, false and true positive rate, from (0, 0) to (1, 1); (0, 2) without positives or negatives.
    """
    positives, negatives = _totals(above)
    if not (positives and negatives):
        return np.zeros((0, 2))
    rates = np.concatenate([np.zeros((1, 2)), above[:, ::-1] / (negatives, positives)])
    along = rates.sum(axis=1)
    chosen = np.unique(np.searchsorted(along, np.linspace(0.0, along[-1], num_points)))
    return rates[chosen]


def _shifted(above: Array) -> Array:
    return np.concatenate([np.zeros_like(above[..., :1, :]), above[..., :-1, :]], axis=-2)


def _totals(above: Array) -> tuple[Array, Array]:
    if not above.shape[-2]:
        none = np.zeros(above.shape[:-2])
        return none, none
    return above[..., -1, 0], above[..., -1, 1]
