"""How good predicted class probabilities are: their order (ROC, precision) and their size (calibration)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fm4npp.errors import DataError
from fm4npp.metrics.calibration import (
    ReliabilityBin,
    brier_scores,
    calibration_error,
    equal_count_edges,
    equal_width_edges,
    log_losses,
    reliability_sums,
    reliability_table,
)
from fm4npp.metrics.ranking import average_precision, roc_auc, roc_curve, threshold_counts
from fm4npp.metrics.uncertainty import CONFIDENCE, Interval, bootstrap

Array = NDArray[Any]
PerClass = tuple[float | None, ...]
Curve = tuple[tuple[float, float], ...]

SUM_TOLERANCE = 0.01
"""Of the sum of a spacepoint's probabilities, which half-precision arithmetic rounds."""
SCORE_BINS, LEAST_SCORE_BINS = 500, 10
"""Of all classes together, and of each at least, in the bootstrap of areas, which bounds its memory and time."""


@dataclass(frozen=True)
class ProbabilityMetrics:
    """Metrics of class probabilities, every labelled spacepoint counting once; what is not defined is None.

    Attributes:
        expected_calibration_error: mean over spacepoints of |accuracy - mean probability of the most probable class| of
            their bin, in 15 bins of one width of that probability (Naeini et al. 2015; Guo et al. 2017).
        expected_calibration_error_equal_count: mean over spacepoints of |accuracy - mean probability of the most
            probable class| of their bin, in 15 bins of about as many spacepoints each (adaptive bins, Nguyen and
            O'Connor 2015).
        brier_score: mean of the sum over classes of (probability - 1 for the true class, 0 for others) squared, from 0
            to 2 (Brier 1950).
        log_loss: mean of minus the natural logarithm of the true class's probability, which counts as 1.2e-7 where it
            is smaller.
        roc_auc: of every class against the rest, the probability that one of its spacepoints is given a higher
            probability of it than another spacepoint, ties counting half; None for a class without any or with all.
        average_precision: of every class against the rest, the mean over its spacepoints of the precision at a
            threshold of their own probability; None for a class without any or with all.
        prevalence: of every class, true spacepoints / all: the average precision of a random score.
        macro_roc_auc: mean of the areas under the ROC curve over the classes that have one.
        macro_average_precision: mean of the average precision over the classes that have one.
        reliability: accuracy and mean probability of the most probable class in 15 bins of one width.
        roc_curves: of every class at most 200 points, false and true positive rate; none for a class without any
            or with all.
        intervals: `brier_score`, `log_loss`, `macro_roc_auc` and `macro_average_precision` -> interval or None, from
            the bootstrap over events; for the areas and precisions with probabilities binned at quantiles of the
            class's own spacepoints, moved by what that changes in the metric. None of the calibration errors, which
            resampling biases upward.
        roc_auc_intervals: of every class, the interval of `roc_auc`, or None, made as in `intervals`.
        average_precision_intervals: of every class, the interval of `average_precision`, or None, made as in
            `intervals`.
        confidence: confidence level of the intervals.
        num_events: all events, empty ones too.
        num_empty_events: events without labelled spacepoints.
        num_hits: labelled spacepoints.
        num_unlabelled: spacepoints left out because their true class is below 0.
    """

    expected_calibration_error: float | None
    expected_calibration_error_equal_count: float | None
    brier_score: float | None
    log_loss: float | None
    roc_auc: PerClass
    average_precision: PerClass
    prevalence: PerClass
    macro_roc_auc: float | None
    macro_average_precision: float | None
    reliability: tuple[ReliabilityBin, ...]
    roc_curves: tuple[Curve, ...]
    intervals: dict[str, Interval | None]
    roc_auc_intervals: tuple[Interval | None, ...]
    average_precision_intervals: tuple[Interval | None, ...]
    confidence: float
    num_events: int
    num_empty_events: int
    num_hits: int
    num_unlabelled: int


def evaluate_probabilities(events: Iterable[tuple[ArrayLike, ArrayLike]], num_classes: int) -> ProbabilityMetrics:
    """Metrics of class probabilities of a set of events, read once and one by one, and kept.

    Args:
        events: for every event the true classes (N,), below 0: unknown, and the probabilities (N, C).
        num_classes: C.

    Raises:
        DataError: if an event's lengths differ, a class is out of range, or probabilities are not ones.
    """
    classes, chances, sizes, num_all = [np.zeros(0, np.int64)], [np.zeros((0, num_classes), np.float32)], [], 0
    for index, (true, probabilities) in enumerate(events):
        try:
            actual, given = _checked(true, probabilities, num_classes)
        except DataError as error:
            raise error.at(event=index) from None
        labelled = actual >= 0
        classes.append(actual[labelled])
        chances.append(given[labelled])
        sizes.append(int(labelled.sum()))
        num_all += len(actual)
    return _metrics(np.concatenate(classes), np.concatenate(chances), np.array(sizes, dtype=np.int64), num_all)


def _checked(true: ArrayLike, probabilities: ArrayLike, num_classes: int) -> tuple[Array, Array]:
    actual, given = np.asarray(true).astype(np.int64), np.asarray(probabilities)
    if given.size == 0 and actual.shape == (0,):
        given = np.zeros((0, num_classes), np.float32)
    if actual.ndim != 1 or given.shape != (len(actual), num_classes):
        raise DataError(f"true classes of shape {actual.shape}, probabilities of shape {given.shape}")
    if (actual >= num_classes).any():
        raise DataError(f"the true class {actual.max()} is not one of 0 to {num_classes - 1}")
    wrong = ~((given >= 0) & (given <= 1)).all(axis=1) | ~(np.abs(given.sum(axis=1) - 1) <= SUM_TOLERANCE)
    if wrong.any():
        raise DataError(f"the probabilities of spacepoint {int(np.argmax(wrong))} are not from 0 to 1 with the sum 1")
    return actual, given.astype(np.float64 if given.dtype == np.float64 else np.float32, copy=False)


