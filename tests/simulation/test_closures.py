"""Physics that must come out again: momenta, masses and bands, reconstructed from simulated spacepoints."""

import functools

import numpy as np
import pytest

from fm4npp import detectors
from fm4npp.simulation import ParticleGun, Pythia8, simulate
from fm4npp.simulation.layers import surfaces_of
from tests.simulation.fits import momentum_at, track

TPC = detectors.load("sphenix-tpc")
FIELD = TPC.response.field


def tracks(event, at_least):
    """(index of the particle, (N, 3) spacepoints) of every track with enough of them."""
    for number in np.unique(event.labels["track_id"]):
        points = event.positions[event.labels["track_id"] == number]
        if len(points) >= at_least:
            yield number - 1, points


def test_a_fitted_circle_returns_pt_within_the_expected_resolution():
    """Gluckstern's formula and multiple scattering in the gas (PDG review, tracking detectors: 35.6, 35.7)."""
    pt = 1.0
    gun = ParticleGun(species={"pi+": 1, "pi-": 1}, number=10, pt=(pt, pt + 1e-6), eta=(-0.3, 0.3))
    ratios = []
    for event in simulate(TPC, 60, 3, gun):
        for particle, points in tracks(event, 35):
            if event.particles["parent"][particle] == 0:
                vertex = [event.particles[f"v{axis}"][particle] for axis in "xyz"]
                momentum, charge = momentum_at(track(points, FIELD), np.array(vertex, float))
                assert charge == event.particles["charge"][particle]
                ratios.append(np.hypot(*momentum[:2]) / pt)
    ratios = np.array(ratios)
    assert len(ratios) > 300
    assert np.median(ratios) == pytest.approx(1, abs=0.01)  # 1 % is lost in the material before the gas at most
    length, points = 0.44, 48
    measured = pt / (0.3 * FIELD * length**2) * 150e-6 * np.sqrt(720 / (points + 4))
    surfaces = surfaces_of(TPC)
    gas = surfaces.radiation_lengths[surfaces.layer >= 0].sum()
    scattered = 0.0136 / (0.3 * FIELD * length) * np.sqrt(gas * 1.43)
    width = np.subtract(*np.quantile(ratios, [0.84, 0.16])) / 2
    assert width == pytest.approx(np.hypot(measured, scattered), rel=0.35)


def pion_pairs(event):
    """(pion, pion, whether both are of one K_S): each displaced positive pion with the negative ones of its event."""
    p = event.particles
    long = np.flatnonzero((p["num_hits"] >= 25) & (np.abs(p["pdg"]) == 211))
    displaced = long[np.hypot(p["vx"][long], p["vy"][long]) < 25]
    mother = p["parent"] - 1
    of_k_short = (mother >= 0) & (p["pdg"][mother] == 310)
    for i in displaced[(p["charge"][displaced] > 0) & of_k_short[displaced]]:
        for j in displaced[p["charge"][displaced] < 0]:
            yield i, j, mother[i] == mother[j]


def test_the_mass_of_the_k_short_peaks():
    masses, background = [], []
    for event in simulate(TPC, 384, 5, Pythia8(facility="rhic-pp")):
        points = dict(tracks(event, 1))
        fitted = functools.cache(lambda k, points=points: track(points[k], FIELD))
        for i, j, same in pion_pairs(event):
            place = np.array([event.particles[f"v{axis}"][i] for axis in "xyz"], float)
            momenta = [momentum_at(fitted(k), place)[0] for k in (i, j)]
            energy = sum(np.sqrt(q @ q + 0.13957**2) for q in momenta)
            mass = np.sqrt(energy**2 - np.square(np.sum(momenta, axis=0)).sum())
            (masses if same else background).append(mass)
    masses, background = np.array(masses), np.array(background)
    assert len(masses) > 25
    assert len(background) > 25
    assert np.median(masses) == pytest.approx(0.4976, abs=0.01)  # some MeV are lost in the field cage
    near = [(np.abs(some - 0.4976) < 0.025).mean() for some in (masses, background)]
    assert near[0] > 0.7
    assert near[1] < 0.2
