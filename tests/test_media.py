import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fm4npp.detectors.media import MEDIA, Medium, gas_density_effect, mixture
from fm4npp.simulation.ionisation import stopping_power

PUBLISHED = {
    # Minimum loss in MeV cm^2/g and radiation length in cm: Particle Data Group, "Atomic and nuclear properties".
    "beryllium": (1.595, 35.28),
    "carbon": (1.742, 25.12),  # graphite's loss, for a density of 1.7 g/cm^3
    "aluminium": (1.615, 8.897),
    "silicon": (1.664, 9.370),
    "copper": (1.403, 1.436),
    "kapton": (1.820, 28.57),
    "mylar": (1.848, 28.54),
    "helium": (1.937, 5.671e5),
    "neon": (1.724, 3.450e4),
    "argon": (1.519, 1.176e4),
    "methane": (2.417, 6.965e4),
    "ethane": (2.304, 3.615e4),
    "carbon-dioxide": (1.819, 1.965e4),
    "air": (1.815, 3.039e4),
}
CONDUCTORS = {"beryllium": 0.14, "carbon": 0.14, "aluminium": 0.12, "silicon": 0.14, "copper": 0.08}
"""Density effect at x0 (Sternheimer, Berger, Seltzer 1984); 0 for all else."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_minimum_loss_and_radiation_length_are_the_published_ones(name):
    medium, (loss, length) = MEDIA[name], PUBLISHED[name]
    minimum = stopping_power(np.linspace(2.5, 5, 51), medium).min()
    assert minimum == pytest.approx(loss, rel=0.008)
    assert medium.radiation_length / medium.density == pytest.approx(length, rel=1e-3)


@pytest.mark.parametrize("name", MEDIA)
def test_density_effect_parameters_agree_with_each_other(name):
    """The tabulated C is 2 ln(I / plasma energy) + 1, and the correction at x0 is the published delta_0."""
    medium = MEDIA[name]
    constant, low, high, scale, power = medium.sternheimer
    plasma = 28.816 * math.sqrt(medium.density * medium.charge_per_mass)
    assert constant == pytest.approx(2 * math.log(medium.excitation / plasma) + 1, abs=0.01)
    at_low = 2 * math.log(10) * low - constant + scale * (high - low) ** power
    assert at_low == pytest.approx(CONDUCTORS.get(name, 0.0), abs=5e-4)


@pytest.mark.parametrize("name", ["helium", "neon", "argon", "methane", "ethane", "carbon-dioxide", "air", "isobutane"])
def test_the_general_parametrisation_is_close_to_the_tables(name):
    """Sternheimer and Peierls give their formula an accuracy of 2 % in the loss on the rise."""
    medium = MEDIA[name]
    general = medium.model_copy(
        update={"sternheimer": gas_density_effect(medium.density, medium.charge_per_mass, medium.excitation)}
    )
    beta_gamma = np.geomspace(1, 1e5, 40)
    np.testing.assert_allclose(stopping_power(beta_gamma, general), stopping_power(beta_gamma, medium), rtol=0.02)


def test_a_mixture_by_hand():
    """Ne:CF4 50:50 by volume is 0.8385 : 3.658 by mass."""
    mixed = MEDIA["neon-cf4"]
    neon = 0.8385 / (0.8385 + 3.658)
    assert mixed.density == pytest.approx((0.8385e-3 + 3.658e-3) / 2)
    assert mixed.charge_per_mass == pytest.approx(neon * 10 / 20.18 + (1 - neon) * 42 / 88.004, rel=1e-4)
    assert mixed.radiation_length == pytest.approx(1 / (neon / 28.93 + (1 - neon) / 34.0), rel=1e-4)
    # 4.28 keV/cm in the sPHENIX simulation (coresoftware, PHG4TpcElectronDrift), of all losses
    loss = stopping_power(np.array([3.5]), mixed)[0] * mixed.density * 1e3
    assert loss == pytest.approx(4.28, rel=0.15)


def test_carbon_tetrafluoride_by_hand():
    cf4 = MEDIA["cf4"]
    carbon = 12.011 / 88.0043
    assert cf4.density == pytest.approx(88.0043 / 24055, rel=1e-3)  # molar volume at 20 C in cm^3
    assert cf4.charge_per_mass == pytest.approx(42 / 88.0043, rel=1e-4)
    assert cf4.radiation_length == pytest.approx(1 / (carbon / 42.70 + (1 - carbon) / 32.93), rel=1e-3)
    assert cf4.interaction_length == pytest.approx(1 / (carbon / 85.8 + (1 - carbon) / 97.4), rel=1e-3)
    assert math.log(cf4.excitation) == pytest.approx((6 * math.log(78) + 36 * math.log(115)) / 42, rel=1e-3)


def test_isobutane_by_hand():
    """C4H10, 58.12 g/mol, by Bragg's rule from the published X0 and interaction lengths of carbon and hydrogen."""
    isobutane, carbon = MEDIA["isobutane"], 4 * 12.011 / 58.122
    assert isobutane.charge_per_mass == pytest.approx(34 / 58.122, rel=1e-3)
    assert isobutane.radiation_length == pytest.approx(1 / (carbon / 42.70 + (1 - carbon) / 63.04), rel=1e-3)
    assert isobutane.interaction_length == pytest.approx(1 / (carbon / 85.8 + (1 - carbon) / 52.0), rel=2e-3)


GASES = [name for name, medium in MEDIA.items() if medium.density < 0.01]


@given(st.sampled_from(GASES), st.sampled_from(GASES), st.floats(0.01, 0.99), st.floats(0.5, 10))
def test_a_mixture_lies_between_its_gases(first, second, share, pressure):
    one, other = MEDIA[first], MEDIA[second]
    mixed = mixture({one: share, other: 1 - share} if one != other else {one: 1.0}, pressure)
    for name in ("charge_per_mass", "excitation", "radiation_length", "interaction_length"):
        low, high = sorted((getattr(one, name), getattr(other, name)))
        assert low * (1 - 1e-9) <= getattr(mixed, name) <= high * (1 + 1e-9)
    low, high = sorted((one.density, other.density))
    assert low * (1 - 1e-9) <= mixed.density / pressure <= high * (1 + 1e-9)
    assert mixture({one: 2 * share, other: 2 - 2 * share}, pressure).density == pytest.approx(mixed.density) or (
        one == other
    )


@pytest.mark.parametrize("field", ["density", "radiation_length", "excitation"])
def test_nothing_is_zero(field):
    with pytest.raises(ValidationError, match=field):
        Medium.model_validate({**MEDIA["argon"].model_dump(), field: 0.0})
