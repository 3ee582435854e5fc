import gzip
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm4npp import readers
from fm4npp.errors import DataError
from fm4npp.readers import csv_tables
from tests.readers import acts_writer, trackml_writer, writers

READER = readers.build("trackml-csv")
XYZ = ("x", "y", "z")
ALL = ("track_id", "weight", "tx", "tpz", "volume_id", "layer_id", "module_id", "hit_id", "num_cells", "charge")


def attempt(path):
    """The one event of a path and "", or None and what is wrong with it."""
    try:
        (event,) = writers.read_all(READER, path, XYZ)
        return event, ""
    except DataError as error:
        return None, str(error)


def check(event, tables):
    """One event's columns against the lists that were written."""
    hits, truth, cells, particles = (tables[kind] for kind in ("hits", "truth", "cells", "particles"))
    for name in (*XYZ, "volume_id", "layer_id", "module_id", "hit_id"):
        assert event[name].tolist() == hits[name]
    assert {event[name].dtype for name in XYZ} <= {np.dtype("f8")}
    row = {hit: i for i, hit in enumerate(truth["hit_id"])}
    for name, own in {"track_id": "particle_id", "weight": "weight", "tx": "tx", "tpz": "tpz"}.items():
        assert event[name].tolist() == [truth[own][row[hit]] for hit in hits["hit_id"]]
    assert event["track_id"].dtype == np.int64
    values = {hit: [v for h, v in zip(cells["hit_id"], cells["value"], strict=True) if h == hit] for hit in row}
    assert event["num_cells"].tolist() == [len(values[hit]) for hit in hits["hit_id"]]
    assert event["charge"].tolist() == [float(np.cumsum(values[hit])[-1]) for hit in hits["hit_id"]]
    names = {"particle_id": "track_id", "q": "charge", "nhits": "num_hits", "particle_type": "pdg"}
    given = {f"particle_{names.get(name, name)}": column for name, column in particles.items()}
    assert {name: event[name].tolist() for name in event if name.startswith("particle_")} == given


@pytest.mark.parametrize("generation", ["original", "later"])
@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".zip"])
@pytest.mark.parametrize("name", ["my events", "train.zip"])
def test_events_come_back_exactly(tmp_path, name, suffix, generation):
    path = tmp_path / name
    written = trackml_writer.write(path, suffix=suffix, generation=generation)
    assert READER.recognises(path)
    assert not readers.build("acts-csv").recognises(path)
    events = writers.read_all(READER, path, XYZ, ALL)
    assert [event["event_id"] for event in events] == list(written)
    for event in events:
        check(event, written[event["event_id"]])
        folder = "train/" if path.suffix == ".zip" else ""
        assert event["source"] == f"{folder}event{event['event_id']:09d}-hits.csv{suffix}"


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".zip"])
def test_one_hits_file_with_its_siblings(tmp_path, suffix):
    written = trackml_writer.write(tmp_path, suffix=suffix)
    path = tmp_path / f"event000001000-hits.csv{suffix}"
    assert READER.recognises(path)
    assert not READER.recognises(tmp_path / f"event000001000-truth.csv{suffix}")
    (event,) = writers.read_all(READER, path, XYZ, ALL)
    check(event, written[1000])


def test_only_what_is_asked_for_is_read(tmp_path):
    trackml_writer.write(tmp_path, kinds=("hits", "truth", "cells"))
    for kind in ("truth", "cells"):
        for path in tmp_path.glob(f"*-{kind}.csv"):
            path.write_text("damaged\n")
    events = writers.read_all(READER, tmp_path, XYZ)
    assert set(events[0]) == {*XYZ, "hit_id", "event_id", "source"}


