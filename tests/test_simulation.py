from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats

from fm4npp import detectors
from fm4npp.detectors import Response
from fm4npp.detectors.cylindrical import CylindricalDetector
from fm4npp.errors import ConfigurationError
from fm4npp.event import particle_class
from fm4npp.simulation import ParticleGun, simulate
from fm4npp.simulation.helix import crossings, helices, points, turn_limit
from fm4npp.simulation.ionisation import density_effect, relative_loss, straggling
from fm4npp.simulation.particles import SPECIES

NAMES = ("sphenix-tpc", "sphenix-mvtx", "sphenix-intt", "sphenix-silicon", "star-tpc")
MASS = {abs(species.pdg): species.mass for species in SPECIES.values()}
TESLA_METRE = 0.299792458  # GeV/c of a unit charge on a circle of 1 m in 1 T


def detector(name):
    return detectors.get(name)()


def perfect_tpc(**fields):
    """The sPHENIX TPC without smearing or inefficiency."""
    response = detector("sphenix-tpc").response.model_copy(
        update={"resolution_rphi": 1e-12, "resolution_z": 1e-12, "efficiency": 1.0, **fields}
    )
    return detector("sphenix-tpc").replace(response=response.model_dump())


def arrays(event):
    return [event.positions, event.features, event.ids, *event.labels.values(), *event.particles.values()]


def fitted_circle(x, y):
    """Centre and radius of the circle through points, least squares (I. Kasa, IEEE Trans. Instrum. Meas. 25 (1976))."""
    matrix = np.stack([2 * x, 2 * y, np.ones_like(x)], axis=1)
    (a, b, c), *_ = np.linalg.lstsq(matrix, x**2 + y**2, rcond=None)
    return a, b, np.sqrt(c + a**2 + b**2)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_bits_and_a_shorter_run_is_a_prefix(name):
    short, long = list(simulate(detector(name), 3, seed=7)), list(simulate(detector(name), 5, seed=7))
    assert [event.event_id for event in long] == [0, 1, 2, 3, 4]
    for one, two in zip(short, long, strict=False):
        assert all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in zip(arrays(one), arrays(two)))  # noqa: B905
        assert one.source == two.source


def test_seeds_and_events_differ():
    first, second = (list(simulate(detector("sphenix-tpc"), 3, seed=seed)) for seed in (1, 2))
    momenta = [event.particles["px"] for event in first + second if len(event.particles["px"])]
    for one, two in itertools.combinations(momenta, 2):
        assert not np.isin(one, two).any()
    assert "seed=1" in first[0].source
    assert "particle-gun" in first[0].source
    assert "fm4npp" in first[0].source


@pytest.mark.parametrize("name", NAMES)
def test_spacepoints_lie_on_their_layers_inside_the_detector(name):
    events = list(simulate(detector(name), 20, seed=3))
    responses = detector(name).responses
    radii = np.concatenate([geometry.layers for geometry, _ in responses.values()])
    half = np.concatenate([np.full(len(g.layers), r.half_length) for g, r in responses.values()])
    subsystem = np.repeat(np.arange(len(responses)), [len(g.layers) for g, _ in responses.values()])
    for event in events:
        layer = event.labels["layer"]
        np.testing.assert_allclose(np.hypot(*event.positions[:, :2].T), radii[layer], rtol=3e-7)
        assert (np.abs(event.positions[:, 2]) <= half[layer] * (1 + 1e-6)).all()
        np.testing.assert_array_equal(event.ids, subsystem[layer])
        assert event.subsystems == detector(name).subsystems
        assert event.feature_names == tuple(detector(name).features)
        assert event.detector == name
    assert set(np.concatenate([event.ids for event in events])) == set(range(len(responses)))
    assert set(np.concatenate([event.labels["layer"] for event in events])) == set(range(len(radii)))


