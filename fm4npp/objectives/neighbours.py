"""The k nearest spacepoints among those further out: an exact search, as a pure function on arrays.

Two implementations give the same indices bit for bit: torch in `neighbours_blocked`, on any device, and numba (the
extra `fast`) in `neighbours_compiled`. Both sum the squares of the axes in the same order in double precision, so ties
are the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fm4npp.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    import torch

Array = NDArray[Any]
Periodic = tuple[bool, bool, bool]

LARGEST = 1e150
"""Larger coordinates have squared distances that double precision cannot hold."""

ROUNDING = 1e-12
"""Of an outward bound and of positions computed from the same coordinates, relative: thousands of times what is."""


class Search(Protocol):
    """`neighbours_blocked.search_later`, which describes it, or the same elsewhere."""

    def __call__(self, axes: Array, outward: Array, slack: float, k: int, periodic: Periodic) -> Array:
        """The k nearest of the later points."""


def next_nearest(
    points: Array,
    rank: Array,
    k: int,
    periodic: Periodic = (False, False, False),
    *,
    outward: Array | None = None,
    compiled: bool | None = None,
    device: torch.device | str | None = None,
) -> Array:
    """The k nearest neighbours of every point among the points of larger rank (paper section 4.1).

    Distances are Euclidean, in float64. Points at equal distance are ordered by rank.

    Args:
        points: (N, 3), in any unit, below `LARGEST`.
        rank: (N,), a permutation of 0 to N - 1: each point's place in the causal order.
        k: neighbours wanted.
        periodic: axes of length 1 along which a difference is taken the shorter way round.
        outward: (N,) never decreasing with rank, nowhere differing by more than the distance of two points, up to
            `ROUNDING`: what lets the search stop early. By default the axis of `points` that the rank follows, if any.
        compiled: whether to use numba; None uses it if it can be imported. The result is the same.
        device: where torch searches, in place of numba; the result is the same.

    Returns:
        (N, k) int64 indices, by increasing distance; a point's own index where it has no further neighbour.

    Raises:
        DataError: if a coordinate is not finite.
        ConfigurationError: if `compiled` is true and numba cannot be used.
    """
    points = np.asarray(points, dtype=np.float64).reshape(-1, 3)
    if not (np.abs(points) < LARGEST).all():
        raise DataError("a coordinate is not finite", remedy="remove spacepoints on the beam axis")
    order = np.empty(len(points), dtype=np.int64)
    order[rank] = np.arange(len(points))
    axes = np.ascontiguousarray(points.take(order, axis=0).T)
    if outward is None:
        bound, slack = outward_axis(axes, periodic), 0.0
    else:
        bound = np.asarray(outward, dtype=np.float64).take(order)
        slack = ROUNDING * float(np.abs(points).max(initial=0))
    later = _search(compiled, device)(axes, bound, slack, k, periodic)
    index = np.empty_like(later)
    index[order] = order.take(later)
    return index


def outward_axis(axes: Array, periodic: Periodic) -> Array:
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


def wrap(difference: Array) -> Array:
    """A difference on a periodic axis of length 1 to the shorter way round, in [-1/2, 1/2)."""
    shorter: Array = difference - np.floor(difference + 0.5)
    return shorter


def exists(index: Array) -> Array:
    """(N, k) indices of `next_nearest` to (N, k) bool: whether there is such a neighbour."""
    found: Array = index != np.arange(len(index))[:, None]
    return found


def compact(index: Array) -> Array:
    """(N, k) indices of `next_nearest` in the smallest type a column of events can have: uint16, or uint32."""
    return index.astype(np.uint16 if len(index) <= 2**16 else np.uint32)


def passed_share(events: Iterable[Array]) -> float:
    """The share of targets that a scan has already passed when it is at the spacepoint they are targets of.

    A causal model has seen these, and can copy them. Neighbours lie outwards, so it is 0 for a scan outwards.

    Args:
        events: (N, k) indices of each event, of `next_nearest` on its points in the order of the scan.

    Returns:
        From 0 to 1; 0 if no spacepoint has a neighbour.
    """
    passed = targets = 0
    for index in events:
        passed += int((index < np.arange(len(index))[:, None]).sum())
        targets += int(exists(index).sum())
    return passed / max(targets, 1)


@cache
def compiled_search() -> Search | None:
    """The numba implementation, or None where numba is absent or cannot keep its compiled code anywhere."""
    try:
        from fm4npp.objectives.neighbours_compiled import search_later
    except (ImportError, RuntimeError):
        return None
    return search_later


def _search(compiled: bool | None, device: torch.device | str | None) -> Search:
    fast = None if compiled is False or device is not None else compiled_search()
    if fast is None and compiled:
        raise ConfigurationError("the compiled neighbour search cannot be used here; install fm4npp[fast] (numba)")
    if fast is not None:
        return fast
    from fm4npp.objectives.neighbours_blocked import search_later

    return partial(search_later, device=device or "cpu")
