"""What particles fly through: the bulk properties of gases, sensors and supports.

Densities, mean excitation energies, radiation lengths and nuclear interaction lengths: Particle Data Group, "Atomic and
nuclear properties of materials" (2024), gases at 20 C and 1 atm. Density-effect parameters: R. M. Sternheimer,
M. J. Berger, S. M. Seltzer, Atomic Data and Nuclear Data Tables 30 (1984) 261.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]


class Medium(BaseModel):
    """A homogeneous material.

    Attributes:
        density: g/cm^3.
        charge_per_mass: mean Z/A, mol/g.
        excitation: mean excitation energy, eV.
        radiation_length: X0, g/cm^2.
        interaction_length: nuclear interaction length, g/cm^2.
        sternheimer: (C, x0, x1, a, k) of the density-effect correction.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    density: Positive
    charge_per_mass: Positive
    excitation: Positive
    radiation_length: Positive
    interaction_length: Positive
    sternheimer: tuple[float, float, float, float, float]


def mixture(gases: Mapping[Medium, float], pressure: float = 1.0) -> Medium:
    """A mixture of gases by Bragg's rule, at 20 C.

    Args:
        gases: gas -> fraction of the volume.
        pressure: in atmospheres.
    """
    total = sum(gases.values())
    density = sum(share * gas.density for gas, share in gases.items()) / total
    weights = {gas: share * gas.density / density / total for gas, share in gases.items()}
    electrons = sum(weight * gas.charge_per_mass for gas, weight in weights.items())
    logarithm = sum(weight * gas.charge_per_mass * math.log(gas.excitation) for gas, weight in weights.items())
    excitation = math.exp(logarithm / electrons)
    return Medium(
        density=density * pressure,
        charge_per_mass=electrons,
        excitation=excitation,
        radiation_length=1 / sum(weight / gas.radiation_length for gas, weight in weights.items()),
        interaction_length=1 / sum(weight / gas.interaction_length for gas, weight in weights.items()),
        sternheimer=gas_density_effect(density * pressure, electrons, excitation),
    )


def gas_density_effect(
    density: float, charge_per_mass: float, excitation: float
) -> tuple[float, float, float, float, float]:
    """Density-effect parameters (C, x0, x1, a, k) of any gas.

    R. M. Sternheimer, R. F. Peierls, Phys. Rev. B 3 (1971) 3681: C = 2 ln(I / hbar omega_p) + 1 with the plasma energy
    28.816 eV sqrt(density Z/A); x0 and x1 are steps in C, k = 3, and a makes the correction vanish at x0.

    Args:
        density: g/cm^3.
        charge_per_mass: mean Z/A, mol/g.
        excitation: mean excitation energy, eV.
    """
    constant = 2 * math.log(excitation / (28.816 * math.sqrt(density * charge_per_mass))) + 1
    steps = ((10.0, 1.6, 4.0), (10.5, 1.7, 4.0), (11.0, 1.8, 4.0), (11.5, 1.9, 4.0), (12.25, 2.0, 4.0))
    low, high = next(
        ((low, high) for below, low, high in steps if constant < below), (max(2.0, 0.326 * constant - 2.5), 5.0)
    )
    return constant, low, high, (constant - 2 * math.log(10) * low) / (high - low) ** 3, 3.0


def _medium(
    density: float, charge_per_mass: float, excitation: float, x0: float, interaction: float, *sternheimer: float
) -> Medium:
    constant, low, high, scale, power = sternheimer
    return Medium(
        density=density,
        charge_per_mass=charge_per_mass,
        excitation=excitation,
        radiation_length=x0,
        interaction_length=interaction,
        sternheimer=(constant, low, high, scale, power),
    )


