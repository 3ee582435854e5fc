"""The search for the next nearest neighbours by torch, in blocks of rows, on any device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]

ROWS_PER_BLOCK = {"cpu": 96, "cuda": 4096}
"""Queries whose distances are in memory at once; 96 rows of 1,000 candidates fit in a core's second-level cache."""

PAIRS_PER_BLOCK = {"cpu": 2**22, "cuda": 2**27}
"""Distances in memory at once, at most (but for a single row): 32 MB and 1 GB, a few times over."""


def search_later(
    axes: Array,
    outward: Array,
    slack: float,
    k: int,
    periodic: tuple[bool, bool, bool],
    device: torch.device | str = "cpu",
) -> Array:
    """The k nearest of the later points, by torch in blocks of rows.

    Args:
        axes: (3, N) float64, sorted by rank.
        outward: (N,), never decreasing; see `neighbours.next_nearest`.
        slack: how much larger than the distance a difference of `outward` may be.
        k: neighbours wanted.
        periodic: see `neighbours.next_nearest`.
        device: where to compute; it needs double precision.

    Returns:
        (N, k) int64 places by increasing distance; a point's own where there is no further neighbour.
    """
    count = len(outward)
    points, bound = torch.from_numpy(axes).to(device), torch.from_numpy(outward).to(device)
    later = torch.arange(count, device=device)[:, None].repeat(1, k)
    width = count  # columns beyond the block; the block before tells how far out one must look
    for rows in _blocks(count, points.device.type):
        stop = min(rows.stop + width, count)
        while True:
            places, farthest = _nearest(points, rows, stop, k, periodic)
            reach = bound[rows] + farthest.sqrt() * (1 + 1e-9) + slack
            needed = int(torch.searchsorted(bound, reach.max(), right=True))
            if needed <= stop or stop == count:
                break
            stop = needed
        later[rows, : places.shape[1]] = places
        width = max(needed - rows.stop, 0) * 9 // 8 + 1
    found: Array = later.cpu().numpy()
    return found


def _blocks(count: int, device: str) -> list[slice]:
    """All points but the last, which has no neighbours, in blocks of rows."""
    kind = device if device in ROWS_PER_BLOCK else "cuda"
    rows = max(min(ROWS_PER_BLOCK[kind], PAIRS_PER_BLOCK[kind] // max(count, 1)), 1)
    return [slice(start, min(start + rows, count - 1)) for start in range(0, count - 1, rows)]


def _nearest(
    points: Tensor, rows: slice, stop: int, k: int, periodic: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor]:
    """The first k by (distance, place) of the points after each row and before `stop`.

    Returns:
        (R, <= k) places, a row's own where there is none; (R,) squared distance of the k-th, inf if there is none.
    """
    squared = squared_distances(points[:, rows, None], points[:, None, rows.start + 1 : stop], periodic)
    num_rows, num_columns = squared.shape
    earlier = torch.ones(num_rows, num_rows, dtype=torch.bool, device=squared.device).tril(-1)[:, :num_columns]
    squared[:, :num_rows].masked_fill_(earlier, torch.inf)
    columns = _smallest(squared, min(k, num_columns))
    distances, order = squared.gather(1, columns).sort(dim=1, stable=True)
    own = torch.arange(rows.start, rows.stop, device=squared.device)[:, None]
    places = torch.where(distances.isfinite(), columns.gather(1, order) + rows.start + 1, own)
    farthest = distances[:, -1] if num_columns >= k else distances.new_full((num_rows,), torch.inf)
    return places, farthest


def squared_distances(origins: Tensor, points: Tensor, periodic: tuple[bool, bool, bool]) -> Tensor:
    """Squared Euclidean distances, the axes summed in their order, every operation rounded on its own.

    Args:
        origins: (3, R, 1).
        points: (3, 1, C).
        periodic: see `neighbours.next_nearest`.

    Returns:
        (R, C).
    """
    squared = points[0] - origins[0]
    _square(squared, periodic[0])
    other = torch.empty_like(squared)
    for axis in (1, 2):
        torch.sub(points[axis], origins[axis], out=other)
        squared += _square(other, periodic[axis])
    return squared


def _square(difference: Tensor, wraps: bool) -> Tensor:
    """In place, the shorter way round first if the axis wraps."""
    if wraps:
        difference -= (difference + 0.5).floor_()
    difference *= difference
    return difference


def _smallest(squared: Tensor, k: int) -> Tensor:
    """The columns of the k smallest of every row, increasing; of equal ones at the end, the first."""
    kth = _kth_value(squared, k)
    chosen = squared <= kth
    surplus = chosen.sum(dim=1, keepdim=True) - k
    if surplus.any():
        equal = squared == kth
        last = equal.cumsum(dim=1) > equal.sum(dim=1, keepdim=True) - surplus
        chosen &= ~(equal & last)
    return chosen.nonzero()[:, 1].view(-1, k)


def _kth_value(squared: Tensor, k: int) -> Tensor:
    """(R, C) to the k-th smallest of every row, (R, 1)."""
    if squared.device.type == "cpu":  # NumPy's partition takes a tenth of the time
        return torch.from_numpy(np.partition(squared.numpy(), k - 1, axis=1)[:, k - 1 : k])
    return squared.kthvalue(k, dim=1, keepdim=True).values