def _metrics(true: Array, chances: Array, sizes: Array, num_all: int) -> ProbabilityMetrics:
    """Metrics of (N,) classes and (N, C) probabilities of events of (E,) sizes, end to end."""
    owner = np.repeat(np.arange(len(sizes)), sizes)
    num_classes = chances.shape[1]
    counts = [threshold_counts(chances[:, index], true == index) for index in range(num_classes)]
    areas = np.array([roc_auc(above) for above in counts])
    precisions = np.array([average_precision(above) for above in counts])
    exact = np.concatenate([areas, precisions, [_mean(areas)[()], _mean(precisions)[()]]])
    of_ranking = _ranking_intervals(true, chances, owner, len(sizes), exact)
    columns = (np.ones(len(true)), brier_scores(true, chances), log_losses(true, chances))
    sums = np.stack([np.bincount(owner, values, minlength=len(sizes)) for values in columns], axis=1)
    top, right = chances.max(axis=1), chances.argmax(axis=1) == true
    table = reliability_sums(top, right, equal_width_edges())
    brier, loss = _defined(_ratios(sums.sum(axis=0)))
    names = ("brier_score", "log_loss", "macro_roc_auc", "macro_average_precision")
    return ProbabilityMetrics(
        expected_calibration_error=calibration_error(table),
        expected_calibration_error_equal_count=calibration_error(reliability_sums(top, right, equal_count_edges(top))),
        brier_score=brier,
        log_loss=loss,
        roc_auc=_defined(areas),
        average_precision=_defined(precisions),
        prevalence=tuple(float((true == index).mean()) if len(true) else None for index in range(num_classes)),
        macro_roc_auc=_defined(exact)[-2],
        macro_average_precision=_defined(exact)[-1],
        reliability=reliability_table(table),
        roc_curves=tuple(tuple((x, y) for x, y in roc_curve(above).tolist()) for above in counts),
        intervals=dict(zip(names, [*bootstrap(sums, _ratios), *of_ranking[-2:]], strict=True)),
        roc_auc_intervals=tuple(of_ranking[:num_classes]),
        average_precision_intervals=tuple(of_ranking[num_classes:-2]),
        confidence=CONFIDENCE,
        num_events=len(sizes),
        num_empty_events=int((sizes == 0).sum()),
        num_hits=len(true),
        num_unlabelled=num_all - len(true),
    )


def _ratios(sums: Array) -> Array:
    """(..., 3) number, sum of Brier scores and of log losses to (..., 2) means, NaN of nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        means: Array = sums[..., 1:] / sums[..., :1]
    return means


def _ranking_intervals(
    true: Array, chances: Array, owner: Array, num_events: int, exact: Array
) -> list[Interval | None]:
    """Intervals of (2 C + 2,) areas and average precisions of each class and their means, over events."""
    num_classes = chances.shape[1]
    budget = max(SCORE_BINS // max(num_classes, 1), LEAST_SCORE_BINS)
    num_bins = 1 + min(budget, max(int(np.bincount(true, minlength=1).max()), 1))
    histograms = np.zeros((num_events, num_classes, num_bins, 2))
    for index in range(num_classes):
        positive, scores = true == index, chances[:, index]
        place = _descending_places(scores, scores[positive], num_bins)
        cell = (owner * num_bins + place) * 2 + ~positive
        counts = np.bincount(cell, minlength=num_events * num_bins * 2)
        histograms[:, index] = counts.reshape(num_events, num_bins, 2)
    statistic = _of_histograms(num_classes, num_bins)
    sums = histograms.reshape(num_events, num_classes * num_bins * 2)
    binned, intervals = statistic(sums.sum(axis=0)), bootstrap(sums, statistic)
    return [_moved(interval, shift) for interval, shift in zip(intervals, exact - binned, strict=True)]


def _descending_places(scores: Array, positives: Array, num_bins: int) -> Array:
    """(N,) bins of scores, 0 the highest, between quantiles of positives; the last is of those below all of these."""
    if not len(positives):
        return np.zeros(len(scores), dtype=np.int64)
    edges = np.quantile(positives, np.arange(num_bins - 1) / (num_bins - 1), method="inverted_cdf")
    return num_bins - 1 - np.searchsorted(edges, scores, side="right")


def _of_histograms(num_classes: int, num_bins: int) -> Callable[[Array], Array]:
    """The function of (..., C B 2) histograms that gives (..., 2 C + 2) metrics."""

    def statistic(sums: Array) -> Array:
        above = np.cumsum(sums.reshape(*sums.shape[:-1], num_classes, num_bins, 2), axis=-2)
        areas, precisions = roc_auc(above), average_precision(above)
        return np.concatenate([areas, precisions, _mean(areas)[..., None], _mean(precisions)[..., None]], axis=-1)

    return statistic


def _mean(values: Array) -> Array:
    """(..., C) to the mean (...,) of what is defined, NaN if nothing is."""
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        mean: Array = np.where(defined, values, 0.0).sum(axis=-1) / np.asarray(defined.sum(axis=-1))
    return mean


def _moved(interval: Interval | None, shift: float) -> Interval | None:
    if interval is None:
        return None
    low, high = np.clip(np.add(interval, shift), 0.0, 1.0).tolist()
    return low, high


def _defined(values: Array) -> PerClass:
    return tuple(None if np.isnan(value) else float(value) for value in values)
