from pathlib import Path

import numpy as np
import pytest

from fm4npp import detectors
from fm4npp.convert import convert
from fm4npp.data import read_events
from fm4npp.errors import DataError
from fm4npp.event import particle_class
from fm4npp.testing import check_detector
from tests.readers import podio_writer

YAML = Path(__file__).resolve().parents[1] / "examples" / "detectors" / "fcc_idea.yaml"
FILES = {"EICrecon_test_seeding2.edm4eic.root": (43, False), "EICrecon_test_sim.edm4hep.root": (44, True)}


def test_the_contract_of_detectors():
    check_detector(detectors.get("eic"))
    check_detector(detectors.load(YAML))


def test_a_file_without_its_collections_is_refused(tmp_path):
    podio_writer.write(tmp_path / "other.edm4hep.root")
    with pytest.raises(DataError, match="none of the collections BackwardMPGDEndcapHits"):
        next(read_events(tmp_path / "other.edm4hep.root", "eic"))


def test_a_hit_without_a_particle_is_noise():
    columns = {
        **dict.fromkeys(("x", "y", "z"), np.array([300.0, 400.0, 500.0], np.float32)),
        "energy": np.full(3, 3e-5, np.float32),
        "track_id": np.array([1, -1, 0]),
        "particle_track_id": np.arange(2),
        "particle_pdg": np.array([11, 211]),
        "particle_px": np.array([0.05, 1.0]),
        "particle_py": np.array([0.0, 0.0]),
        "event_id": 0,
    }
    event = detectors.build("eic").event(columns)
    np.testing.assert_array_equal(event.labels["track_id"], [1, -1, 0])
    np.testing.assert_array_equal(event.labels["is_noise"], [False, True, True])
    np.testing.assert_array_equal(event.labels["particle_class"], [1, -1, 4])
    np.testing.assert_allclose(event.feature("energy"), 30, rtol=1e-6)
    np.testing.assert_allclose(event.positions[:, 0], [30, 40, 50])


@pytest.mark.shared_data
@pytest.mark.parametrize("name", FILES)
def test_real_files_keep_every_hit_of_the_central_tracker(shared_data, branch, tmp_path, name):
    path = shared_data / "eic" / name
    count, simulated = FILES[name]
    events = list(read_events(path, "eic"))
    counted = convert([path], "eic", tmp_path / "events.parquet").accounting
    assert (counted.events_read, counted.spacepoints_read, counted.spacepoints_used) == (5, count, count)
    assert not counted.rejected_events
    again = list(read_events(tmp_path / "events.parquet"))
    found = sorted(c for c in detectors.build("eic").collections if c.endswith("RecHits") != simulated)
    positions = [
        np.concatenate([np.concatenate(branch(path, collection, f"position.{axis}")) for collection in found])
        for axis in "xyz"
    ]
    expected = np.sort(np.stack(positions, axis=1).astype(np.float64) / 10, axis=0)
    for read in (events, again):
        assert (len(read), sum(map(len, read))) == (5, count)
        np.testing.assert_array_equal(np.sort(np.concatenate([e.positions for e in read]), axis=0), expected)
        assert {event.scalars["simulated"] for event in read} == {simulated}
        assert not any(event.left_out for event in read)
    for number, (event, stored) in enumerate(zip(events, again, strict=True)):
        pdg = branch(path, "MCParticles", "PDG")[number]
        np.testing.assert_array_equal(event.particles["pdg"], pdg)
        np.testing.assert_array_equal(event.particles["vx"], branch(path, "MCParticles", "vertex.x")[number] / 10)
        np.testing.assert_array_equal(event.labels["particle_class"], particle_class(pdg[event.labels["track_id"]]))
        for label, values in event.labels.items():
            np.testing.assert_array_equal(stored.labels[label], values)


@pytest.mark.shared_data
def test_a_detector_without_code_reads_a_fast_simulation(shared_data, branch):
    path = shared_data / "ee" / "test_FCC_Winter2023.root"
    events = list(read_events(path, YAML))
    assert (len(events), sum(map(len, events))) == (100, 8481)
    assert not any(event.left_out for event in events)
    x, pdg = branch(path, "TrackerHits", "position.x"), branch(path, "Particle", "PDG")
    for event, values, codes in zip(events, x, pdg, strict=True):
        assert event.detector == "fcc-idea"
        np.testing.assert_array_equal(event.positions[:, 0], values / 10)
        track_id = event.labels["track_id"].reshape(-1, 3)
        assert (track_id == track_id[:, :1]).all()
        assert len(np.unique(track_id[:, 0])) == len(track_id)
        np.testing.assert_array_equal(event.labels["particle_class"], particle_class(codes[track_id.ravel()]))
        assert "is_noise" not in event.labels
