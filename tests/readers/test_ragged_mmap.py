import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm4npp import detectors, readers
from fm4npp.errors import DataError
from fm4npp.readers import ragged_mmap
from tests.readers import writers

READER = readers.build("ragged-mmap")
ALL = ("track_id", "pdg", "px", "py", "vtx_x", "q", "e")


def check(events, truth):
    for index, event in enumerate(events):
        columns = {
            "features": ("energy", "x", "y", "z"),
            "seg_target": ("track_id",),
            "pid_target": ("pdg",),
            "reg_target": ("px", "py", "pz", "vtx_x", "vtx_y", "vtx_z", "q", "e"),
        }
        for quantity, names in columns.items():
            values = truth[quantity][index].reshape(-1, len(names))
            for column, name in enumerate(names):
                assert event[name].dtype == values.dtype
                np.testing.assert_array_equal(event[name], values[:, column])
        assert event["event_id"] == index


@settings(max_examples=25)
@given(sizes=st.lists(st.integers(0, 7), min_size=1, max_size=6), seed=st.integers(0, 2**31))
def test_a_split_gives_its_events_exactly(tmp_path_factory, sizes, seed):
    root = tmp_path_factory.mktemp("split")
    truth = writers.authors_split(root, sizes=sizes, seed=seed)
    events = writers.read_all(READER, root, ("x", "energy"), ALL)
    assert len(events) == len(sizes)
    check(events, truth)


def test_parts_give_what_the_whole_gives(tmp_path, monkeypatch):
    truth = writers.authors_split(tmp_path, sizes=(3, 0, 1, 5, 0, 2, 0))
    monkeypatch.setattr(ragged_mmap, "EVENTS", 3)
    assert READER.parts(tmp_path) == ["0", "3", "6"]
    check(writers.read_parts(READER, tmp_path, ("x",), ALL), truth)
    check(writers.read_all(READER, tmp_path, ("x",), ALL), truth)
    assert [event["event_id"] for event in READER.read_part(tmp_path, "3", ("x",), ())] == [3, 4, 5]


def test_describe_lists_every_quantity(tmp_path):
    writers.authors_split(tmp_path)
    tables = {table.name: table for table in READER.describe(tmp_path)}
    assert tables["seg_target_pretrain"] == ("seg_target_pretrain", 4, {"track_id": "int64"})
    assert tables["features_pretrain"].columns["energy"] == "float32"


def test_only_the_targets_asked_for_are_read(tmp_path):
    writers.authors_split(tmp_path)
    assert set(writers.read_all(READER, tmp_path, ("x",), ("pdg",))[0]) == {"energy", "x", "y", "z", "pdg", "event_id"}
    shutil.rmtree(tmp_path / "pid_target_pretrain")
    assert "pdg" not in writers.read_all(READER, tmp_path, ("x",), ALL)[0]
    with pytest.raises(DataError) as error:
        writers.read_all(READER, tmp_path, ("x", "pdg"))
    writers.assert_one_line(error, tmp_path, "'pdg'", "found: energy, x, y, z")


def test_several_splits_need_a_choice(tmp_path):
    truth = {name: writers.authors_split(tmp_path, name, seed=seed) for seed, name in enumerate(("pretrain", "test"))}
    with pytest.raises(DataError) as error:
        writers.read_all(READER, tmp_path, ("x",))
    writers.assert_one_line(error, tmp_path, "features_pretrain, features_test", "give the path of one")
    assert READER.recognises(tmp_path)
    for name in truth:
        assert READER.recognises(tmp_path / f"features_{name}")
        check(writers.read_all(READER, tmp_path / f"features_{name}", ("x",), ALL), truth[name])


