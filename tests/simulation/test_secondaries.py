"""Electromagnetic secondaries: rates against closed forms, exact kinematics, and sound behaviour everywhere."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from fm4npp.simulation.born import NONE, Born, affordable, drawn
from fm4npp.simulation.secondaries import (
    ELECTRON,
    bremsstrahlung,
    compton,
    conversions,
    joined,
    klein_nishina,
    knock_on,
    largest_transfer,
    pair_share,
)

AXIS = np.array([0.48, -0.6, 0.64])
PION, PROTON = 0.13957039, 0.93827208943


def beam(momentum, count):
    return np.tile(momentum * AXIS, (count, 1))


def energies(momentum, mass=ELECTRON):
    return np.sqrt((momentum**2).sum(axis=1) + mass**2)


def rng(seed=1):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("momentum", [1.0, 20.0])
@pytest.mark.parametrize("thickness", [0.01, 0.1, 1.0])
def test_seven_ninths_of_a_radiation_length_convert(momentum, thickness):
    count = 100_000
    gone, born = conversions(beam(momentum, count), np.full(count, thickness), rng())
    expected = 1 - np.exp(-7 / 9 * thickness)
    assert gone.mean() == pytest.approx(expected, abs=5 * np.sqrt(expected * (1 - expected) / count))
    np.testing.assert_array_equal(np.unique(born.index), np.flatnonzero(gone))


def test_slower_photons_convert_less():
    """Of carbon's 7/9 / X0 = 0.01822 cm^2/g, 0.22 to 0.28 at 10 MeV and 0.68 to 0.76 at 100 MeV (NIST XCOM: 0.0045 and
    0.0131 cm^2/g)."""
    share = pair_share(np.array([0.0, 1e-3, 1.0219e-3, 2e-3, 1e-2, 1e-1, 1.0, 1e3]))
    assert (share[:3] == 0).all()
    assert 0 < share[3] < 0.05
    assert 0.22 < share[4] < 0.28
    assert 0.68 < share[5] < 0.76
    np.testing.assert_array_equal(share[6:], 1)
    fine = pair_share(np.geomspace(1e-3, 1, 2000))  # the two series meet at 2 MeV
    assert (np.diff(fine) >= 0).all()
    assert np.diff(fine).max() < 2e-3


@pytest.mark.parametrize("momentum", [0.002, 0.05, 3.0, 500.0])
def test_pairs_have_the_energy_and_no_mass(momentum):
    _, born = conversions(beam(momentum, 20_000), np.full(20_000, 100.0), rng(), threshold=0.0)
    electron, positron = (born.momentum[born.pdg == code] for code in (11, -11))
    np.testing.assert_array_equal(born.index[born.pdg == 11], born.index[born.pdg == -11])
    total = energies(electron) + energies(positron)
    np.testing.assert_allclose(total, momentum, rtol=1e-9)
    if momentum < 1:
        return
    pair = electron + positron
    mass2 = total**2 - (pair**2).sum(axis=1)
    assert np.median(np.sqrt(np.maximum(mass2, 0))) < 6 * ELECTRON
    angle = np.linalg.norm(np.cross(electron, AXIS), axis=1) / np.linalg.norm(electron, axis=1)
    # half of them within m / E: u^2 / (1 + u^2) of u = E theta / m
    scaled = angle * energies(electron) / ELECTRON
    assert (scaled < 1).mean() == pytest.approx(0.5, abs=5 * np.sqrt(0.25 / len(scaled)))
    share = (energies(electron) - ELECTRON) / (momentum - 2 * ELECTRON)
    distribution = stats.kstest(share, lambda x: 9 / 7 * (x - 2 / 3 * x**2 + 4 / 9 * x**3))
    assert distribution.pvalue > 1e-6


def test_soft_electrons_are_not_born():
    gone, born = conversions(beam(0.01, 5000), np.full(5000, 100.0), rng(), threshold=2e-3)
    assert gone.sum() > 4000
    assert 0.55 < len(born) / (2 * gone.sum()) < 0.85
    assert (energies(born.momentum) - ELECTRON > 2e-3).all()


def klein_nishina_density(ratio, cosine):
    """PDG review, d sigma / d cosine in units of pi r_e^2, of photons of `ratio` electron masses."""
    kept = 1 / (1 + ratio * (1 - cosine))
    return kept**2 * (kept + 1 / kept - 1 + cosine**2)


def test_klein_nishina_is_the_integral():
    """And Thomson's cross section of 0.6652 barn at rest."""
    barn = 6.02214076e23 * 1e-24
    assert klein_nishina(np.array([0.0]))[0] == pytest.approx(0.66524587 * barn, rel=1e-5)
    area = np.pi * 0.28179403**2 * barn
    for energy in (1e-8, 3e-7, 6e-7, 1e-4, ELECTRON, 0.01, 10.0):
        density = partial(klein_nishina_density, energy / ELECTRON)
        near = integrate.quad(density, 1 - min(1, 50 * ELECTRON / energy), 1)[0]
        far = integrate.quad(density, -1, 1 - min(1, 50 * ELECTRON / energy))[0]
        assert klein_nishina(np.array([energy]))[0] == pytest.approx(area * (near + far), rel=1e-5)


