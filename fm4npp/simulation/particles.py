"""Particles of a block of events as arrays, and the few species that need no table of particles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Species(NamedTuple):
    """PDG code, charge in units of the positron's, and mass in GeV/c^2."""

    pdg: int
    charge: int
    mass: float


SPECIES: dict[str, Species] = {
    "pi+": Species(211, +1, 0.13957039),
    "pi-": Species(-211, -1, 0.13957039),
    "K+": Species(321, +1, 0.493677),
    "K-": Species(-321, -1, 0.493677),
    "p": Species(2212, +1, 0.93827208943),
    "pbar": Species(-2212, -1, 0.93827208943),
    "e-": Species(11, -1, 0.00051099895),
    "e+": Species(-11, +1, 0.00051099895),
    "mu-": Species(13, -1, 0.1056583755),
    "mu+": Species(-13, +1, 0.1056583755),
    "gamma": Species(22, 0, 0.0),
}
"""Masses of S. Navas et al. (Particle Data Group), Phys. Rev. D 110 (2024) 030001."""
_SORTED = sorted(SPECIES.values())
_CODES, _CHARGES, _MASSES = (np.array(column) for column in zip(*_SORTED, strict=True))


@dataclass(frozen=True)
class Particles:
    """Particles of several events.

    Attributes:
        event: (P,) int64, index of the event within the block.
        pdg: (P,) int64 PDG codes.
        charge: (P,) int64, in units of the positron's.
        mass: (P,) float64, GeV/c^2.
        momentum: (P, 3) float64, GeV/c, at production.
        vertex: (P, 3) float64, cm, point of production.
        parent: (P,) int64, index of the parent in the same arrays, before its children; -1 for none.
        flight: (P,) float64, cm, length of path after which it decays, into the particles whose parent it is; inf for
            one that does not. Children are given as if the parent had flown straight.
    """

    event: Array
    pdg: Array
    charge: Array
    mass: Array
    momentum: Array
    vertex: Array
    parent: Array
    flight: Array

    def __len__(self) -> int:
        return len(self.pdg)

    def take(self, index: Array) -> Particles:
        """Some of them, by (M,) indices; `parent` still counts all."""
        return Particles(*(getattr(self, field.name)[index] for field in fields(Particles)))

    @property
    def total_momentum(self) -> Array:
        """(P,) magnitude of the momentum, GeV/c."""
        magnitude: Array = np.sqrt((self.momentum**2).sum(axis=1))
        return magnitude


def particles(
    event: Array, pdg: Array, momentum: Array, vertex: Array, parent: Array | None = None, flight: Array | None = None
) -> Particles:
    """Particles of the species of `SPECIES`, with their charge and mass; see `Particles` for the arguments.

    Args:
        event: (P,).
        pdg: (P,), each the code of one of `SPECIES`.
        momentum: (P, 3).
        vertex: (P, 3).
        parent: (P,); none by default.
        flight: (P,); stable by default.

    Raises:
        KeyError: for another code.
    """
    charge, mass = charges_and_masses(pdg)
    return Particles(
        event=np.asarray(event, np.int64),
        pdg=np.asarray(pdg, np.int64),
        charge=charge,
        mass=mass,
        momentum=np.asarray(momentum, np.float64).reshape(-1, 3),
        vertex=np.asarray(vertex, np.float64).reshape(-1, 3),
        parent=np.full(len(pdg), -1, np.int64) if parent is None else np.asarray(parent, np.int64),
        flight=np.full(len(pdg), np.inf) if flight is None else np.asarray(flight, np.float64),
    )


def charges_and_masses(pdg: Array) -> tuple[Array, Array]:
    """Charges and masses of the species of `SPECIES`.

    Args:
        pdg: (P,) int.

    Returns:
        (P,) int64, and (P,) float64 in GeV/c^2.

    Raises:
        KeyError: for the code of another species.
    """
    pdg = np.asarray(pdg, np.int64)
    place = np.minimum(np.searchsorted(_CODES, pdg), len(_CODES) - 1)
    if len(unknown := pdg[_CODES[place] != pdg]):
        raise KeyError(int(unknown[0]))
    return _CHARGES[place], _MASSES[place]


def concatenate(tables: Sequence[Particles]) -> Particles:
    """One table after the other; parents are shifted along with them."""
    starts = np.cumsum([0, *(len(table) for table in tables)])
    joined = {
        field.name: np.concatenate([getattr(table, field.name) for table in tables]) for field in fields(Particles)
    }
    parents = [
        np.where(table.parent >= 0, table.parent + start, -1) for table, start in zip(tables, starts, strict=False)
    ]
    return Particles(**{**joined, "parent": np.concatenate(parents)})
