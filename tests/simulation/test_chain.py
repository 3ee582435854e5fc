"""Physics through the whole chain of a real detector: decays, conversions, scattering, energy loss."""

from dataclasses import replace

import numpy as np
import pytest

from fm4npp import detectors
from fm4npp.detectors import MEDIA
from fm4npp.simulation import ParticleGun, simulate
from fm4npp.simulation.deposits import collected, longest_inside
from fm4npp.simulation.ionisation import stopping_power
from fm4npp.simulation.layers import layers_of, surfaces_of
from fm4npp.simulation.particles import SPECIES, concatenate
from fm4npp.simulation.secondaries import pair_share
from tests.simulation.test_transport import flown
from tests.simulation.toys import shots, vacuum

TPC = detectors.load("sphenix-tpc")


@pytest.mark.parametrize(("name", "c_tau"), [("pi+", 780.45), ("K+", 371.1), ("mu+", 65_863.8)])
@pytest.mark.parametrize("momentum", [0.4, 1.0])
def test_decays_in_flight_follow_the_lifetime(name, c_tau, momentum):
    """c tau in cm: Particle Data Group (2024). The path to r on a circle through the axis is 2 R arcsin(r / 2 R)."""
    count, radius = 20_000, 70.0
    rng = np.random.default_rng(4)
    parents = shots(name, np.tile([momentum, 0, 0], (count, 1)))
    mean = c_tau * momentum / SPECIES[name].mass
    flight = rng.exponential(mean, count)
    children = shots("mu+", np.tile([momentum / 2, 0, 0], (count, 1)), np.outer(flight, [1, 0, 0]))
    table = concatenate([parents, children])
    table = replace(
        table,
        parent=np.concatenate([np.full(count, -1), np.arange(count)]),
        flight=np.concatenate([flight, np.full(count, np.inf)]),
    )
    result = flown(table, vacuum((20.0, radius)))
    circle = momentum / (0.299792458e-2 * 1.4)
    length = 2 * circle * np.arcsin(radius / 2 / circle)
    expected = -np.expm1(-length / mean)
    assert result.born[count:].mean() == pytest.approx(expected, abs=5 * np.sqrt(expected / count))
    np.testing.assert_array_equal(result.born[count:], flight <= length)
    assert (result.crossings.particle[result.crossings.layer == 1] < count).sum() == (flight > length).sum()


@pytest.mark.parametrize(("energy", "count"), [(0.02, 20_000), (1.0, 20_000)])
def test_photons_convert_in_the_material_of_the_sphenix_tpc(energy, count):
    surfaces = surfaces_of(TPC)
    result = flown(shots("gamma", np.tile([energy, 0, 0], (count, 1))), surfaces)
    made = result.particles.pdg[count:] == -11
    mothers = np.unique(result.particles.parent[count:][made])
    share = pair_share(np.array([energy]))[0]
    expected = 1 - np.exp(-7 / 9 * surfaces.radiation_lengths.sum() * share)
    error = np.sqrt(expected / count)
    lost = 0.1 * expected if energy < 0.1 else 0.0  # scattered first, or into a positron that does not come out
    assert (mothers < count).sum() / count == pytest.approx(expected, abs=5 * error + lost)


@pytest.mark.parametrize("momentum", [0.5, 2.0])
def test_scattering_in_all_of_the_silicon_is_highlands(momentum):
    """The angle to the direction at birth, at the innermost row of the TPC, without a field."""
    count = 20_000
    surfaces = replace(surfaces_of(detectors.load("sphenix")), field=0.0)
    result = flown(shots("mu-", np.tile([momentum, 0, 0], (count, 1))), surfaces)
    row = surfaces.layer[(surfaces.radius > 31) & (surfaces.layer >= 0)].min()
    seen = (result.crossings.layer == row) & (result.crossings.particle < count)
    angle = result.crossings.momentum[seen][:, 1:] / result.crossings.momentum[seen][:, :1]
    assert len(angle) > 0.99 * count
    before = surfaces.radiation_lengths[surfaces.radius < 31].sum()
    beta = momentum / np.hypot(momentum, SPECIES["mu-"].mass)
    width = 0.0136 / (beta * momentum) * np.sqrt(before) * (1 + 0.038 * np.log(before / beta**2))
    core = np.quantile(np.abs(angle), 0.6827)
    assert core == pytest.approx(width, rel=0.03)
    assert angle.std() == pytest.approx(width, rel=0.05)


@pytest.mark.parametrize(("name", "momentum"), [("pi+", 0.5), ("K+", 0.5), ("p", 0.8), ("pi+", 3.0)])
def test_energy_per_path_follows_the_stopping_power(name, momentum):
    """Mean of all spacepoints of straight tracks, against the Bethe formula for losses that stay in a row."""
    ideal = TPC.response.model_copy(update={"threshold": 0.0, "saturation": 0.0, "merge_z": 0.0, "field": 1e-6})
    detector = TPC.model_copy(update={"response": ideal})
    gun = ParticleGun(species={name: 1}, number=10, pt=(momentum, momentum), eta=(-0.01, 0.01))
    layers = layers_of(detector)
    deposit = path = 0.0
    for event in simulate(detector, 40, 2, gun):
        mine = event.particles["parent"][event.labels["track_id"] - 1] == 0
        deposit += event.features[mine, 0].sum() / ideal.gain
        path += layers.thickness[event.labels["layer"][mine]].sum()
    gas = MEDIA["neon-cf4"]
    cut = longest_inside(gas.density * collected(layers)).mean() * 1e3
    expected = stopping_power(np.array([momentum / SPECIES[name].mass]), gas, cut)[0] * gas.density * 1e3
    assert deposit / path == pytest.approx(expected, rel=0.05)