@pytest.mark.parametrize("name", NAMES)
def test_spacepoints_belong_to_their_own_particles_helix(name):
    """Labels survive the shuffle: each hit is within 6 sigma of its own particle's circle and z, in some turn."""
    field = next(iter(detector(name).responses.values()))[1].field
    for event in simulate(detector(name), 5, seed=11):
        p = {key: values.astype(float) for key, values in event.particles.items()}
        i = event.labels["track_id"] - 1
        pt = np.hypot(p["px"], p["py"])
        signed = -p["charge"] * np.sign(field) * pt / (TESLA_METRE * abs(field)) * 100  # > 0: counter-clockwise
        cx, cy = p["vx"] - signed * p["py"] / pt, p["vy"] + signed * p["px"] / pt
        x, y, z = event.positions.astype(float).T
        responses = [response for _, response in detector(name).responses.values()]
        rphi, along = (
            np.array([getattr(response, what) for response in responses])[event.ids]
            for what in ("resolution_rphi", "resolution_z")
        )
        away = np.abs(np.hypot(x - cx[i], y - cy[i]) - np.abs(signed[i]))
        assert (away <= 6 * rphi + 1e-4).all()
        start = np.arctan2(p["vy"] - cy, p["vx"] - cx)
        turn = np.mod((np.arctan2(y - cy[i], x - cx[i]) - start[i]) * np.sign(signed[i]), 2 * np.pi)
        # a smear along the layer moves the crossing along the helix, by more where it runs along the layer
        turns = turn[:, None] + 2 * np.pi * np.arange(-1, 400)
        expected = p["vz"][i][:, None] + (p["pz"] / pt * np.abs(signed))[i][:, None] * turns
        slack = 6 * along + 6 * rphi * np.abs(p["pz"] / pt)[i] + 1e-3
        assert (np.abs(expected - z[:, None]).min(axis=1) <= slack).all()
        np.testing.assert_array_equal(event.labels["particle_class"], particle_class(event.particles["pdg"])[i])
        momentum = np.sqrt(p["px"] ** 2 + p["py"] ** 2 + p["pz"] ** 2)
        np.testing.assert_array_equal(event.labels["is_noise"], momentum[i] < 0.06)
        np.testing.assert_array_equal(np.bincount(i, minlength=len(pt)), event.particles["num_hits"])
        np.testing.assert_array_equal(event.particles["track_id"], np.arange(1, len(pt) + 1))


def test_the_order_of_spacepoints_tells_nothing():
    event = next(simulate(detector("sphenix-tpc"), 1, seed=1))
    for name in ("track_id", "layer"):
        neighbours = (np.diff(event.labels[name]) == 0).mean()
        assert neighbours < 0.3


@pytest.mark.parametrize("field", [1.4, -0.5, 3.0])
@pytest.mark.parametrize("charge", [1, -1])
@pytest.mark.parametrize("pt", [0.4, 1.0, 20.0, 1000.0])
def test_a_fitted_circle_returns_momentum_and_charge(field, charge, pt):
    """No smear, full efficiency: pT within 1e-6 and the charge from the sense of rotation, F = q v x B."""
    momentum = np.array([[pt * np.cos(0.7), pt * np.sin(0.7), 0.3 * pt]])
    paths = helices(np.zeros((1, 3)), momentum, np.array([charge]), field)
    radii = np.linspace(30.0, 75.0, 40)
    particle, layer, turn = crossings(paths, radii, turn_limit(paths, 75.0, 1e9, np.array([1e9])))
    assert list(layer) == list(range(40))
    x, y, z = points(paths, particle, turn).T
    np.testing.assert_allclose(np.hypot(x, y), radii, rtol=1e-13)
    # a circle through the origin with centre (a, b) is 2 a x + 2 b y = x^2 + y^2; x is the starting direction
    rotated = (x + 1j * y) * np.exp(-0.7j)
    plane = np.stack([rotated.real, rotated.imag], axis=1) * 2 / (x**2 + y**2)[:, None]
    a, b = np.linalg.lstsq(plane, np.ones(40), rcond=None)[0]
    assert np.hypot(a, b) / 100 * TESLA_METRE * abs(field) == pytest.approx(pt, rel=1e-6)
    assert np.sign(b) == -np.sign(charge * field)
    path = 2 * abs(b) * np.arcsin(np.hypot(x, y) / (2 * abs(b)))
    np.testing.assert_allclose(z, 0.3 * path, rtol=1e-6)


def test_a_fitted_circle_of_an_event_returns_momentum_and_charge():
    gun = ParticleGun(mean_curlers=0, pt=(0.3, 0.5), vertex_sigma_z=0)
    checked = 0
    for event in simulate(perfect_tpc(), 5, seed=4, gun=gun):
        for track in np.flatnonzero(event.particles["num_hits"] == 48):
            x, y = event.positions[event.labels["track_id"] == track + 1, :2].astype(float).T
            a, b, radius = fitted_circle(x, y)
            px, py, charge = (float(event.particles[name][track]) for name in ("px", "py", "charge"))
            # positions are float32: 4e-6 cm at 75 cm, against a sagitta of more than 1.5 cm
            assert radius / 100 * TESLA_METRE * 1.4 == pytest.approx(np.hypot(px, py), rel=1e-5)
            assert np.sign(px * b - py * a) == -charge
            checked += 1
    assert checked > 20


