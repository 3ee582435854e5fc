import numpy as np
import pytest
import uproot

from fm4npp import readers
from fm4npp.errors import DataError
from fm4npp.readers import root_columns, root_index, root_rows
from tests.readers import root_rows_writer, writers
from tests.readers.root_rows_writer import flat

READER = readers.build("root-rows")
TREE = readers.build("root-tree")
NAMES = [f"ntp_cluster/{name}" for name in ("x", "y", "z", "adc", "layer")]
TRUTH = [f"ntp_cluster/{name}" for name in ("gtrackID", "gflavor", "gpx", "gpy", "event")]
PARTICLES = [f"ntp_gtrack/{name}" for name in ("gtrackID", "gpx", "gvz")]


def rows(numbers, dtype=np.float32, name="event", **others):
    """A tree of rows with these event numbers, and x that counts the rows."""
    count = len(numbers)
    position = {axis: np.arange(count, dtype=np.float64) + place for place, axis in enumerate("xyz")}
    return {name: np.array(numbers, dtype), **position, **others}


def read(path, required=("x", "y", "z"), optional=()):
    return writers.read_all(READER, path, required, optional)


def same(events, others):
    assert len(events) == len(others)
    for event, other in zip(events, others, strict=True):
        assert list(event) == list(other)
        for name, values in event.items():
            np.testing.assert_array_equal(values, other[name])