def test_the_detector_derives_labels(tmp_path):
    truth = writers.authors_split(tmp_path)
    detector = detectors.build("sphenix-tpc")
    wanted = [column.name for column in detector.columns]
    events = [detector.event(columns) for columns in READER.read(tmp_path, wanted[:4], wanted[4:])]
    labels = np.concatenate([event.labels["particle_class"] for event in events])
    classes = {211: 1, 2212: 3, 11: 4}
    codes = np.concatenate(truth["pid_target"])
    assert labels.tolist() == [classes.get(abs(code), 0) for code in codes.tolist()]
    momenta = np.concatenate(truth["reg_target"])
    noise = np.concatenate([event.labels["is_noise"] for event in events])
    assert noise.tolist() == [(px**2 + py**2) ** 0.5 < 0.06 for px, py in momenta[:, :2].astype(float).tolist()]


@pytest.mark.parametrize("name", ["data.ninja", "starts/data.ninja", "ends/data.ninja", "dtype.ninja"])
@pytest.mark.parametrize("quantity", ["features", "seg_target"])
def test_a_truncated_array_is_an_error(tmp_path, quantity, name):
    writers.authors_split(tmp_path)
    for _ in writers.truncations(tmp_path / f"{quantity}_pretrain" / name):
        with pytest.raises(DataError) as error:
            writers.read_all(READER, tmp_path, ("x",), ALL)
        writers.assert_one_line(error, tmp_path / f"{quantity}_pretrain")


@pytest.mark.parametrize("name", ["data.ninja", "dtype.ninja", "ends/data.ninja", "starts"])
def test_a_missing_file_is_an_error(tmp_path, name):
    writers.authors_split(tmp_path)
    path = tmp_path / "seg_target_pretrain" / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(DataError) as error:
        writers.read_all(READER, tmp_path, ("x",), ALL)
    writers.assert_one_line(error, tmp_path / "seg_target_pretrain")


def test_targets_of_other_events_are_an_error(tmp_path):
    writers.authors_split(tmp_path)
    for sizes, words in (((3, 0, 1), "3 events but features_pretrain has 4"), ((3, 1, 1, 4), "event 1: has 1")):
        writers.ragged_mmap(tmp_path / "seg_target_pretrain", [np.arange(n) for n in sizes])
        with pytest.raises(DataError) as error:
            writers.read_all(READER, tmp_path, ("x",), ALL)
        writers.assert_one_line(error, tmp_path / "seg_target_pretrain", words)


def test_wrong_places_and_types_are_an_error(tmp_path):
    writers.authors_split(tmp_path)
    folder = tmp_path / "features_pretrain"
    for name, values in {"starts": [0, 12, 8, 16], "ends": [12, 12, 16, 32], "dtype": "object"}.items():
        shutil.copytree(folder, tmp_path / "copy")
        if name == "dtype":
            (folder / "dtype.ninja").write_text(values)
        else:
            (folder / name / "data.ninja").write_bytes(np.array(values, np.int64).tobytes())
        with pytest.raises(DataError) as error:
            writers.read_all(READER, tmp_path, ("x",))
        writers.assert_one_line(error, folder)
        shutil.rmtree(folder)
        (tmp_path / "copy").rename(folder)


def test_an_array_of_another_width_is_an_error(tmp_path):
    writers.authors_split(tmp_path)
    writers.ragged_mmap(tmp_path / "features_pretrain", [np.zeros((n, 3), np.float32) for n in (3, 0, 1, 5)])
    with pytest.raises(DataError, match="4 values a spacepoint"):
        writers.read_all(READER, tmp_path, ("x",))


def test_no_events(tmp_path):
    writers.authors_split(tmp_path, sizes=(1,))
    for quantity in ("features", "seg_target"):
        for name in ("data.ninja", "starts/data.ninja", "ends/data.ninja"):
            (tmp_path / f"{quantity}_pretrain" / name).write_bytes(b"")
    assert writers.read_all(READER, tmp_path, ("x",), ("track_id",)) == []


def test_recognises_its_own_folders_only(tmp_path):
    writers.tpcpp(tmp_path / "npz")
    writers.authors_split(tmp_path / "mmap")
    assert READER.recognises(tmp_path / "mmap")
    assert not READER.recognises(tmp_path / "npz")
    assert not READER.recognises(tmp_path / "npz" / "spacepoints_000.npz")
    assert not READER.recognises(tmp_path / "mmap" / "seg_target_pretrain")
