"""Particles through detectors: geometry exactly, in vacuum; matter against closed forms."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm4npp.detectors import MEDIA, load
from fm4npp.simulation.helix import TESLA_CM
from fm4npp.simulation.ionisation import stopping_power
from fm4npp.simulation.layers import surfaces_of
from fm4npp.simulation.particles import SPECIES, Particles, concatenate
from fm4npp.simulation.transport import MAX_PATH, transport
from tests.simulation.test_helix import FIELD, stepped
from tests.simulation.toys import RADII, shots, slab, vacuum


def flown(particles, surfaces, seed=1):
    return transport(particles, surfaces, np.random.default_rng(seed))


@settings(max_examples=40, deadline=None)
@given(
    place=st.tuples(st.floats(0, 70), st.floats(-3, 3)),
    p=st.floats(0.01, 0.4),
    phi=st.floats(-3, 3),
    slope=st.floats(0.2, 2),
    name=st.sampled_from(["pi+", "pi-", "gamma"]),
)
def test_all_crossings_of_all_turns_are_those_of_a_stepped_track(place, p, phi, slope, name):
    vertex = np.array([place[0] * np.cos(place[1]), place[0] * np.sin(place[1]), 0.0])
    momentum = p / np.hypot(1, slope) * np.array([np.cos(phi), np.sin(phi), slope])
    charge = SPECIES[name].charge
    length = min(MAX_PATH, 100.0 * np.hypot(1, slope) / slope)
    path = stepped(vertex, momentum, charge, length, 40_000)
    r = np.hypot(*path[:, :2].T)
    outside = np.flatnonzero(r > RADII[-1])
    last = outside[0] if len(outside) else len(r) - 1
    # keep away from grazing and from starting on a layer, where a step of the brute force decides
    turning = r[1:-1][np.diff(np.sign(np.diff(r))) != 0]
    if np.abs(np.subtract.outer([*turning, r[0], r[-1]], RADII)).min() < 0.02:
        return
    expected = []
    for layer, radius in enumerate(RADII):
        for k in np.flatnonzero(np.diff(r[: last + 1] > radius)):
            w = (radius - r[k]) / (r[k + 1] - r[k])
            expected.append((layer, *(path[k] + w * (path[k + 1] - path[k]))))
    result = flown(shots(name, momentum, vertex), vacuum()).crossings
    if charge == 0:
        assert len(result) == 0  # nothing to measure
        return
    expected = np.array(sorted(expected, key=lambda hit: (hit[0], hit[3]))).reshape(-1, 4)
    order = np.lexsort([result.position[:, 2], result.layer])
    end = length * slope / np.hypot(1, slope) * 0.999
    early = expected[:, 3] < end
    within = result.position[order, 2] < end
    np.testing.assert_array_equal(result.layer[order][within], expected[early, 0])
    np.testing.assert_allclose(result.position[order][within], expected[early, 1:], atol=3e-3)
    np.testing.assert_allclose(np.linalg.norm(result.momentum, axis=1), np.linalg.norm(momentum), rtol=1e-9)


def test_nothing_from_the_beam_line_reaches_the_tpc_below_60_mev():
    """A circle through the origin reaches 2 R: pT > 0.3 B r / 2 = 66 MeV/c at the first row (paper, appendix A.3)."""
    tpc = load("sphenix-tpc")
    full = surfaces_of(tpc)
    nothing = np.zeros_like(full.grams)
    empty = replace(full, grams=nothing, radiation_lengths=nothing, interaction_lengths=nothing)
    rng = np.random.default_rng(1)
    transverse, phi = rng.uniform(0.03, 0.09, 400), rng.uniform(-np.pi, np.pi, 400)
    momentum = np.stack([transverse * np.cos(phi), transverse * np.sin(phi), 0.2 * transverse], axis=1)
    hits = np.bincount(flown(shots("pi+", momentum), empty).crossings.particle, minlength=400)
    threshold = TESLA_CM * empty.field * tpc.layers[0] / 2
    assert threshold > 0.06
    assert (hits[transverse < threshold * (1 - 1e-9)] == 0).all()
    assert (hits[transverse > threshold * (1 + 1e-9)] >= 2).all()
    with_matter = flown(shots("pi+", momentum), full).crossings
    assert (transverse[with_matter.particle[with_matter.particle < 400]] > 0.06).all()


def test_a_field_that_is_off_leaves_straight_lines():
    momentum = np.random.default_rng(1).normal(size=(50, 3))
    result = flown(shots("pi+", momentum), vacuum(field=0.0)).crossings
    along = momentum[result.particle]
    np.testing.assert_allclose(np.cross(result.position, along), 0, atol=1e-7 * 100)
    assert (np.bincount(result.layer) > 40).any()


def test_a_particle_that_leaves_makes_no_second_turn():
    result = flown(shots("pi+", [[0.5, 0.0, 0.05]]), vacuum((30.0, 50.0, 75.0))).crossings
    assert list(result.layer) == [0, 1, 2]
    looper = flown(shots("pi+", [[0.12, 0.0, 0.01]]), vacuum((30.0, 50.0, 75.0))).crossings  # reaches 57 cm
    turns = MAX_PATH / (2 * np.pi * 0.12 / (TESLA_CM * FIELD))
    assert 4 * int(turns) <= len(looper) <= 4 * int(turns + 1)
    assert set(looper.layer) == {0, 1}


def test_what_curls_outside_the_last_layer_comes_back_unless_absorbed():
    momentum = [[0.163, 0.0, 0.01]]  # a circle of 38.8 cm: reaches 77.7 cm
    assert list(flown(shots("pi+", momentum), vacuum((30.0, 75.0))).crossings.layer) == [0, 1]
    layers = flown(shots("pi+", momentum), vacuum((30.0, 75.0), outer_radius=90.0)).crossings.layer
    assert list(layers[:5]) == [0, 1, 1, 0, 0]


def decaying(flight, momentum, daughters):
    """A charged kaon that decays after so many cm into two pions, given as if it flew straight."""
    kaon = shots("K+", [momentum])
    direction = np.asarray(momentum) / np.linalg.norm(momentum)
    pions = shots("pi+", daughters, flight * direction)
    table = concatenate([kaon, pions])
    return replace(table, parent=np.array([-1, 0, 0]), flight=np.array([flight, np.inf, np.inf]))


def test_decay_products_start_where_their_parent_got_to():
    given = decaying(30.0, [0.3, 0.0, 0.1], [[0.2, 0.1, 0.1], [0.1, -0.1, 0.0]])
    result = flown(given, vacuum((20.0, 25.0, 40.0, 70.0)))
    assert result.born.all()
    place = stepped(np.zeros(3), np.array([0.3, 0.0, 0.1]), 1, 30.0)
    np.testing.assert_allclose(result.particles.vertex[1:], [place[-1]] * 2, atol=1e-3)
    turn = 30.0 / (np.hypot(1, 1 / 3) * 0.3 / (TESLA_CM * FIELD))  # clockwise, about z
    heading = result.particles.momentum[1:].sum(axis=0)
    np.testing.assert_allclose(heading, [0.3 * np.cos(turn), -0.3 * np.sin(turn), 0.1], atol=1e-9)
    products = result.particles.momentum[1:]
    np.testing.assert_allclose(np.linalg.norm(products, axis=1), np.linalg.norm(given.momentum[1:], axis=1), rtol=1e-12)
    assert set(result.crossings.layer[result.crossings.particle == 0]) == {0, 1}


def test_decay_products_of_what_does_not_get_there_are_not_born():
    given = decaying(80.0, [0.3, 0.0, 0.0], [[0.2, 0.0, 0.0], [0.1, 0.0, 0.0]])
    result = flown(given, vacuum((20.0, 40.0)))
    assert list(result.born) == [True, False, False]
    assert set(result.crossings.particle) == {0}


def test_an_empty_table_flies():
    none = Particles(*(value[:0] for value in vars(shots("pi+", [[1.0, 0, 0]])).values()))
    result = flown(none, vacuum())
    assert len(result.particles) == len(result.crossings) == 0


def angles(result, count):
    """Projected angles (2, N) between the directions of particles along x at two layers around a slab."""
    last = result.crossings.layer == result.crossings.layer.max()
    first = result.crossings.particle < count
    momentum = result.crossings.momentum[last & first]
    return momentum[:, 1] / momentum[:, 0], momentum[:, 2] / momentum[:, 0]


@pytest.mark.parametrize(("name", "p", "lengths"), [("pi+", 1.0, 0.01), ("K+", 0.5, 0.02), ("p", 2.0, 0.05)])
def test_scattering_has_the_width_of_highland(name, p, lengths):
    count = 20_000
    result = flown(shots(name, np.tile([p, 0, 0], (count, 1))), slab(radiation_lengths=lengths))
    energy = np.hypot(p, SPECIES[name].mass)
    beta = p / energy
    width = 0.0136 / (beta * p) * np.sqrt(lengths) * (1 + 0.038 * np.log(lengths / beta**2))
    for projected in angles(result, count):
        assert projected.std() == pytest.approx(width, rel=0.03)


def test_photons_convert_at_seven_ninths_of_a_radiation_length():
    count = 20_000
    result = flown(shots("gamma", np.tile([5.0, 0, 0], (count, 1))), slab(radiation_lengths=0.1))
    pairs = np.abs(result.particles.pdg[count:]) == 11
    from_photons = result.particles.parent[count:][pairs] < count
    mothers = np.unique(result.particles.parent[count:][pairs][from_photons])
    both = np.bincount(result.particles.parent[count:][pairs])[mothers] == 2
    expected = 1 - np.exp(-7 / 9 * 0.1)
    assert both.sum() / count == pytest.approx(expected, abs=5 * np.sqrt(expected / count))


def test_hadrons_interact_with_their_interaction_length():
    surfaces = slab(medium="beryllium", radiation_lengths=0.1)
    count = 20_000
    result = flown(shots("p", np.tile([2.0, 0, 0], (count, 1))), surfaces)
    survived = (result.crossings.particle < count).sum() / count
    expected = np.exp(-surfaces.interaction_lengths[0])
    assert survived == pytest.approx(expected, abs=5 * np.sqrt((1 - expected) / count))


@pytest.mark.parametrize("name", ["pi+", "K+", "p"])
def test_energy_loss_is_that_of_the_slab(name):
    surfaces, p, count = slab(radiation_lengths=0.02), 0.8, 2000
    result = flown(shots(name, np.tile([p, 0, 0], (count, 1))), surfaces)
    seen = result.crossings.momentum[result.crossings.particle < count]
    mass = SPECIES[name].mass
    loss = np.hypot(p, mass) - np.hypot(np.linalg.norm(seen, axis=1), mass)
    expected = stopping_power(np.array([p / mass]), MEDIA["silicon"])[0] * surfaces.grams[0] * 1e-3
    assert loss.mean() == pytest.approx(expected, rel=0.05)  # rare knock-on electrons carry some of it


def test_slow_particles_stop():
    thick = slab(radiation_lengths=0.1)  # 2.2 g/cm^2 of silicon: the range of a proton of 0.2 GeV/c is 0.5
    assert len(flown(shots("p", [[0.2, 0, 0]] * 50), thick).crossings) == 0