def test_truth_particles_and_cells_are_optional(tmp_path):
    trackml_writer.write(tmp_path, kinds=("hits",))
    assert set(writers.read_all(READER, tmp_path, XYZ, ALL)[0]) == {
        *(*XYZ, "hit_id", "volume_id", "layer_id", "module_id", "event_id", "source")
    }
    with pytest.raises(DataError) as error:
        writers.read_all(READER, tmp_path, (*XYZ, "weight"))
    writers.assert_one_line(error, tmp_path, "'weight'", "volume_id")


def test_weight_is_never_made_up(tmp_path):
    tables = trackml_writer.make_event(np.random.default_rng(0), 5)
    del tables["truth"]["weight"]
    trackml_writer.write_event(tmp_path, 1, tables)
    (event,) = writers.read_all(READER, tmp_path, XYZ, ALL)
    assert "weight" not in event
    assert "track_id" in event


def test_parts_are_the_whole(tmp_path):
    trackml_writer.write(tmp_path / "e", sizes=(2,) * 205, kinds=("hits",), first=5)
    assert READER.parts(tmp_path / "e") == ["0-100", "100-200", "200-205"]
    whole = writers.read_all(READER, tmp_path / "e", XYZ)
    pieces = [e for part in READER.parts(tmp_path / "e") for e in READER.read_part(tmp_path / "e", part, XYZ, ())]
    assert [event["event_id"] for event in whole] == [event["event_id"] for event in pieces] == list(range(5, 210))
    assert all(first["x"].tobytes() == second["x"].tobytes() for first, second in zip(whole, pieces, strict=True))


def test_what_a_folder_holds(tmp_path):
    trackml_writer.write(tmp_path)
    tables = {table.name: table.columns for table in READER.describe(tmp_path)}
    assert set(tables) == {f"event000001000-{kind}.csv" for kind in ("hits", "truth", "particles", "cells")}
    assert tables["event000001000-hits.csv"]["x"] == "double"
    assert tables["event000001000-truth.csv"]["particle_id"] == "int64"


def test_other_names_are_given_as_they_are(tmp_path):
    (tmp_path / "event1-hits.csv").write_text("pos_x,pos_y,pos_z,label,note\n1.5,2,3,18446744073709551615,a\n")
    assert READER.recognises(tmp_path)
    (event,) = writers.read_all(READER, tmp_path, ("pos_x", "pos_y", "pos_z"), ("label",))
    assert {name: event[name].tolist() for name in event if name.startswith(("pos", "lab"))} == {
        **{"pos_x": [1.5], "pos_y": [2], "pos_z": [3]},
        "label": [2**64 - 1],
    }
    with pytest.raises(DataError) as error:
        writers.read_all(READER, tmp_path, XYZ)
    writers.assert_one_line(error, "event1-hits.csv", "'x'", "pos_x")
    with pytest.raises(DataError) as error:
        writers.read_all(READER, tmp_path, ("pos_x", "note"))
    writers.assert_one_line(error, "'note'")


def of_bits(bits):
    """Any float64."""
    return struct.unpack("<d", struct.pack("<Q", bits))[0]


@settings(max_examples=200, deadline=None)
@given(
    floats=st.lists(
        st.floats() | st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack("<d", struct.pack("<Q", bits))[0])
    ),
    digits=st.integers(1, 25),
    seed=st.integers(0, 2**31),
)
def test_numbers_are_read_as_python_reads_them(floats, digits, seed):
    texts = [repr(value) for value in floats] + [f"{value:.{digits}g}" for value in floats]
    ids = np.random.default_rng(seed).integers(-(2**63), 2**63 - 1, len(texts)).tolist()
    content = "x,particle_id\n" + "".join(f"{text},{number}\n" for text, number in zip(texts, ids, strict=True))
    table = csv_tables.CSVFile(content.encode(), ("x", "particle_id"), "made up", 0)
    columns = table.columns(("x", "particle_id"))
    expected = np.array([float(text) for text in texts])
    np.testing.assert_array_equal(columns["x"], expected)
    assert np.signbit(columns["x"][expected == 0]).tolist() == np.signbit(expected[expected == 0]).tolist()
    assert columns["particle_id"].tolist() == ids


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1.0\n-3.\n9007199254740991.0\n", [1, -3, 2**53 - 1]),
        ("4.503599627370496e+15\n", [2**52]),
        ("9007199254740993\n1.0\n", None),
        ("1.5\n", None),
        ("9223372036854775808\n", None),
        ("nan\n", None),
        (" 7\n8 \n", [7, 8]),
        ("0\n", [0]),
        ("1,2\n", None),
        ("one\n", None),
        ('"1"\n', None),
        ("\xff\n", None),
    ],
)
def test_integers_are_exact_or_refused(tmp_path, text, values):
    (tmp_path / "event1-hits.csv").write_bytes(b"particle_id\n" + text.encode("latin1"))
    if values is not None:
        assert writers.read_all(READER, tmp_path, ("particle_id",))[0]["particle_id"].tolist() == values
        return
    with pytest.raises(DataError) as error:
        writers.read_all(READER, tmp_path, ("particle_id",))
    writers.assert_one_line(error, "event1-hits.csv")


