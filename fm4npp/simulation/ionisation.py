"""Ionisation: mean energy loss against beta gamma, and the straggling of what is left in a thin layer.

Formulae without another source: S. Navas et al. (Particle Data Group), Phys. Rev. D 110 (2024) 030001, review "Passage
of particles through matter".
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm4npp.detectors.media import Medium

Array = NDArray[Any]

ELECTRON_MASS = 0.51099895e6
"""eV."""
BETHE = 0.307075
"""K = 4 pi N_A r_e^2 m_e c^2 in MeV cm^2/mol."""
LOWEST_BETHE = 0.05
"""beta gamma down to which the Bethe formula is used: a proton of 1.2 MeV, where NIST's PSTAR tables
have the same in water within 1 %."""
PEAK = 0.0125
"""beta gamma of the largest loss: a proton of 0.07 MeV; PSTAR has the maximum at 0.08 MeV in water, 817 MeV cm^2/g."""
_PER_OCTAVE = 32
_NUM_OCTAVES = 30  # from PEAK to beta gamma of 1.3e7: an electron of 7 TeV

LARGEST = 1000.0
"""keV: largest single loss that straggling has by default; harder knock-on electrons are particles of their own."""
_TINY = 1e-30
_SOFT_WIDTH, _SOFT_POWER = 0.27, 0.4
"""Soft losses come in lumps of _SOFT_WIDTH xi^_SOFT_POWER, in keV; see `straggled`."""


def is_gas(medium: Medium) -> bool:
    """Whether a medium is a gas: less dense than 0.1 g/cm^3."""
    return medium.density < 0.1


def knock_on_threshold(medium: Medium) -> float:
    """Kinetic energy in GeV from which on an electron that is knocked on flies on its own.

    In a gas 50 keV, about what stays within a row of a centimetre: more curls away along the field, and leaves
    spacepoints in other places. In solids 1 MeV, a circle of 3 mm in 1.4 T, less than layers are apart.
    """
    return 5e-5 if is_gas(medium) else 1e-3


def lowest_kinetic(medium: Medium) -> float:
    """Kinetic energy in GeV below which what is in a medium stops: in a gas 20 keV (3 mm), else 0.5 MeV (1 mm)."""
    return 2e-5 if is_gas(medium) else 5e-4


def largest_transfer(beta_gamma: Array) -> Array:
    """(P,) p / m to (P,) eV: most that a heavy particle gives one electron, W_max for m_e gamma << m."""
    largest: Array = 2 * ELECTRON_MASS * beta_gamma * beta_gamma
    return largest


def density_effect(beta_gamma: Array, medium: Medium) -> Array:
    """Sternheimer's density-effect correction.

    Below x0 it falls as 10^(2 (x - x0)) from its value there, which is the published delta_0 of conductors and nearly
    0 for all else.

    Args:
        beta_gamma: (P,) p / m.
        medium: with the parameters of R. M. Sternheimer et al., Atomic Data and Nuclear Data Tables 30 (1984) 261.

    Returns:
        (P,) delta.
    """
    constant, low, high, scale, power = medium.sternheimer
    x = np.log10(beta_gamma)
    reached = np.maximum(x, low)
    delta = 2 * math.log(10) * reached - constant + scale * np.maximum(high - reached, 0.0) ** power
    correction: Array = np.maximum(delta, 0.0) * 10 ** (2 * np.minimum(x - low, 0.0))
    return correction


def stopping_power(beta_gamma: Array, medium: Medium, cut: float = math.inf) -> Array:
    """Mean energy loss of a unit charge, from collisions that give an electron less than a cut.

    PDG "Restricted energy loss rates for relativistic ionizing particles" with W_max of `largest_transfer`; without a
    cut it is the Bethe formula. Below beta gamma = `LOWEST_BETHE` it goes on as 1 / (beta gamma) up to `PEAK`, and is
    constant below: an estimate, 13 % above PSTAR at water's peak, that stops slow particles where they are. Electrons
    have the same losses here: with a cut they differ by 2 % (their W_max is half their kinetic energy).

    Args:
        beta_gamma: (P,) p / m, not negative.
        medium: what is crossed.
        cut: eV.

    Returns:
        (P,) in MeV cm^2/g.
    """
    valid = np.maximum(beta_gamma, LOWEST_BETHE)
    beta2 = valid * valid / (1 + valid * valid)
    largest = largest_transfer(valid)
    transfer = np.minimum(largest, cut)
    logarithm = np.log(largest * transfer / medium.excitation**2) / 2
    number = logarithm - beta2 / 2 * (1 + transfer / largest) - density_effect(valid, medium) / 2
    slower = np.minimum(np.maximum(beta_gamma, PEAK) / LOWEST_BETHE, 1.0)
    loss: Array = BETHE * medium.charge_per_mass / beta2 * number / slower
    return loss


class StoppingTable:
    """`stopping_power` of several media, interpolated in log(beta gamma) to better than 1e-3.

    Args:
        media: M of them.
        cut: eV, one or one for each medium; see `stopping_power`.
    """

    def __init__(self, media: tuple[Medium, ...], cut: float | tuple[float, ...] = math.inf) -> None:
        self._num_nodes = _PER_OCTAVE * _NUM_OCTAVES + 1  # LOWEST_BETHE, where the slope changes, is one of them
        nodes = PEAK * 2 ** (np.arange(self._num_nodes) / _PER_OCTAVE)
        cuts = np.broadcast_to(cut, len(media)).tolist()
        rows = [stopping_power(nodes, medium, below) for medium, below in zip(media, cuts, strict=True)]
        values = np.array(rows).reshape(-1, self._num_nodes)
        self._values = values.ravel()
        self._steps = np.diff(values, axis=1, append=values[:, -1:]).ravel()

    def loss(self, medium: Array, beta_gamma: Array) -> Array:
        """Mean energy loss of unit charges.

        Args:
            medium: (P,) index into the media.
            beta_gamma: (P,) p / m; constant beyond the ends of the table.

        Returns:
            (P,) in MeV cm^2/g.
        """
        place = np.log2(np.maximum(beta_gamma, PEAK) / PEAK) * _PER_OCTAVE
        place = np.minimum(place, self._num_nodes - 1.0)
        node = place.astype(np.int64)
        place -= node
        node += medium * self._num_nodes
        loss: Array = self._values[node] + self._steps[node] * place
        return loss


@functools.lru_cache(maxsize=32)
def stopping_table(media: tuple[Medium, ...], cut: float | tuple[float, ...] = math.inf) -> StoppingTable:
    """The table of some media, made once."""
    return StoppingTable(media, cut)


def straggled(mean: Array, xi: Array, rng: np.random.Generator, largest: Array | float = LARGEST) -> Array:
    """Energy left in thin layers.

    Hard collisions, of more than xi (one per layer in the mean), are drawn one by one from the Rutherford spectrum
    xi / E^2 up to the largest; all softer ones together are a gamma distribution that completes the mean. Its variance
    is xi^2, that of free electrons, plus a part for the binding of electrons, which matters in thin layers
    (H. Bichsel, Rev. Mod. Phys. 60 (1988) 663): soft losses come in lumps of 0.27 (xi / keV)^0.4 keV. That power is an
    estimate between two points: 1 to 2 cm of gas, where the full width at half maximum is 0.81 (xi / I)^-0.32 of the
    most probable loss (W. W. M. Allison, J. H. Cobb, Ann. Rev. Nucl. Part. Sci. 30 (1980) 253), and 300 um of silicon,
    where it is 30 keV and the binding adds a Gaussian of some 6 keV to Landau's 23 keV. For thick layers this is
    Landau's distribution with a truncated tail (so Vavilov's), and for xi above the largest loss a Gaussian.

    Args:
        mean: (P,) mean loss in keV in collisions below `largest`.
        xi: (P,) in keV, 153.5 keV cm^2/mol charge^2 (Z/A) (g/cm^2) / beta^2.
        rng: source of randomness.
        largest: (P,) or one for all, largest single loss in keV: the cut of the mean, or the largest possible if that
            is less.

    Returns:
        (P,) in keV, positive, with the given mean.
    """
    xi = np.maximum(xi, _TINY)
    decades = np.minimum(np.log(largest / np.minimum(xi, largest)), 0.9 * mean / xi)
    softest = largest * np.exp(-decades)  # xi, unless that leaves nothing for soft losses
    soft = mean - xi * decades
    shape = soft * soft / (xi * softest + _SOFT_WIDTH * xi**_SOFT_POWER * soft)
    deposit: Array = rng.standard_gamma(shape) * (soft / np.maximum(shape, _TINY))
    span = 1 / softest - 1 / np.asarray(largest)
    number = rng.poisson(xi * span)
    struck = np.repeat(np.arange(len(mean)), number)
    energies = 1 / (1 / softest[struck] - rng.random(len(struck)) * span[struck])
    deposit += np.bincount(struck, energies, minlength=len(mean))
    return deposit
