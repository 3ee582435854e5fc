"""How many labels one variant needs to be as good as another, from the scores of both on a grid of labels.

The score between two numbers of labels is read off a straight line in log(labels), and nothing is read off outside the
grid: what is not reached within it is an open bound, never an extrapolation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fm4npp.metrics.uncertainty import CONFIDENCE, REPLICAS, SEED

Array = NDArray[Any]

ASKED = 4.0
"""The factor that is asked about: does pretraining save 4 times the labels?"""


class Bracket(NamedTuple):
    """What is known of a positive number.

    Attributes:
        low: it is at least so much; 0 where nothing bounds it from below.
        high: it is at most so much, `math.inf` where nothing bounds it from above; equal to `low` if it is known.
    """

    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.low:.3g} x"
        if not self.low:
            return f"fewer than {self.high:.3g} x" if math.isfinite(self.high) else "unknown"
        return f"more than {self.low:.3g} x" if math.isinf(self.high) else f"{self.low:.3g} to {self.high:.3g} x"


class LabelRatio(NamedTuple):
    """The labels that one variant needs, over those of another with the same score.

    Attributes:
        labels: N of the reference, whose mean score at N is to be reached.
        ratio: labels needed / N.
        interval: of the ratio, from the bootstrap over seeds; None for fewer than two.
        num_seeds: seeds that both variants have.
    """

    labels: int
    ratio: Bracket
    interval: Bracket | None
    num_seeds: int


def labels_to_reach(labels: Sequence[int], scores: Sequence[float] | Array, target: float) -> Bracket:
    """With how many labels a score is reached first.

    Args:
        labels: (L,) increasing.
        scores: (L,) with so many labels, higher is better.
        target: score to be reached.

    Returns:
        The number of labels, by linear interpolation in log(labels); at most the smallest if its score is above the
        target, and at least the largest if none reaches it.
    """
    reached = np.flatnonzero(np.asarray(scores) >= target)
    if not len(reached):
        return Bracket(float(labels[-1]), math.inf)
    first = int(reached[0])
    if scores[first] == target:
        return Bracket(float(labels[first]), float(labels[first]))
    if not first:
        return Bracket(0.0, float(labels[0]))
    share = (target - scores[first - 1]) / (scores[first] - scores[first - 1])
    found = float(labels[first - 1] * (labels[first] / labels[first - 1]) ** share)
    return Bracket(found, found)


def label_ratios(labels: Sequence[int], reference: Array, other: Array) -> list[LabelRatio]:
    """The label ratio of two variants at every number of labels.

    The seeds are drawn together for both variants and all numbers of labels, for a seed's subsets are nested and the
    same for all variants. Of very few seeds the bootstrap sees too little of the spread.

    Args:
        labels: (L,) increasing.
        reference: (L, S) scores, higher is better, of S seeds.
        other: (L, S) scores of the variant whose need of labels is counted, for the same seeds.
    """
    num_seeds = reference.shape[1]
    drawn = np.random.default_rng(SEED).integers(num_seeds, size=(REPLICAS if num_seeds > 1 else 0, num_seeds))
    targets, curves = reference[:, drawn].mean(axis=2), other[:, drawn].mean(axis=2)  # (L, replicas)
    found = []
    for row, count in enumerate(labels):
        ratio = _over(labels_to_reach(labels, other.mean(axis=1), reference[row].mean()), count)
        replicas = [_over(labels_to_reach(labels, c, t), count) for t, c in zip(targets[row], curves.T, strict=True)]
        found.append(LabelRatio(int(count), ratio, _interval(replicas), num_seeds))
    return found


def _over(bracket: Bracket, count: int) -> Bracket:
    return Bracket(bracket.low / count, bracket.high / count)


def _interval(replicas: Sequence[Bracket]) -> Bracket | None:
    """Quantiles of the bounds, each of which is one of the replicas': between a number and infinity there is none."""
    if not replicas:
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.array(replicas).T
    return Bracket(float(np.quantile(low, tail, method="lower")), float(np.quantile(high, 1 - tail, method="higher")))


def verdict(found: LabelRatio, asked: float = ASKED) -> str:
    """Whether the ratio is at least so much: "yes" or "no" if the whole interval says so, else "not decided"."""
    if found.interval is None:
        return "not decided"
    if found.interval.low >= asked:
        return "yes"
    return "no" if found.interval.high < asked else "not decided"


def answer(metric: str, ratios: Mapping[str, Sequence[LabelRatio]], asked: float = ASKED) -> str:
    """One sentence on whether pretraining saves so many labels.

    Args:
        metric: that was equal.
        ratios: variant without pretraining -> its label ratios to the pretrained one.
        asked: the factor.
    """
    parts = [
        f"against {variant} " + ", ".join(f"at {one.labels:,} labels {_told(one, asked)}" for one in found)
        for variant, found in ratios.items()
    ]
    told = "; ".join(parts)
    return f"Does pretraining save {asked:g} x the labels, at equal {metric}? {told[:1].upper()}{told[1:]}."


def _told(found: LabelRatio, asked: float) -> str:
    interval = "one seed" if found.interval is None else f"{CONFIDENCE:.0%}: {found.interval}"
    return f"{verdict(found, asked)} ({found.ratio}; {interval})"