def test_a_field_that_is_off_leaves_straight_lines():
    gun = ParticleGun(mean_curlers=0, vertex_sigma_z=0)
    event = next(simulate(perfect_tpc(field=0.0), 1, seed=4, gun=gun))
    track = event.labels["track_id"] - 1
    px, py, pz = (event.particles[name][track].astype(float) for name in ("px", "py", "pz"))
    x, y, z = event.positions.astype(float).T
    np.testing.assert_allclose(px * y, py * x, atol=2e-5 * np.hypot(px, py).max())
    np.testing.assert_allclose(z, pz / np.hypot(px, py) * np.hypot(x, y), atol=2e-4)


def stepped(vertex, momentum, charge, field, radii, length, steps=40_000):
    """Crossings by brute force: integrate the Lorentz force in small steps and look for sign changes of r - layer."""
    rate = -charge * field * TESLA_METRE / 100 / np.linalg.norm(momentum)  # angle per cm of path
    step = length / steps
    path = np.arange(steps + 1) * step
    heading = np.arctan2(momentum[1], momentum[0]) + rate * (path[:-1] + step / 2)  # midpoint rule
    ratio = np.hypot(*momentum[:2]) / np.linalg.norm(momentum)
    x = vertex[0] + np.concatenate([[0], np.cumsum(np.cos(heading) * ratio * step)])
    y = vertex[1] + np.concatenate([[0], np.cumsum(np.sin(heading) * ratio * step)])
    z = vertex[2] + path * momentum[2] / np.linalg.norm(momentum)
    r = np.hypot(x, y)
    found = []
    for layer, radius in enumerate(radii):
        for k in np.flatnonzero(np.diff(r > radius)):
            w = (radius - r[k]) / (r[k + 1] - r[k])
            found.append((layer, *(q[k] + w * (q[k + 1] - q[k]) for q in (x, y, z))))
    return np.array(sorted(found, key=lambda hit: (hit[0], hit[3]))).reshape(-1, 4)


@settings(max_examples=40, deadline=None)
@given(
    place=st.tuples(st.floats(0, 70), st.floats(-3, 3)),
    p=st.floats(0.01, 0.4),
    phi=st.floats(-3, 3),
    slope=st.floats(0.2, 2),
    charge=st.sampled_from([1, -1]),
)
def test_all_crossings_of_all_turns_are_those_of_a_stepped_track(place, p, phi, slope, charge):
    vertex = np.array([place[0] * np.cos(place[1]), place[0] * np.sin(place[1]), 0.0])
    momentum = p / np.hypot(1, slope) * np.array([np.cos(phi), np.sin(phi), slope])
    radii, length = np.array([20.0, 33.0, 50.0, 71.0]), 300.0
    paths = helices(vertex[None], momentum[None], np.array([charge]), 1.4)
    # keep away from grazing and from starting on a layer, where a step of the brute force decides
    centre = vertex[:2] + paths.sense * paths.radius * np.array([-np.sin(phi), np.cos(phi)])
    reach = np.abs(np.hypot(*centre) + np.array([-1, 1]) * paths.radius)
    if np.abs(np.subtract.outer([*reach, place[0]], radii)).min() < 0.02:
        return
    particle, layer, turn = crossings(paths, radii, np.array([length / paths.stretch / paths.radius])[0])
    places = points(paths, particle, turn)
    order = np.lexsort([places[:, 2], layer])
    expected = stepped(vertex, momentum, charge, 1.4, radii, length)
    expected = expected[expected[:, 3] < 0.999 * length * slope / np.hypot(1, slope)]
    within = places[order, 2] < 0.999 * length * slope / np.hypot(1, slope)
    np.testing.assert_array_equal(layer[order][within], expected[:, 0])
    np.testing.assert_allclose(places[order][within], expected[:, 1:], atol=2e-3)


