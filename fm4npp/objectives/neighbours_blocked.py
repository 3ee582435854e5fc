"""The search for the next nearest neighbours by NumPy alone, in blocks of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

ROWS_PER_BLOCK = 96
"""Queries whose distances are in memory at once; 96 rows of 1,000 candidates fit in a core's second-level cache."""

MARGIN, SMALLEST = 1e-5, 1e-30
"""Relative and absolute slack of squared distances in single precision: ten times the rounding error, and underflow."""


def wrap(difference: Array) -> Array:
    """A difference on a periodic axis of length 1 to the shorter way round, in [-1/2, 1/2)."""
    shorter: Array = difference - np.floor(difference + 0.5)
    return shorter


def squared_distances(origins: Array, points: Array, periodic: tuple[bool, bool, bool]) -> Array:
    """Squared Euclidean distances, the axes summed in their order.

    Args:
        origins: (3, ...).
        points: (3, ...), broadcast against `origins`.
        periodic: see `next_nearest`.

    Returns:
        (...), in the precision of the arguments.
    """
    squared = np.empty(np.broadcast_shapes(origins.shape[1:], points.shape[1:]), dtype=points.dtype)
    other = np.empty_like(squared)
    _square_differences(origins[0], points[0], periodic[0], squared)
    for axis in (1, 2):
        squared += _square_differences(origins[axis], points[axis], periodic[axis], other)
    return squared


def _square_differences(origins: Array, points: Array, wraps: bool, out: Array) -> Array:
    np.subtract(points, origins, out=out)
    if wraps:
        out -= np.floor(out + 0.5)
    return np.square(out, out=out)


def search_later(axes: Array, outward: Array, k: int, periodic: tuple[bool, bool, bool]) -> Array:
    """The k nearest of the later points, by NumPy in blocks of rows.

    Candidates are picked in single precision with a margin, then measured and ordered in double precision.

    Args:
        axes: (3, N) float64, sorted by rank.
        outward: (N,), see `outward_axis`.
        k: neighbours wanted.
        periodic: see `next_nearest`.

    Returns:
        (N, k) int64 by increasing distance, -1 where there is no further neighbour.
    """
    count = len(outward)
    later = np.full((count, k), -1)
    coarse = _coarse(axes, periodic)
    width = count  # columns beyond the block; the block before tells how far out one must look
    for start in range(0, count - 1, ROWS_PER_BLOCK):
        rows = slice(start, min(start + ROWS_PER_BLOCK, count - 1))
        stop = min(rows.stop + width, count)
        while True:
            candidates = _candidates(squared_distances(*_pairs(coarse, rows, stop), periodic), k)
            found, farthest = _nearest(axes, candidates, start, k, periodic)
            reach = int(np.searchsorted(outward, (outward[rows] + np.sqrt(farthest)).max(), side="right"))
            if _complete(outward, rows, stop, farthest):
                break
            stop = min(max(reach, stop + 1), count)
        later[rows, : found.shape[1]] = found
        width = max(reach - rows.stop, 0) * 9 // 8 + 1
    return later


def _coarse(axes: Array, periodic: tuple[bool, bool, bool]) -> Array:
    """`axes` in single precision, where a squared distance then has a relative error far below `MARGIN`.

    A wrapped difference loses that (it cancels), and the square of a huge one overflows.
    """
    exact = any(periodic) or float(np.abs(axes).max(initial=0)) > 1e15
    return axes if exact else axes.astype(np.float32)


def _pairs(axes: Array, rows: slice, stop: int) -> tuple[Array, Array]:
    """(3, R, 1) queries and (3, 1, C) points after the first query, up to `stop`."""
    return axes[:, rows, None], axes[:, None, rows.start + 1 : stop]


def _candidates(squared: Array, k: int) -> Array:
    """Approximate squared distances to what may be among the k nearest.

    Args:
        squared: (R, C); row r may not have the columns before r. Changed.
        k: neighbours wanted.

    Returns:
        (R, C) bool: the k smallest of each row and all within `MARGIN` of the largest of them.
    """
    earlier = np.tri(len(squared), min(squared.shape), k=-1, dtype=bool)
    squared[:, : len(squared)][earlier] = np.inf
    if squared.shape[1] <= k:
        return np.isfinite(squared)
    kth = np.partition(squared, k - 1, axis=1)[:, k - 1 : k]
    limit = kth * squared.dtype.type(1 + MARGIN) + squared.dtype.type(SMALLEST)
    near: Array = squared <= np.minimum(limit, np.finfo(squared.dtype).max)
    return near


def _nearest(
    axes: Array, candidates: Array, start: int, k: int, periodic: tuple[bool, bool, bool]
) -> tuple[Array, Array]:
    """The first k candidates of each row by (distance, rank).

    Args:
        axes: (3, N), sorted by rank.
        candidates: (R, C) bool, row r for the point `start + r`, column c for `start + 1 + c`.
        start: place of the first row.
        k: neighbours wanted.
        periodic: see `next_nearest`.

    Returns:
        (R, <= k) places, -1 where there is none; (R,) squared distance of the k-th, inf if there is none.
    """
    counts = np.count_nonzero(candidates, axis=1)
    num_rows, width = len(counts), int(counts.max())
    flat = np.flatnonzero(candidates)
    row = np.repeat(np.arange(num_rows), counts)
    place = flat - row * candidates.shape[1] + start + 1
    slot = np.arange(len(flat)) + (np.arange(num_rows) * width - np.cumsum(counts) + counts)[row]
    places, squared = np.full(num_rows * width, -1), np.full(num_rows * width, np.inf)
    places[slot] = place
    squared[slot] = squared_distances(axes.take(row + start, axis=1), axes.take(place, axis=1), periodic)
    first = np.argsort(squared.reshape(num_rows, width), axis=1, kind="stable")[:, :k]
    first += np.arange(num_rows)[:, None] * width
    farthest = squared.take(first[:, k - 1]) if width >= k else np.full(num_rows, np.inf)
    return places.take(first), farthest


def _complete(outward: Array, rows: slice, stop: int, farthest: Array) -> bool:
    """Whether no point from `stop` on can replace one that was found: at equal distance the smaller rank wins."""
    return stop == len(outward) or bool((np.square(outward[stop] - outward[rows]) >= farthest).all())
