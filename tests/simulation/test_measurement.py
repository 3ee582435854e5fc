"""From crossings to spacepoints: shares, pulls and means, each to 5 standard deviations of the statistics."""

from dataclasses import replace

import numpy as np
import pytest

from fm4npp.detectors.media import MEDIA
from fm4npp.simulation.crossings import Crossings
from fm4npp.simulation.helix import TESLA_CM
from fm4npp.simulation.ionisation import stopping_power
from fm4npp.simulation.layers import layers_of
from fm4npp.simulation.measurement import inside, measure, sensitive, smeared
from tests.simulation.toys import RADII, shots, toy

SHARP = {"resolution_rphi": 1e-9, "resolution_z": 1e-9}


def layers(radii=RADII, **response):
    return layers_of(toy(radii, **{**SHARP, **response}))


def radial(count, given, seed=0, name="pi+", momentum=1.0, slope=0.0, layer=None, z=None):
    """Particles that cross one layer each, straight through it, anywhere."""
    rng = np.random.default_rng(seed)
    phi = rng.uniform(-np.pi, np.pi, count)
    layer = rng.integers(0, len(given.radius), count) if layer is None else np.full(count, layer)
    z = rng.uniform(-1, 1, count) * given.half_length[layer] if z is None else np.full(count, z)
    heading = np.stack([np.cos(phi), np.sin(phi), np.full(count, slope)], axis=1)
    position = given.radius[layer][:, None] * heading
    position[:, 2] = z
    heading *= momentum / np.hypot(1, slope)
    return Crossings(np.arange(count), layer, position, heading, np.full(count, np.inf)), shots(
        name, heading, event=np.zeros(count, int)
    )


def measured(crossings, particles, given, seed=1):
    return measure(crossings, particles, given, np.random.default_rng(seed))


def azimuth(position):
    return np.arctan2(position[:, 1], position[:, 0])


def assert_share(found, count, expected):
    assert found / count == pytest.approx(expected, abs=5 * np.sqrt(expected * (1 - expected) / count))


def test_dead_regions_between_sectors_have_their_width():
    given = layers(sectors=12, dead_phi=(0.0212, 0.0149, 0.0139, 0.0), field=0.0)
    crossings, particles = radial(100_000, given)
    result = measured(crossings, particles, given)
    for layer, width in enumerate(given.dead_phi):
        count = (crossings.layer == layer).sum()
        assert_share((result.layer == layer).sum(), count, 1 - 12 * width / (2 * np.pi))
        place = azimuth(result.position[result.layer == layer]) / (np.pi / 6)
        away = np.abs(place - np.rint(place)) * np.pi / 6
        assert width / 2 - 1e-9 <= away.min() < width / 2 + 1e-3


def test_dead_places_by_hand():
    given = layers(sectors=4, dead_phi=0.2, dead_z=2.0, half_length=50.0)
    phi = np.array([0.0, 0.09, 0.11, np.pi / 2 - 0.05, np.pi, -np.pi + 0.05, 1.0, 1.0, 1.0, 1.0])
    z = np.array([9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 1.9, -2.1, 49.9, -50.1])
    expected = [False, False, True, False, False, False, False, True, True, False]
    assert sensitive(phi, z, np.zeros(10, int), given).tolist() == expected
    whole = layers(dead_phi=0.2)
    assert sensitive(phi, z, np.zeros(10, int), whole).all()


def test_efficiency():
    given = layers(efficiency=(0.5, 0.9, 0.97, 1.0))
    crossings, particles = radial(40_000, given)
    result = measured(crossings, particles, given)
    for layer, efficiency in enumerate(given.efficiency):
        assert_share((result.layer == layer).sum(), (crossings.layer == layer).sum(), efficiency)


@pytest.mark.parametrize("planes", [0, 12])
def test_resolution_and_diffusion_follow_the_drift(planes):
    """71.5 electrons/cm share 0.04 and 0.12 cm/sqrt(cm) of diffusion: ten times sPHENIX's, so that they show."""
    response = {"diffusion_rphi": 0.04, "diffusion_z": 0.12, "electrons": 71.5, "thickness": 0.8, "planes": planes}
    given = layers_of(toy((50.0,), resolution_rphi=0.015, resolution_z=0.05, field=0.0, **response))
    for z in (0.5, -60.0, 99.0):
        crossings, particles = radial(20_000, given, z=z, slope=1.0)
        result = measured(crossings, particles, given)
        true = azimuth(crossings.position)[result.particle]
        off = np.angle(np.exp(1j * (azimuth(result.position) - true)))
        radius = np.hypot(*result.position[:, :2].T)
        normal = (np.floor(true / (np.pi / 6)) + 0.5) * np.pi / 6 if planes else true
        cosine = np.cos(true - normal)
        there = z + 50 / cosine - 50  # slope 1, straight on from the cylinder
        well = np.abs(there) < 99.5  # 8 resolutions from the end
        variance = (100 - np.abs(there)) / (71.5 * 0.8 * np.sqrt(2) / cosine)
        pulls = {  # r dphi / cos is the way along the surface
            "rphi": radius * off / cosine / np.sqrt(0.015**2 + 0.04**2 * variance),
            "z": (result.position[:, 2] - there) / np.sqrt(0.05**2 + 0.12**2 * variance),
        }
        for pull in pulls.values():
            assert abs(pull[well].mean()) < 5 / np.sqrt(well.sum())
            assert pull[well].std() == pytest.approx(1, abs=5 / np.sqrt(2 * well.sum()) + 1e-3)