_PURE = {
    "beryllium": _medium(1.848, 0.44384, 63.7, 65.19, 77.8, 2.7847, 0.0592, 1.6922, 0.80392, 2.4339),
    "carbon": _medium(1.7, 0.49954, 78.0, 42.70, 85.8, 3.1550, 0.0480, 2.5387, 0.20762, 2.9532),
    "aluminium": _medium(2.699, 0.48181, 166.0, 24.01, 107.2, 4.2395, 0.1708, 3.0127, 0.08024, 3.6345),
    "silicon": _medium(2.329, 0.49848, 173.0, 21.82, 108.4, 4.4355, 0.2015, 2.8716, 0.14921, 3.2546),
    "copper": _medium(8.960, 0.45636, 322.0, 12.86, 137.3, 4.4190, -0.0254, 3.2792, 0.14339, 2.9044),
    "kapton": _medium(1.420, 0.51264, 79.6, 40.58, 85.5, 3.3497, 0.1509, 2.5631, 0.15972, 3.1921),
    "mylar": _medium(1.400, 0.52037, 78.7, 39.95, 84.9, 3.3262, 0.1562, 2.6507, 0.12679, 3.3076),
    "helium": _medium(1.663e-4, 0.49967, 41.8, 94.32, 71.0, 11.1393, 2.2017, 3.6122, 0.13443, 5.8347),
    "neon": _medium(8.385e-4, 0.49555, 137.0, 28.93, 99.0, 11.9041, 2.0735, 4.6421, 0.08064, 3.5771),
    "argon": _medium(1.662e-3, 0.45059, 188.0, 19.55, 119.7, 11.9480, 1.7635, 4.4855, 0.19714, 2.9618),
    "methane": _medium(6.672e-4, 0.62334, 41.7, 46.47, 73.8, 9.5243, 1.6263, 3.9716, 0.09253, 3.6257),
    "ethane": _medium(1.263e-3, 0.59861, 45.4, 45.66, 75.9, 9.1043, 1.5107, 3.8743, 0.09627, 3.6095),
    "carbon-dioxide": _medium(1.842e-3, 0.49989, 85.0, 36.20, 88.9, 10.1537, 1.6294, 4.1825, 0.11768, 3.3227),
    "air": _medium(1.205e-3, 0.49919, 85.7, 36.62, 90.1, 10.5961, 1.7418, 4.2759, 0.10914, 3.3994),
    "isobutane": _medium(2.489e-3, 0.58497, 48.3, 45.23, 77.1, 8.5633, 1.3788, 3.7524, 0.10852, 3.4884),  # as butane
    # No entry in the tables: ideal gas of 88.0043 g/mol; the rest by Bragg's rule from carbon and fluorine (I = 115 eV,
    # X0 = 32.93 and interaction length 97.4 g/cm^2).
    "cf4": _medium(3.658e-3, 0.47725, 109.0, 34.0, 95.6, *gas_density_effect(3.658e-3, 0.47725, 109.0)),
}


def _mixed(pressure: float = 1.0, **volumes: float) -> Medium:
    return mixture({_PURE[name.replace("_", "-")]: share for name, share in volumes.items()}, pressure)


MEDIA: Mapping[str, Medium] = {
    **_PURE,
    "neon-cf4": _mixed(neon=50, cf4=50),
    "argon-methane": _mixed(argon=90, methane=10),
    "argon-carbon-dioxide": _mixed(argon=80, carbon_dioxide=20),
    "argon-carbon-dioxide-ethane": _mixed(argon=83, carbon_dioxide=5, ethane=12),
    "argon-methane-isobutane-4atm": _mixed(argon=88.2, methane=9.8, isobutane=2.0, pressure=4.0),
    "carbon-dioxide-isobutane": _mixed(carbon_dioxide=95, isobutane=5),
}
"""Media by name; gas mixtures are by volume. Who uses which: sPHENIX TPC 2023 neon-cf4; STAR (90:10), ALEPH (91:9) and
DELPHI (80:20) TPC argon-methane; ALEPH ITC argon-carbon-dioxide; ZEUS CTD argon-carbon-dioxide-ethane; OPAL
argon-methane-isobutane-4atm; DELPHI inner detector carbon-dioxide-isobutane."""
