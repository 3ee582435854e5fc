"""Whether one model is better than another on the same events: difference, test, effect size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata, wilcoxon

from fm4npp.errors import DataError
from fm4npp.metrics.uncertainty import CONFIDENCE, Interval, bootstrap

Array = NDArray[Any]


@dataclass(frozen=True)
class Paired:
    """Scores of two models on the same events, compared event by event; what is not defined is None.

    Attributes:
        mean_difference: mean over events of the first score - the second.
        interval: of the mean difference, from the bootstrap over events.
        wilcoxon_p: two-sided p-value of the Wilcoxon signed-rank test, events with equal scores left out (Wilcoxon
            1945); 1 if all are equal.
        rank_biserial: matched-pairs rank-biserial correlation: (sum of the ranks of |difference| where the first score
            is higher - sum where the second is) / sum of all, from -1 to 1 (Kerby 2014); 0 if all are equal.
        cohen_d: mean difference / standard deviation of the differences (Cohen's d_z, N - 1 in the denominator); None
            for differences that are all the same, but 0 if they are all 0.
        confidence: confidence level of the interval.
        num_events: events compared.
        num_ties: events with equal scores.
    """

    mean_difference: float | None
    interval: Interval | None
    wilcoxon_p: float
    rank_biserial: float
    cohen_d: float | None
    confidence: float
    num_events: int
    num_ties: int


def paired(first: ArrayLike, second: ArrayLike) -> Paired:
    """Compare two models by their scores of the same events.

    Args:
        first: (E,) finite scores of one model.
        second: (E,) finite scores of the other, of the same events in the same order.

    Raises:
        DataError: if the lengths differ or a score is not finite.
    """
    scores = [np.asarray(values, dtype=np.float64) for values in (first, second)]
    if scores[0].shape != scores[1].shape or scores[0].ndim != 1:
        raise DataError(f"scores of shape {scores[0].shape} and of shape {scores[1].shape} are not of the same events")
    wrong = ~np.isfinite(scores[0] + scores[1])
    if wrong.any():
        raise DataError("a score is not finite", event=int(np.argmax(wrong)), remedy="leave that event out of both")
    difference = scores[0] - scores[1]
    sums = np.stack([difference, np.ones_like(difference)], axis=1)
    changed = difference[difference != 0]
    return Paired(
        mean_difference=float(difference.mean()) if len(difference) else None,
        interval=bootstrap(sums, lambda values: values[..., :1] / values[..., 1:])[0] if len(difference) else None,
        wilcoxon_p=float(wilcoxon(changed).pvalue) if len(changed) else 1.0,
        rank_biserial=_rank_biserial(changed),
        cohen_d=_cohen_d(difference),
        confidence=CONFIDENCE,
        num_events=len(difference),
        num_ties=len(difference) - len(changed),
    )


def holm(p_values: ArrayLike) -> Array:
    """p-values of several comparisons, adjusted so that the chance of any false discovery is bounded (Holm 1979).

    Args:
        p_values: (M,) from 0 to 1.

    Returns:
        (M,) float64 from 0 to 1: the i-th smallest times M + 1 - i, but none below a smaller one's.

    Raises:
        DataError: if one is not a probability.
    """
    values = np.asarray(p_values, dtype=np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise DataError(f"p-values must be a list of numbers from 0 to 1, not {values.tolist()}")
    order = np.argsort(values, kind="stable")
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(np.minimum(values[order] * np.arange(len(values), 0, -1), 1.0))
    return adjusted


def _rank_biserial(changed: Array) -> float:
    """Of (E,) differences that are not 0."""
    ranks = rankdata(np.abs(changed))
    return float((np.sign(changed) * ranks).sum() / ranks.sum()) if len(changed) else 0.0


def _cohen_d(difference: Array) -> float | None:
    if not difference.any():
        return 0.0 if len(difference) else None
    spread = float(difference.std(ddof=1)) if np.ptp(difference) else 0.0
    return float(difference.mean()) / spread if spread else None
