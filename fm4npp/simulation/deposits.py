"""What particles leave in the sensitive medium of a layer."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm4npp.detectors.media import MEDIA
from fm4npp.simulation.ionisation import StoppingTable, knock_on_threshold, largest_transfer, stopping_table
from fm4npp.simulation.layers import Layers

Array = NDArray[Any]

LONGEST_PATH = 4.0
"""Longest path in a layer that a particle can have by crossing it askew in the transverse plane, in units of the
layer's thickness: a curler that grazes a layer turns back before it has gone further along it. An estimate."""
_XI = 153.5375
"""K / 2 in keV cm^2/mol: xi = K / 2 (Z/A) z^2 (g/cm^2) / beta^2 is the width of the straggling (S. Navas et al.
(Particle Data Group), Phys. Rev. D 110 (2024) 030001, "Fluctuations in energy loss")."""


def path_lengths(cosine: Array, momentum: Array, thickness: Array, half_length: Array) -> Array:
    """Path of particles through a flat sensitive medium.

    Args:
        cosine: (N,) |cos| of the angle between the transverse momentum and the normal; counts as at least
            1 / `LONGEST_PATH`.
        momentum: (N, 3) in GeV/c.
        thickness: (N,) of the medium along the normal, in cm.
        half_length: (N,) of the layer, in cm: no path is longer than the layer.

    Returns:
        (N,) in cm.
    """
    px, py, pz = momentum.T
    transverse2 = np.maximum(px * px + py * py, 1e-300)
    path = thickness * np.sqrt(1 + pz * pz / transverse2) / np.maximum(cosine, 1 / LONGEST_PATH)
    limited: Array = np.minimum(path, 2 * half_length)
    return limited


def deposited(
    layer: Array, path: Array, total_momentum: Array, mass: Array, charge: Array, layers: Layers
) -> tuple[Array, Array, Array]:
    """Mean energy that particles leave in the sensitive medium of layers, and the scales of its fluctuations.

    The restricted stopping power below `knock_on_threshold` is reduced by the share of collisions between the largest
    loss that stays in the layer and that threshold, in the Bethe formula xi [ln(E2 / E1) - beta^2 (E2 - E1) / W_max].

    Args:
        layer: (N,) index into `layers`.
        path: (N,) in cm.
        total_momentum: (N,) in GeV/c.
        mass: (N,) in GeV/c^2.
        charge: (N,) in units of the positron's.
        layers: of the detector.

    Returns:
        mean: (N,) in keV.
        xi: (N,) in keV, see `_XI`.
        largest: (N,) in keV, the largest single loss that counts, see `longest_inside`.
    """
    sensitive = _media(layers.media, tuple(collected(layers).tolist()))
    beta_gamma = total_momentum / mass
    beta2 = beta_gamma * beta_gamma / (1 + beta_gamma * beta_gamma)
    grams = path * sensitive.density[layer] * (charge * charge)
    xi = _XI * sensitive.charge_per_mass[layer] * grams / beta2
    most = largest_transfer(beta_gamma) * 1e-3
    flies = np.minimum(most, sensitive.flies[layer])
    largest = np.minimum(flies, sensitive.largest[layer])
    mean = sensitive.table.loss(sensitive.medium[layer], beta_gamma) * grams * 1e3
    mean -= xi * (np.log(flies / largest) - beta2 * (flies - largest) / most)
    return mean, xi, largest


def collected(layers: Layers) -> Array:
    """Over what distance the charge of a knock-on electron belongs to its mother's spacepoint.

    The thickness of the layer, or to where a spacepoint ends (half its longest extent), if that is nearer.

    Returns:
        (L,) in cm.
    """
    extents = [np.where(extent > 0, extent / 2, np.inf) for extent in (layers.longest_rphi, layers.longest_z)]
    return np.minimum(layers.thickness, np.minimum(*extents))


def longest_inside(grams: Array) -> Array:
    """Kinetic energy up to which an electron that is knocked on stays within a layer.

    The energy whose practical range R = 0.412 T^(1.265 - 0.0954 ln T), T in MeV, is the distance over which a
    spacepoint collects (L. Katz, A. S. Penfold, Rev. Mod. Phys. 24 (1952) 28, for 0.01 to 2.5 MeV): 37 keV in a
    centimetre of neon-CF4, 0.29 MeV in 320 um of silicon. That distance is an estimate, see `collected`: in a gas,
    what has more energy curls away along the field, and leaves a few keV/cm in other places.

    Args:
        grams: (L,) g/cm^2 over the distance.

    Returns:
        (L,) in keV.
    """
    logarithm = np.log(np.maximum(grams, 1.6e-4) / 0.412)  # the range at 10 keV
    energy = np.exp((1.265 - np.sqrt(np.maximum(1.265**2 - 4 * 0.0954 * logarithm, 0.0))) / (2 * 0.0954))
    return energy * 1e3


@dataclass(frozen=True)
class _Sensitive:
    """The sensitive media of L layers, and their stopping powers below the threshold of knock-on electrons."""

    table: StoppingTable
    medium: Array  # (L,) index into the table
    density: Array  # (L,) g/cm^3
    charge_per_mass: Array  # (L,) mol/g
    flies: Array  # (L,) keV, `knock_on_threshold`
    largest: Array  # (L,) keV, see `longest_inside`; no more than `flies`


@functools.lru_cache(maxsize=16)
def _media(names: tuple[str, ...], size: tuple[float, ...]) -> _Sensitive:
    """What depends on the layers alone: their media, and over what distance in cm a spacepoint collects."""
    distinct = sorted(set(names))
    density = np.array([MEDIA[name].density for name in names])
    cuts = [knock_on_threshold(MEDIA[name]) for name in distinct]
    medium = np.array([distinct.index(name) for name in names])
    flies = np.array(cuts)[medium] * 1e6
    return _Sensitive(
        table=stopping_table(tuple(MEDIA[name] for name in distinct), tuple(cut * 1e9 for cut in cuts)),
        medium=medium,
        density=density,
        charge_per_mass=np.array([MEDIA[name].charge_per_mass for name in names]),
        flies=flies,
        largest=np.minimum(longest_inside(density * np.array(size)), flies),
    )
