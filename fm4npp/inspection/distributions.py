"""How quantities are distributed, from a stream of their values: mean, spread, quantiles and histogram."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from fm4npp.event import Array, Event

QUANTILES = {"q05": 0.05, "q50": 0.5, "q95": 0.95}
COLUMNS = 32
"""Of a histogram, at most."""
SHOWN = (0.005, 0.995)
"""Quantiles between which a histogram lies. The values beyond, few but perhaps far, are counted at its ends."""
TOGETHER = 1 << 17
"""Values that are counted together, at most."""
MANY = 10_000
"""Arrays of which they come, at most."""
MOST_LAYERS = 1000
"""Numbers from this on are no layers, but codes."""


class Distribution(ABC):
    """Of values that come one array after the other; mean and standard deviation are those of all values.

    Attributes:
        count: number of values.
        mean: of the values.
        low: smallest value.
        high: largest value.
    """

    half: ClassVar[float] = 0.0
    """How far an edge of a bin is from the value it belongs to."""

    def __init__(self) -> None:
        self.count, self.mean, self.low, self.high = 0, 0.0, np.inf, -np.inf
        self._squares = 0.0
        self._waiting: list[Array] = []
        self._num_waiting = 0

    def add(self, values: Array) -> None:
        """Take in (N,) finite values."""
        self._waiting.append(values)
        self._num_waiting += len(values)
        if self._num_waiting >= TOGETHER or len(self._waiting) >= MANY:
            self._count()

    def _count(self) -> None:
        waiting, number = self._waiting, self._num_waiting
        self._waiting, self._num_waiting = [], 0
        if not number:
            return
        values = np.concatenate(waiting)
        mean, total = float(values.mean(dtype=np.float64)), self.count + number
        squares = float(((values - np.float64(mean)) ** 2).sum())
        self._squares += squares + (mean - self.mean) ** 2 * self.count * number / total
        self.mean += (mean - self.mean) * number / total
        self.count = total
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self._sort_in(values)

    @abstractmethod
    def _sort_in(self, values: Array) -> None:
        """Count (N,) values, at least one, in bins."""

    @abstractmethod
    def _bins(self) -> tuple[Array, Array]:
        """(B + 1,) edges of all bins, increasing, and (B,) values in each."""

    @abstractmethod
    def _quantile(self, share: float) -> float:
        """See `quantile`, of at least one value."""

    @abstractmethod
    def _columns(self, low: float, high: float) -> Array:
        """(C + 1,) edges of a histogram from one value to another."""

    def quantile(self, share: float) -> float:
        """The value that a share of the values does not exceed; 0 if there are none."""
        self._count()
        return min(max(self._quantile(share), self.low), self.high) if self.count else 0.0

    def histogram(self) -> tuple[Array, Array]:
        """(C + 1,) edges and (C,) number of values in each of at most `COLUMNS` equal columns."""
        if not self.count:
            return np.zeros(1), np.zeros(0, np.int64)
        columns = self._columns(*map(self.quantile, SHOWN))
        edges, counts = self._bins()
        below = np.rint(np.interp(columns, edges, np.concatenate([[0], np.cumsum(counts)]))).astype(np.int64)
        below[0], below[-1] = 0, self.count
        return columns, np.diff(below)

    def as_dict(self) -> dict[str, Any]:
        """A JSON object."""
        self._count()
        if not self.count:
            return {"count": 0}
        edges, counts = self.histogram()
        return {
            "count": self.count,
            "mean": self.mean,
            "std": float(np.sqrt(self._squares / self.count)),
            **{name: self.quantile(share) for name, share in QUANTILES.items()},
            "min": self.low,
            "max": self.high,
            "histogram": {"low": edges[0] + self.half, "high": edges[-1] - self.half, "counts": counts.tolist()},
        }


class WholeNumbers(Distribution):
    """Of numbers of something, each with a bin of its own: the quantiles are exact."""

    half: ClassVar[float] = 0.5

    def __init__(self) -> None:
        super().__init__()
        self._counts = np.zeros(1, np.int64)

    def _sort_in(self, values: Array) -> None:
        new = np.bincount(values, minlength=len(self._counts))
        new[: len(self._counts)] += self._counts
        self._counts = new

    def _bins(self) -> tuple[Array, Array]:
        return np.arange(len(self._counts) + 1) - self.half, self._counts

    def _quantile(self, share: float) -> float:
        return float(np.searchsorted(np.cumsum(self._counts), share * self.count))

    def _columns(self, low: float, high: float) -> Array:
        width = np.ceil((high - low + 1) / COLUMNS)
        edges: Array = low - self.half + width * np.arange(np.ceil((high - low + 1) / width) + 1)
        return edges


class RealNumbers(Distribution):
    """Of numbers of any size, in 65,536 bins by the upper half of their bits in single precision.

    These are the sign, the exponent and 7 bits of the mantissa, so that quantiles are right within 0.8 %.
    """

    def __init__(self) -> None:
        super().__init__()
        self._counts = np.zeros(1 << 16, np.int64)

    def _sort_in(self, values: Array) -> None:
        largest = np.finfo(np.float32).max
        bits = np.clip(values, -largest, largest).astype(np.float32).view(np.uint32)
        ordered = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))  # increases with the value
        self._counts += np.bincount(ordered >> 16, minlength=len(self._counts))

    def _bins(self) -> tuple[Array, Array]:
        first, last = np.flatnonzero(self._counts)[[0, -1]].tolist()
        ordered = np.arange(first, last + 2, dtype=np.int64).clip(None, (1 << 16) - 1).astype(np.uint32) << 16
        bits = np.where(ordered >> 31, ordered & np.uint32((1 << 31) - 1), ~ordered)
        edges = np.nan_to_num(bits.view(np.float32).astype(np.float64))
        return edges, self._counts[first : last + 1]

    def _quantile(self, share: float) -> float:
        edges, counts = self._bins()
        return float(np.interp(share * self.count, np.concatenate([[0], np.cumsum(counts)]), edges))

    def _columns(self, low: float, high: float) -> Array:
        return np.linspace(low, high, COLUMNS + 1 if high > low else 2)


class Distributions:
    """Those of a stream of events; what the events do not have is left out."""

    def __init__(self) -> None:
        self._of: dict[str, Distribution] = {}
        self._per_layer = np.zeros(0, np.int64)
        self._num_events = 0

    def add(self, event: Event, features: Mapping[str, Array]) -> None:
        """Take in the next event.

        Args:
            event: the event.
            features: feature -> its values in the event, in any order.
        """
        self._num_events += 1
        self._whole("spacepoints_per_event", np.array([len(event)]))
        for name, values in features.items():
            self._real(name, values)
        if "track_id" in event.labels:
            ids = event.labels["track_id"]
            tracks, sizes = np.unique(ids[ids >= 0], return_counts=True)
            self._whole("tracks_per_event", np.array([len(tracks)]))
            self._whole("spacepoints_per_track", sizes)
            self._add_particles(event, tracks)
        if "layer" in event.labels:
            self._add_layers(event.labels["layer"])

    def _add_particles(self, event: Event, tracks: Array) -> None:
        """Transverse momentum and pseudorapidity of the particles of the given tracks."""
        if not {"track_id", "px", "py", "pz"} <= event.particles.keys():
            return
        with_hits = np.isin(event.particles["track_id"], tracks)
        x, y, z = (event.particles[name][with_hits].astype(np.float64) for name in ("px", "py", "pz"))
        transverse = np.hypot(x, y)
        known = np.isfinite(transverse) & np.isfinite(z) & (transverse > 0)
        self._real("particle_pt", transverse[known])
        self._real("particle_abs_eta", np.arcsinh(np.abs(z[known]) / transverse[known]))

    def _add_layers(self, layers: Array) -> None:
        layers = layers[(layers >= 0) & (layers < MOST_LAYERS)].astype(np.int64)
        new = np.bincount(layers, minlength=len(self._per_layer))
        new[: len(self._per_layer)] += self._per_layer
        self._per_layer = new

    def _whole(self, name: str, values: Array) -> None:
        if name not in self._of:
            self._of[name] = WholeNumbers()
        self._of[name].add(values)

    def _real(self, name: str, values: Array) -> None:
        if name not in self._of:
            self._of[name] = RealNumbers()
        self._of[name].add(values)

    def as_dict(self) -> dict[str, Any]:
        """A JSON object: `distributions`, and `spacepoints_per_layer`, the mean of an event in every layer."""
        summary: dict[str, Any] = {"distributions": {name: of.as_dict() for name, of in self._of.items()}}
        if len(self._per_layer):
            summary["spacepoints_per_layer"] = (self._per_layer / self._num_events).tolist()
        return summary
