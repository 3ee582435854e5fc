import csv

import numpy as np
import pytest

from fm4npp import readers
from fm4npp.errors import DataError
from tests.readers import acts_writer, trackml_writer, writers

READER = readers.build("acts-csv")
XYZ = ("x", "y", "z")
PARTICLES = {"vt": "time", "m": "mass", "q": "charge"}


def check(event, written):
    """One event's columns against the lists that were written."""
    tables, hit_ids, ids = written
    for name, own in {"x": "tx", "y": "ty", "z": "tz", "time": "tt", "tpx": "tpx"}.items():
        assert event[name].tolist() == tables["hits"][own]
        assert event[name].dtype == np.float64
    assert event["track_id"].tolist() == hit_ids
    assert event["geometry_id"].tolist() == tables["hits"]["geometry_id"]
    assert event["particle_track_id"].tolist() == ids
    assert event["particle_track_id"].dtype == np.int64
    (particles,) = (table for kind, table in tables.items() if kind.startswith("particles"))
    assert event["particle_pdg"].tolist() == particles["particle_type"]
    for name in acts_writer.PARTICLES:
        assert event[f"particle_{PARTICLES.get(name, name)}"].tolist() == particles[name]
    assert event["event_true_positions"] == 1


@pytest.mark.parametrize("particles_kind", ["particles", "particles_simulated", "particles_initial"])
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_events_come_back_exactly(tmp_path, split, suffix, particles_kind):
    written = acts_writer.write(tmp_path, split=split, suffix=suffix, particles_kind=particles_kind)
    assert READER.recognises(tmp_path)
    assert not readers.build("trackml-csv").recognises(tmp_path)
    events = writers.read_all(READER, tmp_path, XYZ, ("time", "track_id", "tpx", "geometry_id"))
    assert [event["event_id"] for event in events] == list(written)
    for event in events:
        check(event, written[event["event_id"]])
        assert event["source"] == f"event{event['event_id']:09d}-hits.csv{suffix}"


def test_parts_are_the_whole(tmp_path):
    acts_writer.write(tmp_path, sizes=(1,) * 101)
    assert READER.parts(tmp_path) == ["0-100", "100-101"]
    whole = writers.read_all(READER, tmp_path, XYZ)
    pieces = [event for part in READER.parts(tmp_path) for event in READER.read_part(tmp_path, part, XYZ, ())]
    assert [event["x"].tolist() for event in whole] == [event["x"].tolist() for event in pieces]
    assert READER.parts(tmp_path / "event000000000-hits.csv") == ("",)


def test_ids_without_all_their_parts_or_too_large_for_them_are_an_error(tmp_path):
    tables, _, _ = acts_writer.make_event(np.random.default_rng(0), 3, split=True)
    for value, words in ((2048, "'particle_id_pv' reaches 2048"), (None, "'particle_id_pv'"), (-1, "reaches 1")):
        hits = {**tables["hits"], "particle_id_pv": [0, 1, value]}
        if value is None:
            del hits["particle_id_pv"]
        trackml_writer.write_event(tmp_path, 1, {"hits": hits})
        with pytest.raises(DataError) as error:
            writers.read_all(READER, tmp_path, XYZ, ("track_id",))
        writers.assert_one_line(error, tmp_path, "event 1", words)


def test_hits_without_particles_and_without_ids(tmp_path):
    tables, hit_ids, _ = acts_writer.make_event(np.random.default_rng(0), 3)
    trackml_writer.write_event(tmp_path, 1, {"hits": tables["hits"]})
    (event,) = writers.read_all(READER, tmp_path, XYZ, ("track_id",))
    assert event["track_id"].tolist() == hit_ids
    assert not [name for name in event if name.startswith("particle")]
    del tables["hits"]["particle_id"]
    trackml_writer.write_event(tmp_path, 1, {"hits": tables["hits"]})
    assert "track_id" not in writers.read_all(READER, tmp_path, XYZ, ("track_id",))[0]
    with pytest.raises(DataError) as error:
        writers.read_all(READER, tmp_path, (*XYZ, "track_id"))
    writers.assert_one_line(error, "'track_id'", "geometry_id")


def test_a_truncated_file_is_an_error_or_has_fewer_rows(tmp_path):
    written = acts_writer.write(tmp_path, sizes=(9,))
    path = tmp_path / "event000000000-hits.csv"
    header = path.read_bytes().index(b"\n")
    for length in writers.truncations(path, 60):
        assert READER.recognises(path) or length <= header
        try:
            (event,) = writers.read_all(READER, path, XYZ)
        except DataError:
            continue
        assert event["z"].tolist() == written[0][0]["hits"]["tz"][: len(event["z"])]


@pytest.mark.shared_data
def test_real_events(shared_data):
    folder = shared_data / "acts_csv"
    assert READER.recognises(folder)
    events = writers.read_all(READER, folder, XYZ, ("track_id", "time"))
    assert [event["event_id"] for event in events] == list(range(20))
    for event in events:
        name = f"event{event['event_id']:09d}"
        with (folder / f"{name}-hits.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 9
        for axis in XYZ:
            assert event[axis].tolist() == [float(row[f"t{axis}"]) for row in rows]
        assert event["track_id"].tolist() == [int(row["particle_id"]) for row in rows] == [0] * 9
        with (folder / f"{name}-particles.csv").open() as file:
            (particle,) = csv.DictReader(file)
        assert event["particle_track_id"].tolist() == [int(particle["particle_id"])]
        assert event["particle_vy"].tolist() == [float(particle["vy"])]
        assert event["particle_charge"].tolist() == [-1.0]
