"""The hierarchical raster scan: boxes from the inside out, and outwards inside each box (paper section 4.1)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field, model_validator

from fm4npp.errors import DataError, NotFittedError
from fm4npp.geometry import Geometry
from fm4npp.serializers.base import Array, Serializer
from fm4npp.serializers.radial import outwards_within

NumBins = Annotated[int, Field(ge=1)]
Edges = tuple[float, ...]

FEW_EDGES = 16
"""Up to this many inner edges of an axis, points are compared with every one of them."""


def equal_count_edges(values: Array, num_bins: int, low: float, high: float) -> Edges:
    """Edges from `low` to `high` with equally many values in every bin; of equal width if there are no values.

    Args:
        values: (M,).
        num_bins: B.
        low: first edge; inner edges are not below it.
        high: last edge; inner edges are not above it.

    Returns:
        B + 1 edges that never decrease; some are equal where few distinct values are shared by many bins.
    """
    fractions = np.linspace(0, 1, num_bins + 1)[1:-1]
    inner = np.quantile(values, fractions) if len(values) else low + (high - low) * fractions
    return (low, *np.clip(inner, low, high).tolist(), high)


def gap_middle(values: Array, boundary: float) -> float:
    """The middle of the gap around `boundary` that no value lies in; `boundary` where one side has no values.

    Args:
        values: (M,); a value on the boundary counts as below it.
        boundary: nominal place.
    """
    below, above = values[values <= boundary], values[values > boundary]
    return float(below.max() + above.min()) / 2 if len(below) and len(above) else boundary


def share(num_bins: int, num_groups: int) -> list[int]:
    """The bins of each group, as even as possible, the first groups taking what is left over; at least one each."""
    each, left = divmod(num_bins, num_groups)
    return [each + (group < left) for group in range(num_groups)]


def grouped_edges(values: Array, num_bins: int, boundaries: Iterable[float]) -> Edges:
    """Edges along the causal axis: the groups of layers first, then equally many values per bin inside each group.

    Args:
        values: (M,), at least one.
        num_bins: B, shared out over the groups.
        boundaries: nominal places between groups, increasing; each is moved to the middle of the gap around it. A
            group without values keeps its bins, empty.

    Returns:
        B + 1 edges that never decrease, the outer two at the smallest and the largest value (or at a nominal
        boundary beyond them).
    """
    inner = [gap_middle(values, boundary) for boundary in boundaries]
    ends = [min([float(values.min()), *inner]), *inner, max([float(values.max()), *inner])]
    group_of = np.searchsorted(inner, values, side="left")
    edges: Edges = (ends[0],)
    for group, bins in enumerate(share(num_bins, len(inner) + 1)):
        edges += equal_count_edges(values[group_of == group], bins, ends[group], ends[group + 1])[1:]
    return edges


def fit_edges(coordinates: Array, geometry: Geometry, num_bins: tuple[int, int, int]) -> tuple[Edges, ...]:
    """Bin edges of every axis.

    Args:
        coordinates: (M, 3), normalised, the spacepoints of many events.
        geometry: the detector's.
        num_bins: of each axis.

    Returns:
        One tuple of normalised edges an axis. Axes other than the causal one run from 0 to 1.
    """
    boundaries = [geometry.normalised(boundary, geometry.causal_axis) for boundary in geometry.group_boundaries]
    return tuple(
        grouped_edges(values, bins, boundaries)
        if axis == geometry.causal_axis
        else equal_count_edges(values, bins, 0.0, 1.0)
        for axis, (values, bins) in enumerate(zip(coordinates.T, num_bins, strict=True))
    )


def boxes(coordinates: Array, edges: tuple[Edges, ...], causal_axis: int) -> Array:
    """The box of each point.

    Args:
        coordinates: (N, 3), normalised.
        edges: of each axis; bins are closed on the right, and the outer ones take what lies beyond them.
        causal_axis: the slowest index of a box; the axis before it (phi) follows, the one before that (eta) is the
            fastest.

    Returns:
        (N,) box numbers, 0 the first box of the sequence.
    """
    columns = np.ascontiguousarray(coordinates.T, dtype=np.float64)
    dtype = np.min_scalar_type(np.prod([len(axis) - 1 for axis in edges]))
    box = np.zeros(len(coordinates), dtype=dtype)
    for axis in ((causal_axis - step) % 3 for step in range(3)):
        box *= dtype.type(len(edges[axis]) - 1)
        box += _bins(columns[axis], edges[axis][1:-1]).astype(dtype, copy=False)
    return box


def _bins(values: Array, inner: Edges) -> Array:
    """(N,) values to how many of the inner edges lie below each; a few edges are counted faster than searched."""
    if len(inner) > FEW_EDGES:
        return np.searchsorted(inner, values, side="left")
    found = np.zeros(len(values), dtype=np.uint8)
    for edge in inner:
        found += (values > edge).view(np.uint8)
    return found


class RasterScan(Serializer):
    """Hierarchical raster scan: boxes from the inside out, spacepoints outwards inside each (paper section 4.1).

    Attributes:
        num_bins: bins of each axis of the geometry; the paper's 8 in eta, 8 in phi, 6 in r. `fit` makes it one for each
            group of layers along the causal axis where there are more groups.
        edges: normalised bin edges of each axis, `num_bins + 1` of each; None until `fit`.
    """

    registered_name: ClassVar[str] = "raster-scan"

    num_bins: tuple[NumBins, NumBins, NumBins] = (8, 8, 6)
    edges: tuple[Edges, Edges, Edges] | None = None

    @model_validator(mode="after")
    def _check_edges(self) -> RasterScan:
        for axis, (edges, bins) in enumerate(zip(self.edges or (), self.num_bins, strict=False)):
            if len(edges) != bins + 1:
                raise ValueError(f"edges: {len(edges)} on axis {axis} for {bins} bins, {bins + 1} are needed")
            if list(edges) != sorted(edges):
                raise ValueError(f"edges: decrease on axis {axis}")
        return self

    @property
    def fitted(self) -> bool:
        """Whether there are edges."""
        return self.edges is not None

    def fit(self, coordinates: Iterable[Array], geometry: Geometry) -> RasterScan:
        """A raster scan whose edges follow the data, about 10,000 events of it in the paper.

        Eta and phi: equal-count quantiles from 0 to 1. Causal axis: the geometry's groups of layers, each split at
        equal counts.

        Args:
            coordinates: (N, 3) of each event, normalised by `geometry`.
            geometry: the detector's.

        Raises:
            DataError: if there are fewer than two spacepoints, or one is not finite.
        """
        events = [np.asarray(event, dtype=np.float64).reshape(-1, 3) for event in coordinates]
        points = np.concatenate(events) if events else np.empty((0, 3))
        if len(points) < 2:
            raise DataError(
                f"raster-scan cannot be fitted to {len(points)} spacepoints in {len(events)} events",
                remedy="fit on a sample of events like those it will order",
            )
        if not np.isfinite(points).all():
            raise DataError("raster-scan cannot be fitted to coordinates that are not finite", remedy="remove them")
        num_bins = list(self.num_bins)
        num_bins[geometry.causal_axis] = max(num_bins[geometry.causal_axis], len(geometry.group_boundaries) + 1)
        edges = fit_edges(points, geometry, (num_bins[0], num_bins[1], num_bins[2]))
        return self.replace(num_bins=tuple(num_bins), edges=edges)

    def order(self, coordinates: Array, geometry: Geometry) -> Array:
        """See `Serializer.order`.

        Raises:
            NotFittedError: before `fit`.
        """
        if self.edges is None:
            raise NotFittedError(
                "raster-scan has no bin edges; call processor.fit(events) or load a processor that was fitted "
                "(edges are part of its configuration and are never refitted silently)"
            )
        coordinates = np.asarray(coordinates).reshape(-1, 3)
        return outwards_within(boxes(coordinates, self.edges, geometry.causal_axis), coordinates, geometry)
