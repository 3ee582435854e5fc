"""Matter that particles cross: all of it, at every inclination, for every charge."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm4npp.detectors import MEDIA
from fm4npp.detectors.response import Material
from fm4npp.simulation.helix import TESLA_CM
from fm4npp.simulation.interactions import MOST_ASKEW, MOST_INCLINED, inclination, interact, matter_of
from fm4npp.simulation.ionisation import stopping_power
from fm4npp.simulation.layers import surfaces_of
from fm4npp.simulation.particles import SPECIES
from tests.simulation.test_transport import flown
from tests.simulation.test_transport_properties import kinetic
from tests.simulation.toys import shots, slab, toy, vacuum


def doubled(times):
    """Material so many times at the same place."""
    return tuple(
        Material(name=name, radius=10.0, half_length=500.0, medium="silicon", radiation_lengths=0.02)
        for name in ("one", "two")[:times]
    )


@pytest.mark.parametrize("times", [1, 2])
def test_material_at_one_place_is_met_in_full(times):
    surfaces = surfaces_of(toy((20.0,), doubled(times), field=0.0, half_length=500.0))
    count = 4000
    result = flown(shots("pi+", np.tile([0.5, 0, 0], (count, 1))), surfaces)
    first = result.crossings.particle < count
    width = np.std(result.crossings.momentum[first, 1] / result.crossings.momentum[first, 0])
    alone = 0.0136 / (0.5 * 0.9632) * np.sqrt(0.02) * (1 + 0.038 * np.log(0.02 / 0.9632**2))
    assert width == pytest.approx(alone * np.sqrt(times), rel=5 / np.sqrt(2 * count))


@pytest.mark.parametrize("medium", ["silicon", "argon"])
def test_layers_of_gas_with_heavy_supports_are_met_in_full(medium):
    """Shares of X0 that a gas would need metres for; so it is in the trackers of YAML files."""
    surfaces = surfaces_of(toy((20.0, 21.0, 22.0), medium=medium, radiation_lengths=0.05, thickness=0.3))
    count = 4000
    result = flown(shots("gamma", np.tile([5.0, 0, 0], (count, 1))), surfaces)
    made = result.particles.pdg[count:] == -11
    photons = result.particles.parent[count:][made] < count
    expected = 1 - np.exp(-7 / 9 * 0.15)
    assert photons.sum() / count == pytest.approx(expected, abs=5 * np.sqrt(expected / count))


def test_layers_thicker_than_the_space_between_them_are_measured_in_full():
    result = flown(shots("pi+", [[1.0, 0.0, 0.5]]), vacuum((20.0, 20.5, 21.0, 22.0), thickness=0.6, field=0.0))
    straight = 0.6 * np.hypot(1, 0.5)
    assert (result.crossings.path >= straight * (1 - 1e-9)).all()
    reach = 20.001  # from the axis: its turning point lies 0.001 cm beyond the first layer
    curler = flown(shots("pi+", [[TESLA_CM * 1.4 * reach / 2, 0.0, 0.0]]), vacuum((20.0, 20.5, 21.0), thickness=0.6))
    beyond = 2 * reach * np.arccos(20.0 / reach)
    assert curler.crossings.path.min() == pytest.approx(beyond * 0.6 / 0.5, rel=1e-6)


@pytest.mark.parametrize(("name", "medium"), [("p", "beryllium"), ("gamma", "silicon")])
def test_inclined_particles_meet_more(name, medium):
    """At 60 degrees to the normal along the beam: twice the thickness."""
    count, surfaces = 20_000, slab(medium=medium, radiation_lengths=0.05)
    table = shots(name, np.tile([2.0, 0.0, 2.0 * np.sqrt(3)], (count, 1)))
    result = flown(table, surfaces)
    if name == "p":
        met = count - (result.crossings.particle < count).sum()
        expected = -np.expm1(-2 * surfaces.interaction_lengths[0])
    else:
        met = (result.particles.pdg[count:] == -11)[result.particles.parent[count:] < count].sum()
        expected = -np.expm1(-7 / 9 * 2 * 0.05)
    assert met / count == pytest.approx(expected, abs=5 * np.sqrt(expected / count))


@pytest.mark.parametrize("slope", [0.0, 1.5])
def test_twice_the_charge_loses_four_times_as_much_and_scatters_twice(slope):
    count, surfaces = 2000, slab(radiation_lengths=0.005)
    table = shots("p", np.tile([2.0, 0, 2.0 * slope], (count, 1)))
    losses, widths = [], []
    for charge in (1, 2):
        result = flown(replace(table, charge=charge * table.charge), surfaces)
        mine = result.crossings.particle < count
        momentum = result.crossings.momentum[mine]
        energy = kinetic(table.momentum[:1], table.mass[:1]) - kinetic(momentum, table.mass[0])
        losses.append(np.median(energy))
        widths.append((momentum[:, 1] / momentum[:, 0]).std())
    assert losses[1] / losses[0] == pytest.approx(4, rel=0.03)
    assert widths[1] / widths[0] == pytest.approx(2 * (1 + 0.038 * np.log(4) / 0.8), rel=0.08)
    expected = stopping_power(np.hypot(1, slope) * 2.0 / table.mass[:1], MEDIA["silicon"], 1e6)[0]
    assert losses[0] == pytest.approx(expected * surfaces.grams[0] * np.hypot(1, slope) * 1e-3, rel=0.02)


def test_slow_particles_go_as_far_as_their_range():
    """Protons of 50 MeV in 1 mm of silicon after another: the integral of the inverse of the stopping power."""
    mass, gram = SPECIES["p"].mass, 0.1
    kinetics = np.linspace(0.0005, 0.05, 5000)
    total = np.sqrt(kinetics * (kinetics + 2 * mass))
    step = 1 / (stopping_power(total / mass, MEDIA["silicon"]) * 1e-3) * (kinetics[1] - kinetics[0])
    ranges = np.cumsum(step)
    layers = tuple(np.linspace(10, 40, 41))
    share = gram / MEDIA["silicon"].radiation_length
    surfaces = surfaces_of(toy(layers, medium="silicon", radiation_lengths=share, field=0.0, half_length=300.0))
    quiet = replace(surfaces, interaction_lengths=np.zeros(41), radiation_lengths=np.full(41, 1e-12))
    result = flown(shots("p", [[total[-1], 0, 0]]), quiet).crossings
    before = kinetic(result.momentum, mass)  # the first is all there was
    expected = np.interp(ranges[-1] - gram * np.arange(len(before)), ranges, kinetics)
    assert gram * len(before) == pytest.approx(ranges[-1], abs=1.5 * gram)
    np.testing.assert_allclose(before[before > 0.01], expected[before > 0.01], atol=0.001)


@pytest.mark.parametrize("name", ["e-", "e+"])
def test_electrons_and_positrons_radiate(name):
    """The mean share of the energy that is left after x radiation lengths is exp(-x) (Bethe and Heitler 1934)."""
    count, lengths = 20_000, 0.1
    result = flown(shots(name, np.tile([10.0, 0, 0], (count, 1))), slab(radiation_lengths=lengths))
    mine = result.crossings.particle < count
    share = np.linalg.norm(result.crossings.momentum[mine], axis=1) / 10.0
    assert share.sum() / count == pytest.approx(np.exp(-lengths), abs=0.01)
    photons = result.particles.take(np.flatnonzero(result.particles.pdg == 22))
    assert photons.total_momentum.sum() / 10.0 / count == pytest.approx(1 - np.exp(-lengths), abs=0.01)


@settings(max_examples=50, deadline=None)
@given(phi=st.floats(-3.1, 3.1), askew=st.floats(-1.55, 1.55), slope=st.floats(-100, 100), inward=st.booleans())
def test_inclined_paths_are_longer(phi, askew, slope, inward):
    heading = phi + askew + np.pi * inward
    position = np.array([[30 * np.cos(phi), 30 * np.sin(phi), 5.0]])
    momentum = 0.3 * np.array([[np.cos(heading), np.sin(heading), slope]])
    expected = min(1 / np.cos(askew), MOST_ASKEW) * min(np.hypot(1, slope), MOST_INCLINED)
    assert inclination(position, momentum)[0] == pytest.approx(expected, rel=1e-9)


def test_pairs_pass_half_of_what_they_are_born_in():
    """At 40 MeV both are minimum ionising or faster: each loses what half of the slab takes, in the mean."""
    count, energy = 20_000, 0.04
    surfaces = slab(radiation_lengths=0.05)
    everything = flown(shots("gamma", np.tile([energy, 0, 0], (count, 1))), surfaces).particles
    made = np.flatnonzero((everything.parent >= 0) & (everything.parent < count))
    pair = np.flatnonzero(np.bincount(everything.parent[made], np.sign(everything.pdg[made]) + 1e3) == 2e3)
    ours = made[np.isin(everything.parent[made], pair)]
    left = np.sqrt(everything.total_momentum[ours] ** 2 + everything.mass[ours] ** 2).sum() / len(pair)
    plateau = stopping_power(np.array([40.0]), MEDIA["silicon"], 1e6)[0]
    assert len(pair) > 300
    assert energy - left == pytest.approx(surfaces.grams[0] * plateau * 1e-3, rel=0.1)


def test_gas_sends_out_softer_electrons_than_solids():
    """K / 2 Z/A x / beta^2 / T of them above T, 50 keV in gas; some stop in the gas where they are born."""
    count, gas = 50_000, MEDIA["neon-cf4"]
    wall = (Material(name="wall", radius=10.0, half_length=500.0, medium="silicon", radiation_lengths=1e-4),)
    surfaces = surfaces_of(toy((20.0,), wall, medium="neon-cf4", radiation_lengths=None, thickness=0.2, field=0.0))
    everything = flown(shots("mu-", np.tile([5.0, 0, 0], (count, 1))), surfaces).particles
    born = np.flatnonzero((everything.parent >= 0) & (np.hypot(*everything.vertex.T[:2]) > 15.0))
    expected = count * 0.1535375 * gas.charge_per_mass * gas.density * 0.2 / 0.05
    assert 0.5 * expected < len(born) < expected + 5 * np.sqrt(expected)


def crossing(table, surfaces, path):
    """The outcome at the first surface, crossed along the radius."""
    place = np.tile([surfaces.radius[0], 0.0, 0.0], (len(table), 1))
    first, rng = np.zeros(len(table), int), np.random.default_rng(1)
    matter = matter_of(surfaces)
    return interact(
        place, table.momentum, table.charge, table.mass, table.pdg, np.full(len(table), path), first, matter, rng
    )


@pytest.mark.parametrize(("path", "share"), [(0.05, 0.1), (0.25, 0.5), (0.5, 1.0), (30.0, 1.0)])
def test_no_more_matter_is_met_than_was_flown_through(path, share):
    surfaces = surfaces_of(toy((20.0,), medium="neon-cf4", radiation_lengths=None, thickness=0.5))
    table = shots("mu-", np.tile([0.3, 0, 0], (200, 1)))
    after = kinetic(crossing(table, surfaces, path).momentum, table.mass)
    lost = np.median(kinetic(table.momentum, table.mass) - after)
    restricted = stopping_power(np.array([0.3]) / table.mass[:1], MEDIA["neon-cf4"], 5e4)[0]
    assert lost == pytest.approx(share * restricted * surfaces.grams[0] * 1e-3, rel=2e-3)


@pytest.mark.parametrize(("medium", "below", "above"), [("neon-cf4", 15e-6, 30e-6), ("silicon", 0.4e-3, 0.6e-3)])
def test_what_is_slow_stops(medium, below, above):
    surfaces = surfaces_of(toy((20.0,), medium=medium, radiation_lengths=1e-9))
    energy = np.array([below, above])
    momentum = np.sqrt(energy * (energy + 2 * SPECIES["e-"].mass))
    table = shots("e-", np.outer(momentum, [1.0, 0.0, 0.0]))
    assert crossing(table, surfaces, 1.0).alive.tolist() == [False, True]