@pytest.mark.parametrize("energy", [2e-4, 1.5e-3, 0.05])
def test_compton_scattering(energy):
    count, moles = 40_000, 5.0
    scattered, after, born = compton(beam(energy, count), np.full(count, moles), rng(), threshold=0.0)
    expected = 1 - np.exp(-moles * klein_nishina(np.array([energy]))[0])
    assert scattered.mean() == pytest.approx(expected, abs=5 * np.sqrt(expected / count))
    np.testing.assert_array_equal(after[~scattered], beam(energy, count)[~scattered])
    photon = after[scattered]
    kinetic = energies(photon, 0) - energy
    ratio = energy / ELECTRON
    cosine = photon @ AXIS / energies(photon, 0)
    np.testing.assert_allclose(energies(photon, 0), energy / (1 + ratio * (1 - cosine)), rtol=1e-7)
    hard = np.isin(np.flatnonzero(scattered), born.index)
    np.testing.assert_allclose(energies(born.momentum) - ELECTRON, -kinetic[hard], rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(born.momentum + photon[hard], beam(energy, hard.sum()), atol=1e-12)
    # the mean energy kept, by integration
    density = partial(klein_nishina_density, ratio)
    kept = integrate.quad(lambda c: density(c) / (1 + ratio * (1 - c)), -1, 1)[0] / integrate.quad(density, -1, 1)[0]
    share = energies(photon, 0) / energy
    assert share.mean() == pytest.approx(kept, abs=5 * share.std() / np.sqrt(len(share)))


@pytest.mark.parametrize("thickness", [0.003, 0.05, 0.5])
def test_electrons_keep_exp_minus_x(thickness):
    count = 100_000
    after, born = bremsstrahlung(beam(5.0, count), np.full(count, thickness), rng(), threshold=0.0)
    share = energies(after) / energies(beam(5.0, 1))
    assert share.mean() == pytest.approx(np.exp(-thickness), abs=5 * share.std() / np.sqrt(count))
    given = np.bincount(born.index, energies(born.momentum, 0), minlength=count)
    np.testing.assert_allclose(energies(after) + given, energies(beam(5.0, count)), rtol=1e-9)
    np.testing.assert_allclose(np.cross(after, AXIS), 0, atol=1e-9)
    # Bethe and Heitler's distribution of the share, by hand: P(-ln z < y) of Gamma(x / ln 2)
    some = share[:20_000]
    logs = -np.log(some[some < 0.99])
    below = stats.gamma(thickness / np.log(2)).cdf
    edge = below(-np.log(0.99))
    assert stats.kstest(logs, lambda y: (below(y) - edge) / (1 - edge)).pvalue > 1e-6


def test_soft_photons_are_not_born_but_cost_energy():
    momentum, lengths = beam(0.1, 20_000), np.full(20_000, 0.05)
    after, born = bremsstrahlung(momentum, lengths, rng(), threshold=0.01)
    again, soft = bremsstrahlung(momentum, lengths, rng(), threshold=0.0)
    np.testing.assert_array_equal(after, again)
    assert (energies(born.momentum, 0) > 0.01).all()
    assert len(born) == (energies(soft.momentum, 0) > 0.01).sum()


@pytest.mark.parametrize(
    ("momentum", "mass"), [(1.0, PION), (0.3, PION), (2.0, PROTON), (50.0, PION), (0.05, ELECTRON)]
)
def test_knock_on_electrons_have_the_spectrum(momentum, mass):
    count, moles, threshold = 200_000, 0.2, 1e-3
    ones = np.ones(count)
    lost, born = knock_on(beam(momentum, count), mass * ones, ones, moles * ones, rng(), threshold)
    energy = np.hypot(momentum, mass)
    beta2 = (momentum / energy) ** 2
    gamma, ratio = energy / mass, ELECTRON / mass
    largest = 2 * ELECTRON * beta2 * gamma**2 / (1 + 2 * gamma * ratio + ratio**2)
    largest = (energy - mass) / 2 if mass == ELECTRON else largest
    # integral of 0.1535 MeV (1 - beta^2 T / W) / T^2
    expected = 0.1535375e-3 * moles / beta2
    expected *= 1 / threshold - 1 / largest - beta2 / largest * np.log(largest / threshold)
    assert len(born) / count == pytest.approx(expected, abs=5 * np.sqrt(expected / count))
    kinetic = energies(born.momentum) - ELECTRON
    assert threshold * (1 - 1e-9) < kinetic.min()
    assert kinetic.max() < largest * (1 + 1e-9)
    np.testing.assert_allclose(lost, np.bincount(born.index, kinetic, minlength=count), rtol=1e-6)
    # what is left of the projectile is on its mass shell
    left = beam(momentum, len(born)) - born.momentum
    np.testing.assert_allclose((energy - kinetic) ** 2 - (left**2).sum(axis=1), mass**2, atol=1e-9 * energy**2 + 1e-12)
    inverse = np.sort(threshold / kinetic)
    if mass != ELECTRON and len(inverse) > 500:
        high = (inverse < 0.5).mean()  # above twice the threshold
        part = 1 / (2 * threshold) - 1 / largest - beta2 / largest * np.log(largest / (2 * threshold))
        whole = 1 / threshold - 1 / largest - beta2 / largest * np.log(largest / threshold)
        assert high == pytest.approx(part / whole, abs=5 * np.sqrt(0.25 / len(inverse)))


def test_largest_transfer_is_the_review_s():
    """PDG review: 2 m_e beta^2 gamma^2 for heavy particles; 0.48 GeV for a proton of 20 GeV/c, by hand."""
    energy = np.hypot(20.0, PROTON)
    value = largest_transfer(np.array([energy]), np.array([400.0]), np.array([PROTON]))[0]
    assert value == pytest.approx(
        2 * ELECTRON * (20 / PROTON) ** 2 / (1 + 2 * energy / PROTON * ELECTRON / PROTON), 1e-4
    )
    slow = largest_transfer(np.array([np.hypot(0.1, PROTON)]), np.array([0.01]), np.array([PROTON]))[0]
    assert slow == pytest.approx(2 * ELECTRON * (0.1 / PROTON) ** 2, rel=2e-3)


def test_doubly_charged_knock_on_four_times():
    ones = np.ones(100_000)
    counts = [
        len(knock_on(beam(3.0, 100_000), PROTON * ones, charge * ones, 0.05 * ones, rng())[1]) for charge in (0, 1, 2)
    ]
    assert counts[0] == 0
    assert counts[2] / counts[1] == pytest.approx(4, rel=5 * np.sqrt(1 / counts[1] + 1 / counts[2]))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=0, max_size=6), st.floats(0, 3), st.integers(0, 99))
