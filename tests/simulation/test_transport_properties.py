"""What holds for all particles in all detectors: energy, order along the path, parents, surfaces met in full."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm4npp.detectors import load
from fm4npp.detectors.response import Material
from fm4npp.simulation.interactions import interact, matter_of
from fm4npp.simulation.layers import surfaces_of
from fm4npp.simulation.particles import SPECIES, concatenate
from fm4npp.simulation.secondaries import is_hadron
from fm4npp.simulation.transport import MAX_PATH, transport
from tests.simulation.test_transport import flown
from tests.simulation.toys import RADII, shots, slab, toy, vacuum

SPECIES_NAMES = tuple(SPECIES)
SPHENIX = surfaces_of(load("sphenix"))
DENSE = surfaces_of(toy((5.0, 9.0, 20.0, 33.0), medium="silicon", thickness=0.03, radiation_lengths=0.05, field=1.4))


def kinetic(momentum, mass):
    return np.sqrt((momentum**2).sum(axis=1) + mass**2) - mass


def cost(table):
    """Energy that it takes to make secondaries: electrons and protons come from matter, all else is made."""
    energy = kinetic(table.momentum, table.mass)
    energy[np.abs(table.pdg) == 211] += SPECIES["pi+"].mass
    energy[table.pdg == -11] += 2 * SPECIES["e+"].mass
    return energy


def available(momentum, mass, pdg):
    """Kinetic energy, and the mass of hadrons, which can be absorbed (with that of a nucleon for antibaryons)."""
    baryon = np.abs(pdg) > 1000
    absorbed = np.where(is_hadron(pdg), np.where(baryon, np.where(pdg < 0, 2 * mass, 0), mass), 0)
    return kinetic(momentum, mass) + absorbed


def isotropic(rng, count, low, high):
    direction = rng.normal(size=(count, 3))
    direction /= np.linalg.norm(direction, axis=1)[:, None]
    return direction * np.exp(rng.uniform(np.log(low), np.log(high), count))[:, None]


def mixture(rng, count, low=0.005, high=20.0):
    """Particles of every species, in every direction."""
    tables = [shots(name, isotropic(rng, count, low, high)) for name in SPECIES_NAMES]
    return concatenate(tables)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), high=st.floats(0.02, 50.0))
def test_crossing_matter_makes_no_energy(seed, high):
    rng = np.random.default_rng(seed)
    table = mixture(rng, 60, 0.005, high)
    surface = rng.integers(0, len(DENSE.radius), len(table))
    place = isotropic(rng, len(table), 1.0, 1.0)
    place *= (DENSE.radius[surface] / np.hypot(*place[:, :2].T))[:, None]
    path = rng.exponential(1.0, len(table))
    outcome = interact(place, table.momentum, table.charge, table.mass, table.pdg, path, surface, matter_of(DENSE), rng)
    after = kinetic(outcome.momentum, table.mass)
    before = kinetic(table.momentum, table.mass)
    assert np.isfinite(outcome.momentum).all()
    assert (after <= before * (1 + 1e-9) + 1e-15).all()
    born = shots("pi+", outcome.born.momentum)
    masses = {species.pdg: species.mass for species in SPECIES.values()}
    born = replace(born, pdg=outcome.born.pdg, mass=np.array([masses[code] for code in outcome.born.pdg.tolist()]))
    spent = np.bincount(outcome.born.index, cost(born), minlength=len(table)) + np.where(outcome.alive, after, 0)
    gone = ~outcome.alive & is_hadron(table.pdg)
    budget = np.where(gone, available(table.momentum, table.mass, table.pdg), before)
    assert (spent <= budget * (1 + 1e-9) + 1e-12).all()


@pytest.mark.parametrize("surfaces", [SPHENIX, DENSE], ids=["sphenix", "dense"])
def test_children_cost_no_more_than_their_parent_had(surfaces):
    rng = np.random.default_rng(5)
    table = mixture(rng, 250)
    result = flown(table, surfaces)
    everything, born = result.particles, np.arange(len(table), len(result.particles))
    assert len(born) > 500
    assert (np.bincount(everything.parent[born]) > 1).any()
    assert (everything.parent[born] >= len(table)).any()  # secondaries of secondaries
    assert (everything.parent[born] < born).all()
    parent = everything.parent[born]
    np.testing.assert_array_equal(everything.event[born], everything.event[parent])
    spent = np.bincount(parent, cost(everything.take(born)), minlength=len(everything))
    had = available(everything.momentum, everything.mass, everything.pdg)
    assert (spent <= had * (1 + 1e-9)).all()


def test_children_start_at_a_crossing_of_their_parent_with_less_than_it_had_there():
    table = mixture(np.random.default_rng(6), 250)
    result = flown(table, DENSE)
    everything, crossings = result.particles, result.crossings
    met = {(who, *place): momentum for who, place, momentum in
           zip(crossings.particle.tolist(), crossings.position.tolist(), crossings.momentum, strict=True)}  # fmt: skip
    of_charged = np.flatnonzero((everything.parent >= 0) & (everything.charge[everything.parent] != 0))
    assert len(of_charged) > 200
    for child in of_charged.tolist():
        mother = everything.parent[child]
        momentum = met[(mother, *everything.vertex[child].tolist())]
        had = available(momentum[None], everything.mass[[mother]], everything.pdg[[mother]])
        assert cost(everything.take(np.array([child]))) <= had * (1 + 1e-9)


def test_children_of_photons_start_on_surfaces():
    count = 4000
    table = shots("gamma", isotropic(np.random.default_rng(7), count, 0.1, 10.0))
    everything = flown(table, SPHENIX).particles
    first = np.flatnonzero((everything.parent >= 0) & (everything.parent < count))
    assert len(first) > 300
    vertex = everything.vertex[first]
    radius = np.hypot(*vertex[:, :2].T)
    surface = np.abs(np.subtract.outer(radius, SPHENIX.radius)).argmin(axis=1)
    np.testing.assert_allclose(radius, SPHENIX.radius[surface], rtol=1e-10)
    assert (np.abs(vertex[:, 2]) <= SPHENIX.half_length[surface]).all()
    pairs = first[everything.pdg[first] == -11]  # photons that have not scattered fly straight
    along = everything.momentum[everything.parent[pairs]]
    lines = everything.vertex[pairs] / np.linalg.norm(everything.vertex[pairs], axis=1)[:, None]
    straight = (lines * along).sum(axis=1) / np.linalg.norm(along, axis=1)
    assert np.median(straight) == pytest.approx(1, abs=1e-12)
    assert (straight > 1 - 1e-12).mean() > 0.9


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_crossings_follow_one_another_along_the_path(seed):
    """In vacuum: what was flown between two crossings has moved the particle along the beam in proportion."""
    table = mixture(np.random.default_rng(seed), 5, 0.1, 0.6)
    crossings = flown(table, vacuum((20.0, 21.0, 33.0, 50.0, 71.0), thickness=0.1)).crossings
    for who in np.unique(crossings.particle):
        mine = np.flatnonzero(crossings.particle == who)
        slope = table.momentum[who, 2] / np.linalg.norm(table.momentum[who])
        z = np.concatenate([[0.0], crossings.position[mine, 2]])
        np.testing.assert_allclose(np.diff(z), crossings.path[mine] * slope, rtol=1e-7, atol=1e-9)
        assert (np.abs(np.diff(crossings.layer[mine])) <= 1).all()
        assert crossings.layer[mine[0]] == 0
        radius = np.array([20.0, 21.0, 33.0, 50.0, 71.0])[crossings.layer[mine]]
        np.testing.assert_allclose(np.hypot(*crossings.position[mine, :2].T), radius, rtol=1e-10)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_without_matter_the_order_of_particles_is_of_no_account(seed):
    rng = np.random.default_rng(seed)
    table = mixture(rng, 8, 0.05, 5.0)
    order = rng.permutation(len(table))
    first, second = flown(table, vacuum(), 1).crossings, flown(table.take(order), vacuum(), 2).crossings

    def listed(particle, crossings):
        sort = np.lexsort((crossings.position[:, 2], crossings.layer, particle))
        return particle[sort], crossings.layer[sort], crossings.position[sort], crossings.momentum[sort]

    one, other = listed(first.particle, first), listed(order[second.particle], second)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_twice_the_charge_bends_twice_as_much():
    momentum = isotropic(np.random.default_rng(1), 40, 0.2, 1.0)
    single = flown(shots("pi+", momentum / 2), vacuum()).crossings
    table = shots("pi+", momentum)
    double = flown(replace(table, charge=2 * table.charge), vacuum()).crossings
    np.testing.assert_array_equal(single.particle, double.particle)
    np.testing.assert_allclose(single.position, double.position, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["pi+", "e-", "gamma"])
@pytest.mark.parametrize(
    ("vertex", "momentum"),
    [
        ((0, 0, 0), (0, 0, 1)),  # along the beam
        ((0, 0, 0), (1, 0, 0)),  # across it
        ((10.0, 5.0, 0), (0, 0, 1e-3)),
        ((20.0, 0, 0), (0, 1, 0)),  # tangent to a layer, on it
        ((20.0, 0, 0), (0, 0, 1)),  # along a layer, on it
        ((71.0, 0, 0), (1, 0, 0)),  # out of the last
        ((90.0, 0, 0), (1, 0, 0.1)),  # outside
        ((90.0, 0, 0), (0, 1, 0.0)),
        ((90.0, 0, 0), (0, 1, 0.1)),
        ((0, 0, 150.0), (0, 0, 1)),  # beyond the end
        ((0, 0, 150.0), (1, 0, 0)),
        ((0, 0, 100.0), (1, 0, 1)),
    ],
)
def test_awkward_starts_come_to_an_end(name, vertex, momentum):
    for surfaces in (vacuum(), vacuum(field=0.0), DENSE):
        result = flown(shots(name, [momentum], vertex), surfaces)
        assert np.isfinite(result.crossings.position).all()
        assert np.isfinite(result.particles.vertex).all()
        assert (np.abs(result.crossings.position[:, 2]) <= 100.0).all()
        if abs(vertex[2]) >= 100 or momentum[:2] == (0, 0):
            assert len(result.crossings) == 0


@pytest.mark.parametrize(("direction", "expected"), [(1, [2, 3]), (-1, [1, 0, 0, 1, 2, 3])])
def test_a_start_on_a_layer_crosses_those_beyond(direction, expected):
    result = flown(shots("pi+", [[direction, 0, 0]], (33.0, 0, 0)), vacuum(field=0.0)).crossings
    assert result.layer.tolist() == expected[direction < 0 :]  # it has been through its own


def test_nothing_is_lost_when_many_surfaces_end_at_one_radius():
    material = tuple(
        Material(name=name, radius=71.0, half_length=500.0, medium="silicon", radiation_lengths=0.01)
        for name in ("one", "two", "three")
    )
    surfaces = surfaces_of(toy(RADII, material))
    assert surfaces.outer_radius > surfaces.radius[-1]
    assert (np.diff(surfaces.radius) > 0).all()


def test_stopped_and_absorbed_parents_have_no_decay_products():
    """A decay that lies behind a wall of matter does not happen; the flight up to there costs no one anything."""
    kaon, muon = shots("K+", [[0.1, 0.0, 0.0]] * 50), shots("mu+", [[0.2, 0.0, 0.0]] * 50, (30.0, 0, 0))
    table = concatenate([kaon, muon])
    table = replace(
        table,
        parent=np.concatenate([np.full(50, -1), np.arange(50)]),
        flight=np.concatenate([np.full(50, 30.0), np.full(50, np.inf)]),
    )
    result = transport(table, slab(radiation_lengths=0.3), np.random.default_rng(1))
    assert not result.born[50:100].any()
    assert result.born[:50].all()
    assert result.born[100:].all()
    free = transport(table, vacuum(field=0.0), np.random.default_rng(1))
    assert free.born.all()


def test_what_curls_beyond_the_longest_path_does_not_decay():
    """In 20 T a kaon of 0.1 GeV/c stays within 4 cm."""
    kaon = shots("K+", [[0.1, 0.0, 0.0]] * 2)
    table = concatenate([kaon, shots("pi+", [[0.1, 0.0, 0.0]] * 2)])
    flight = np.array([MAX_PATH * 0.99, MAX_PATH * 1.01, np.inf, np.inf])
    table = replace(table, parent=np.array([-1, -1, 0, 1]), flight=flight)
    assert flown(table, vacuum(field=20.0)).born.tolist() == [True, True, True, False]


def test_every_particle_crosses_neighbours_of_where_it_was():
    """Born at a surface, or after a crossing: the next one is of that surface or of the one to either side."""
    table = mixture(np.random.default_rng(8), 250)
    result = flown(table, DENSE)
    everything, crossings = result.particles, result.crossings
    radius = np.hypot(*everything.vertex.T[:2])
    at = np.where(radius > 0, np.abs(np.subtract.outer(radius, DENSE.radius)).argmin(axis=1), -1)
    outward = (everything.vertex[:, :2] * everything.momentum[:, :2]).sum(axis=1) > 0
    order = np.argsort(crossings.particle, kind="stable")
    particle, layer = crossings.particle[order], crossings.layer[order]
    same = np.diff(particle) == 0
    first = np.concatenate([[True], ~same])
    ahead = layer[first] - at[particle[first]]
    late = particle[first] >= len(table)
    assert late.sum() > 100
    assert (ahead[~late] == 0).sum() == 0
    assert (ahead[~late] == 1).all()
    leaves = outward[particle[first]]
    assert np.isin(ahead[late & leaves], [0, 1]).all()
    assert np.isin(ahead[late & ~leaves], [-1, 0]).all()
    beyond = (np.abs(np.diff(layer)) > 1) & same  # ends of the layers in z may be passed by
    assert not beyond.any()
    again = same & (np.diff(layer) == 0)
    assert again.any()
    assert crossings.path[order][1:][again].min() > 1e-6  # what is scattered back is not measured twice