def test_a_particle_that_leaves_makes_no_second_turn():
    momentum, vertex = np.array([[0.5, 0.0, 0.05]]), np.zeros((1, 3))
    paths = helices(vertex, momentum, np.array([1]), 1.4)
    radii = np.array([30.0, 50.0, 75.0])
    _, layer, _ = crossings(paths, radii, turn_limit(paths, 75.0, 100.0, np.array([1e5])))
    assert list(layer) == [0, 1, 2]
    looper = helices(vertex, np.array([[0.12, 0.0, 0.01]]), np.array([1]), 1.4)  # reaches 57 cm
    _, layer, turn = crossings(looper, radii, turn_limit(looper, 75.0, 100.0, np.array([370.0])))
    assert sorted(layer) == [0] * 4 + [1] * 4  # 370 cm of path: two turns of 180 cm, outward and inward
    assert turn.max() < 370 / looper.stretch[0] / looper.radius[0]


def test_nothing_from_the_beam_line_reaches_the_tpc_below_the_threshold():
    """A circle through the origin reaches 2 R: pT > 0.3 B r_min / 2."""
    gun = ParticleGun(mean_curlers=0, mean_primaries=200, pt=(0.05, 0.09), species={"pion": 1.0})
    threshold = TESLA_METRE * 1.4 * detector("sphenix-tpc").layers[0] / 100 / 2
    below = above = 0
    for event in simulate(perfect_tpc(), 3, seed=5, gun=gun):
        pt, hits = np.hypot(event.particles["px"], event.particles["py"]), event.particles["num_hits"]
        assert (hits[pt < threshold * (1 - 1e-6)] == 0).all()
        central = (pt > threshold * (1 + 1e-6)) & (np.abs(event.particles["pz"]) < 0.3 * pt)
        assert (hits[central] >= 2).all()
        below, above = below + (pt < threshold).sum(), above + central.sum()
    assert below > 50
    assert above > 50


def test_slow_primaries_stop_before_the_first_layer():
    gun = ParticleGun(mean_curlers=0, mean_primaries=100, pt=(0.15, 0.4), species={"proton": 1}, stopped_below=0.3)
    for event in simulate(perfect_tpc(), 2, seed=5, gun=gun):
        p = event.particles
        beta_gamma = np.sqrt(p["px"] ** 2 + p["py"] ** 2 + p["pz"] ** 2) / MASS[2212]
        np.testing.assert_array_equal(p["num_hits"] > 0, beta_gamma >= 0.3)


def test_energy_loss_falls_with_velocity_and_rises_to_a_plateau():
    slow = np.array([0.2, 0.4, 0.8])
    beta2 = slow**2 / (1 + slow**2)
    product = relative_loss(slow) * beta2
    assert product.max() / product.min() < 1.35  # 1 / beta^2 up to the logarithm
    assert (np.diff(relative_loss(np.geomspace(0.1, 2.5, 50))) < 0).all()
    fine = np.geomspace(1, 10, 2000)
    assert relative_loss(fine).min() == pytest.approx(1.0, abs=1e-6)
    assert 3.0 < fine[relative_loss(fine).argmin()] < 4.5
    plateau = relative_loss(np.array([1e4, 1e5]))
    assert plateau[0] == pytest.approx(plateau[1], rel=0.01)
    assert 1.3 < plateau[0] < 1.8  # measured in argon mixtures: 1.4 to 1.6


def test_energy_loss_is_the_restricted_bethe_formula():
    """An independent evaluation with one particle at a time, and the density effect at its documented corners."""
    me, excitation, cut = 510998.95, 188.0, 3e4

    def loss(bg):
        beta2, largest = bg * bg / (1 + bg * bg), 2 * me * bg * bg
        transfer = min(cut, largest)
        correction = float(density_effect(np.array([bg]))[0]) / 2
        inner = 0.5 * np.log(2 * me * bg * bg * transfer / excitation**2)
        return (inner - beta2 * 0.5 * (1 + transfer / largest) - correction) / beta2

    least = min(loss(bg) for bg in np.linspace(2, 6, 4001))
    for bg in (0.15, 0.3, 1.0, 3.5, 20.0, 500.0):
        assert relative_loss(np.array([bg]))[0] == pytest.approx(loss(bg) / least, rel=1e-6)
    # zero below x0; far above x1 it is 2 ln(bg) - C, and then equals 2 ln(hbar omega_p / I) + 2 ln(bg) - 1
    assert density_effect(np.array([10.0]))[0] == 0
    plasma = 28.816 * np.sqrt(1.662e-3 * 18 / 39.948)  # eV, PDG table of symbols
    expected = 2 * np.log(plasma / excitation) + 2 * np.log(1e6) - 1
    assert density_effect(np.array([1e6]))[0] == pytest.approx(expected, abs=0.01)


