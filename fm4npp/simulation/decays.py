"""Decay products of particles that the field, scattering and energy loss led elsewhere than the generator thought."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm4npp.simulation.particles import Particles

Array = NDArray[Any]


class Children:
    """The children of every particle of a table.

    Args:
        parent: (P,) int64 index of the parent, -1 for none.
    """

    def __init__(self, parent: Array) -> None:
        self._order = np.argsort(parent, kind="stable")
        self._parents = parent[self._order]

    def of(self, parents: Array) -> tuple[Array, Array]:
        """The children (Q,) of some particles, and the place (Q,) of each one's parent in `parents`."""
        first, last = (np.searchsorted(self._parents, parents, side) for side in ("left", "right"))
        counts = last - first
        place = np.repeat(np.arange(len(parents)), counts)
        within = np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts)
        return self._order[first[place] + within], place


def released(given: Particles, parent: Array, child: Array, position: Array, momentum: Array) -> tuple[Array, Array]:
    """Where decay products start.

    The generator lets the parent fly straight; the products are turned with it, by the rotation that takes its
    direction at production to the one at the decay, and moved to where it is. Energy that the parent lost in matter
    is not taken from its children.

    Args:
        given: the generator's particles.
        parent: (Q,) index of the parent of each product.
        child: (Q,) its own index.
        position: (Q, 3) where the parent decays, in cm.
        momentum: (Q, 3) of the parent there, in GeV/c.

    Returns:
        (Q, 3) positions in cm and (Q, 3) momenta in GeV/c of the products.
    """
    before, after = _unit(given.momentum[parent]), _unit(momentum)
    meant = given.vertex[parent] + given.flight[parent, None] * before
    offset = rotated(given.vertex[child] - meant, before, after)
    return position + offset, rotated(given.momentum[child], before, after)


def rotated(vectors: Array, before: Array, after: Array) -> Array:
    """(Q, 3) vectors turned by the smallest rotations that take unit vectors `before` to `after` (Rodrigues)."""
    axis = _cross(before, after)
    cosine = (before * after).sum(axis=1, keepdims=True)
    turned = _cross(axis, vectors)
    result: Array = vectors + turned + _cross(axis, turned) / np.maximum(1 + cosine, 1e-12)
    return result


def _cross(a: Array, b: Array) -> Array:
    """(Q, 3) vector products; `np.cross` takes five times as long for a few."""
    (ax, ay, az), (bx, by, bz) = a.T, b.T
    return np.stack([ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx], axis=1)


def _unit(vectors: Array) -> Array:
    lengths = np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
    result: Array = vectors / np.maximum(lengths, 1e-300)
    return result
