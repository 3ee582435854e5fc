"""A particle gun: independent particles, where no physics of collisions is wanted or installed."""

from __future__ import annotations

import functools
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from fm4npp.errors import ConfigurationError
from fm4npp.simulation.generator import Generator
from fm4npp.simulation.particles import SPECIES, Particles, particles

Array = NDArray[Any]
Range = tuple[float, float]
Positive = Annotated[float, Field(gt=0)]
LARGEST = 1e6
"""Of momenta in GeV/c, lengths in cm and numbers of particles: far beyond what is of use, and far from overflow."""
LARGEST_ETA = 20.0
NotNegative = Annotated[float, Field(ge=0, le=LARGEST)]

BOTH_CHARGES = {
    "pion": ("pi+", "pi-"),
    "kaon": ("K+", "K-"),
    "proton": ("p", "pbar"),
    "electron": ("e-", "e+"),
    "muon": ("mu-", "mu+"),
}
"""Names for a particle and its antiparticle, equally frequent."""
MIX = {"pion": 0.82, "kaon": 0.09, "proton": 0.06, "electron": 0.02, "muon": 0.01}
"""About the charged particles of minimum-bias collisions; a round choice, not a measurement."""


class ParticleGun(Generator):
    """Independent primaries from a point of the beam line.

    There is no event structure (jets, resonances), and nothing decays: `flight` is infinite, for pions and kaons too.

    Attributes:
        number: of primaries in every event; None for a Poisson number.
        mean_primaries: mean of that Poisson number.
        pt: range of their transverse momentum, GeV/c.
        spectrum: of pT within the range: "exponential" for dN/dpT ~ pT exp(-pT / T), or "uniform".
        inverse_slope: that T, GeV/c; 2 T is the mean of the full spectrum (about 0.5 GeV/c for charged hadrons in
            minimum-bias pp at 200 GeV).
        eta: range of their pseudorapidity, uniform.
        species: relative frequency of each species, by the names of `SPECIES` or of `BOTH_CHARGES`.
        vertex_sigma_z: standard deviation of the event's z, cm; all its primaries share it, at x = y = 0.
    """

    number: Annotated[int, Field(ge=0, le=LARGEST)] | None = None
    mean_primaries: NotNegative = 14.0
    pt: Range = (0.06, 5.0)
    spectrum: Literal["exponential", "uniform"] = "exponential"
    inverse_slope: Positive = 0.26
    eta: Range = (-1.1, 1.1)
    species: dict[str, NotNegative] = Field(default_factory=MIX.copy)
    vertex_sigma_z: NotNegative = 5.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not 0 < self.pt[0] <= self.pt[1] <= LARGEST:
            raise ValueError(f"pt must be (low, high) with 0 < low <= high <= {LARGEST:g}")
        if not -LARGEST_ETA <= self.eta[0] <= self.eta[1] <= LARGEST_ETA:
            raise ValueError(f"eta must be (low, high) with -{LARGEST_ETA:g} <= low <= high <= {LARGEST_ETA:g}")
        if unknown := sorted(set(self.species) - {*SPECIES, *BOTH_CHARGES}):
            choices = ", ".join([*SPECIES, *BOTH_CHARGES])
            raise ValueError(f"unknown species {', '.join(unknown)}; choices: {choices}")
        if not sum(self.species.values()) > 0:
            raise ValueError("species: at least one frequency must be above 0")
        return self

    @classmethod
    def parse(cls, text: str) -> Self:
        """A gun from one line, such as "pi+,pt=0.2..2" or "pi+,K-,pt=1,eta=-1..1,number=10".

        Args:
            text: species (equally frequent, of `mix` none) and `key=value`, apart by commas; a range is `low..high`, or
                one value. With `pt` the spectrum is uniform unless one is given. An event has one particle unless
                `number` or `mean_primaries` is given; `mix` stands for the gun's own species and number.

        Raises:
            ConfigurationError: for a text that means nothing.
        """
        words = [word.strip() for word in text.split(",") if word.strip()]
        names = [word for word in words if "=" not in word]
        values = _read(text, [word for word in words if "=" in word])
        if not words:
            raise ConfigurationError(f"gun {text!r} names no particle; such as 'pi+,pt=0.2..2'")
        if names and names != ["mix"]:
            values["species"] = dict.fromkeys(names, 1.0)
        if names != ["mix"] and not {"number", "mean_primaries"} & values.keys():
            values["number"] = 1
        if "pt" in values and not {"spectrum", "inverse_slope"} & values.keys():
            values["spectrum"] = "uniform"
        try:
            return cls(**values)
        except ValidationError as error:
            raise ConfigurationError(f"gun {text!r}: {_complaint(error)}") from error

    @property
    def source(self) -> str:
        """The name, and the fields that are not the default ones."""
        fields = self.model_dump(exclude_defaults=True)
        return " ".join(["particle-gun", *(f"{name}={value}" for name, value in fields.items())])

    def collisions(self, count: int, seed: np.random.SeedSequence) -> Particles:
        """Independent events of primaries; see `Generator.collisions`."""
        rng = np.random.default_rng(seed)
        numbers = rng.poisson(self.mean_primaries, count) if self.number is None else np.full(count, self.number)
        event = np.repeat(np.arange(count), numbers)
        vertex = np.zeros((len(event), 3))
        vertex[:, 2] = (rng.normal(size=count) * self.vertex_sigma_z)[event]
        transverse = self._transverse(rng.random(len(event)))
        momentum = _momentum(transverse, rng.uniform(*self.eta, len(event)), rng.uniform(-np.pi, np.pi, len(event)))
        codes, shares = zip(*_shares(self.species).items(), strict=True)
        chosen = np.searchsorted(np.cumsum(shares) / sum(shares), rng.random(len(event)), side="right")
        return particles(event, np.array(codes)[np.minimum(chosen, len(codes) - 1)], momentum, vertex)

    def _transverse(self, uniform: Array) -> Array:
        """(P,) transverse momenta in GeV/c, for (P,) numbers uniform from 0 to 1."""
        low, high = self.pt
        if self.spectrum == "uniform" or low == high:
            return low + (high - low) * uniform
        return np.interp(uniform, *_spectrum(low, high, self.inverse_slope))


