"""The few species a particle gun shoots, and generated particles as arrays."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Species(NamedTuple):
    """PDG code and charge of the particle (the antiparticle has both opposite) and mass in GeV/c^2."""

    pdg: int
    charge: int
    mass: float


SPECIES: dict[str, Species] = {
    "pion": Species(211, +1, 0.13957039),
    "kaon": Species(321, +1, 0.493677),
    "proton": Species(2212, +1, 0.93827208943),
    "electron": Species(11, -1, 0.00051099895),
    "muon": Species(13, -1, 0.1056583755),
}
"""Masses of S. Navas et al. (Particle Data Group), Phys. Rev. D 110 (2024) 030001."""


@dataclass(frozen=True)
class Particles:
    """Generated particles of one event.

    Attributes:
        pdg: (P,) int64 PDG codes.
        charge: (P,) int64, in units of the positron's.
        mass: (P,) float64, GeV/c^2.
        momentum: (P, 3) float64, GeV/c, at production.
        vertex: (P, 3) float64, cm, point of production.
        max_path: (P,) float64, cm, length of path after which the particle is stopped.
    """

    pdg: Array
    charge: Array
    mass: Array
    momentum: Array
    vertex: Array
    max_path: Array

    def __len__(self) -> int:
        return len(self.pdg)

    @property
    def total_momentum(self) -> Array:
        """(P,) magnitude of the momentum, GeV/c."""
        magnitude: Array = np.sqrt((self.momentum**2).sum(axis=1))
        return magnitude

    def columns(self) -> dict[str, Array]:
        """The particle columns of an `Event`: track_id from 1, pdg, px, py, pz, vx, vy, vz, charge."""
        momentum, vertex = self.momentum.T.astype(np.float32), self.vertex.T.astype(np.float32)
        return {
            "track_id": np.arange(1, len(self) + 1),
            "pdg": self.pdg,
            **dict(zip(("px", "py", "pz"), momentum, strict=True)),
            **dict(zip(("vx", "vy", "vz"), vertex, strict=True)),
            "charge": self.charge,
        }


def identities(species: Array, sign: Array) -> tuple[Array, Array, Array]:
    """PDG code, charge and mass of particles.

    Args:
        species: (P,) int, index into `SPECIES` in its own order.
        sign: (P,) +1 or -1, the sign of the charge.

    Returns:
        (P,) pdg, (P,) charge, (P,) mass in GeV/c^2.
    """
    pdg, charge, mass = (np.array(column) for column in zip(*SPECIES.values(), strict=True))
    return pdg[species] * charge[species] * sign, sign, mass[species]


def concatenate(first: Particles, second: Particles) -> Particles:
    """The particles of `first`, then those of `second`."""
    return Particles(
        *(np.concatenate([getattr(first, field.name), getattr(second, field.name)]) for field in fields(Particles))
    )
