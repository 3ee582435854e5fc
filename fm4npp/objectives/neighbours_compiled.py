"""The search of `neighbours_blocked.search_later`, compiled by numba; imported only where numba is installed.

Every query scans the later points in blocks. What is nearer than a running limit is collected; when enough has been
collected the limit is lowered until little more than the k nearest is left. At the end these few are sorted. Distances
and collecting run in vector instructions, and no step branches on the data, which is what an insertion sort of all
candidates spends its time on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]
Point = tuple[float, float, float]
Index = Any
"""An unsigned integer: such an index needs no check for negative ones, which would keep vector instructions away."""

BLOCK = 64
"""Candidates whose distances are computed together."""

ROOM, SPARE, MOST_SPARE = 32, 6, 16
"""Candidates beyond k: that may be collected, that lowering the limit aims at, and that it may leave (ties)."""

ROUNDS = 12
"""Bisections of the limit before it is taken as it is."""

UNSIGNED: Any = np.uint64
LANES: Index = UNSIGNED(BLOCK)


def search_later(axes: Array, outward: Array, slack: float, k: int, periodic: tuple[bool, bool, bool]) -> Array:
    """See `neighbours_blocked.search_later`."""
    count = len(outward)
    padded = np.full((3, count + BLOCK), np.inf)  # no distance to these is below any limit
    padded[:, :count] = axes
    later = np.repeat(np.arange(count), k).reshape(count, k)
    wraps = (float(periodic[0]), float(periodic[1]), float(periodic[2]))
    _search_all(padded[0], padded[1], padded[2], outward, slack, wraps, later)
    return later


@njit(cache=True)
def _search_all(x: Array, y: Array, z: Array, outward: Array, slack: float, periodic: Point, later: Array) -> None:
    count, k = later.shape
    room = max(k, 1) + ROOM + BLOCK
    squared, places, block = np.empty(room), np.empty(room, np.int64), np.empty(BLOCK)
    ordered, taken = np.empty(room, np.int64), np.empty(room, np.bool_)
    wraps = max(periodic) > 0
    for query in range(count):
        origin = (x[query], y[query], z[query])
        found, limit = 0, np.inf
        for start in range(query + 1, count, BLOCK):
            gap = outward[start] - outward[query] - slack
            if gap >= 0 and gap * gap >= limit:
                break
            if wraps:
                near = _wrapped_distances(x, y, z, UNSIGNED(start), origin, periodic, limit, block)
            else:
                near = _distances(x, y, z, UNSIGNED(start), origin, limit, block)
            if near > 0:
                found = _collect(block, UNSIGNED(start), limit, found, squared, places)
            if found >= k + ROOM:
                found, limit = _lower(squared, places, found, k, limit)
        if found > k + SPARE:
            found, limit = _lower(squared, places, found, k, limit)
        _sort(squared, places, found, ordered, taken)
        for slot in range(min(found, k)):
            later[query, slot] = ordered[slot]


@njit(cache=True)
def _distances(x: Array, y: Array, z: Array, start: Index, origin: Point, limit: float, block: Array) -> int:
    """Squared distances of a block of candidates into `block`; how many are below the limit."""
    near = 0
    for i in range(LANES):
        dx, dy, dz = x[start + i] - origin[0], y[start + i] - origin[1], z[start + i] - origin[2]
        squared = dx * dx + dy * dy + dz * dz
        block[i] = squared
        near += squared < limit
    return near


@njit(cache=True)
def _wrapped_distances(
    x: Array, y: Array, z: Array, start: Index, origin: Point, periodic: Point, limit: float, block: Array
) -> int:
    """The same the shorter way round the axes where `periodic` is 1."""
    near = 0
    for i in range(LANES):
        dx, dy, dz = x[start + i] - origin[0], y[start + i] - origin[1], z[start + i] - origin[2]
        dx -= periodic[0] * np.floor(dx + 0.5)
        dy -= periodic[1] * np.floor(dy + 0.5)
        dz -= periodic[2] * np.floor(dz + 0.5)
        squared = dx * dx + dy * dy + dz * dz
        block[i] = squared
        near += squared < limit
    return near


@njit(cache=True)
def _collect(block: Array, start: Index, limit: float, found: int, squared: Array, places: Array) -> Any:
    """Append what is below the limit; everything is written, and overwritten by the next unless it counts."""
    end = UNSIGNED(found)
    for i in range(LANES):
        squared[end] = block[i]
        places[end] = start + i
        end += UNSIGNED(block[i] < limit)
    return np.int64(end)


@njit(cache=True)
def _lower(squared: Array, places: Array, found: int, k: int, limit: float) -> tuple[int, float]:
    """Lower the limit, keep what is below it, in its order.

    Returns:
        How many are kept, at least k; the limit: at least k are nearer, or as near and found before. So what comes
        later must be below it to matter.
    """
    low, high, left = 0.0, limit, found
    if limit == np.inf:
        high = 0.0
        for i in range(UNSIGNED(found)):
            high = max(high, squared[i])
    for _ in range(ROUNDS):
        if left <= k + SPARE:
            break
        middle = 0.5 * (low + high)
        below = _count_below(squared, UNSIGNED(found), middle)
        if below >= k:
            high, limit, left = middle, middle, below
        else:
            low = middle
    if left < found:  # else all stay, those too that are as far as the limit itself
        end = UNSIGNED(0)
        for i in range(UNSIGNED(found)):
            distance, place = squared[i], places[i]
            squared[end], places[end] = distance, place
            end += UNSIGNED(distance < limit)
    if left > k + MOST_SPARE:  # many at one distance
        _insertion_sort(squared, places, left)
        left, limit = k, squared[k - 1]
    return left, limit


@njit(cache=True)
def _count_below(squared: Array, found: Index, limit: float) -> int:
    below = 0
    for i in range(found):
        below += squared[i] < limit
    return below


@njit(cache=True)
def _insertion_sort(squared: Array, places: Array, found: int) -> None:
    for i in range(1, found):
        distance, place, slot = squared[i], places[i], i
        while slot > 0 and squared[slot - 1] > distance:
            squared[slot], places[slot] = squared[slot - 1], places[slot - 1]
            slot -= 1
        squared[slot], places[slot] = distance, place


@njit(cache=True)
def _sort(squared: Array, places: Array, found: int, ordered: Array, taken: Array) -> None:
    """Places by distance into `ordered`: each goes where the number of nearer ones says, ties in their order."""
    for i in range(UNSIGNED(found)):
        taken[i] = False
    for i in range(UNSIGNED(found)):
        slot = UNSIGNED(_count_below(squared, UNSIGNED(found), squared[i]))
        while taken[slot]:
            slot += UNSIGNED(1)
        taken[slot] = True
        ordered[slot] = places[i]
