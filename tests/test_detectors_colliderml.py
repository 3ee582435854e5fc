import numpy as np
import pyarrow.parquet as pq
import pytest

from fm4npp import detectors
from fm4npp.data import read_events, write_events
from fm4npp.errors import DataError
from fm4npp.testing.detectors import check_detector
from tests.readers import colliderml_writer

CLASSES = {211: 1, 11: 4, 2212: 3, 22: 0}
TRUE = {"type": "colliderml", "columns_of": {"x": "true_x", "y": "true_y", "z": "true_z"}}


def centimetres(values):
    """Millimetres, divided by ten and rounded once."""
    return [value / 10 for value in values]


def test_the_detector_keeps_the_contract():
    check_detector(detectors.get("colliderml"))


def test_events_survive_bit_for_bit(tmp_path):
    path = tmp_path / "x_tracker_hits.parquet"
    hits, particles = colliderml_writer.write(path, sizes=(40, 0, 1), first=7)
    events = list(read_events(path, "colliderml"))
    write_events(events, tmp_path / "events.parquet")
    for event in (*events, *read_events(tmp_path / "events.parquet")):
        row = event.event_id - 7
        assert event.positions.dtype == np.float64
        assert event.positions.T.tolist() == [centimetres(hits[axis][row].tolist()) for axis in "xyz"]
        assert event.labels["track_id"].tolist() == hits["particle_id"][row].tolist()
        kinds = dict(zip(particles["particle_id"][row].tolist(), particles["pdg_id"][row].tolist(), strict=True))
        expected = [CLASSES[abs(kinds[n])] if n in kinds else -1 for n in hits["particle_id"][row].tolist()]
        assert event.labels["particle_class"].tolist() == expected
        assert "is_noise" not in event.labels
        assert event.particles["track_id"].tolist() == particles["particle_id"][row].tolist()
        assert event.particles["energy"].tolist() == particles["energy"][row].tolist()
        assert event.particles["vz"].tolist() == centimetres(particles["vz"][row].tolist())


def test_true_positions_only_when_declared(tmp_path):
    path = tmp_path / "x_tracker_hits.parquet"
    hits, _ = colliderml_writer.write(path, measured=False)
    with pytest.raises(DataError, match="no measured positions"):
        list(read_events(path, "colliderml"))
    event = next(read_events(path, detectors.build(TRUE)))
    assert event.positions[:, 0].tolist() == centimetres(hits["true_x"][0].tolist())


def test_hits_of_unlisted_particles_can_be_noise(tmp_path):
    path = tmp_path / "x_tracker_hits.parquet"
    hits, particles = colliderml_writer.write(path, sizes=(40,))
    event = next(read_events(path, detectors.build({"type": "colliderml", "unlisted": "noise"})))
    momentum = np.hypot(particles["px"][0], particles["py"][0])
    slow = set(particles["particle_id"][0][momentum < 0.06].tolist())
    listed = set(particles["particle_id"][0].tolist())
    expected = [number not in listed or number in slow for number in hits["particle_id"][0].tolist()]
    assert event.labels["is_noise"].tolist() == expected


@pytest.mark.shared_data
def test_real_events(shared_data):
    path = shared_data / "colliderml/ttbar_v1_tracker_hits.events0-9.parquet"
    detector = detectors.build("colliderml")
    events = list(read_events(path, detector))
    hits = pq.read_table(path).to_pylist()
    assert sum(map(len, events)) == 34950
    assert not any(event.left_out for event in events)
    listed = 0
    for event, row in zip(events, hits, strict=True):
        assert event.positions.T.tolist() == [centimetres(row[axis]) for axis in "xyz"]
        assert (event.positions.T * 10).tolist() == [row[axis] for axis in "xyz"]  # single precision, stored as double
        known = np.isin(row["particle_id"], event.particles["track_id"])
        assert ((event.labels["particle_class"] >= 0) == known).all()
        listed += known.sum()
    assert 0.25 < listed / 34950 < 0.75
    coordinates = np.concatenate([detector.geometry.coordinates(event.positions) for event in events])
    assert coordinates.min() >= 0
    assert coordinates.max() <= 1
    places = [(row["detector"], row["volume_id"], row["layer_id"], row["x"], row["y"]) for row in hits]
    codes, volumes, layers, x, y = (np.concatenate(values) for values in zip(*places, strict=True))
    radius = np.hypot(x, y) / 10
    barrel = np.isin(codes, [0, 2, 4])
    names = volumes * 100 + layers
    found = [np.median(radius[names == name]) for name in np.unique(names[barrel])]
    np.testing.assert_allclose(sorted(found), detector.geometry.layers, atol=0.06)
    for boundary in detector.geometry.group_boundaries:
        assert np.abs(radius - boundary).min() > 3
    assert np.abs(np.concatenate([row["z"] for row in hits])).max() <= 3026
