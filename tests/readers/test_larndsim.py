import h5py
import numpy as np
import pytest

from fm4npp import readers
from fm4npp.data import read_events, write_events
from fm4npp.errors import DataError
from fm4npp.readers import larndsim
from tests.readers import larndsim_writer as writer

READER = readers.build("larndsim-hdf5")
NAME = "larndsim_evd.h5"


def read(path, required=("x", "y", "z", "energy")):
    return list(READER.read(path, required, ()))


def check(events, expected):
    assert len(events) == len(expected)
    for event, columns in zip(events, expected, strict=True):
        for name, values in columns.items():
            np.testing.assert_array_equal(event[name], values)
            assert np.asarray(event[name]).dtype == np.asarray(values).dtype


@pytest.mark.parametrize("sizes", [(6, 0, 1, 9), (0,), (), (1,), (700, 2, 0)])
def test_hits_of_events_and_tracks(tmp_path, sizes):
    expected = writer.write(tmp_path / NAME, sizes)
    assert READER.recognises(tmp_path / NAME)
    check(read(tmp_path / NAME), expected)


def test_hits_of_an_event_need_not_be_neighbours(tmp_path):
    def exchange(tables, file):
        hits, events = tables["hits"], tables["events"]
        hits[[1, 4]] = hits[[4, 1]]
        events["hit_ref"][0], events["hit_ref"][1] = file["hits"].regionref[[0, 2, 4]], file["hits"].regionref[[1, 3]]
        for index, places in enumerate([[0, 2, 4], [1, 3]]):
            hits["event_ref"][places] = [file["events"].regionref[index]] * len(places)
            events["nhit"][index], events["track_ref"][index] = len(places), None

    path = tmp_path / NAME
    writer.write(path, (2, 3), change=exchange)
    with h5py.File(path) as file:
        px = file["hits"]["px"]
    first, second = read(path)
    np.testing.assert_array_equal(first["x"], px[[0, 2, 4]])
    np.testing.assert_array_equal(second["x"], px[[1, 3]])


@pytest.mark.parametrize("step", [1, 3])
def test_parts_give_what_the_whole_gives(tmp_path, monkeypatch, step):
    expected = writer.write(tmp_path / NAME)
    monkeypatch.setattr(larndsim, "STEP_EVENTS", step)
    parts = READER.parts(tmp_path / NAME)
    assert len(parts) == -(-4 // step)
    check([e for part in parts for e in READER.read_part(tmp_path / NAME, part, ("x",), ())], expected)


def in_table(table, field, row, value):
    def change(tables, file):
        tables[table][field][row] = value(file) if callable(value) else value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (in_table("hits", "event_ref", 2, lambda f: f["events"].regionref[3]), r"event 0: an event_ref of 'hits'"),
        (in_table("hits", "event_ref", 2, None), "names the events .. instead"),
        (in_table("hits", "event_ref", 2, lambda f: f["hits"].regionref[0]), "does not refer to /events"),
        (in_table("events", "nhit", 0, 5), "claim 15 hits in all, but there are 16"),
        (in_table("events", "hit_ref", 0, lambda f: f["hits"].regionref[0:5]), "refers to 5 hits, but nhit is 6"),
        (in_table("events", "hit_ref", 0, lambda f: f["hits"].regionref[1:7]), "an event_ref of 'hits' names"),
        (in_table("events", "ts_start", 0, -(2**62)), "too large"),
        (in_table("events", "track_ref", 0, lambda f: f["tracks"].regionref[2:3]), "'tracks' names the events"),
        (in_table("tracks", "hit_ref", 0, lambda f: f["hits"].regionref[7:10]), "hits of another event"),
        (in_table("tracks", "hit_ref", 0, lambda f: f["hits"].regionref[[1, 2, 3]]), "hits of another event or track"),
        (in_table("tracks", "track_id", 1, 10), "has the id 10"),
        (in_table("tracks", "track_id", 1, -1), "has the id -1"),
    ],
)
def test_tables_that_do_not_agree(tmp_path, change, message):
    writer.write(tmp_path / NAME, change=change)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path / NAME)
    assert str(tmp_path / NAME) in str(caught.value)


@pytest.mark.parametrize(
    "attributes",
    [{}, {"z_scale": 0.1648}, {**writer.ATTRIBUTES, "z_scale": 1.6}, {**writer.ATTRIBUTES, "vd": "fast"}],
)
def test_z_needs_a_scale(tmp_path, attributes):
    writer.write(tmp_path / NAME, attributes=attributes)
    with pytest.raises(DataError, match=r"drift scale|attribute of 'tracks'"):
        read(tmp_path / NAME)


