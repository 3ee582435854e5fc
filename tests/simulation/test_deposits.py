"""Deposits, against the stopping power of exactly the losses that stay, and published numbers."""

import numpy as np
import pytest

from fm4npp.detectors.media import MEDIA
from fm4npp.simulation.deposits import LONGEST_PATH, deposited, longest_inside, path_lengths
from fm4npp.simulation.ionisation import knock_on_threshold, stopping_power
from fm4npp.simulation.layers import layers_of
from tests.simulation.toys import RADII, toy

MASS = {"pi": 0.13957, "K": 0.49368, "p": 0.93827, "e": 0.000511}


def row(medium="neon-cf4", thickness=1.0):
    return layers_of(toy(RADII, medium=medium, thickness=thickness, gain=1.0))


def of(layers, momentum, mass, path=1.0, charge=1):
    momentum = np.atleast_1d(momentum)
    return deposited(np.zeros(len(momentum), int), path, momentum, mass, charge, layers)


@pytest.mark.parametrize("medium", ["neon-cf4", "argon-methane", "silicon"])
def test_the_mean_is_that_of_losses_that_stay(medium):
    """The Bethe formula with the cut where electrons leave the layer, for beta gamma from 0.1 to 1000."""
    momentum = np.geomspace(0.1, 1000, 50) * MASS["pi"]
    mean, _, largest = of(row(medium, 0.5), momentum, MASS["pi"], path=0.7)
    beta_gamma = momentum / MASS["pi"]
    for value, x, cut in zip(mean, beta_gamma, largest, strict=True):
        power = stopping_power(np.array([x]), MEDIA[medium], cut * 1e3)[0]
        assert value == pytest.approx(power * 1e3 * MEDIA[medium].density * 0.7, rel=3e-3)
    most = 2 * 511.0 * beta_gamma**2
    stays = longest_inside(np.array([0.5 * MEDIA[medium].density]))[0]
    flies = knock_on_threshold(MEDIA[medium]) * 1e6
    np.testing.assert_allclose(largest, np.minimum(most, min(stays, flies)), rtol=1e-4)


def test_a_minimum_ionising_particle_in_a_row_of_the_sphenix_tpc():
    """All losses: 1.72 MeV cm^2/g (neon, PDG); xi (ln(13.1 / 0.037) - 0.93) is between 37 keV and W_max = 13.1 MeV."""
    mean, xi, largest = of(row(), 0.5, MASS["pi"])
    assert mean[0] == pytest.approx(1.72 * 2.248 - 0.180 * 4.94, rel=0.02)
    assert xi[0] == pytest.approx(0.1535 * 1e3 * 0.4830 * 2.248e-3 * 1.078, rel=0.01)
    assert largest[0] == pytest.approx(37, abs=1)


def test_deposits_grow_with_path_and_charge_squared():
    single, xi, _ = of(row(), 0.5, MASS["pi"])
    double, double_xi, _ = of(row(), 0.5, MASS["pi"], path=2.0)
    helium, helium_xi, _ = of(row(), 0.5, MASS["pi"], charge=-2)
    np.testing.assert_allclose([double / single, double_xi / xi], 2)
    np.testing.assert_allclose([helium / single, helium_xi / xi], 4)


@pytest.mark.parametrize("medium", ["neon-cf4", "argon-methane"])
def test_bands_at_400_mev(medium):
    """Protons and kaons are slow there, electrons on the plateau, pions at the minimum (PDG review, TPC dE/dx)."""
    loss = {name: of(row(medium), 0.4, mass)[0][0] for name, mass in MASS.items()}
    assert loss["p"] > 1.8 * loss["K"] > 1.8 * 1.15 * loss["e"] > 1.8 * 1.15 * 1.15 * loss["pi"]


def test_the_range_that_limits_deposits():
    """Katz and Penfold: 1 MeV electrons get through 0.412 g/cm^2, those of 0.1 MeV through 13.5 mg/cm^2."""
    energy = longest_inside(np.array([0.412, 0.0135]))
    np.testing.assert_allclose(energy, [1000, 100], rtol=5e-3)
    grams = np.geomspace(2e-4, 0.4, 30)
    t = longest_inside(grams) / 1e3
    np.testing.assert_allclose(0.412 * t ** (1.265 - 0.0954 * np.log(t)), grams, rtol=1e-9)
    assert longest_inside(np.array([0.0])) == pytest.approx(10, rel=0.02)


def test_paths():
    momentum = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 3.0], [0.0, 1.0, 0.0], [0.0, 1e-9, 1.0], [0.0, 0.0, 0.0]])
    path = path_lengths(np.array([1.0, 0.5, 0.01, 1.0, 1.0]), momentum, np.full(5, 0.6), np.full(5, 100.0))
    np.testing.assert_allclose(path, [0.6, 1.2 * np.sqrt(10), 0.6 * LONGEST_PATH, 200.0, 0.6])
