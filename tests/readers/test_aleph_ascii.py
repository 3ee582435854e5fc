import gzip
import re

import numpy as np
import pytest

from fm4npp import detectors, readers
from fm4npp.data import read_events, write_events
from fm4npp.data.reading import choose_reader
from fm4npp.errors import DataError
from fm4npp.readers import aleph_ascii
from tests.readers import aleph_writer, writers

READER = readers.build("aleph-ascii")
NUMBERS = re.compile(r"(px|py|pz|m|charge|pwflag|d0|z0|ntpc|nitc|nvdet)[= ]\s*(\S+)")

EXAMPLE = """\
ALEPH_DATA RUN = 10001 EVENT    17 ECM =   91.200 GEV
 Primary vertex info flag =  4 vx =  0.0100 vy =  0.0200 ex =  0.0050 ey =  0.0010
px=    1.000 py=   -0.500 pz=    2.000 m=    0.140 charge -1.0 pwflag    0 d0   0.020 z0   0.100 ntpc  19 nitc   6 \
nvdet   1
px=   -0.700 py=    0.300 pz=   -0.900 m=    0.000 charge  0.0 pwflag    4 d0  -1.000 z0  -1.000 ntpc  -1 nitc  -1 \
nvdet  -1
END_EVENT
END_FILE
"""


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
        if isinstance(values, np.ndarray):
            assert found[name].dtype == values.dtype
        else:
            assert type(found[name]) is type(values)


@pytest.mark.parametrize("name", ["run.aleph", "run.aleph.gz", "with space.gz"])
def test_events_are_read_as_written(tmp_path, name):
    expected = aleph_writer.write(tmp_path / name)
    assert choose_reader(tmp_path / name).registered_name == "aleph-ascii"
    found = writers.read_all(READER, tmp_path / name, ("px", "ntpc"))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        same(one, other)


def test_the_documented_example(tmp_path):
    path = tmp_path / "example.txt"
    path.write_text(EXAMPLE)
    (event,) = writers.read_all(READER, path)
    lines = EXAMPLE.splitlines()[2:4]
    for row, line in enumerate(lines):
        for key, text in NUMBERS.findall(line):
            assert event["mass" if key == "m" else key][row] == float(text)
    assert (event["event_run"], event["event_id"], event["event_ecm"]) == (10001, 17, 91.2)
    assert (event["event_vertex_flag"], event["event_vertex_error_y"]) == (4, 0.001)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("px=    1.000", "px=1.000"),
        ("px=    1.000", "px = 1."),
        ("py=   -0.500", "py-0.500"),
        ("m=    0.140", "m=1.4e-1"),
        ("END_EVENT", "  END_EVENT  "),
        ("END_FILE\n", "END_FILE\n\n \n"),
        ("END_FILE\n", "END_FILE"),
        ("ALEPH_DATA", "\nALEPH_DATA"),
        ("\n", "\r\n"),
    ],
)
def test_what_says_the_same_is_read_the_same(tmp_path, old, new):
    (tmp_path / "a.txt").write_text(EXAMPLE)
    (tmp_path / "b.txt").write_bytes(EXAMPLE.replace(old, new).encode())
    (first,), (second,) = (writers.read_all(READER, tmp_path / name) for name in ("a.txt", "b.txt"))
    same(second, first)


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("RUN = 10001", "RUN = 1000l", 1),
        ("RUN = 10001", "RUN = 9" + "9" * 30, 1),
        ("GEV", "MEV", 1),
        ("ALEPH_DATA", "ALEPH", 1),
        ("vx =  0.0100", "vx =  ******", 2),
        (" Primary vertex info", " Secondary vertex", 2),
        ("px=    1.000", "px=    1.0 00", 3),
        ("px=    1.000", "px=    1.000 px= 1.000", 3),
        ("px=    1.000 py=   -0.500", "py=   -0.500 px=    1.000", 3),
        ("px=    1.000 ", "", 3),
        ("m=    0.140", "m=    0.140.1", 3),
        ("pwflag    0", "pwflag  0.5", 3),
        ("ntpc  19", "ntpc  1x", 3),
        ("d0   0.020", "d00.020", 3),
        ("nvdet   1\n", "nvdet   1 more\n", 3),
        ("nvdet   1\n", "nvdet   1\n\n", 4),
        ("nvdet  -1\nEND_EVENT\n", "nvdet  -1\n", 5),
        ("END_FILE", "END_FILE\nALEPH_DATA RUN = 1", 7),
        ("END_FILE", "", 7),
        ("END_FILE", "END_FIL", 6),
        ("px=    1.000", "px=    1.000" + " " * 2000, 3),
    ],
)
def test_a_malformed_line_is_an_error_with_its_number(tmp_path, old, new, line):
    path = tmp_path / "example.txt"
    path.write_text(EXAMPLE.replace(old, new, 1))
    with pytest.raises(DataError, match=f"line {line} ") as error:
        writers.read_all(READER, path)
    writers.assert_one_line(error, path)


def test_values_that_are_no_numbers_are_left_out_by_the_detector(tmp_path):
    path = tmp_path / "example.txt"
    path.write_text(EXAMPLE.replace("px=    1.000", "px=      NaN"))
    (columns,) = writers.read_all(READER, path)
    assert np.isnan(columns["px"][0])
    event = detectors.build("aleph").reading("aleph-ascii").event(columns)
    assert {reason: places.tolist() for reason, places in event.left_out.items()} == {"px is not finite": [0]}


