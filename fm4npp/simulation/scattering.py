"""Multiple Coulomb scattering."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

THINNEST = 1e-5
"""Thickness in X0, divided by beta^2, of about one collision; below it Highland's logarithm is held."""
_LOGARITHM = 0.038
_TINY = 1e-300


def highland(momentum: Array, beta: Array, charge: Array, lengths: Array, total: Array | None = None) -> Array:
    """Width of the angle of multiple scattering, projected on a plane.

    theta_0 = 13.6 MeV / (beta c p) z sqrt(x) (1 + 0.038 ln(x z^2 / beta^2)): G. R. Lynch, O. I. Dahl, NIM B 58 (1991)
    6; Particle Data Group, review "Passage of particles through matter", good to 11 % for 1e-3 < x < 100. Below
    `THINNEST` a layer has less than one collision in the mean, so that the variance is proportional to the thickness:
    the logarithm is held. Steps do not add up exactly: cut into 10, a layer scatters by 10 % less; see `in_all`.

    Args:
        momentum: (P,) GeV/c.
        beta: (P,).
        charge: (P,) in units of the positron's.
        lengths: (P,) thickness in radiation lengths.
        total: (P,) thickness for the logarithm, if another.

    Returns:
        (P,) standard deviation in radians.
    """
    beta2 = beta * beta
    scale = lengths if total is None else total
    ratio = np.maximum(scale * charge * charge / np.maximum(beta2, _TINY), THINNEST)
    width = 0.0136 * np.abs(charge) * np.sqrt(lengths) / np.maximum(beta * momentum, _TINY)
    theta0: Array = width * (1 + _LOGARITHM * np.log(ratio))
    return theta0


def in_all(lengths: Array) -> Array:
    """What Highland's logarithm takes for each of several layers, so that they scatter like one of all their thickness.

    The variance of a layer is that of all up to it less that of all before it: the formula is for the sum, and
    applied to the rows of a time projection chamber one by one it gives a quarter too little.

    Args:
        lengths: (S,) thickness in radiation lengths, in the order they are crossed.

    Returns:
        (S,) thickness in radiation lengths, for beta = 1.
    """
    until = np.cumsum(lengths)
    variance = until * np.square(1 + _LOGARITHM * np.log(np.maximum(until, THINNEST)))
    own = np.diff(variance, prepend=0.0) / np.maximum(lengths, _TINY)
    totals: Array = np.where(lengths > 0, np.exp((np.sqrt(own) - 1) / _LOGARITHM), THINNEST)
    return totals


def deflected(momentum: Array, theta0: Array, rng: np.random.Generator) -> Array:
    """Particles after scattering.

    A three-dimensional Gaussian, less its part along the momentum, is two independent projected angles. The particle
    turns by the length of that vector towards it: whole turns for the slowest.

    Args:
        momentum: (P, 3) GeV/c.
        theta0: (P,) standard deviation of each projected angle.
        rng: source of randomness.

    Returns:
        (P, 3) momenta of the same lengths.
    """
    total2 = np.maximum(np.einsum("ij,ij->i", momentum, momentum), _TINY)
    normal = rng.standard_normal(momentum.shape)
    aside = normal - momentum * (np.einsum("ij,ij->i", normal, momentum) / total2)[:, None]
    length = np.sqrt(np.maximum(np.einsum("ij,ij->i", aside, aside), _TINY))
    angle = length * theta0
    along, across = np.cos(angle), np.sin(angle) * np.sqrt(total2) / length
    result: Array = momentum * along[:, None] + aside * across[:, None]
    return result