def test_straggling_is_a_moyal_distribution_of_mean_one():
    values = straggling(200_000, np.random.default_rng(1))
    assert values.min() > 0
    assert values.mean() == pytest.approx(1.0, abs=5 * values.std() / np.sqrt(len(values)))
    width = (np.quantile(values, 0.6) - np.quantile(values, 0.2)) / (stats.moyal.ppf(0.6) - stats.moyal.ppf(0.2))
    inside = stats.moyal.cdf(np.array([-2.0, 12.0]))
    location = values.min() + 2.0 * width
    x = (values - location) / width
    distance = stats.kstest(x, lambda v: (stats.moyal.cdf(v) - inside[0]) / np.diff(inside)).statistic
    assert distance < 0.01


def test_energies_separate_the_species_where_they_should():
    """At p = 0.4 GeV/c: electron on the plateau above the pion, kaon and proton far above both."""
    means = {}
    for name in ("pion", "kaon", "proton", "electron"):
        gun = ParticleGun(mean_curlers=0, pt=(0.3999, 0.4001), eta=(-0.01, 0.01), species={name: 1.0})
        means[name] = np.concatenate([event.features[:, 0] for event in simulate(perfect_tpc(), 20, 1, gun)]).mean()
    gain = detector("sphenix-tpc").response.gain
    assert means["pion"] < means["electron"] < means["kaon"] < means["proton"]
    for name, mean in means.items():
        loss = relative_loss(np.array([0.4 / SPECIES[name].mass]))[0]
        # the path exceeds the thickness by the angle to the layer, sin(angle) = r / 2 R
        askew = np.mean(1 / np.sqrt(1 - (np.array(detector("sphenix-tpc").layers) / (2 * 95.3)) ** 2))
        assert mean / gain == pytest.approx(loss * askew, rel=0.02)


def test_efficiency_and_resolution_are_those_of_the_response():
    gun = ParticleGun(mean_curlers=0, pt=(1.0, 1.001), eta=(-0.5, 0.5), vertex_sigma_z=0, species={"pion": 1})
    response = {"efficiency": 0.8, "resolution_rphi": 0.02, "resolution_z": 0.07}
    pairs = zip(
        simulate(perfect_tpc(**response), 60, 9, gun),
        simulate(perfect_tpc(efficiency=0.8), 60, 9, gun),
        strict=True,
    )
    hits = particles = 0
    rphi, along = [], []
    for smeared, exact in pairs:
        hits, particles = hits + len(smeared), particles + len(smeared.particles["pdg"])
        np.testing.assert_array_equal(smeared.labels["layer"], exact.labels["layer"])  # the same random numbers
        phi = [np.arctan2(e.positions[:, 1], e.positions[:, 0]).astype(float) for e in (smeared, exact)]
        difference = np.mod(phi[0] - phi[1] + np.pi, 2 * np.pi) - np.pi
        rphi.append(difference * np.hypot(*exact.positions[:, :2].T))
        along.append(smeared.positions[:, 2] - exact.positions[:, 2])
    trials = particles * 48
    assert abs(hits - 0.8 * trials) < 5 * np.sqrt(trials * 0.16)
    assert np.concatenate(rphi).std() == pytest.approx(0.02, rel=0.02)
    assert np.concatenate(along).std() == pytest.approx(0.07, rel=0.02)
    assert abs(np.concatenate(rphi).mean()) < 5 * 0.02 / np.sqrt(hits)


def test_the_gun_shoots_what_it_says():
    gun = ParticleGun(mean_primaries=40, mean_curlers=7, species={"pion": 3, "kaon": 1})
    events = list(simulate(detector("sphenix-tpc"), 250, 3, gun))
    p = {name: np.concatenate([event.particles[name] for event in events]) for name in events[0].particles}
    curler = np.abs(p["pdg"]) == 11
    pt, total = np.hypot(p["px"], p["py"]), np.sqrt(p["px"] ** 2 + p["py"] ** 2 + p["pz"] ** 2)
    assert (~curler).sum() / 250 == pytest.approx(40, abs=5 * np.sqrt(40 / 250))
    assert curler.sum() / 250 == pytest.approx(7, abs=5 * np.sqrt(7 / 250))
    assert (np.abs(p["pdg"][~curler]) == 211).mean() == pytest.approx(0.75, abs=0.03)
    assert p["charge"][~curler].mean() == pytest.approx(0, abs=0.05)
    np.testing.assert_array_equal(np.sign(p["pdg"]) * np.where(curler, -1, 1), p["charge"])
    assert (
        stats.kstest(
            pt[~curler],
            lambda x: (
                np.diff(stats.gamma.cdf([np.full_like(x, 0.06), x], 2, scale=0.26), axis=0)[0]
                / np.diff(stats.gamma.cdf([0.06, 5.0], 2, scale=0.26))[0]
            ),
        ).pvalue
        > 1e-4
    )
    eta = np.arcsinh(p["pz"] / pt)[~curler]
    assert stats.kstest(eta, stats.uniform(-1.1, 2.2).cdf).pvalue > 1e-4
    assert (total[curler] < 0.06).all()
    birth = np.hypot(p["vx"], p["vy"])[curler]
    layers = detector("sphenix-tpc").layers
    assert stats.kstest(birth, stats.uniform(layers[0], layers[-1] - layers[0]).cdf).pvalue > 1e-4
    first = [event.particles["vz"][0] for event in events]
    assert np.std(first) == pytest.approx(5.0, rel=0.25)