def test_spacepoints_are_on_the_surfaces():
    given = layers(planes=144, resolution_rphi=0.1, field=1.4)
    result = measured(*radial(20_000, given), given)
    angle = (np.arange(144) + 0.5) * np.pi / 72
    x, y, _ = result.position.T
    reach = (x[:, None] * np.cos(angle) + y[:, None] * np.sin(angle)).max(axis=1)
    np.testing.assert_allclose(reach, given.radius[result.layer], rtol=1e-12)
    plain = replace(given, planes=np.zeros(4, int))
    result = measured(*radial(20_000, plain), plain)
    np.testing.assert_allclose(np.hypot(*result.position[:, :2].T), plain.radius[result.layer], rtol=1e-12)


def test_charge_stays_in_its_half_of_the_drift_volume():
    z = np.array([0.1, 0.1, -0.1, 99.9, 99.9, -100.1])
    true = np.array([0.3, -0.3, -0.3, 99.0, 100.0, -99.9])
    none = np.zeros(6, int)
    assert inside(z, true, none, layers(dead_z=0.2)).tolist() == [True, False, True, True, True, False]
    assert inside(z, true, none, layers()).tolist() == [True, True, True, True, True, False]
    given = layers(dead_z=0.1, resolution_z=2.0)
    crossings, particles = radial(20_000, given)
    result = measured(crossings, particles, given)
    assert (result.position[:, 2] * crossings.position[result.particle, 2] >= 0).all()
    assert np.abs(result.position[:, 2]).max() <= 100.0
    assert 0.96 < len(result) / 20_000 < 0.99  # lost within a resolution of four ends of 100 cm, and the membrane


@pytest.mark.parametrize("off", [0.0, np.pi / 12])
def test_smearing_along_a_flat_surface(off):
    """In its middle and at its edge; the tangent of the azimuth from the middle times R is the place along it."""
    given = layers(resolution_rphi=0.05, resolution_z=0.2, planes=12)
    count = 40_000
    layer, phi, z = np.zeros(count, int), np.full(count, off), np.full(count, 7.0)
    radius, path = given.radius[layer] / np.cos(off), np.ones(count)
    moved_phi, moved_z = smeared(layer, phi, radius, z, path, given, np.random.default_rng(2))
    across, along = 20.0 * (np.tan(moved_phi) - np.tan(off)) / 0.05, (moved_z - 7.0) / 0.2
    for pull in (across, along):
        assert abs(pull.mean()) < 5 / np.sqrt(count)
        assert pull.std() == pytest.approx(1, abs=5 / np.sqrt(2 * count))
    assert abs((across * along).mean()) < 5 / np.sqrt(count)


def mean_energy(given, **shot):
    """Mean and its uncertainty."""
    energy = measured(*radial(20_000, given, layer=0, **shot), given).energy
    return energy.mean(), energy.std() / np.sqrt(len(energy))


GAS = {"medium": "neon-cf4", "gain": 45.0, "thickness": 1.0}


def test_mean_energy_is_proportional_to_path_and_gain():
    energy, error = mean_energy(layers(**GAS))
    longer, longer_error = mean_energy(layers(**GAS), slope=2.0)
    assert longer / energy == pytest.approx(np.sqrt(5), abs=5 * np.hypot(longer_error / energy, 2.2 * error / energy))
    assert mean_energy(layers(**{**GAS, "gain": 90.0}))[0] == pytest.approx(2 * energy)
    thicker, thicker_error = mean_energy(layers(**{**GAS, "thickness": 1.02}))
    assert thicker / energy == pytest.approx(1.02, abs=5 * np.hypot(error, thicker_error) / energy)


def test_mean_energy_is_that_of_the_stopping_power():
    """A pion of 0.5 GeV/c in a centimetre of neon-CF4: see `test_deposits`."""
    energy, error = mean_energy(layers(**GAS), momentum=0.5)
    cut = stopping_power(np.array([0.5 / 0.13957]), MEDIA["neon-cf4"], 36.9e3)[0]
    assert energy / 45.0 == pytest.approx(cut * MEDIA["neon-cf4"].density * 1e3, abs=5 * error / 45.0)


def test_bands_are_in_order():
    """Relative to pions of 0.4 GeV/c."""
    bands = {name: mean_energy(layers(**GAS), name=name, momentum=0.4)[0] for name in ("pi+", "e-", "K+", "p")}
    assert bands["pi+"] < bands["e-"] < bands["K+"] < bands["p"]
    assert 3.5 < bands["p"] / bands["pi+"] < 5.5  # 1 / beta^2 is 6.5 and 1.12; the logarithm takes some back


