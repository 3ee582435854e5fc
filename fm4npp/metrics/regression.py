"""How good predicted values are: errors, bias, resolution, and how far they go with the true ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from fm4npp.errors import DataError
from fm4npp.metrics.uncertainty import CONFIDENCE, Interval, bootstrap

Array = NDArray[Any]

CENTRAL = 0.682689492137086
"""Share of a normal distribution within one standard deviation of its mean."""
RESIDUAL_BINS = 200
"""Of residuals in the bootstrap of the resolution."""
CONSTANT = 1e-12
"""Variance of values that are all equal, relative to their mean square about a point among them: rounding."""


@dataclass(frozen=True)
class RegressionMetrics:
    """Metrics of predicted values, every one of known truth counting once; what is not defined is None.

    Attributes:
        mean_absolute_error: mean of |predicted - true|, in the unit of the values.
        root_mean_squared_error: square root of the mean of (predicted - true)^2, in the unit of the values.
        bias: mean of predicted - true, in the unit of the values.
        resolution: half of the width of the central 68.27 % of predicted - true, in the unit of the values: one
            standard deviation if it is normally distributed.
        r_squared: 1 - mean of (predicted - true)^2 / variance of the true values; None if these are all equal.
        pearson: linear correlation of predicted and true values; None if either are all equal.
        spearman: linear correlation of the ranks of predicted and true values, equal ones sharing their mean rank; None
            if either are all equal.
        intervals: metric -> its interval, or None, from the bootstrap over events; for the resolution with residuals
            in 200 bins, moved by what that changes in it, for Spearman's with the ranks in the whole set.
        confidence: confidence level of the intervals.
        num_events: all events, empty ones too.
        num_empty_events: events without a known value.
        num_values: values of known truth.
        num_unknown: values left out because their truth is NaN.
    """

    mean_absolute_error: float | None
    root_mean_squared_error: float | None
    bias: float | None
    resolution: float | None
    r_squared: float | None
    pearson: float | None
    spearman: float | None
    intervals: dict[str, Interval | None]
    confidence: float
    num_events: int
    num_empty_events: int
    num_values: int
    num_unknown: int


METRICS = (
    "mean_absolute_error",
    "root_mean_squared_error",
    "bias",
    "r_squared",
    "pearson",
    "spearman",
    "resolution",
)
"""What `_statistic` computes."""


def evaluate_values(events: Iterable[tuple[ArrayLike, ArrayLike]]) -> RegressionMetrics:
    """Metrics of predicted values of a set of events, read once and one by one, and kept.

    Args:
        events: for every event the true and the predicted values, each (N,), of its spacepoints or tracks, or (1,) of
            the event itself; a true value that is NaN is unknown.

    Raises:
        DataError: if an event's lengths differ, a prediction is not finite, or a true value is infinite.
    """
    truths, guesses, sizes, num_all = [np.zeros(0)], [np.zeros(0)], [], 0
    for index, (true, predicted) in enumerate(events):
        try:
            actual, guess = _checked(true, predicted)
        except DataError as error:
            raise error.at(event=index) from None
        known = ~np.isnan(actual)
        truths.append(actual[known])
        guesses.append(guess[known])
        sizes.append(int(known.sum()))
        num_all += len(actual)
    values, intervals = _evaluated(np.concatenate(truths), np.concatenate(guesses), np.array(sizes, dtype=np.int64))
    return RegressionMetrics(
        **{name: None if np.isnan(value) else value for name, value in values.items()},
        intervals=intervals,
        confidence=CONFIDENCE,
        num_events=len(sizes),
        num_empty_events=sizes.count(0),
        num_values=sum(sizes),
        num_unknown=num_all - sum(sizes),
    )


def resolution(residuals: Array) -> float:
    """Half of the width of the central 68.27 % of (N,) residuals, NaN of none."""
    if not len(residuals):
        return np.nan
    low, high = np.quantile(residuals, [(1 - CENTRAL) / 2, (1 + CENTRAL) / 2])
    return float(high - low) / 2


def _checked(true: ArrayLike, predicted: ArrayLike) -> tuple[Array, Array]:
    actual, guess = (np.asarray(values, dtype=np.float64) for values in (true, predicted))
    if actual.shape != guess.shape or actual.ndim != 1:
        raise DataError(f"true values of shape {actual.shape}, predicted of shape {guess.shape}")
    for what, values, wrong in (("true", actual, np.isinf(actual)), ("predicted", guess, ~np.isfinite(guess))):
        if wrong.any():
            raise DataError(f"the {what} value {int(np.argmax(wrong))} is {values[wrong][0]}")
    return actual, guess


def _evaluated(true: Array, predicted: Array, sizes: Array) -> tuple[dict[str, float], dict[str, Interval | None]]:
    """Metrics and intervals of (N,) values of events of (E,) sizes, end to end."""
    owner = np.repeat(np.arange(len(sizes)), sizes)
    residuals = predicted - true
    edges = _residual_edges(residuals)
    columns = [np.ones(len(true)), np.abs(residuals), residuals**2, residuals]
    columns += _moments(true, predicted) + _moments(rankdata(true), rankdata(predicted))
    sums = np.stack([np.bincount(owner, column, minlength=len(sizes)) for column in columns], axis=1)
    place = np.searchsorted(edges[1:-1], residuals, side="left")
    bins = np.bincount(owner * RESIDUAL_BINS + place, minlength=len(sizes) * RESIDUAL_BINS)
    sums = np.concatenate([sums, bins.reshape(len(sizes), RESIDUAL_BINS)], axis=1)

    def statistic(values: Array) -> Array:
        return np.concatenate([_from_sums(values), _binned_resolution(values[..., NUM_SUMS:], edges)], axis=-1)

    found = dict(zip(METRICS, statistic(sums.sum(axis=0)).tolist(), strict=True))
    intervals = dict(zip(METRICS, bootstrap(sums, statistic), strict=True))
    exact = resolution(residuals)
    if (binned := intervals["resolution"]) is not None:
        shift = exact - found["resolution"]
        intervals["resolution"] = max(binned[0] + shift, 0.0), max(binned[1] + shift, 0.0)
    return {**found, "resolution": exact}, intervals


NUM_SUMS = 4 + 5 + 5
"""Of values: number, |residual|, its square, itself; moments of the values; moments of their ranks."""


def _moments(first: Array, second: Array) -> list[Array]:
    """(N,) values to what adds up to their first and second moments, about their medians: so equal ones give 0."""
    x, y = (values - np.median(values) if len(values) else values for values in (first, second))
    return [x, y, x * x, y * y, x * y]


def _from_sums(sums: Array) -> Array:
    """(..., M) sums to (..., 6) `METRICS` but for the resolution, NaN where one is not defined."""
    count, absolute, squared, residual = np.moveaxis(sums[..., :4], -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        variance, correlation = _correlated(count, sums[..., 4:9])
        _, of_ranks = _correlated(count, sums[..., 9:NUM_SUMS])
        mean_square = squared / count
        metrics = [absolute / count, np.sqrt(mean_square), residual / count]
        return np.stack([*metrics, 1 - mean_square / variance, correlation, of_ranks], axis=-1)


def _correlated(count: Array, moments: Array) -> tuple[Array, Array]:
    """Variance of the first values and correlation with the second, NaN if values are all equal."""
    x, y, xx, yy, xy = np.moveaxis(moments, -1, 0) / count
    of_x, of_y = xx - x * x, yy - y * y
    of_x, of_y = np.where(of_x > CONSTANT * xx, of_x, np.nan), np.where(of_y > CONSTANT * yy, of_y, np.nan)
    return of_x, np.clip((xy - x * y) / np.sqrt(of_x * of_y), -1.0, 1.0)


def _residual_edges(residuals: Array) -> Array:
    """(B + 1,) quantiles of residuals: edges of bins of about as many each."""
    if not len(residuals):
        return np.zeros(RESIDUAL_BINS + 1)
    edges: Array = np.quantile(residuals, np.linspace(0.0, 1.0, RESIDUAL_BINS + 1))
    return edges


def _binned_resolution(bins: Array, edges: Array) -> Array:
    """(..., B) numbers of residuals between (B + 1,) edges to (..., 1) resolution, linear within a bin."""
    upto = np.cumsum(bins, axis=-1)
    total = upto[..., -1:]
    bounds = []
    for share in ((1 - CENTRAL) / 2, (1 + CENTRAL) / 2):
        wanted = share * total
        place = (upto < wanted).sum(axis=-1, keepdims=True).clip(max=bins.shape[-1] - 1)
        inside = np.take_along_axis(bins, place, axis=-1)
        before = np.take_along_axis(upto, place, axis=-1) - inside
        with np.errstate(divide="ignore", invalid="ignore"):
            bounds.append(edges[place] + (edges[place + 1] - edges[place]) * (wanted - before) / inside)
    half: Array = (bounds[1] - bounds[0]) / 2
    return np.where(total > 0, half, np.nan)