def test_an_empty_entry_is_nan_only_where_that_is_a_number(tmp_path):
    for text, name in (("hit_id,x\n1,5\n,4\n", "hit_id"), ("x,big\n1,\n2,9007199254740993\n", "big")):
        (tmp_path / "event1-hits.csv").write_text(text)
        with pytest.raises(DataError) as error:
            writers.read_all(READER, tmp_path, (name,))
        writers.assert_one_line(error, "event1-hits.csv", name)
    (tmp_path / "event1-hits.csv").write_text("x,other\n,5\n2.5,\n")
    (event,) = writers.read_all(READER, tmp_path, ("x", "other"))
    np.testing.assert_array_equal(event["x"], [np.nan, 2.5])
    np.testing.assert_array_equal(event["other"], [5, np.nan])


def change(kind, function):
    """One event's table with a column changed."""
    tables = trackml_writer.make_event(np.random.default_rng(3), 6)
    function(tables[kind])
    return tables


def shorten(table):
    for values in table.values():
        values.pop()


def duplicate(table):
    for values in table.values():
        values.append(values[0])


def renumber(table):
    table["hit_id"][0] = 999


@pytest.mark.parametrize(
    ("kind", "function", "words"),
    [
        ("hits", duplicate, "a hit_id twice"),
        ("hits", shorten, "surplus"),
        ("truth", shorten, "1 hits without truth"),
        ("truth", duplicate, "1 rows of truth"),
        ("truth", renumber, "1 hits without truth, and 1 rows"),
        ("cells", renumber, "1 cells of hits"),
    ],
)
def test_tables_that_do_not_belong_together_are_an_error(tmp_path, kind, function, words):
    trackml_writer.write_event(tmp_path, 7, change(kind, function))
    with pytest.raises(DataError) as error:
        writers.read_all(READER, tmp_path, XYZ, ("track_id", "num_cells"))
    writers.assert_one_line(error, tmp_path, "event 7", "" if words == "surplus" else words)


def test_a_truth_file_that_cannot_be_joined_is_an_error(tmp_path):
    tables = change("hits", lambda table: table.pop("hit_id"))
    trackml_writer.write_event(tmp_path, 7, tables)
    with pytest.raises(DataError) as error:
        writers.read_all(READER, tmp_path, XYZ, ("track_id",))
    writers.assert_one_line(error, "hit_id", "truth")


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".zip"])
def test_a_truncated_file_is_an_error_or_has_fewer_rows(tmp_path, suffix):
    written = trackml_writer.write(tmp_path, sizes=(30,), suffix=suffix, kinds=("hits",))
    path = tmp_path / f"event000001000-hits.csv{suffix}"
    content = path.read_bytes()
    for length in writers.truncations(path, 40):
        assert READER.recognises(path)
        event, message = attempt(path)
        if event is None:
            assert str(path) in message
            continue
        assert suffix == ""
        assert content[:length].endswith(b"\n")
        assert event["x"].tolist() == written[1000]["hits"]["x"][: len(event["x"])]


