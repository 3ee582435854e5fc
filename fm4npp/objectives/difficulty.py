"""How difficult an event is, and the weight of its loss: rescaling by event difficulty (paper appendix B.7).

The neighbours of a dense event are near, so they are easier to predict. The paper takes the mean distance of an event's
neighbours for its difficulty, groups events into bins of it, and multiplies an event's loss by the weight of its bin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fm4npp.errors import DataError
from fm4npp.objectives.neighbours import Periodic, exists, wrap

Array = NDArray[Any]
Rescale = Literal["none", "difficulty", "inverse"]

NUM_BINS = 4
"""Of difficulty. The paper gives no number; the one set of edges visible in the released code has four bins."""


def event_difficulty(points: Array, index: Array, periodic: Periodic) -> float:
    """The mean distance of all neighbours that exist.

    It does not depend on the order of the spacepoints, not even by rounding: rows are summed in order of size.

    Args:
        points: (N, 3), in the coordinates that the neighbours are nearest in.
        index: (N, k) of `next_nearest`.
        periodic: axes of length 1 along which a difference is taken the shorter way round.

    Returns:
        In the unit of the points; 0 if there is no neighbour.
    """
    difference = points.take(index, axis=0).astype(np.float64) - points.astype(np.float64)[:, None]
    for axis in np.flatnonzero(periodic):
        difference[:, :, axis] = wrap(difference[:, :, axis])
    x, y, z = np.moveaxis(difference, 2, 0)
    distance = np.ascontiguousarray(np.sqrt(x * x + y * y + z * z))  # 0 where there is none: a point's own index
    return float(np.sort(distance.sum(axis=1)).sum() / max(int(exists(index).sum()), 1))


def fit_difficulty_bins(difficulties: Sequence[float], num_bins: int, rescale: Rescale) -> tuple[Array, Array]:
    """Bins of equally many events, and their weights.

    The paper says neither how the bins are chosen nor how the weights are scaled. Here their mean over the events is 1,
    so that the learning rate and the gradient clipping keep their meaning.

    Args:
        difficulties: of `event_difficulty`, one an event. Zeros are left out: there is no neighbour, or all coincide.
        num_bins: B; there are fewer where the events have too few different difficulties.
        rescale: "difficulty", the mean difficulty of a bin's events, as in the paper, or "inverse", 1 over that.

    Returns:
        edges: (B - 1,) increasing, halfway between two events; the outer bins have no outer edge.
        weights: (B,), above 0.

    Raises:
        DataError: if no event has a neighbour at any distance.
    """
    values = np.asarray([value for value in difficulties if value > 0], dtype=np.float64)
    if not len(values):
        raise DataError(
            "k-nnn cannot be fitted: no spacepoint has a neighbour at a distance above 0", remedy="fit on more events"
        )
    edges = _edges(values, num_bins)
    place = np.searchsorted(edges, values, side="right")
    count = np.bincount(place)
    # The bounds matter only where a mean of equal numbers is rounded out of its bin.
    mean = np.clip(np.bincount(place, weights=values) / count, [0, *edges], [*edges, np.inf])
    weights = mean if rescale == "difficulty" else 1 / mean
    return edges, weights / np.average(weights, weights=count)


def _edges(values: Array, num_bins: int) -> Array:
    """(E,) to at most num_bins - 1 edges, such that no bin is without an event."""
    quantiles = np.quantile(values, np.arange(1, num_bins) / num_bins, method="higher")
    upper = np.unique(quantiles[quantiles > values.min()])
    distinct = np.unique(values)
    lower = distinct[np.searchsorted(distinct, upper) - 1]
    # Of two adjacent numbers the larger is the edge, for an event at an edge belongs to the bin above.
    edges: Array = np.maximum((lower + upper) / 2, np.nextafter(lower, np.inf))
    return edges


def bin_weight(difficulty: float, edges: Sequence[float], weights: Sequence[float]) -> float:
    """The weight of an event: that of its bin; beyond the fitted events, that of the outermost.

    Args:
        difficulty: of `event_difficulty`.
        edges: (B - 1,) of `fit_difficulty_bins`.
        weights: (B,) of it.
    """
    return float(weights[int(np.searchsorted(edges, difficulty, side="right"))])


def spacepoint_weights(index: Array, weight: float) -> dict[str, Array]:
    """An event's weight, shared out among the spacepoints that have a neighbour.

    Args:
        index: (N, k) of `next_nearest`.
        weight: w of the event.

    Returns:
        share: (N,) float32, 1 / S for each of the S spacepoints that have a neighbour, 0 for others.
        weight: (N,) float32, w / S and 0.
    """
    some = exists(index).any(axis=1)
    num_spacepoints = max(int(some.sum()), 1)
    values = {"share": 1 / num_spacepoints, "weight": weight / num_spacepoints}
    return {name: np.where(some, value, 0.0).astype(np.float32) for name, value in values.items()}


def check_difficulty_bins(rescale: Rescale, num_bins: int, edges: Sequence[float], weights: Sequence[float]) -> None:
    """Refuse fitted bins that cannot belong to the configuration.

    Raises:
        ValueError: naming the field.
    """
    if rescale == "none":
        raise ValueError("difficulty_edges: are used with rescale only; leave them out")
    if len(edges) > num_bins - 1 or len(weights) != len(edges) + 1:
        raise ValueError(
            f"difficulty_weights: at most {num_bins} are needed, one more than edges; fit again after changing bins"
        )
    if not all(low < high for low, high in zip([0, *edges], edges, strict=False)):
        raise ValueError("difficulty_edges: must be above 0 and increase")
    if not all(weight > 0 for weight in weights):
        raise ValueError("difficulty_weights: must be positive")
    if list(weights) != sorted(weights, reverse=rescale == "inverse"):
        raise ValueError("difficulty_weights: are not those of this rescale; fit again after changing it")
