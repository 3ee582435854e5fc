"""Stars: what inelastic interactions of hadrons with nuclei send out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm4npp.simulation.born import LOWEST, NONE, TINY, Born, above, across, affordable, length, turned

Array = NDArray[Any]

PION = 0.13957039
NEUTRAL_PION = 0.1349768
PROTON = 0.93827208943
"""GeV/c^2: S. Navas et al. (Particle Data Group), Phys. Rev. D 110 (2024) 030001."""

STAR_PROTONS = ((1.0, 0.10, 1.0), (1.0, 0.008, 0.0))
"""Mean number, mean kinetic energy in GeV, and slope a of the density exp(a cos) of the angle, of cascade and of
evaporated protons; the energy is at most a quarter of what the star has, in the mean. Estimates for carbon to silicon:
the grey (30 to 400 MeV) and the black tracks (below 30 MeV) of stars on the light nuclei of emulsions number about one
each; grey ones fly forwards about 3 times in 4, black ones anywhere (U. Camerini et al., Phil. Mag. 41 (1950) 413 and
42 (1951) 1241; C. F. Powell, P. H. Fowler, D. H. Perkins, The Study of Elementary Particles by the Photographic Method
(1959))."""
STAR_PIONS = 1.0
"""Pions of all charges per unit of rapidity, between rest and a pion that has all the energy, before the energy runs
out. An estimate: at 10 GeV it leaves 2 charged ones, as in pp collisions (W. Thome et al., Nucl. Phys. B 129 (1977)
365: 4 charged particles, with the two protons)."""
STAR_TRANSVERSE = 0.35
"""GeV/c: their mean transverse momentum, distributed as p exp(-p / T), as in pp collisions; at most half of what the
star has beyond a pion's mass."""
MESON_LENGTH = 1.3
"""Interaction length of mesons in units of that of nucleons: 1.37 for pions in carbon, 1.27 in silicon (PDG tables)."""


def is_hadron(pdg: Array) -> Array:
    """(P,) bool: mesons and baryons, which interact with nuclei."""
    code = np.abs(pdg)
    hadrons: Array = (code > 100) & (code < 100_000)
    return hadrons


def hadronic(
    momentum: Array,
    mass: Array,
    pdg: Array,
    lengths: Array,
    rng: np.random.Generator,
    threshold: float = LOWEST,
) -> tuple[Array, Born]:
    """Inelastic interactions with nuclei: the hadron is replaced by a star.

    A star has protons (`STAR_PROTONS`) and pions of the three charges, uniform in rapidity (`STAR_PIONS`), neutral
    ones as two photons. They come in this order until the first for which the energy does not suffice:
    the incoming kinetic energy, with a meson's mass, or twice an antibaryon's, which can all be absorbed. A proton
    costs its kinetic energy, a pion all of its energy. The rest goes to neutrons and fragments, which leave no tracks.
    The probability 1 - exp(-x) does not depend on energy; below some 0.1 GeV that is too much for protons, for pions
    at the Delta resonance too little. This parametrisation is an estimate, not a nuclear model.

    Args:
        momentum: (P, 3).
        mass: (P,).
        pdg: (P,); what is no hadron does not interact.
        lengths: (P,) thickness in nuclear interaction lengths of nucleons.
        rng: source of randomness.
        threshold: least kinetic energy of what is born.

    Returns:
        (P,) bool, which hadrons are gone; charged pions, protons and photons.
    """
    meson = np.abs(pdg) < 1000
    chance = -np.expm1(-np.where(meson, lengths / MESON_LENGTH, lengths))
    gone = is_hadron(pdg) & (rng.random(len(mass)) < chance)
    star = np.flatnonzero(gone)
    if not len(star):
        return gone, NONE
    tracks = _star(momentum[star], mass[star], meson[star], pdg[star] < 0, rng)
    masses = np.where(tracks.pdg == 2212, PROTON, np.where(tracks.pdg == 22, 0.0, PION))
    return gone, above(threshold, masses, tracks).of(star)