def test_curlers_turn_several_times_and_are_noise():
    gun = ParticleGun(mean_primaries=0, mean_curlers=20)
    events = list(simulate(detector("sphenix-tpc"), 10, 3, gun))
    assert all(event.labels["is_noise"].all() and len(event) for event in events)
    times = [
        np.bincount(event.labels["layer"][event.labels["track_id"] == track]).max()
        for event in events
        for track in np.unique(event.labels["track_id"])
    ]
    assert np.max(times) >= 6  # of one layer: three turns, outward and inward


def test_an_event_may_be_empty():
    events = list(simulate(detector("sphenix-silicon"), 2, 1, ParticleGun(mean_primaries=0, mean_curlers=0)))
    assert [len(event) for event in events] == [0, 0]
    assert all(len(event.particles["pdg"]) == 0 for event in events)
    assert list(simulate(detector("sphenix-tpc"), 0, seed=1)) == []


def test_default_events_resemble_the_published_ones():
    """TPCpp-10M: 834 hits and 15.4 tracks an event, 54 hits a track, 10.7 % noise, energy mean 253."""
    events = list(simulate(detector("sphenix-tpc"), 300, seed=1))
    hits = np.array([len(event) for event in events])
    tracks = np.array([(event.particles["num_hits"] > 0).sum() for event in events])
    assert hits.mean() == pytest.approx(834, rel=0.2)
    assert tracks.mean() == pytest.approx(15.4, rel=0.2)
    assert hits.sum() / tracks.sum() == pytest.approx(54, rel=0.2)
    assert np.concatenate([event.labels["is_noise"] for event in events]).mean() == pytest.approx(0.107, rel=0.25)
    assert np.concatenate([event.features[:, 0] for event in events]).mean() == pytest.approx(253, rel=0.1)


def test_what_cannot_be_simulated_says_so_in_one_line():
    def simulated(**fields):
        base = {"name": "toy", "radius": (1.0, 10.0), "layers": (2.0, 4.0), "response": Response()}
        return simulate(CylindricalDetector(**{**base, **fields}), 1, 1)

    assert len(next(simulated())) > 0
    for fields, words in (
        ({"response": None}, "no response"),
        ({"layers": ()}, "no layers"),
        ({"measured": {"time": {}}}, "time"),
        ({"measured": {"energy": {}}}, "gain 0"),
    ):
        with pytest.raises(ConfigurationError, match=words) as caught:
            simulated(**fields)
        assert "\n" not in str(caught.value)
        assert "toy" in str(caught.value)
    silicon = detector("sphenix-silicon")
    weaker = silicon.parts[1].replace(response=Response(field=1.0).model_dump())
    with pytest.raises(ConfigurationError, match="different fields"):
        simulate(type(silicon)(parts=(silicon.parts[0], weaker)), 1, 1)
    for bad in ((-1, 1), (1, -1)):
        with pytest.raises(ConfigurationError, match="negative"):
            simulate(detector("sphenix-tpc"), *bad)


@pytest.mark.parametrize(
    "fields",
    [
        {"mean_primaris": 1},
        {"pt": (0.0, 1.0)},
        {"pt": (2.0, 1.0)},
        {"eta": (1.0, 1.0)},
        {"species": {"tau": 1.0}},
        {"species": {"pion": 0.0}},
        {"mean_curlers": -1},
    ],
)
def test_a_gun_that_cannot_shoot_is_refused(fields):
    with pytest.raises(ValidationError):
        ParticleGun(**fields)
