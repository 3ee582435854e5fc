"""Ionisation of a gas or a thin sensor: mean energy loss against beta gamma, and its straggling.

Formulae: S. Navas et al. (Particle Data Group), Phys. Rev. D 110 (2024) 030001, review "Passage of particles through
matter". The gas is argon; the curve relative to its minimum is nearly the same for the mixtures used in trackers.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

ELECTRON_MASS = 0.51099895e6
"""eV."""
MEAN_EXCITATION = 188.0
"""Mean excitation energy of argon, eV."""
ENERGY_CUT = 3.0e4
"""Energy in eV above which a knock-on electron leaves its cluster: its range in argon is about a centimetre."""
_STERNHEIMER = (11.9480, 1.7635, 4.4855, 0.19714, 2.9618)
"""C, x0, x1, a, k of argon gas: R. M. Sternheimer et al., Atomic Data and Nuclear Data Tables 30 (1984) 261."""

STRAGGLING_WIDTH = 0.28
"""Width of the Moyal distribution in units of the mean loss: about 1 cm of gas has a full width at half maximum of
nearly the most probable loss (H. Bichsel, NIM A 562 (2006) 154)."""
_STRAGGLING_RANGE = (-2.0, 12.0)
"""Range of the Moyal variable: below it no cluster is found, above it the knock-on electron is a track of its own."""


def density_effect(beta_gamma: Array) -> Array:
    """Sternheimer's density-effect correction delta of argon gas (PDG review, same section), (N,) to (N,)."""
    constant, low, high, scale, power = _STERNHEIMER
    x = np.log10(beta_gamma)
    bend = scale * np.clip(high - x, 0.0, None) ** power
    correction: Array = np.where(x < low, 0.0, 2 * np.log(10) * x - constant + bend)
    return correction


def restricted_loss(beta_gamma: Array) -> Array:
    """Mean energy loss of a unit charge in collisions below `ENERGY_CUT`, in arbitrary units.

    PDG review, "Restricted energy loss rates": 1 / beta^2 [ln(2 m_e beta^2 gamma^2 T / I^2) / 2 - beta^2 / 2
    (1 + T / W_max) - delta / 2] with T = min(cut, W_max) and W_max = 2 m_e beta^2 gamma^2, which neglects the mass of
    the electron beside the particle's.

    Args:
        beta_gamma: (N,) p / m, above 0.05.

    Returns:
        (N,), rises relativistically up to the Fermi plateau.
    """
    square = np.asarray(beta_gamma, dtype=np.float64) ** 2
    beta2 = square / (1 + square)
    largest = 2 * ELECTRON_MASS * square
    transfer = np.minimum(ENERGY_CUT, largest)
    logarithm = np.log(largest * transfer / MEAN_EXCITATION**2) / 2
    loss: Array = (logarithm - beta2 / 2 * (1 + transfer / largest) - density_effect(np.sqrt(square)) / 2) / beta2
    return loss


@functools.cache
def _minimum() -> float:
    return float(restricted_loss(np.geomspace(1.0, 10.0, 10_001)).min())


def relative_loss(beta_gamma: Array) -> Array:
    """(N,) p / m to (N,) mean energy loss in units of a minimum-ionising particle's.

    Below beta gamma = 0.1 the formula does not hold (and the particle would stop at once): the value there is used.
    """
    return restricted_loss(np.maximum(beta_gamma, 0.1)) / _minimum()


@functools.cache
def _straggling_mean() -> float:
    x = np.linspace(*_STRAGGLING_RANGE, 100_001)
    density = np.exp(-(x + np.exp(-x)) / 2)
    return float((x * density).sum() / density.sum())


def straggling(count: int, rng: np.random.Generator) -> Array:
    """Energy losses in units of their mean.

    Moyal's approximation of Landau's distribution (J. E. Moyal, Phil. Mag. 46 (1955) 263) within
    `_STRAGGLING_RANGE`. If Z is normal, -ln Z^2 is distributed so.

    Returns:
        (count,) positive, with mean 1.
    """
    low, high = np.exp(-0.5 * np.array(_STRAGGLING_RANGE[::-1]))
    normal = np.abs(rng.standard_normal(count))
    while (outside := np.flatnonzero((normal < low) | (normal > high))).size:
        normal[outside] = np.abs(rng.standard_normal(outside.size))
    loss: Array = 1 + STRAGGLING_WIDTH * (-2 * np.log(normal) - _straggling_mean())
    return loss
