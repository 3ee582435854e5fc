"""Geometry, units, scales and label conventions, guessed from the values of some events. Pure functions."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from fm4npp.detectors.units import LengthUnit
from fm4npp.event import Array

UNITS: tuple[tuple[float, LengthUnit], ...] = ((3.0, "m"), (500.0, "cm"), (math.inf, "mm"))
"""The largest coordinate below which a detector is taken to be in a unit: trackers reach 10 cm to 10 m."""
SIGNIFICANT = 0.005
"""Bounds are rounded outwards to about this share of the width."""
MARGIN = 0.02
"""Bounds are widened by this share of the width on each side."""
CORNERS = 0.03
"""Share of spacepoints further from the z axis than from any side: a fifth in a box, none in a cylinder."""
SECTORS = 8
"""Parts of the circle that spacepoints around the beam are in."""
LONG_TAIL = 10.0
"""A quantity whose largest values are this many times its median has a long tail."""
MUCH = 3
"""An id that means "no track" has this many times the spacepoints of any track."""
MOST_LAYERS = 200
"""More than this are no layers."""
GAP = 0.01
"""Share of the range that is empty between two layers, at least."""
FILLED = 0.5
"""Share of the range that layers fill, at most; what fills more is a volume."""
PER_LAYER = 20
"""Spacepoints that a layer has in the mean, at least, to be seen."""
STRAY = 0.1
"""A group of fewer spacepoints than this share of the mean group's is none."""


class Scale(NamedTuple):
    """How a feature is scaled: see `detectors.Feature`, and `MappedDetector.factors` for `factor`."""

    mean: float
    std: float
    log: bool
    factor: float


def length_unit(positions: Array) -> LengthUnit:
    """Positions (N, 3) in the file's unit to the unit that they look like."""
    extent = float(np.quantile(np.abs(positions).max(axis=1), 0.99))
    return next(unit for limit, unit in UNITS if extent < limit)


def around_beam(positions: Array) -> bool:
    """Whether (N, 3) positions lie around the z axis: at all azimuths, as far in x as in y, and not in the corners."""
    x, y = positions[:, 0], positions[:, 1]
    sectors = np.floor((np.arctan2(y, x) / np.pi + 1) / 2 * SECTORS).astype(int) % SECTORS
    reach = [float(np.quantile(np.abs(axis), 0.999)) for axis in (x, y)]
    if len(np.unique(sectors)) < SECTORS or min(reach) < 0.6 * max(reach):
        return False
    return bool((np.hypot(x, y) > 1.05 * max(reach)).mean() < CORNERS)


def bounds(values: Array, lowest: float = -math.inf) -> tuple[float, float]:
    """Values (N,) to bounds around all but far outliers, a little wider, in round numbers.

    Args:
        values: finite.
        lowest: that the lower bound may be.
    """
    low, high = np.quantile(values, [0.001, 0.999]).tolist()
    width = (high - low) or max(abs(high), 1.0) * 0.1
    near = values[(values >= low - width / 2) & (values <= high + width / 2)]
    low, high = float(near.min()), float(near.max())
    margin = MARGIN * ((high - low) or width)
    step = 10.0 ** math.floor(math.log10(width * SIGNIFICANT * 2))
    low = math.floor((low - margin) / step) * step
    high = math.ceil((high + margin) / step) * step
    digits = max(0, -math.floor(math.log10(step)))
    return round(max(low, lowest), digits), round(high, digits)


def scale(values: Array) -> Scale:
    """Finite values (N,) of a feature to its scale: of the logarithm if the tail is long, in thousands if tiny."""
    typical = float(np.median(np.abs(values)))
    factor = 1.0
    while 0 < typical * factor < 0.1:
        factor *= 1000.0
    values = np.asarray(values, dtype=np.float64) * factor
    log = bool(values.min() >= 0 and np.quantile(values, 0.999) > LONG_TAIL * np.median(values))
    values = np.log1p(values) if log else values
    return Scale(_significant(values.mean()), _significant(values.std()) or 1.0, log, factor)


def layers_between_gaps(places: Array) -> tuple[float, ...] | None:
    """The layers of a detector whose file does not number them, from what is empty between them.

    Args:
        places: (N,) on the outward axis.

    Returns:
        Medians, increasing; None if there is only one group, too many, or if they fill more than half of the range.
    """
    ordered = np.sort(places[np.isfinite(places)])
    if not len(ordered):
        return None
    low, high = np.quantile(ordered, [0.001, 0.999]).tolist()
    ordered = ordered[(ordered >= low) & (ordered <= high)]
    groups = np.split(ordered, np.flatnonzero(np.diff(ordered) > GAP * (high - low)) + 1)
    groups = [group for group in groups if len(group) > STRAY * len(ordered) / len(groups)]
    filled = sum(float(group[-1] - group[0]) for group in groups)
    if not 1 < len(groups) <= min(MOST_LAYERS, len(ordered) / PER_LAYER) or filled > FILLED * (high - low):
        return None
    medians = tuple(_significant(float(np.median(group)), 5) for group in groups)
    return medians if all(a < b for a, b in pairwise(medians)) else None


def _significant(value: float, digits: int = 4) -> float:
    return float(f"{value:.{digits}g}")


def no_track(ids: Array) -> int | None:
    """The id that seems to mean "no track".

    Args:
        ids: (N,) of the spacepoints of many events.

    Returns:
        -1 if it is the only id below 0; else 0 or -1 if it has `MUCH` more spacepoints than any other id; else None.
    """
    values, counts = np.unique(ids[np.isfinite(ids)], return_counts=True)
    if values[values < 0].tolist() == [-1]:
        return -1
    most = int(np.argmax(counts)) if len(values) > 1 else None
    if most is None or values[most] not in (0, -1):
        return None
    return int(values[most]) if counts[most] >= MUCH * np.delete(counts, most).max() else None


def layers(numbers: Array, radii: Array) -> tuple[float, ...] | None:
    """The radii of layers, if every layer has a radius of its own.

    Args:
        numbers: (N,) layer of each spacepoint.
        radii: (N,) its place on the outward axis.

    Returns:
        Increasing; None if the layers overlap, or there are too many.
    """
    different = np.unique(numbers[np.isfinite(numbers)])
    if not 1 < len(different) <= MOST_LAYERS:
        return None
    low, middle, high = np.array([np.quantile(radii[numbers == n], [0.05, 0.5, 0.95]) for n in different]).T
    order = np.argsort(middle)
    if (high[order][:-1] >= low[order][1:]).any():
        return None
    rounded = tuple(_significant(radius, 5) for radius in middle[order].tolist())
    return rounded if all(a < b for a, b in pairwise(rounded)) else None
