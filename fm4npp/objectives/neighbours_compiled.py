"""The search of `neighbours_blocked.search_later`, compiled by numba; imported only where numba is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]

BLOCK = 64
"""Candidates whose distances are computed together, so that the compiler can use vector instructions."""


def search_later(axes: Array, outward: Array, k: int, periodic: tuple[bool, bool, bool]) -> Array:
    """See `neighbours_blocked.search_later`."""
    later = np.full((len(outward), k), -1)
    _search_all(axes, outward, np.asarray(periodic, dtype=np.bool_), later)
    return later


@njit(cache=True)
def _search_all(axes: Array, outward: Array, periodic: Array, later: Array) -> None:
    count, k = later.shape
    squared, nearest = np.empty(BLOCK), np.empty(k)
    for query in range(count):
        found = 0
        for start in range(query + 1, count, BLOCK):
            gap = outward[start] - outward[query]
            if found == k and gap * gap >= nearest[k - 1]:
                break
            size = min(BLOCK, count - start)
            _squared_distances(axes, periodic, query, start, size, squared)
            for i in range(size):
                if found < k or squared[i] < nearest[k - 1]:
                    found = _insert(squared[i], start + i, found, nearest, later[query])


@njit(cache=True)
def _squared_distances(axes: Array, periodic: Array, query: int, start: int, size: int, squared: Array) -> None:
    for axis in range(3):
        values, origin = axes[axis, start : start + size], axes[axis, query]
        for i in range(size):
            difference = values[i] - origin
            if periodic[axis]:
                difference -= np.floor(difference + 0.5)
            squared[i] = difference * difference + (squared[i] if axis else 0.0)


@njit(cache=True)
def _insert(squared: float, index: int, found: int, nearest: Array, indices: Array) -> int:
    """Insert a candidate after all that are as near; when k are found the farthest drops out."""
    slot = min(found, len(nearest) - 1)
    while slot > 0 and nearest[slot - 1] > squared:
        nearest[slot] = nearest[slot - 1]
        indices[slot] = indices[slot - 1]
        slot -= 1
    nearest[slot] = squared
    indices[slot] = index
    return min(found + 1, len(nearest))