def test_nothing_leaves_more_than_it_has():
    """A proton of 0.03 GeV/c has 0.48 MeV, less than it would lose in a centimetre of silicon."""
    given = layers(medium="silicon", gain=1.0)
    energy = measured(*radial(100, given, name="p", momentum=0.03, layer=0), given).energy
    np.testing.assert_allclose(energy, (np.hypot(0.03, 0.93827208943) - 0.93827208943) * 1e6)


def test_threshold():
    every = layers(**GAS)
    crossings, particles = radial(20_000, every, layer=0)
    energy = measured(crossings, particles, every).energy
    cut = layers(**GAS, threshold=2.5)
    above = measured(crossings, particles, cut).energy
    np.testing.assert_array_equal(np.sort(above), np.sort(energy[energy >= 2.5 * 45]))
    assert 0 < len(above) < len(energy)
    silent = layers(medium="neon-cf4", threshold=2.5)  # records no energy, but needs some
    result = measured(crossings, particles, silent)
    assert len(result) == len(above)
    assert not result.energy.any()


@pytest.mark.parametrize(("gap", "expected"), [(0.4, 1), (0.6, 0)])
def test_a_curler_that_turns_back_short_of_a_row(gap, expected):
    """Rows are 1 cm thick: one that comes within half of it leaves charge, one that stays further away does not."""
    given = layers((60.0,), planes=12, field=1.4, thickness=1.0)
    phi = 0.1  # here the surface is 2 cm outside the cylinder
    place = 60.0 * np.array([np.cos(phi), np.sin(phi), 0.0])
    normal = np.array([np.cos(np.pi / 12), np.sin(np.pi / 12)])
    distance = 60.0 - place[:2] @ normal - gap
    circle = 5.0
    # heading from the normal such that the circle's furthest point is the distance away: R (1 - sin theta) = distance
    theta = np.pi / 12 + np.arcsin(1 - distance / circle)
    momentum = circle * TESLA_CM * 1.4 * np.array([[np.cos(theta), np.sin(theta), 0.0]])
    crossings = Crossings(np.array([0]), np.array([0]), place[None], momentum, np.array([np.inf]))
    assert len(measured(crossings, shots("pi-", momentum), given)) == expected


def test_flat_and_round_layers_in_one_detector():
    given = replace(layers(), planes=np.array([0, 12, 0, 144]))
    crossings, particles = radial(4_000, given)
    result = measured(crossings, particles, given)
    for layer, num_planes in enumerate(given.planes):
        one = crossings.layer == layer
        alone = replace(given, planes=np.full(4, num_planes))
        part = Crossings(*(values[one] for values in vars(crossings).values()))
        expected = measured(part, particles, alone).position
        found = result.position[result.layer == layer]
        order = [np.lexsort(np.round(values, 5).T) for values in (found, expected)]
        np.testing.assert_allclose(found[order[0]], expected[order[1]], atol=1e-6)


def test_spacepoints_carry_event_particle_and_merged_energy():
    """Two particles of event 1 cross at one place, one of event 0 at the same."""
    given = layers(**GAS, merge_rphi=0.4, merge_z=0.1)
    momentum = [[1.0, 0, 0], [0.4, 0, 0], [1.0, 0, 0]]
    particles = shots("p", momentum, event=np.array([0, 1, 1]))
    place = np.tile([20.0, 0.0, 3.0], (3, 1))
    crossings = Crossings(np.arange(3), np.zeros(3, int), place, particles.momentum, np.full(3, np.inf))
    result = measured(crossings, particles, given)
    assert sorted(zip(result.event, result.particle, strict=True)) == [(0, 0), (1, 1)]
    apart = measured(crossings, particles, replace(given, merge_rphi=np.zeros(4)))
    assert result.energy.sum() == pytest.approx(apart.energy.sum())
    np.testing.assert_allclose(result.position, place[:2], atol=1e-6)


def test_the_same_seed_gives_the_same_bytes():
    given = layers(**GAS, merge_rphi=0.4, merge_z=0.1, planes=144, efficiency=0.9)
    results = [measured(*radial(5_000, given), given) for _ in range(2)]
    for name in ("event", "layer", "particle", "position", "energy"):
        first, second = (getattr(result, name) for result in results)
        assert first.tobytes() == second.tobytes()
    assert results[0].energy.dtype == results[0].position.dtype == np.float64
    assert results[0].event.dtype == results[0].layer.dtype == results[0].particle.dtype == np.int64


def test_nothing_gives_nothing():
    given = layers(**GAS, planes=144, merge_rphi=0.4, merge_z=0.1, threshold=1.0, sectors=12, dead_phi=0.01)
    crossings, particles = radial(0, given)
    result = measured(crossings, particles, given)
    assert len(result) == 0
    assert result.position.shape == (0, 3)
    assert len(result.take(slice(0, 5))) == 0