def _momentum(transverse: Array, eta: Array, phi: Array) -> Array:
    """(P, 3) momenta."""
    return np.stack([transverse * np.cos(phi), transverse * np.sin(phi), transverse * np.sinh(eta)], axis=1)


def _shares(species: dict[str, float]) -> dict[int, float]:
    """PDG code -> relative frequency, in the order of `SPECIES`."""
    shares = dict.fromkeys(SPECIES, 0.0)
    for name, share in species.items():
        names = BOTH_CHARGES.get(name, (name,))
        for one in names:
            shares[one] += share / len(names)
    return {SPECIES[name].pdg: share for name, share in shares.items() if share > 0}


@functools.lru_cache(maxsize=16)
def _spectrum(low: float, high: float, inverse_slope: float) -> tuple[Array, Array]:
    """The cumulative distribution of pT, and pT, on a fine grid: interpolated backwards it samples the spectrum."""
    transverse = np.geomspace(low, high, 4097)
    scaled = transverse / inverse_slope
    cumulative = (1 + scaled[0]) - (1 + scaled) * np.exp(scaled[0] - scaled)
    return cumulative / cumulative[-1], transverse


def _read(text: str, settings: list[str]) -> dict[str, Any]:
    """Numbers and ranges of the settings of a gun's text."""
    values: dict[str, Any] = {}
    for setting in settings:
        key, _, value = (part.strip() for part in setting.partition("="))
        if key in values:
            raise ConfigurationError(f"gun {text!r}: {key} is given twice")
        if key == "species" or key not in ParticleGun.model_fields:
            choices = ", ".join(name for name in ParticleGun.model_fields if name != "species")
            raise ConfigurationError(f"gun {text!r}: unknown setting {key!r}; choices: {choices}")
        low, dots, high = value.partition("..")
        values[key] = (low, high if dots else low) if key in ("pt", "eta") else value
    return values


def _complaint(error: ValidationError) -> str:
    """The first complaint, on one line."""
    first = error.errors()[0]
    where = f"{first['loc'][0]}: " if first["loc"] else ""
    return where + first["msg"].removeprefix("Value error, ").replace("\n", " ")
