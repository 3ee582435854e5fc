"""Rates of tracks in bins of a quantity: efficiency against that of the true track, purity against the event's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fm4npp.errors import ConfigurationError
from fm4npp.metrics.uncertainty import Interval, clopper_pearson

Array = NDArray[Any]

MULTIPLICITY = "multiplicity"
"""The number of true tracks of the event, whether they count or not: the one quantity that needs no particles."""

EDGES: Mapping[str, Sequence[float]] = {
    "pt": (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 2.0, 3.0, 5.0, 7.0, 10.0),
    "eta": tuple(round(0.2 * step, 1) for step in range(-11, 12)),
    MULTIPLICITY: tuple(2**power for power in range(13)),
}
"""Quantity -> edges of its bins in reports: pT in GeV/c in about equal steps of its logarithm, as spectra fall steeply;
pseudorapidity in steps of 0.2 to beyond the sPHENIX acceptance (|eta| < 1.1); tracks of an event in doublings."""


@dataclass(frozen=True)
class EfficiencyBin:
    """Efficiency of the true tracks of which a quantity is in one bin.

    Attributes:
        low: the bin's lower edge, which belongs to it; None: no lower edge.
        high: the bin's upper edge, which does not belong to it; None: no upper edge.
        matched: true tracks that a found track matches by the double-majority rule.
        true: true tracks that count.
        efficiency: matched / true tracks, None without any.
        interval: of the efficiency, that of Clopper and Pearson.
    """

    low: float | None
    high: float | None
    matched: int
    true: int
    efficiency: float | None
    interval: Interval | None


@dataclass(frozen=True)
class PurityBin:
    """Purity and fake rate of the found tracks of events of which a quantity is in one bin.

    Attributes:
        low: the bin's lower edge, which belongs to it; None: no lower edge.
        high: the bin's upper edge, which does not belong to it; None: no upper edge.
        num_events: events in the bin.
        matched: found tracks that match a true track by the double-majority rule.
        fake: found tracks that belong to no true track.
        predicted: found tracks that count.
        purity: matched / found tracks, None without any.
        purity_interval: of the purity, that of Clopper and Pearson.
        fake_rate: found tracks that belong to no true track / found tracks, None without any.
        fake_rate_interval: of the fake rate, that of Clopper and Pearson.
    """

    low: float | None
    high: float | None
    num_events: int
    matched: int
    fake: int
    predicted: int
    purity: float | None
    purity_interval: Interval | None
    fake_rate: float | None
    fake_rate_interval: Interval | None


def checked_edges(edges: Mapping[str, Sequence[float]]) -> dict[str, Array]:
    """The edges of bins as arrays.

    Raises:
        ConfigurationError: if there is none, or they do not increase.
    """
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in edges.items()}
    for name, values in arrays.items():
        if values.ndim != 1 or not len(values) or not np.isfinite(values).all() or (np.diff(values) <= 0).any():
            raise ConfigurationError(f"the bin edges of {name} are {list(edges[name])}; give increasing numbers")
    return arrays


def places(values: ArrayLike, edges: Array) -> Array:
    """The bin of every value.

    Args:
        values: (R,), NaN where unknown.
        edges: (B,) increasing.

    Returns:
        (R,) int64: 0 below the first edge, b from edge b - 1 up to edge b, B from the last edge on, B + 1 if unknown.
    """
    numbers = np.asarray(values, dtype=np.float64)
    found: Array = np.searchsorted(edges, numbers, side="right").astype(np.int64)
    found[np.isnan(numbers)] = len(edges) + 1
    return found


def count_tracks(places: Array, matched: Array, num_places: int) -> Array:
    """(R,) places and whether each true track is matched to (num_places, 2) int64: matched ones, all."""
    counts = np.bincount(places[matched], minlength=num_places), np.bincount(places, minlength=num_places)
    return np.stack(counts, axis=1)


def efficiency_bins(counts: Array, edges: Array) -> tuple[EfficiencyBin, ...]:
    """(B + 1, 2) matched and true tracks to bins; open and empty ones at the ends are left out."""
    return tuple(efficiency_bin(row, low, high) for low, high, row in _filled(counts, counts[:, 1], edges))


def efficiency_bin(counts: Array, low: float | None = None, high: float | None = None) -> EfficiencyBin:
    """(2,) matched and true tracks to a bin; without edges it is of tracks of which the quantity is not known."""
    matched, true = counts.tolist()
    return EfficiencyBin(low, high, matched, true, _ratio(matched, true), clopper_pearson(matched, true))


def purity_bins(counts: Array, edges: Array) -> tuple[PurityBin, ...]:
    """(B + 1, 4) events, matched, fake and found tracks to bins; those without events at the ends are left out."""
    return tuple(_purity_bin(row, low, high) for low, high, row in _filled(counts, counts[:, 0], edges))


def _purity_bin(counts: Array, low: float | None, high: float | None) -> PurityBin:
    num_events, matched, fake, predicted = counts.tolist()
    return PurityBin(
        low=low,
        high=high,
        num_events=num_events,
        matched=matched,
        fake=fake,
        predicted=predicted,
        purity=_ratio(matched, predicted),
        purity_interval=clopper_pearson(matched, predicted),
        fake_rate=_ratio(fake, predicted),
        fake_rate_interval=clopper_pearson(fake, predicted),
    )


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _filled(counts: Array, filling: Array, edges: Array) -> Iterator[tuple[float | None, float | None, Array]]:
    """Edges and row of every bin from the first that is filled to the last."""
    bounds: list[float | None] = [None, *edges.tolist(), None]
    filled = np.flatnonzero(filling)
    for index in range(filled[0], filled[-1] + 1) if len(filled) else ():
        yield bounds[index], bounds[index + 1], counts[index]
