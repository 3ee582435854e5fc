"""New particles, and the few vectors and draws that all processes need which make them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

LOWEST = 0.5e-3
"""GeV: least kinetic energy of what is born; less is deposited where it is, for an electron of 0.5 MeV has a range of
0.2 g/cm^2 and a circle of 2 mm in 1.4 T, less than a row of pads."""
TINY = 1e-300
_NO_INDEX = np.empty(0, np.int64)


@dataclass(frozen=True)
class Born:
    """Q new particles.

    Attributes:
        index: (Q,) int64, who made each one: its place in the arrays given.
        pdg: (Q,) int64.
        momentum: (Q, 3) in GeV/c.
    """

    index: Array
    pdg: Array
    momentum: Array

    def __len__(self) -> int:
        return len(self.index)

    def of(self, places: Array) -> Born:
        """The same, when the arrays given were those at (P,) places of larger ones."""
        return Born(places[self.index], self.pdg, self.momentum)


NONE = Born(_NO_INDEX, _NO_INDEX, np.empty((0, 3)))


def joined(born: Sequence[Born]) -> Born:
    """All of them, one after the other."""
    some = [part for part in born if len(part)]
    if len(some) < 2:
        return some[0] if some else NONE
    return Born(
        np.concatenate([part.index for part in some]),
        np.concatenate([part.pdg for part in some]),
        np.concatenate([part.momentum for part in some]),
    )


def above(threshold: float, mass: Array | float, born: Born) -> Born:
    """Those with more kinetic energy than a threshold in GeV, of a (Q,) mass in GeV/c^2."""
    momentum2 = np.einsum("ij,ij->i", born.momentum, born.momentum)
    energy = threshold + mass
    kept = np.flatnonzero(momentum2 > energy * energy - np.square(mass))
    return born if len(kept) == len(born) else Born(born.index[kept], born.pdg[kept], born.momentum[kept])


def drawn(number: Array, rng: np.random.Generator) -> Array:
    """(P,) mean numbers to (Q,) indices in order, each as often as Poisson's distribution of its mean says."""
    until = np.cumsum(number)
    if not len(until) or not (count := rng.poisson(until[-1])):
        return _NO_INDEX
    places = np.searchsorted(until, np.sort(rng.random(count)) * until[-1], side="right")
    index: Array = np.minimum(places, len(number) - 1)
    return index


def affordable(index: Array, costs: Array, budget: Array) -> Array:
    """Which of many are kept, if each index takes its own in their order until the first beyond its budget.

    Args:
        index: (Q,) who pays.
        costs: (Q,) positive.
        budget: (P,) of each index.

    Returns:
        (R,) places in the arrays, those of one index together.
    """
    order = np.argsort(index, kind="stable")
    payer, spent = index[order], np.cumsum(costs[order])
    first = np.searchsorted(payer, payer)
    spent -= np.where(first > 0, spent[first - 1], 0.0)
    return order[spent <= budget[payer]]


def length(vectors: Array) -> Array:
    """(P,) lengths of (P, 3) vectors."""
    lengths: Array = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    return lengths


def across(direction: Array, rng: np.random.Generator) -> Array:
    """(P, 3) unit vectors at right angles to others, at random azimuths around them."""
    normal = rng.standard_normal(direction.shape)
    normal -= direction * np.einsum("ij,ij->i", normal, direction)[:, None]
    normal /= np.maximum(length(normal), TINY)[:, None]
    return normal


def turned(direction: Array, side: Array, cosine: Array) -> Array:
    """(P, 3) unit vectors at an angle to `direction`, towards `side`, which is at right angles to it."""
    result: Array = direction * cosine[:, None] + side * np.sqrt(1 - cosine * cosine)[:, None]
    return result
