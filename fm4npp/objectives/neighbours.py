"""The k nearest spacepoints among those further out: an exact search, as a pure function on arrays.

Two implementations give the same indices bit for bit: NumPy in `neighbours_blocked`, and numba (the extra `fast`) in
`neighbours_compiled`. Both sum the squares of the axes in the same order in double precision, so ties are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm4npp.errors import ConfigurationError, DataError
from fm4npp.objectives import neighbours_blocked

Array = NDArray[Any]
Search = Callable[[Array, Array, int, tuple[bool, bool, bool]], Array]


def next_nearest(
    coordinates: Array,
    rank: Array,
    k: int,
    periodic: tuple[bool, bool, bool] = (False, False, False),
    compiled: bool | None = None,
) -> tuple[Array, Array]:
    """The k nearest neighbours of every point among the points of larger rank (paper section 4.1).

    Distances are Euclidean, in float64. Points at equal distance are ordered by rank.

    Args:
        coordinates: (N, 3), normalised; taken as float32.
        rank: (N,), a permutation of 0 to N - 1: each point's place in the causal order.
        k: neighbours wanted.
        periodic: axes of length 1 along which a difference is taken the shorter way round.
        compiled: whether to use numba; None uses it if it can be imported. The result is the same.

    Returns:
        index: (N, k) int64, by increasing distance; a point's own index where it has no further neighbour.
        valid: (N, k) bool, whether there is a neighbour.

    Raises:
        DataError: if a coordinate is not finite.
        ConfigurationError: if `compiled` is true and numba cannot be used.
    """
    points = np.asarray(coordinates, dtype=np.float32).astype(np.float64).reshape(-1, 3)
    if not np.isfinite(points).all():
        raise DataError("a normalised coordinate is not finite", remedy="remove spacepoints on the beam axis")
    order = np.argsort(rank, kind="stable")
    axes = np.ascontiguousarray(points[order].T)
    later = _search(compiled)(axes, outward_axis(axes, periodic), k, periodic)
    places = np.arange(len(order))
    back = np.empty_like(order)
    back[order] = places
    index = order.take(np.where(later >= 0, later, places[:, None]))
    return index.take(back, axis=0), later.take(back, axis=0) >= 0


def outward_axis(axes: Array, periodic: tuple[bool, bool, bool]) -> Array:
    """A lower bound of distances that lets a search outwards stop early.

    Args:
        axes: (3, N), sorted by rank.
        periodic: see `next_nearest`.

    Returns:
        (N,) never decreasing, whose differences are nowhere larger than the distance: the axis that the points are
        sorted along if there is one and it does not wrap, else zeros.
    """
    for axis, wraps in zip(axes, periodic, strict=True):
        if not wraps and bool((axis[1:] >= axis[:-1]).all()):
            found: Array = axis
            return found
    return np.zeros_like(axes[0])


@cache
def compiled_search() -> Search | None:
    """The numba implementation, or None where numba is absent or cannot keep its compiled code anywhere."""
    try:
        from fm4npp.objectives.neighbours_compiled import search_later
    except (ImportError, RuntimeError):
        return None
    return search_later


def _search(compiled: bool | None) -> Search:
    fast = None if compiled is False else compiled_search()
    if fast is None and compiled:
        raise ConfigurationError("the compiled neighbour search cannot be used here; install fm4npp[fast] (numba)")
    return fast or neighbours_blocked.search_later
