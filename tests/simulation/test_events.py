"""Events as users get them: labels, tables of particles, determinism, errors in one line."""

import numpy as np
import pytest

from fm4npp import detectors
from fm4npp.detectors import Response
from fm4npp.detectors.cylindrical import CylindricalDetector
from fm4npp.errors import ConfigurationError
from fm4npp.event import particle_class
from fm4npp.simulation import ParticleGun, Pythia8, simulate
from fm4npp.simulation.events import block_events, block_size
from fm4npp.simulation.truth import NOISE_BELOW

TPC = detectors.load("sphenix-tpc")
SIMULATED = ("sphenix-tpc", "sphenix-mvtx", "sphenix-intt", "sphenix-silicon", "sphenix", "star-tpc")


@pytest.fixture(scope="module")
def events():
    return list(simulate(TPC, 60, 1, Pythia8(facility="rhic-pp")))


def test_labels_and_particles_agree(events):
    for event in events:
        p, labels = event.particles, event.labels
        np.testing.assert_array_equal(p["track_id"], np.arange(1, len(p["pdg"]) + 1))
        np.testing.assert_array_equal(np.bincount(labels["track_id"], minlength=len(p["pdg"]) + 1)[1:], p["num_hits"])
        owner = labels["track_id"] - 1
        np.testing.assert_array_equal(labels["pdg"], p["pdg"][owner])
        np.testing.assert_array_equal(labels["particle_class"], particle_class(p["pdg"])[owner])
        total = np.sqrt(p["px"].astype(float) ** 2 + p["py"].astype(float) ** 2 + p["pz"].astype(float) ** 2)
        near = np.abs(total - NOISE_BELOW) < 1e-7  # momenta are kept in single precision
        np.testing.assert_array_equal(labels["is_noise"][~near[owner]], (total < NOISE_BELOW)[owner][~near[owner]])
        assert (p["charge"][owner] != 0).all()


def test_parents_come_first_and_lead_to_the_collision(events):
    generations = 0
    for event in events:
        parent, here = event.particles["parent"], event.particles["track_id"]
        assert set(parent) <= {0, *here}
        assert (parent != here).all()
        while (parent > 0).any():
            generations += 1
            parent = np.where(parent > 0, event.particles["parent"][parent - 1], 0)
    assert generations > len(events)  # secondaries of secondaries exist


def test_secondaries_start_where_their_parents_were(events):
    """Daughters of charged particles start on the parent's helix: within the detector, and not at its vertex."""
    away = []
    for event in events:
        p = event.particles
        child = np.flatnonzero(p["parent"] > 0)
        mother = p["parent"][child] - 1
        apart = [p[f"v{axis}"][child] - p[f"v{axis}"][mother] for axis in "xyz"]
        away.append(np.sqrt(np.square(apart).sum(axis=0)))
        assert (np.hypot(p["vx"][child], p["vy"][child]) <= 92.0).all()
    assert np.median(np.concatenate(away)) > 1.0


def test_spacepoints_are_shuffled_and_inside(events):
    for event in events:
        radius = np.hypot(*event.positions[:, :2].T)
        assert (np.abs(event.positions[:, 2]) <= 105.5).all()
        if len(event):
            assert radius.min() >= 31.371 - 1e-3
            assert radius.max() <= 75.385 + 1e-3
    order = np.concatenate([np.diff(event.labels["track_id"]) == 0 for event in events if len(event) > 1])
    assert order.mean() < 0.5


def test_the_source_says_what_it_is(events):
    for word in ("pythia8 8.317", "rhic-pp", "Detroit", "seed 1", "fast simulation", "fm4npp"):
        assert word in events[0].source
    gun = next(simulate(TPC, 1, 4, pileup=0.5))
    for word in ("particle-gun", "seed 4", "pile-up 0.5"):
        assert word in gun.source


def same(first, second):
    np.testing.assert_array_equal(first.positions, second.positions)
    np.testing.assert_array_equal(first.features, second.features)
    for name in ("labels", "particles"):
        for key, values in getattr(first, name).items():
            np.testing.assert_array_equal(values, getattr(second, name)[key])
    assert (first.event_id, first.source) == (second.event_id, second.source)


def test_a_block_depends_on_its_arguments_alone():
    gun = ParticleGun(mean_primaries=3)
    again = block_events(TPC, gun, 3, 5, 4)
    block_events(TPC, gun, 3, 4, 4)
    for first, second in zip(again, block_events(TPC, gun, 3, 5, 4), strict=True):
        same(first, second)
    assert [event.event_id for event in again] == [5 * block_size(0) + i for i in range(4)]
    other = block_events(TPC, gun, 4, 5, 4)
    assert any(len(a) != len(b) for a, b in zip(again, other, strict=True))