@pytest.mark.parametrize("name", ["run.aleph", "run.aleph.gz"])
def test_a_truncated_file_is_an_error(tmp_path, name):
    path = tmp_path / name
    aleph_writer.write(path)
    whole = path.stat().st_size
    for length in writers.truncations(path, 40):
        assert READER.recognises(path)
        if length == whole - 1 and path.suffix != ".gz":
            continue  # only the end of the last line is gone
        with pytest.raises(DataError) as error:
            writers.read_all(READER, path)
        writers.assert_one_line(error, path)


def test_flipped_bits_of_a_gzipped_file_are_an_error(tmp_path):
    path = tmp_path / "run.aleph.gz"
    aleph_writer.write(path)
    content = path.read_bytes()
    for place in range(0, len(content), 17):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        if 3 <= place < 10:  # the flags, time stamp and system in gzip's header are not protected, nor needed
            continue
        with pytest.raises(DataError) as error:
            writers.read_all(READER, path)
        writers.assert_one_line(error, path)


def test_parts_of_a_plain_file_are_the_whole(tmp_path, monkeypatch):
    path = tmp_path / "run.aleph"
    expected = aleph_writer.write(path, sizes=(3, 0, 1, 9, 0, 0, 2, 17))
    size = path.stat().st_size
    for part_bytes in (1, 7, 50, 500, 2000, size - 10, size, 10 * size):
        monkeypatch.setattr(aleph_ascii, "PART_BYTES", part_bytes)
        parts = READER.parts(path)
        assert len(parts) == max(1, -(-size // part_bytes))
        found = [event for part in parts for event in READER.read_part(path, part, (), ())]
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            same(one, other)
    assert len(READER.parts(path)) == 1


def test_a_part_knows_the_number_of_a_malformed_line(tmp_path, monkeypatch):
    path = tmp_path / "run.aleph"
    aleph_writer.write(path, sizes=(5, 5, 5, 5))
    lines = path.read_text().splitlines(keepends=True)
    lines[27] = lines[27].replace("pz=", "p =")
    path.write_text("".join(lines))
    monkeypatch.setattr(aleph_ascii, "PART_BYTES", 700)
    errors = []
    for part in READER.parts(path):
        try:
            list(READER.read_part(path, part, (), ()))
        except DataError as error:
            errors.append(str(error))
    assert len(errors) == 1
    assert "line 28 " in errors[0]


def test_a_gzipped_file_is_one_part(tmp_path, monkeypatch):
    monkeypatch.setattr(aleph_ascii, "PART_BYTES", 100)
    aleph_writer.write(tmp_path / "run.aleph.gz")
    assert len(READER.parts(tmp_path / "run.aleph.gz")) == 1


def test_recognises_its_own_files_only(tmp_path):
    for name, content, expected in [
        ("a.gz", gzip.compress(EXAMPLE.encode()), True),
        ("a", EXAMPLE.encode(), True),
        ("a.aleph", b"", True),
        ("a.aleph.gz", gzip.compress(EXAMPLE.encode())[:30], True),
        ("a.csv.gz", gzip.compress(b"hit_id,x\n"), False),
        ("a.gz", b"\x1f\x8bnot gzip", False),
        ("aleph.root", b"root", False),
        ("b", b"", False),
    ]:
        (tmp_path / name).write_bytes(content)
        assert READER.recognises(tmp_path / name) is expected, name
    (tmp_path / "folder.aleph").mkdir()
    assert not READER.recognises(tmp_path / "folder.aleph")


def test_a_required_column_that_it_has_not_is_an_error(tmp_path):
    aleph_writer.write(tmp_path / "run.aleph")
    with pytest.raises(DataError, match="'TPCHits_x'"):
        writers.read_all(READER, tmp_path / "run.aleph", ("TPCHits_x",))


def test_describe(tmp_path):
    aleph_writer.write(tmp_path / "run.aleph")
    (table,) = READER.describe(tmp_path / "run.aleph")
    assert table.columns["px"] == "float"
    assert table.columns["pwflag"] == "int"
    (tmp_path / "run.aleph").write_text("nothing")
    with pytest.raises(DataError):
        READER.describe(tmp_path / "run.aleph")


def test_a_large_event_and_no_event(tmp_path):
    (expected,) = aleph_writer.write(tmp_path / "large.aleph", sizes=(20_000,))
    (found,) = writers.read_all(READER, tmp_path / "large.aleph")
    same(found, expected)
    (tmp_path / "none.aleph").write_text("END_FILE\n")
    assert writers.read_all(READER, tmp_path / "none.aleph") == []


def test_file_to_parquet_to_event(tmp_path):
    path = tmp_path / "run.aleph.gz"
    expected = aleph_writer.write(path)
    write_events(read_events(path, "aleph"), tmp_path / "events.parquet")
    for event, columns in zip(read_events(tmp_path / "events.parquet"), expected, strict=True):
        assert (event.event_id, event.scalars["run"], event.scalars["ecm"]) == (
            columns["event_id"],
            columns["event_run"],
            columns["event_ecm"],
        )
        for name in ("px", "py", "pz", "mass", "charge"):
            np.testing.assert_array_equal(event.feature(name), columns[name].astype(np.float32))
        np.testing.assert_array_equal(event.labels["object_class"], columns["pwflag"])
        neutral = columns["charge"] == 0
        np.testing.assert_array_equal(event.feature("track_missing"), neutral)
        np.testing.assert_array_equal(event.feature("d0")[~neutral], columns["d0"][~neutral].astype(np.float32))
        pt = np.hypot(columns["px"], columns["py"])
        np.testing.assert_allclose(np.hypot(*event.positions.T[:2]), 100 / (1 + pt), rtol=1e-14)
