"""How uncertain metrics are: exact intervals of rates, and the bootstrap over events for everything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

Array = NDArray[Any]
Interval = tuple[float, float]

CONFIDENCE = 0.95
"""Of the intervals in reports."""
REPLICAS = 1000
SEED = 0
"""Of the bootstrap: the same events give the same intervals."""
DRAWS = 10**7
"""Numbers drawn at once, which bounds the memory."""


def clopper_pearson(successes: int, trials: int, confidence: float = CONFIDENCE) -> Interval | None:
    """The interval of a rate, exact for independent trials: it covers the true rate at least that often.

    Args:
        successes: of the trials.
        trials: any number; None is returned for 0.
        confidence: between 0 and 1; each tail has half of the rest (Clopper and Pearson 1934).

    Raises:
        ValueError: if there are more successes than trials, or fewer than none.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes in {trials} trials")
    if not trials:
        return None
    tail = (1 - confidence) / 2
    failures = trials - successes
    low = float(betaincinv(successes, failures + 1, tail)) if successes else 0.0
    high = float(betaincinv(successes + 1, failures, 1 - tail)) if failures else 1.0
    return low, high


def bootstrap(
    sums: Array,
    statistic: Callable[[Array], Array],
    *,
    confidence: float = CONFIDENCE,
    replicas: int = REPLICAS,
    seed: int = SEED,
) -> list[Interval | None]:
    """Percentile intervals of metrics that are functions of sums over events, from events drawn with replacement.

    Events are independent; spacepoints and tracks of one event are not, so that they are drawn together (Efron 1979).

    Args:
        sums: (E, M), what every event adds to each of M sums.
        statistic: (..., M) sums to (..., S) metrics, NaN where one is not defined.
        confidence: between 0 and 1.
        replicas: number of samples of E events.
        seed: of these.

    Returns:
        S intervals, None for a metric that no sample defines, or if there are no events. Samples that do not define
        a metric are left out of its interval.
    """
    num_events = len(sums)
    if not num_events:
        return [None] * statistic(sums.sum(axis=0)).shape[-1]
    random = np.random.default_rng(seed)
    at_once = max(DRAWS // num_events, 1)
    share = np.full(num_events, 1 / num_events)
    drawn = [
        random.multinomial(num_events, share, size=min(at_once, replicas - start)) @ sums
        for start in range(0, replicas, at_once)
    ]
    values = statistic(np.concatenate(drawn))
    tail = (1 - confidence) / 2
    return [_quantiles(column[np.isfinite(column)], tail) for column in values.T]


def _quantiles(values: Array, tail: float) -> Interval | None:
    if not len(values):
        return None
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
