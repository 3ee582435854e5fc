"""Particles born in matter: pairs, Compton and knock-on electrons, bremsstrahlung; stars of hadrons are in `stars`.

Formulae without another source: S. Navas et al. (Particle Data Group), Phys. Rev. D 110 (2024) 030001, review "Passage
of particles through matter". Energies, momenta and masses are in GeV.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm4npp.simulation.born import (
    LOWEST,
    NONE,
    TINY,
    Born,
    above,
    across,
    affordable,
    drawn,
    joined,
    length,
    turned,
)
from fm4npp.simulation.stars import hadronic, is_hadron

Array = NDArray[Any]

ELECTRON = 0.51099895e-3
_HALF_K = 0.1535375e-3  # GeV cm^2/mol, K / 2 of the Bethe formula: 2 pi N_A r_e^2 m_e c^2

__all__ = [
    "Born",
    "bremsstrahlung",
    "compton",
    "conversions",
    "hadronic",
    "is_hadron",
    "joined",
    "klein_nishina",
    "knock_on",
    "largest_transfer",
    "pair_share",
]


def conversions(
    momentum: Array, lengths: Array, rng: np.random.Generator, threshold: float = LOWEST
) -> tuple[Array, Born]:
    """Photons to pairs of electron and positron in the field of nuclei.

    The probability is 1 - exp(-7/9 x), reduced towards the threshold by `pair_share`. The electron's share of the
    energy beyond two masses has the density 1 - 4/3 x (1 - x) (complete screening), energy is conserved exactly, and
    each flies at its own angle of about m_e / E with the density of bremsstrahlung's leading order,
    1 / (E - p cos)^2 (J. W. Motz, H. A. Olsen, H. W. Koch, Rev. Mod. Phys. 41 (1969) 581), at opposite azimuths; the
    nucleus takes the remaining momentum.

    Args:
        momentum: (P, 3) of photons.
        lengths: (P,) thickness in radiation lengths.
        rng: source of randomness.
        threshold: least kinetic energy of what is born; less is deposited.

    Returns:
        (P,) bool, which photons are gone; electrons and positrons.
    """
    energy = length(momentum)
    chance = -np.expm1(-7 / 9 * lengths * pair_share(energy))
    gone = rng.random(len(energy)) < chance
    index = np.flatnonzero(gone)
    if not len(index):
        return gone, NONE
    free, direction = energy[index] - 2 * ELECTRON, momentum[index] / energy[index, None]
    kinetic = free * _bethe_heitler_share(len(index), rng)
    side = across(direction, rng)
    pair = [_lepton(kinetic, direction, side, rng), _lepton(free - kinetic, direction, -side, rng)]
    born = Born(np.concatenate([index, index]), np.repeat([11, -11], len(index)), np.concatenate(pair))
    return gone, above(threshold, ELECTRON, born)


def pair_share(energy: Array) -> Array:
    """Cross section of pair production in units of 7/9 / X0.

    The smaller of 1 (complete screening) and the cross section without screening for light elements, 0.213 (9/28) of
    L. C. Maximon's series (J. Res. NBS 72B (1968) 79) in units of alpha r_e^2 Z^2. 0.213 is (1 + 1/Z) / (L_rad +
    L'_rad / Z) of Tsai's radiation length, within 7 % for beryllium to silicon.

    Args:
        energy: (P,) of photons.

    Returns:
        (P,) between 0, below two electron masses, and 1, above 0.8 GeV.
    """
    logarithms, values = _pair_table()
    shares: Array = np.interp(np.log(np.maximum(energy, TINY)), logarithms, values)
    return shares


def compton(
    momentum: Array, electrons: Array, rng: np.random.Generator, threshold: float = LOWEST
) -> tuple[Array, Array, Born]:
    """Photons scatter off free electrons: Klein-Nishina (Z. Phys. 52 (1929) 853) with exact kinematics.

    Args:
        momentum: (P, 3) of photons.
        electrons: (P,) moles of electrons per cm^2: g/cm^2 times Z/A.
        rng: source of randomness.
        threshold: least kinetic energy of an electron that is born; less is deposited.

    Returns:
        (P,) bool, which scattered; (P, 3) momenta of the photons after that; electrons.
    """
    energy = length(momentum)
    scattered = rng.random(len(energy)) < -np.expm1(-electrons * klein_nishina(energy))
    index = np.flatnonzero(scattered)
    if not len(index):
        return scattered, momentum, NONE
    before = momentum[index]
    ratio = energy[index] / ELECTRON
    share = _compton_share(ratio, rng)
    cosine = np.clip(1 - (1 / share - 1) / ratio, -1.0, 1.0)
    direction = before / energy[index, None]
    photons = turned(direction, across(direction, rng), cosine) * (energy[index] * share)[:, None]
    after = momentum.copy()
    after[index] = photons
    recoil = Born(index, np.full(len(index), 11), before - photons)
    return scattered, after, above(threshold, ELECTRON, recoil)


def klein_nishina(energy: Array) -> Array:
    """Total cross section of Compton scattering.

    Args:
        energy: (P,) of photons.

    Returns:
        (P,) in cm^2 per mole of electrons.
    """
    k = np.maximum(energy / ELECTRON, 1e-12)
    twice = 1 + 2 * k
    logarithm = np.log1p(2 * k)
    small = 4 / 3 - 8 / 3 * k + 104 / 15 * k * k  # the closed form cancels there
    exact = (1 + k) / k**2 * (2 * (1 + k) / twice - logarithm / k) + logarithm / (2 * k) - (1 + 3 * k) / twice**2
    cross_section: Array = _HALF_K / ELECTRON * np.where(k < 1e-3, small, exact)
    return cross_section


def bremsstrahlung(
    momentum: Array, lengths: Array, rng: np.random.Generator, threshold: float = LOWEST
) -> tuple[Array, Born]:
    """Radiation of electrons and positrons.

    The share z of the energy that is kept has -ln z distributed as Gamma(x / ln 2, 1), so that the mean of z is
    exp(-x) (H. Bethe, W. Heitler, Proc. R. Soc. A 146 (1934) 83; R. Fruhwirth, Comput. Phys. Commun. 154 (2003) 131).
    All that is lost is one photon along the electron, as m_e / E is a small angle. This takes complete screening:
    electrons below 10 MeV radiate less, by a factor of 1.5 to 2, but then far less than they ionise.

    Args:
        momentum: (P, 3) of electrons.
        lengths: (P,) thickness in radiation lengths.
        rng: source of randomness.
        threshold: least energy of a photon that is born; less is deposited.

    Returns:
        (P, 3) momenta after that; photons.
    """
    total = length(momentum)
    energy = np.sqrt(total * total + ELECTRON * ELECTRON)
    lost = -np.expm1(-rng.standard_gamma(np.maximum(lengths, 0.0) / math.log(2))) * energy
    lost = np.minimum(lost, energy - ELECTRON)
    direction = momentum / np.maximum(total, TINY)[:, None]
    after = np.sqrt(np.maximum((energy - lost) ** 2 - ELECTRON * ELECTRON, 0.0))
    index = np.flatnonzero(lost > threshold)
    photons = Born(index, np.full(len(index), 22), direction[index] * lost[index, None])
    return direction * after[:, None], photons


def knock_on(
    momentum: Array,
    mass: Array,
    charge: Array,
    electrons: Array,
    rng: np.random.Generator,
    threshold: Array | float = 1e-3,
) -> tuple[Array, Born]:
    """Electrons knocked on by charged particles.

    Their number is Poisson's, with d^2N / dT dx = K/2 z^2 Z/A / beta^2 (1 - beta^2 T / W_max) / T^2, for a particle of
    spin 0; spin adds T^2 / (2 E^2), which matters for T of the order of E alone. W_max is exact; for electrons and
    positrons it is half their kinetic energy, and the same spectrum stands for Moller's and Bhabha's. The angle is that
    of the collision with an electron at rest; the particle's own change of direction is part of multiple scattering.

    Args:
        momentum: (P, 3).
        mass: (P,).
        charge: (P,) in units of the positron's.
        electrons: (P,) moles of electrons per cm^2: g/cm^2 times Z/A.
        rng: source of randomness.
        threshold: (P,) or one for all, least kinetic energy; softer ones belong to the restricted energy loss.

    Returns:
        (P,) kinetic energy that each particle gave away, never more than it had; electrons.
    """
    total2 = np.einsum("ij,ij->i", momentum, momentum)
    energy = np.sqrt(total2 + mass * mass)
    largest = largest_transfer(energy, total2, mass)
    threshold = np.broadcast_to(threshold, len(mass))
    span = np.maximum(1 / threshold - 1 / np.maximum(largest, TINY), 0.0)
    number = _HALF_K * electrons * charge * charge * energy * energy / np.maximum(total2, TINY) * span
    index = drawn(number, rng)
    if not len(index):
        return np.zeros(len(mass)), NONE
    kinetic = 1 / (1 / threshold[index] - rng.random(len(index)) * span[index])
    beta2 = total2[index] / energy[index] ** 2
    real = rng.random(len(index)) < 1 - beta2 * kinetic / largest[index]
    index, kinetic = index[real], kinetic[real]
    real = affordable(index, kinetic, energy - mass)
    index, kinetic = index[real], kinetic[real]
    own, total = np.sqrt(kinetic * (kinetic + 2 * ELECTRON)), np.sqrt(total2[index])
    cosine = np.minimum(kinetic * (energy[index] + ELECTRON) / (total * own), 1.0)
    direction = momentum[index] / total[:, None]
    electron = turned(direction, across(direction, rng), cosine) * own[:, None]
    return np.bincount(index, kinetic, minlength=len(mass)), Born(index, np.full(len(index), 11), electron)


def largest_transfer(energy: Array, total2: Array, mass: Array) -> Array:
    """(P,) W_max, the largest kinetic energy given to an electron; for electrons half of their own."""
    largest = 2 * ELECTRON * total2 / (mass * mass + ELECTRON * ELECTRON + 2 * ELECTRON * energy)
    return np.where(mass < 2 * ELECTRON, largest / 2, largest)


def _bethe_heitler_share(count: int, rng: np.random.Generator) -> Array:
    """(count,) of density 9/7 (1 - 4/3 x (1 - x)) on [0, 1]: 6/7 uniform, 1/7 like (x - 1/2)^2."""
    place = rng.random(count)
    return np.where(rng.random(count) < 6 / 7, place, (1 + np.cbrt(2 * place - 1)) / 2)


def _lepton(kinetic: Array, direction: Array, side: Array, rng: np.random.Generator) -> Array:
    """Momenta (Q, 3) of one lepton of pairs, at a random angle to `direction` towards `side`."""
    energy = kinetic + ELECTRON
    momentum = np.sqrt(kinetic * (kinetic + 2 * ELECTRON))
    place = 2 * rng.random(len(kinetic)) - 1  # cosine where the lepton is at rest
    slow = ELECTRON * ELECTRON / (energy * (energy + momentum))  # 1 - beta
    below = np.maximum(1 + place - slow * place, TINY)
    sine = np.minimum(np.sqrt(1 - place * place) * ELECTRON / energy / below, 1.0)
    cosine = np.copysign(np.sqrt(1 - sine * sine), place + 1 - slow)
    result: Array = (direction * cosine[:, None] + side * sine[:, None]) * momentum[:, None]
    return result


def _compton_share(ratio: Array, rng: np.random.Generator) -> Array:
    """(Q,) of the photon's energy that it keeps, at (Q,) energy / electron mass.

    Density (1 / s + s) (1 - s sin^2 / (1 + s^2)): drawn from its first factor, rejected by the second
    (J. C. Butcher, H. Messel, Nucl. Phys. 20 (1960) 15).
    """
    share = np.empty(len(ratio))
    todo = np.arange(len(ratio))
    while len(todo):
        k = ratio[todo]
        least = 1 / (1 + 2 * k)
        reciprocal, linear = np.log1p(2 * k), (1 - least * least) / 2
        place, kind = rng.random((2, len(todo)))
        flat = np.sqrt(least * least + (1 - least * least) * place)
        drawn_share = np.where(kind * (reciprocal + linear) < reciprocal, np.exp(-reciprocal * place), flat)
        bent = (1 / drawn_share - 1) / k  # 1 - cosine
        weight = 1 - drawn_share * bent * (2 - bent) / (1 + drawn_share * drawn_share)
        share[todo] = drawn_share
        todo = todo[rng.random(len(todo)) > weight]
    return share


@functools.cache
def _pair_table() -> tuple[Array, Array]:
    """Logarithms of energies in GeV, and `pair_share` there."""
    k = np.geomspace(2.0, 4000.0, 400)
    shares = np.minimum(0.213 * 9 / 28 * _unscreened(k), 1.0)
    return np.log(k * ELECTRON), shares


def _unscreened(k: Array) -> Array:
    """Cross section of pair production in a Coulomb field at k = E / m_e, in alpha r_e^2 Z^2 (Maximon's equations)."""
    e = (2 * k - 4) / (2 + k + 2 * np.sqrt(2 * k))
    near = 2 * math.pi / 3 * ((k - 2) / k) ** 3 * (1 + e / 2 + 23 / 40 * e**2 + 11 / 60 * e**3 + 29 / 960 * e**4)
    log, zeta3 = np.log(2 * k), 1.2020569
    second = 6 * log - 3.5 + 2 / 3 * log**3 - log**2 - math.pi**2 / 3 * log + 2 * zeta3 + math.pi**2 / 6
    far = 28 / 9 * log - 218 / 27 + (2 / k) ** 2 * second
    far -= (2 / k) ** 4 * (3 / 16 * log + 1 / 8) + (2 / k) ** 6 * (29 / 2304 * log - 77 / 13824)
    section: Array = np.where(k < 4, near, far)
    return section
