"""A particle gun: which particles an event starts with."""

from __future__ import annotations

import functools
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fm4npp.simulation.particles import SPECIES, Particles, concatenate, identities

Array = NDArray[Any]
Range = tuple[float, float]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]


class ParticleGun(BaseModel):
    """Independent primaries from the beam line, and electrons that curl up inside the tracker as noise.

    There is no event structure (jets, resonances, decays): it takes the place of a generator where none is
    installed. Particles and antiparticles are equally frequent.

    Attributes:
        mean_primaries: mean number of primaries, Poisson.
        pt: range of their transverse momentum, GeV/c.
        inverse_slope: T of dN/dpT ~ pT exp(-pT / T) within the range, GeV/c; 2 T is the mean of the full spectrum
            (about 0.5 GeV/c for charged hadrons in minimum-bias pp at 200 GeV).
        eta: range of their pseudorapidity, uniform.
        species: relative frequency of each species, normalised to 1.
        vertex_sigma_z: standard deviation of the collision's z, cm; all primaries share it, at x = y = 0.
        stopped_below: beta gamma below which a primary stops in the beam pipe and other material before the first
            layer; at 0.3 a proton (0.28 GeV/c) has a range of 1.7 g/cm^2 in carbon (Bethe formula), 4 % of a radiation
            length. It stays among the event's particles, without hits.
        max_path: longest path of a primary, cm; 10 m are nearly two decay lengths of a pion of 0.1 GeV/c.
        mean_curlers: mean number of curling electrons, Poisson: knock-on and conversion electrons, born uniformly in
            radius between the first and the last layer, as secondaries of particles from the beam line are.
        curler_momentum: range of their momentum, GeV/c; dN/dp ~ 1/p, between the 1/p^2 of knock-on electrons and the
            flat spectrum of conversions; directions are isotropic.
        curler_path: longest path of a curling electron, cm.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    mean_primaries: NotNegative = 14.0
    pt: Range = (0.06, 5.0)
    inverse_slope: Positive = 0.26
    eta: Range = (-1.1, 1.1)
    species: dict[str, NotNegative] = Field(
        default_factory=lambda: {"pion": 0.82, "kaon": 0.09, "proton": 0.06, "electron": 0.02, "muon": 0.01}
    )
    vertex_sigma_z: NotNegative = 5.0
    stopped_below: NotNegative = 0.3
    max_path: Positive = 1000.0
    mean_curlers: NotNegative = 1.8
    curler_momentum: Range = (0.004, 0.06)
    curler_path: Positive = 120.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("pt", "curler_momentum"):
            if not 0 < getattr(self, name)[0] < getattr(self, name)[1]:
                raise ValueError(f"{name} must be (low, high) with 0 < low < high")
        if self.eta[0] >= self.eta[1]:
            raise ValueError("eta must be (low, high) with low < high")
        if unknown := sorted(set(self.species) - set(SPECIES)):
            raise ValueError(f"unknown species {', '.join(unknown)}; choices: {', '.join(SPECIES)}")
        if not sum(self.species.values()) > 0:
            raise ValueError("species: at least one frequency must be above 0")
        return self

    def shoot(self, rng: np.random.Generator, radii: Range, half_length: float) -> Particles:
        """The particles of one event, primaries first.

        Args:
            rng: source of randomness.
            radii: of the first and the last layer, cm.
            half_length: of the tracker, cm.
        """
        return concatenate(self._primaries(rng), self._curlers(rng, radii, half_length))

    def _primaries(self, rng: np.random.Generator) -> Particles:
        count = int(rng.poisson(self.mean_primaries))
        vertex = np.zeros((count, 3))
        vertex[:, 2] = rng.normal(0.0, 1.0) * self.vertex_sigma_z
        transverse = np.interp(rng.random(count), *_spectrum(*self.pt, self.inverse_slope))
        momentum = _momentum(transverse, np.sinh(rng.uniform(*self.eta, count)), rng)
        frequencies = np.cumsum([self.species.get(name, 0.0) for name in SPECIES])
        species = np.searchsorted(frequencies / frequencies[-1], rng.random(count), side="right")
        pdg, charge, mass = identities(species, rng.choice([-1, 1], count))
        flies = (momentum**2).sum(axis=1) >= (self.stopped_below * mass) ** 2
        return Particles(pdg, charge, mass, momentum, vertex, np.where(flies, self.max_path, 0.0))

    def _curlers(self, rng: np.random.Generator, radii: Range, half_length: float) -> Particles:
        count = int(rng.poisson(self.mean_curlers))
        radius, phi = rng.uniform(*radii, count), rng.uniform(-np.pi, np.pi, count)
        vertex = np.stack([radius * np.cos(phi), radius * np.sin(phi), rng.uniform(-1, 1, count) * half_length], axis=1)
        low, high = np.log(self.curler_momentum)
        total = np.exp(rng.uniform(low, high, count))
        cosine = rng.uniform(-1.0, 1.0, count)
        sine = np.sqrt(1 - cosine**2)
        momentum = _momentum(total * sine, cosine / sine, rng)
        electrons = np.full(count, list(SPECIES).index("electron"))
        identity = identities(electrons, rng.choice([-1, 1], count))
        return Particles(*identity, momentum, vertex, np.full(count, self.curler_path))


def _momentum(transverse: Array, slope: Array, rng: np.random.Generator) -> Array:
    """(P, 3) momenta of given pT and pz / pT, uniform in azimuth."""
    phi = rng.uniform(-np.pi, np.pi, len(transverse))
    return np.stack([transverse * np.cos(phi), transverse * np.sin(phi), transverse * slope], axis=1)


@functools.lru_cache(maxsize=16)
def _spectrum(low: float, high: float, inverse_slope: float) -> tuple[Array, Array]:
    """The cumulative distribution of pT, and pT, on a fine grid: interpolated backwards it samples the spectrum."""
    transverse = np.geomspace(low, high, 4097)
    scaled = transverse / inverse_slope
    cumulative = (1 + scaled[0]) - (1 + scaled) * np.exp(scaled[0] - scaled)
    return cumulative / cumulative[-1], transverse