@pytest.mark.parametrize("rntuple", [False, True])
@pytest.mark.parametrize("step", [1, 10**6])
def test_rows_of_one_number_are_an_event(tmp_path, monkeypatch, rntuple, step):
    monkeypatch.setattr(root_columns, "STEP_BYTES", step)
    monkeypatch.setattr(root_columns, "STEP_ENTRIES", step)
    monkeypatch.setattr(root_index, "INDEX_ROWS", max(step // 1000, 7))
    path = tmp_path / "g4svtx_eval.root"
    written = root_rows_writer.write(path, (40, 1, 0, 7, 60), rntuple=rntuple)
    assert len(written) == 4
    events = read(path, NAMES, [*TRUTH, *PARTICLES, "absent", "ntp_gtrack/absent"])
    assert [event["event_id"] for event in events] == [0, 1, 3, 4] == [event["ntp_cluster/event"] for event in events]
    for event, (_, columns, particles) in zip(events, written, strict=True):
        assert set(event) == {*NAMES, *TRUTH, *PARTICLES, "event_id"}
        for name in (*NAMES, *TRUTH[:-1]):
            assert event[name].dtype == np.float32
            np.testing.assert_array_equal(event[name], columns[name.partition("/")[2]])
        for name in PARTICLES:
            np.testing.assert_array_equal(event[name], particles[name.partition("/")[2]])


def test_it_is_what_the_file_says(tmp_path):
    path = tmp_path / "g4svtx_eval.root"
    root_rows_writer.write(path)
    with uproot.open(path) as file:
        table = file["ntp_cluster"].arrays(["event", "x", "gtrackID"], library="np")
    events = read(path, NAMES, TRUTH)
    for number in np.unique(table["event"]):
        mask = table["event"] == number
        np.testing.assert_array_equal(events[int(number)]["ntp_cluster/x"], table["x"][mask])
        np.testing.assert_array_equal(events[int(number)]["ntp_cluster/gtrackID"], table["gtrackID"][mask])
    assert np.isnan(events[0]["ntp_cluster/gtrackID"]).sum() == 8


@pytest.mark.parametrize("numbers", [(3, 4, 9, 12), (7, 3, 5, 4)])
def test_the_parts_are_the_whole(tmp_path, monkeypatch, numbers):
    monkeypatch.setattr(root_rows, "PART_ROWS", 45)
    path = tmp_path / "g4svtx_eval.root"
    root_rows_writer.write(path, numbers=numbers, gtrack=numbers[0] == 3)
    whole = read(path, NAMES, [*TRUTH, *PARTICLES])
    assert [event["event_id"] for event in whole] == list(numbers)
    parts = READER.parts(path)
    assert len(parts) == (3 if numbers[0] == 3 else 1)
    same([event for part in parts for event in READER.read_part(path, part, NAMES, [*TRUTH, *PARTICLES])], whole)


@pytest.mark.parametrize(
    "name", ["event", "event_id", "eventID", "evt", "EventNo", "ievt", "evtNumber", "EVENT_NUMBER"]
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint64])
def test_event_columns(tmp_path, name, dtype):
    path = flat(tmp_path / "hits.root", {"T": rows([5, 5, 6], dtype, name)})
    assert READER.recognises(path)
    assert not TREE.recognises(path)
    assert [(event["event_id"], event["x"].tolist()) for event in read(path)] == [(5, [0.0, 1.0]), (6, [2.0])]


def test_the_wanted_one_of_several_event_columns(tmp_path):
    path = flat(tmp_path / "hits.root", {"T": rows([1, 1, 1], event_id=np.array([7, 8, 8]))})
    assert [event["event_id"] for event in read(path, optional=("event_id",))] == [7, 8]
    assert [event["event"] for event in read(path, optional=("event",))] == [1]
    with pytest.raises(DataError) as error:
        read(path)
    writers.assert_one_line(error, path, "event, event_id")


@pytest.mark.parametrize(
    ("numbers", "dtype", "words"),
    [
        ([1, 2, 1], np.float32, "event 1: 'event' comes back in row 2"),
        ([1, 1.5], np.float32, "'event' is 1.5 in row 1"),
        ([1, np.nan], np.float64, "'event' is nan"),
        ([1, np.inf], np.float32, "'event' is inf"),
        ([2**24 - 1, 2**24], np.float32, "16777216"),
        ([1, 2**63], np.uint64, "9223372036854775808"),
    ],
)
@pytest.mark.parametrize("step", [2, 1000])
def test_event_numbers_that_cannot_be_told_apart(tmp_path, monkeypatch, numbers, dtype, words, step):
    monkeypatch.setattr(root_index, "INDEX_ROWS", step)
    path = flat(tmp_path / "hits.root", {"T": rows(numbers, dtype)})
    with pytest.raises(DataError) as error:
        read(path)
    writers.assert_one_line(error, path, words)


@pytest.mark.parametrize("name", ["seed", "run", "RunNumber"])
def test_merged_files_are_refused(tmp_path, name):
    runs = np.array([1, 1, 2, 2])
    path = flat(tmp_path / "hits.root", {"T": rows([0, 0, 0, 1], **{name: runs})})
    with pytest.raises(DataError, match="merged") as error:
        read(path)
    writers.assert_one_line(error, path, "event 0", name)
    path = flat(tmp_path / "hits.root", {"T": rows([0, 0, 1, 1], **{name: runs})})
    assert len(read(path)) == 2
    path = flat(tmp_path / "nan.root", {"T": rows([0, 0, 1, 1], **{name: np.full(4, np.nan)})})
    assert len(read(path)) == 2


def test_particles_in_another_order_are_refused(tmp_path):
    trees = {"T": rows([1, 2, 3]), "P": {"event": np.array([3, 1]), "p": np.arange(2.0)}}
    path = flat(tmp_path / "hits.root", trees)
    with pytest.raises(DataError, match="'P' are in another order"):
        read(path, optional=("P/p",))
    trees["P"] = {"event": np.array([1, 3, 3]), "p": np.arange(3.0)}
    path = flat(tmp_path / "hits.root", trees)
    assert [event["P/p"].tolist() for event in read(path, optional=("P/p",))] == [[0.0], [], [1.0, 2.0]]


def test_the_tree_must_be_clear(tmp_path):
    path = tmp_path / "g4svtx_eval.root"
    root_rows_writer.write(path)
    with pytest.raises(DataError) as error:
        read(path)
    writers.assert_one_line(error, path, "ntp_cluster, ntp_g4hit", "ntp_cluster/x")
    with pytest.raises(DataError, match="no tree with the branches"):
        read(path, ("ntp_cluster/w",))


def test_recognises_rows_only(tmp_path):
    points = {"x": np.arange(3.0), "y": np.arange(3.0), "z": np.arange(3.0)}
    path = flat(tmp_path / "no_event.root", {"T": points})
    assert (READER.recognises(path), TREE.recognises(path)) == (False, True)
    path = flat(tmp_path / "no_positions.root", {"T": {"event": np.arange(3), "energy": np.arange(3.0)}})
    assert (READER.recognises(path), TREE.recognises(path)) == (False, True)
    path = writers.root_tree(tmp_path / "both.root", {"T": rows([1, 1]), "hits": {"x": [np.ones(2), np.ones(1)]}})
    assert (READER.recognises(path), TREE.recognises(path)) == (False, True)
    for _ in writers.truncations(path, 5):
        assert (READER.recognises(path), TREE.recognises(path)) == (False, True)
    assert not READER.recognises(tmp_path)


def test_a_truncated_file_is_an_error(tmp_path):
    path = tmp_path / "g4svtx_eval.root"
    root_rows_writer.write(path)
    for _ in writers.truncations(path, 15):
        for reads in (lambda: read(path, NAMES, TRUTH), lambda: READER.parts(path), lambda: READER.describe(path)):
            with pytest.raises(DataError) as error:
                reads()
            writers.assert_one_line(error, path)


def test_no_rows(tmp_path):
    path = flat(tmp_path / "hits.root", {"T": rows([])})
    assert READER.recognises(path)
    assert read(path) == []
    assert [list(READER.read_part(path, part, ("x",), ())) for part in READER.parts(path)] == [[]]


def test_it_lists_trees_and_branches(tmp_path):
    path = tmp_path / "g4svtx_eval.root"
    root_rows_writer.write(path, (3, 4))
    tables = {table.name: table for table in READER.describe(path)}
    assert set(tables) == {"ntp_cluster", "ntp_g4hit", "ntp_gtrack"}
    assert tables["ntp_cluster"].rows == 7
    assert tables["ntp_cluster"].columns["gtrackID"] == "float"


@pytest.mark.shared_data
def test_no_real_file_is_taken_for_rows(shared_data):
    for path in sorted(shared_data.rglob("*.root")):
        assert not READER.recognises(path)