def test_a_row_cut_within_its_last_number_is_an_error(tmp_path):
    path = tmp_path / "event1-hits.csv"
    path.write_bytes(b"hit_id,x,y,z,module_id\n1,2,3,4,12345\n")
    for cut in (1, 2, 3):
        path.write_bytes(b"hit_id,x,y,z,module_id\n1,2,3,4,12345\n"[:-cut])
        with pytest.raises(DataError, match="line end"):
            writers.read_all(READER, path, XYZ)


@pytest.mark.parametrize("suffix", [".gz", ".bz2"])
def test_flipped_bits_of_compressed_files_change_nothing_unnoticed(tmp_path, suffix):
    written = trackml_writer.write(tmp_path, sizes=(20,), suffix=suffix, kinds=("hits",))
    path = tmp_path / f"event000001000-hits.csv{suffix}"
    content = bytearray(path.read_bytes())
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        event, message = attempt(path)
        assert "\n" not in message
        assert event is None or [event[axis].tolist() for axis in XYZ] == [written[1000]["hits"][axis] for axis in XYZ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "line end"),
        (b"\n", ""),
        (b"x,y,z\n1,2\n", "Expected 3 columns"),
        (b"x,y,z,x\n1,2,3,4\n", "one name"),
        (b"x,y,z\n1,2,three\n", "three"),
        (b"x,y,z\n\x00\x01\x02\n", ""),
        (b"x;y;z\n1;2;3\n", "x;y;z"),
    ],
)
def test_damaged_text_is_an_error(tmp_path, content, words):
    path = tmp_path / "event1-hits.csv"
    path.write_bytes(content)
    assert READER.recognises(path)
    with pytest.raises(DataError) as error:
        writers.read_all(READER, path, XYZ)
    writers.assert_one_line(error, path, words)


def test_line_ends_and_marks_of_other_systems(tmp_path):
    (tmp_path / "event1-hits.csv").write_bytes(b"\xef\xbb\xbfx,y,z\r\n1,2,3\r\n")
    (event,) = writers.read_all(READER, tmp_path, XYZ)
    assert [event[axis].tolist() for axis in XYZ] == [[1.0], [2.0], [3.0]]


def test_two_files_of_one_kind_are_an_error(tmp_path):
    trackml_writer.write(tmp_path, kinds=("hits",))
    (tmp_path / "event000001000-hits.csv.gz").write_bytes(gzip.compress(b"hit_id,x,y,z\n"))
    assert READER.recognises(tmp_path)
    with pytest.raises(DataError) as error:
        writers.read_all(READER, tmp_path, XYZ)
    writers.assert_one_line(error, "two files of one kind", "hits.csv.gz")


def test_an_event_without_hits_is_an_error(tmp_path):
    trackml_writer.write(tmp_path)
    (tmp_path / "event000001001-hits.csv").unlink()
    with pytest.raises(DataError) as error:
        writers.read_all(READER, tmp_path, XYZ)
    writers.assert_one_line(error, tmp_path, "event 1001", "no hits file")


def test_other_paths_are_not_recognised(tmp_path):
    (tmp_path / "hits.csv").write_text("hit_id,x,y,z\n")
    (tmp_path / "event000001000-truth.csv").write_text("hit_id\n")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.txt", "b")
    (tmp_path / "broken.zip").write_bytes(b"PK")
    acts_writer.write(tmp_path / "acts")
    for path in (tmp_path, *tmp_path.iterdir()):
        assert not READER.recognises(path), path


def test_a_damaged_archive_is_an_error(tmp_path):
    path = tmp_path / "train.zip"
    trackml_writer.write(path)
    for _ in writers.truncations(path):
        with pytest.raises(DataError) as error:
            writers.read_all(READER, path, XYZ)
        writers.assert_one_line(error, path)
