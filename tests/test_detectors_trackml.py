from pathlib import Path

import numpy as np
import pytest

from fm4npp import detectors
from fm4npp.data import read_events, write_events
from fm4npp.errors import DataError
from fm4npp.testing.detectors import check_detector
from tests.readers import acts_writer, trackml_writer

EXAMPLE = Path(__file__).parents[1] / "examples/detectors/acts_generic.yaml"
CLASSES = {211: 1, 11: 4, 2212: 3, 13: 0}


def centimetres(values):
    """Millimetres, divided by ten and rounded once."""
    return [value / 10 for value in values]


def test_the_detectors_keep_the_contract():
    check_detector(detectors.get("trackml"))
    check_detector(detectors.load(EXAMPLE))


def test_the_published_radii():
    geometry = detectors.build("trackml").geometry
    assert [round(10 * radius) for radius in geometry.layers] == [32, 72, 116, 172, 260, 360, 500, 660, 820, 1020]
    assert geometry.high[0] == pytest.approx(np.arcsinh(1500 / 30), abs=0.01)
    assert geometry.low[2] <= 3.0 < 102.0 < geometry.high[2]


@pytest.mark.parametrize("generation", ["original", "later"])
def test_events_survive_bit_for_bit(tmp_path, generation):
    written = trackml_writer.write(tmp_path / "data", sizes=(40, 0, 1), generation=generation)
    events = list(read_events(tmp_path / "data", "trackml"))
    write_events(events, tmp_path / "events.parquet")
    for event in (*events, *read_events(tmp_path / "events.parquet")):
        tables = written[event.event_id]
        assert event.positions.dtype == np.float64
        assert event.positions.T.tolist() == [centimetres(tables["hits"][axis]) for axis in "xyz"]
        truth = dict(zip(tables["truth"]["hit_id"], tables["truth"]["particle_id"], strict=True))
        ids = [truth[hit] for hit in tables["hits"]["hit_id"]]
        assert event.labels["track_id"].tolist() == [number or -1 for number in ids]
        assert event.labels["is_noise"].tolist() == [number == 0 for number in ids]
        weights = dict(zip(tables["truth"]["hit_id"], tables["truth"]["weight"], strict=True))
        assert event.labels["weight"].tolist() == [weights[hit] for hit in tables["hits"]["hit_id"]]
        particles = tables["particles"]
        assert event.particles["track_id"].tolist() == particles["particle_id"]
        assert event.particles["px"].tolist() == particles["px"]
        assert event.particles["vx"].tolist() == centimetres(particles["vx"])
        assert ("particle_class" in event.labels) == (generation == "later")
        if generation == "later":
            kinds = dict(zip(particles["particle_id"], particles["particle_type"], strict=True))
            expected = [CLASSES[abs(kinds[number])] if number else -1 for number in ids]
            assert event.labels["particle_class"].tolist() == expected


@pytest.mark.parametrize("detector", ["trackml", EXAMPLE])
def test_acts_events_survive_bit_for_bit(tmp_path, detector):
    written = acts_writer.write(tmp_path / "data", sizes=(30, 0, 1), split=True)
    events = list(read_events(tmp_path / "data", detector))
    write_events(events, tmp_path / "events.parquet")
    for event in (*events, *read_events(tmp_path / "events.parquet")):
        tables, hit_ids, ids = written[event.event_id]
        assert event.positions.T.tolist() == [centimetres(tables["hits"][f"t{axis}"]) for axis in "xyz"]
        assert (event.positions.T * 10).tolist() == [tables["hits"][f"t{axis}"] for axis in "xyz"]  # single precision
        assert event.labels["track_id"].tolist() == hit_ids
        assert "is_noise" not in event.labels
        assert event.particles["track_id"].tolist() == ids
        assert event.scalars == {"true_positions": 1}
        kinds = dict(zip(ids, tables["particles"]["particle_type"], strict=True))
        if detector == "trackml":
            expected = [-1 if kinds[number] == 0 else CLASSES[kinds[number]] for number in hit_ids]
            assert event.labels["particle_class"].tolist() == expected


def columns(track_id, listed):
    return {
        **{axis: np.full(len(track_id), 50.0) for axis in "xyz"},
        "track_id": np.asarray(track_id),
        "particle_track_id": np.asarray(listed),
        "particle_pdg": np.full(len(listed), 211),
    }


@pytest.mark.parametrize(
    ("no_track", "track_id", "listed", "words"),
    [
        (0, [0, 1], [1, 2], ""),
        (0, [0, 1], [0, 1], "is in the table of particles"),
        (0, [1, 1], [0, 1], "is in the table of particles"),
        (None, [0, 1], [0, 1], ""),
        (None, [0, 1], [1, 2], "is not in the table of particles"),
        (None, [3, 1], [1, 2], ""),
        (None, [], [], ""),
    ],
)
def test_particle_zero_is_checked_against_the_particles(no_track, track_id, listed, words):
    detector = detectors.build({"type": "trackml", "no_track": no_track})
    given = columns(track_id, listed)
    if not words:
        labels = detector.event(given).labels
        assert labels["track_id"].tolist() == [-1 if number == no_track else number for number in track_id]
        return
    with pytest.raises(DataError, match=words):
        detector.event(given)


@pytest.mark.shared_data
def test_real_events_of_acts(shared_data):
    events = list(read_events(shared_data / "acts_csv", "trackml"))
    assert (len(events), sum(map(len, events))) == (20, 180)
    assert not any(event.left_out for event in events)
    for event in events:
        assert event.labels["track_id"].tolist() == [0] * 9
        assert event.labels["particle_class"].tolist() == [-1] * 9
        assert "is_noise" not in event.labels
        assert event.particles["track_id"].tolist() == [0]
        assert np.allclose(event.positions[:, 0], np.arange(2.0, 20.0, 2.0), atol=0.2)