@pytest.mark.parametrize(("name", "field"), [("segments", "dE"), ("packets", "packet_type")])
def test_truth_and_packets_are_refused_with_the_remedy(tmp_path, name, field):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file[name] = np.zeros(3, [(field, "f4"), ("event_id", "u4")])
    assert READER.recognises(tmp_path / "a.h5")
    with pytest.raises(DataError, match=rf"holds '{name}'.*give the event file"):
        read(tmp_path / "a.h5")


def test_missing_tables_fields_and_types(tmp_path):
    path = tmp_path / NAME
    for table, field in (("hits", "px"), ("events", "nhit"), ("tracks", "track_id")):
        writer.write(path)
        with h5py.File(path, "r+") as file:
            data = file[table][:]
            del file[table]
        with pytest.raises(DataError):
            read(path)
        with h5py.File(path, "r+") as file:
            names = [name for name in data.dtype.names if name != field]
            kinds = [(name, writer.REFERENCE if data.dtype[name].kind == "O" else data.dtype[name]) for name in names]
            file[table] = np.array([tuple(row[name] for name in names) for row in data], kinds)
        with pytest.raises(DataError, match=f"no column '{field}'"):
            read(path)
        with h5py.File(path, "r+") as file:
            del file[table]
            file[table] = np.zeros(3, [(name, "S3") for name in data.dtype.names])
        with pytest.raises(DataError, match="has the type"):
            read(path)
    with pytest.raises(DataError, match="no column 'pdg'"):
        writer.write(path)
        read(path, ("x", "pdg"))


def test_rows_that_are_not_stored(tmp_path):
    writer.write(tmp_path / NAME)
    with h5py.File(tmp_path / NAME, "r+") as file:
        file["hits"].resize((10**12,))
    with pytest.raises(DataError, match="1000000000000 rows, but not all are stored"):
        read(tmp_path / NAME)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path, share):
    path = tmp_path / NAME
    writer.write(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert READER.recognises(path)
    with pytest.raises(DataError, match=NAME):
        read(path)


FREE = bytes(8) + (16).to_bytes(8, "little") + bytes(16)
"""Two objects of a heap, of index 0: 16 bytes of free space, and nothing."""


@pytest.mark.timeout(60)
@pytest.mark.parametrize("header", [bytes(16), b"\xff" * 16, bytes(8) + b"\xf0" + b"\xff" * 7, FREE])
def test_a_heap_that_sends_the_library_in_circles(tmp_path, header):
    path = tmp_path / NAME
    writer.write(path)
    content = bytearray(path.read_bytes())
    first = content.index(b"GCOL") + 16  # after the header of the heap, that of its first object
    content[first : first + len(header)] = header
    path.write_bytes(content)
    with pytest.raises(DataError, match="heap at byte"):
        read(path)


def test_to_events_and_back(tmp_path):
    expected = writer.write(tmp_path / NAME)
    write_events(read_events(tmp_path / NAME, "lartpc"), tmp_path / "events.parquet")
    for event, columns in zip(read_events(tmp_path / "events.parquet"), expected, strict=True):
        assert event.event_id == columns["event_id"]
        assert event.positions.dtype == np.float64
        for axis, name in enumerate("zxy"):
            np.testing.assert_array_equal(event.positions[:, axis], columns[name] / 10)
        np.testing.assert_array_equal(event.labels["track_id"], columns["track_id"])


@pytest.mark.shared_data
def test_real_file(shared_data):
    path = shared_data / "lartpc/larndsim_evd_qc_tpc.h5"
    assert READER.recognises(path)
    with h5py.File(path) as file:
        hits, tracks, starts = file["hits"][:], file["tracks"][:], file["events"]["ts_start"]
        owner = np.repeat(np.arange(324), file["events"]["nhit"])
    events = read(path)
    assert len(events) == 324
    assert sum(len(event["x"]) for event in events) == len(hits) == 10_743
    for name, field in {"x": "px", "y": "py", "energy": "q", "time": "ts"}.items():
        np.testing.assert_array_equal(np.concatenate([event[name] for event in events]), hits[field])
    z = np.concatenate([event["z"] for event in events])
    np.testing.assert_array_equal(z, (hits["ts"] - starts[owner]) * 0.1648)
    track_id = np.concatenate([event["track_id"] for event in events])
    assert np.bincount(track_id[track_id >= 0]).tolist() == tracks["nhit"].tolist()
    for track in tracks:  # charges and lengths are sums and distances over the right hits, in the same unit
        mine = track_id == track["track_id"]
        assert hits["q"][mine].sum() == pytest.approx(track["q"])
        assert np.ptp(hits["px"][mine]) <= track["length"] + 20