def test_events_are_numbered_through_blocks(monkeypatch):
    monkeypatch.setattr("fm4npp.simulation.events.BLOCK", 4)
    events = list(simulate(TPC, 10, 1, ParticleGun(mean_primaries=4)))
    assert [event.event_id for event in events] == list(range(10))
    assert len({event.positions.tobytes() for event in events if len(event)}) >= 8
    busy = simulate(TPC, 5, 1, ParticleGun(mean_primaries=4), pileup=1.0)  # blocks of 2
    assert [event.event_id for event in busy] == list(range(5))


def test_pileup_adds_collisions():
    gun = ParticleGun(mean_primaries=5, eta=(-0.5, 0.5))
    alone = np.mean([len(event) for event in simulate(TPC, 60, 1, gun)])
    busy = np.mean([len(event) for event in simulate(TPC, 60, 1, gun, pileup=4.0)])
    assert busy / alone == pytest.approx(5.0, rel=0.25)
    vertices = [np.unique(event.particles["vz"][event.particles["parent"] == 0]) for event in
                simulate(TPC, 30, 1, gun, pileup=4.0)]  # fmt: skip
    assert np.mean([len(some) for some in vertices]) == pytest.approx(5.0, abs=1.2)
    assert block_size(99) < block_size(0)


@pytest.mark.parametrize("name", SIMULATED)
def test_every_detector_with_a_response_simulates(name):
    detector = detectors.load(name)
    events = list(simulate(detector, 20, 1, ParticleGun(number=4, pt=(0.3, 2.0), eta=(-0.8, 0.8))))
    assert all(event.subsystems == detector.subsystems for event in events)
    used = np.unique(np.concatenate([event.detector_ids for event in events]))
    assert list(used) == list(range(len(detector.subsystems)))
    assert {event.feature_names for event in events} == {tuple(detector.features)}
    layers = np.concatenate([event.labels["layer"] for event in events])
    count = sum(len(geometry.layers) for geometry, _ in detector.responses.values())
    assert set(layers) == set(range(count))


def test_efficiency_is_that_of_the_response():
    gun = ParticleGun(number=10, pt=(1.0, 1.001), eta=(-0.5, 0.5), species={"mu-": 1})

    def hits(efficiency):
        response = Response(efficiency=efficiency, radiation_lengths=0.0)
        toy = CylindricalDetector(name="toy", radius=(1.0, 40.0), layers=tuple(range(4, 34)), response=response)
        return sum(len(event) for event in simulate(toy, 60, 9, gun))

    trials = hits(1.0)
    assert trials == 60 * 10 * 30
    assert abs(hits(0.8) - 0.8 * trials) < 5 * np.sqrt(trials * 0.16)


def test_an_event_may_be_empty():
    events = list(simulate(detectors.load("sphenix-silicon"), 2, 1, ParticleGun(mean_primaries=0)))
    assert [len(event) for event in events] == [0, 0]
    assert all(len(event.particles["pdg"]) == 0 for event in events)
    assert list(simulate(TPC, 0, seed=1)) == []


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
        ({"response": Response(thickness=(1.0, 1.0, 1.0))}, "3 values of thickness for 2 layers"),
        ({"response": Response(outer_radius=3.0)}, "ends at outer_radius 3 cm, inside the layer at 4"),
        ({"response": Response(half_length=5.0, dead_z=6.0)}, "leaves nothing"),
        ({"response": Response(sectors=4, dead_phi=1.6)}, "whole azimuth"),
        ({"response": Response(planes=2)}, "at least 3"),
    ):
        with pytest.raises(ConfigurationError, match=words) as caught:
            simulated(**fields)
        assert "\n" not in str(caught.value)
        assert "toy" in str(caught.value)
    silicon = detectors.load("sphenix-silicon")
    weaker = silicon.parts[1].replace(response=Response(field=1.0).model_dump())
    with pytest.raises(ConfigurationError, match="different fields"):
        simulate(type(silicon)(parts=(silicon.parts[0], weaker)), 1, 1)
    for bad in ({"num_events": -1}, {"seed": -1}, {"pileup": -0.5}, {"pileup": float("nan")}, {"pileup": 1e9}):
        with pytest.raises(ConfigurationError, match="negative"):
            simulate(TPC, **{"num_events": 1, "seed": 1, **bad})