def _star(momentum: Array, mass: Array, meson: Array, anti: Array, rng: np.random.Generator) -> Born:
    """What S interacting hadrons are replaced by."""
    total = length(momentum)
    absorbed = np.where(meson, mass, np.where(anti, 2 * mass, 0.0))
    budget = np.sqrt(total * total + mass * mass) - mass + absorbed
    direction = momentum / np.maximum(total, TINY)[:, None]
    parts = [_protons(budget, *kind, direction, rng) for kind in STAR_PROTONS]
    parts.append(_pions(budget, direction, rng))
    index, code, costs, tracks = (np.concatenate(column) for column in zip(*parts, strict=True))
    kept = affordable(index, costs, budget)
    return _without_neutral_pions(Born(index[kept], code[kept], tracks[kept]), rng)


def _protons(
    budget: Array, number: float, mean: float, slope: float, direction: Array, rng: np.random.Generator
) -> tuple[Array, Array, Array, Array]:
    """Star (Q,), code (Q,), kinetic energy (Q,) and momentum (Q, 3) of protons; see `STAR_PROTONS`."""
    index = np.repeat(np.arange(len(budget)), rng.poisson(number, len(budget)))
    kinetic = np.minimum(mean, budget / 4)[index] * rng.standard_exponential(len(index))
    place = rng.random(len(index))
    cosine = 1 + np.log(place + (1 - place) * np.exp(-2 * slope)) / slope if slope else 2 * place - 1
    toward = direction[index]
    tracks = turned(toward, across(toward, rng), np.clip(cosine, -1.0, 1.0))
    tracks *= np.sqrt(kinetic * (kinetic + 2 * PROTON))[:, None]
    return index, np.full(len(index), 2212), kinetic, tracks


def _pions(budget: Array, direction: Array, rng: np.random.Generator) -> tuple[Array, Array, Array, Array]:
    """Star (Q,), code (Q,), energy (Q,) and momentum (Q, 3) of pions; see `STAR_PIONS`."""
    scale = np.clip((budget - PION) / 2, 0.0, STAR_TRANSVERSE)
    fastest = np.arccosh(np.maximum(budget / np.hypot(PION, scale), 1.0))
    index = np.repeat(np.arange(len(budget)), rng.poisson(STAR_PIONS * fastest))
    transverse = scale[index] / 2 * rng.standard_gamma(2.0, len(index))
    rapidity = fastest[index] * rng.random(len(index))
    across_mass = np.hypot(PION, transverse)
    toward = direction[index]
    tracks = toward * (across_mass * np.sinh(rapidity))[:, None] + across(toward, rng) * transverse[:, None]
    return index, np.array([211, -211, 111])[rng.integers(3, size=len(index))], across_mass * np.cosh(rapidity), tracks


def _without_neutral_pions(born: Born, rng: np.random.Generator) -> Born:
    """The same, with two photons, isotropic at rest, for each neutral pion."""
    neutral = born.pdg == 111
    charged, pion = np.flatnonzero(~neutral), born.momentum[neutral]
    energy = np.sqrt(np.einsum("ij,ij->i", pion, pion) + NEUTRAL_PION**2)
    photon = rng.standard_normal(pion.shape)
    photon *= (NEUTRAL_PION / 2 / np.maximum(length(photon), TINY))[:, None]
    along = np.einsum("ij,ij->i", pion, photon) / (energy + NEUTRAL_PION) + NEUTRAL_PION / 2
    photon += pion * (along / NEUTRAL_PION)[:, None]
    whose = born.index[neutral]
    return Born(
        np.concatenate([born.index[charged], whose, whose]),
        np.concatenate([born.pdg[charged], np.full(2 * len(whose), 22)]),
        np.concatenate([born.momentum[charged], photon, pion - photon]),
    )