def test_all_processes_are_finite_and_conserve_energy(powers, thickness, seed):
    """From 1 MeV/c to 1 TeV/c, of none to six particles."""
    size = 10.0 ** np.array(powers, dtype=float)
    count = len(size)
    directions = rng(seed + 1000).normal(size=(count, 3))
    momentum = directions / np.linalg.norm(directions, axis=1, keepdims=True) * size[:, None]
    lengths, ones = np.full(count, thickness), np.ones(count)
    gone, pairs = conversions(momentum, lengths, rng(seed))
    scattered, after, recoils = compton(momentum, lengths, rng(seed))
    slowed, photons = bremsstrahlung(momentum, lengths, rng(seed))
    energy = np.hypot(size, ELECTRON)
    given_away = [
        (pairs, size, ELECTRON, 0.0),
        (recoils, size - energies(after, 0), ELECTRON, ELECTRON),
        (photons, energy - energies(slowed), 0.0, 0.0),
    ]
    for mass in (ELECTRON, PION, PROTON):
        lost, electrons = knock_on(momentum, mass * ones, ones, lengths, rng(seed))
        assert (lost <= np.hypot(size, mass) - mass).all()
        given_away.append((electrons, lost, ELECTRON, ELECTRON))
    for born, budget, mass, free in given_away:
        assert np.isfinite(born.momentum).all()
        assert born.momentum.shape == (len(born), 3)
        assert born.index.dtype == np.int64
        spent = np.bincount(born.index, energies(born.momentum, mass) - free, minlength=count)
        assert (spent <= budget * (1 + 1e-9) + 1e-9).all()
    assert gone.shape == scattered.shape == (count,)
    assert after.shape == slowed.shape == momentum.shape


def test_what_is_born_finds_its_mother_in_larger_arrays():
    born = Born(np.array([1, 0, 1]), np.array([11, -11, 22]), np.eye(3))
    np.testing.assert_array_equal(born.of(np.array([7, 40])).index, [40, 7, 40])
    assert joined([]) is NONE
    assert joined([NONE, born]) is born
    both = joined([born, NONE, born])
    np.testing.assert_array_equal(both.index, [1, 0, 1, 1, 0, 1])
    np.testing.assert_array_equal(both.momentum, np.concatenate([np.eye(3), np.eye(3)]))


def test_draws_are_poissons_of_each_mean():
    means = np.array([0.0, 0.3, 0.0, 2.0, 1e-9, 0.7, 0.0])
    generator = rng()
    counts = np.array([np.bincount(drawn(means, generator), minlength=7) for _ in range(20_000)])
    np.testing.assert_allclose(counts.mean(axis=0), means, atol=5 * np.sqrt(2.0 / 20_000))
    np.testing.assert_allclose(counts.var(axis=0), means, atol=0.1)
    assert counts[:, [0, 2, 6]].sum() == 0
    assert len(drawn(np.zeros(3), generator)) == len(drawn(np.empty(0), generator)) == 0


def test_who_cannot_pay_gets_no_more():
    index, costs = np.array([1, 0, 1, 0, 1, 2]), np.array([2.0, 1.0, 2.0, 5.0, 0.5, 9.0])
    kept = affordable(index, costs, np.array([1.5, 4.2, 8.0]))
    assert sorted(kept.tolist()) == [0, 1, 2]
    assert len(affordable(np.empty(0, np.int64), np.empty(0), np.ones(2))) == 0
