"""loss = floor + a x^-b, fitted by least squares, with what the points can and cannot say of it.

The form is that of Kaplan et al. 2020 (arXiv:2001.08361) with a floor, as of Hoffmann et al. 2022 (arXiv:2203.15556).
For a given exponent the rest is linear, so that one number is searched for (variable projection, Golub and Pereyra
1973): there is no starting point to choose and no local minimum to end in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm as normal
from scipy.stats import t as student

from fm4npp.metrics.uncertainty import CONFIDENCE, REPLICAS, SEED, Interval

Array = NDArray[Any]

EXPONENTS = np.geomspace(0.01, 3.0, 286)
"""b that are tried, 2 % apart; the best is refined. Beyond them a curve is a constant or a step."""
REFINEMENTS = 3
"""Steps towards the best b, each four times finer."""
NEEDED = 4
"""Different x from which on a floor is fitted."""
FAR = 10.0
"""How many times beyond the largest x the fit is continued, as an extrapolation and said to be one."""


@dataclass(frozen=True)
class PowerLaw:
    """A fit; what is not defined is None.

    Attributes:
        form: "floor + a x^-b", or "a x^-b" where the points are too few for a floor.
        floor: loss of infinite x, at least 0 if all losses are above it; 0 where it is not fitted.
        a: of the form.
        b: exponent.
        intervals: floor, a, b and extrapolated -> interval, by resampling the cells' residuals (Efron 1979), which are
            first scaled up to the spread that n - parameters degrees of freedom tell of; None without any.
        confidence: of the intervals.
        range: smallest and largest x.
        extrapolated: loss that the fit has at 10 times the largest x: no measurement.
        num_points: different x.
        num_cells: losses, of all seeds.
        warnings: why not to trust it.
    """

    form: str
    floor: float | None
    a: float | None
    b: float | None
    intervals: dict[str, Interval | None]
    confidence: float
    range: Interval
    extrapolated: float | None
    num_points: int
    num_cells: int
    warnings: tuple[str, ...]

    def __call__(self, x: Array) -> Array:
        """(N,) losses at x, (N,); NaN where there is no fit."""
        if self.floor is None or self.a is None or self.b is None:
            return np.full(len(x), np.nan)
        values: Array = self.floor + self.a * np.asarray(x, dtype=float) ** -self.b
        return values


def fit(x: Array, losses: Array) -> PowerLaw:
    """Fit a power law.

    Args:
        x: (n,) above 0, of at least two different values.
        losses: (n,), several of the same x for several seeds.
    """
    x, losses = np.asarray(x, dtype=float), np.asarray(losses, dtype=float)
    points, largest = len(np.unique(x)), x.max()
    with_floor, positive = points >= NEEDED, bool((losses > 0).all())
    scaled = x / largest
    best = _solve(scaled, losses[None], with_floor=with_floor, positive=positive)[0]
    replicas = _replicas(scaled, losses, best, with_floor=with_floor, positive=positive)
    falls = best[1] > 0
    rows = [_parameters(row, largest) for row in (best, *replicas)] if falls else []
    intervals: list[Interval | None] = (
        [_interval(values) for values in np.array(rows[1:]).T] if len(rows) > 1 else [None] * 4
    )
    if not with_floor:
        intervals[0] = None
    told = rows[0] if rows else (None,) * 4
    return PowerLaw(
        form="floor + a x^-b" if with_floor else "a x^-b",
        floor=told[0],
        a=told[1],
        b=told[2],
        intervals=dict(zip(("floor", "a", "b", "extrapolated"), intervals, strict=True)),
        confidence=CONFIDENCE,
        range=(float(x.min()), float(largest)),
        extrapolated=told[3],
        num_points=points,
        num_cells=len(x),
        warnings=tuple(_warnings(scaled, losses, best, with_floor=with_floor, positive=positive)),
    )


def _solve(x: Array, losses: Array, *, with_floor: bool, positive: bool) -> Array:
    """The best floor, a and b of several sets of losses.

    Args:
        x: (n,) up to 1.
        losses: (R, n).
        with_floor: whether the floor is fitted, or 0.
        positive: whether the floor must be at least 0.

    Returns:
        (R, 3); a is 0 where the losses do not fall.
    """

    def errors(b: Array) -> Array:
        return _linear(x, losses, b, with_floor, positive)[2]

    tried = np.stack([errors(np.array([b])) for b in EXPONENTS], axis=1)  # (R, B)
    exponents, step = EXPONENTS[tried.argmin(axis=1)], float(np.log(EXPONENTS[1] / EXPONENTS[0]))
    for _ in range(REFINEMENTS):
        exponents, step = _refined(exponents, step, errors), step / 4
    floor, a, _ = _linear(x, losses, exponents, with_floor, positive)
    return np.stack([floor, a, exponents], axis=1)


def _linear(x: Array, losses: Array, b: Array, with_floor: bool, positive: bool) -> tuple[Array, Array, Array]:
    """Floor, a and sum of squared residuals, (R,) each, for exponents, (R,) or (1,); a is at least 0."""
    powers = x ** -b[:, None]
    through = np.maximum((losses * powers).sum(axis=1) / np.square(powers).sum(axis=1), 0.0)
    floor, a = np.zeros_like(through), through
    if with_floor:
        centred = powers - powers.mean(axis=1, keepdims=True)
        a = np.maximum((losses * centred).sum(axis=1) / np.square(centred).sum(axis=1), 0.0)
        floor = losses.mean(axis=1) - a * powers.mean(axis=1)
        if positive:
            a, floor = np.where(floor < 0, through, a), np.maximum(floor, 0.0)
    residuals = losses - floor[:, None] - a[:, None] * powers
    return floor, a, np.square(residuals).sum(axis=1)


def _refined(b: Array, step: float, errors: Callable[[Array], Array]) -> Array:
    """(R,) exponents at the minimum of a parabola through the errors there and one step in log b to either side."""
    left, middle, right = (errors(b * np.exp(shift * step)) for shift in (-1, 0, 1))
    curvature = left - 2 * middle + right
    shift = np.divide(left - right, 2 * curvature, out=np.zeros_like(middle), where=curvature > 0).clip(-1, 1)
    refined: Array = (b * np.exp(shift * step)).clip(EXPONENTS[0], EXPONENTS[-1])
    return refined


def _replicas(x: Array, losses: Array, best: Array, *, with_floor: bool, positive: bool) -> Array:
    """(R, 3) fits to resampled residuals; none where there are no more cells than parameters.

    Quantiles of fits to so few residuals are too narrow, as those of a normal distribution are beside Student's t with
    as many degrees of freedom; by their ratio the residuals are widened.
    """
    spare = len(x) - (3 if with_floor else 2)
    if spare <= 0:
        return np.empty((0, 3))
    fitted = best[0] + best[1] * x ** -best[2]
    residuals = losses - fitted
    tail = (1 + CONFIDENCE) / 2
    residuals = (residuals - residuals.mean()) * np.sqrt(len(x) / spare) * student.ppf(tail, spare) / normal.ppf(tail)
    drawn = np.random.default_rng(SEED).integers(len(x), size=(REPLICAS, len(x)))
    return _solve(x, fitted + residuals[drawn], with_floor=with_floor, positive=positive)


def _parameters(row: Array, largest: float) -> tuple[float, float, float, float]:
    """Floor, a and b for x as it is, and the loss far beyond; `row` is for x / largest."""
    floor, a, b = (float(value) for value in row)
    return floor, a * float(largest) ** b, b, floor + a * FAR**-b


def _interval(values: Array) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _warnings(x: Array, losses: Array, best: Array, *, with_floor: bool, positive: bool) -> list[str]:
    floor, a, b = best
    found = []
    if not with_floor:
        found.append(
            f"{len(np.unique(x))} points, fewer than {NEEDED}: the floor is set to 0; if there is one, b is too small"
        )
        if not positive:
            found.append("a loss is not above 0, so that a floor of 0 means nothing")
    if not a > 0:
        return [*found, "the loss does not fall: there is no power law to fit"]
    if x.min() > 0.1:
        found.append(f"the points span a factor of {1 / x.min():.3g} only")
    left = float((x.min()) ** b)
    if with_floor and left > 0.5:
        found.append(f"{left:.0%} of what the loss of the smallest lies above the floor is left at the largest: the "
                     "floor is an extrapolation")  # fmt: skip
    if with_floor and not floor and positive:
        found.append("the best floor is 0, the lowest that a loss can have")
    if b <= EXPONENTS[1] or b >= EXPONENTS[-2]:
        found.append(f"b is at the end of what is tried, {EXPONENTS[0]:g} to {EXPONENTS[-1]:g}")
    return found
