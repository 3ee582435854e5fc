import contextlib
import io
import shutil
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm4npp import readers
from fm4npp.data import read_events, write_events
from fm4npp.errors import DataError
from fm4npp.readers import npz
from tests.readers import writers

READER = readers.build("tpcpp-npz")
LABELS = ("track_id", "particle_class", "is_noise")
FILES = {"track_id": "track_ids", "particle_class": "pid_labels", "is_noise": "noise_tags"}


def expected(arrays, sizes):
    """The events of one shard, made without the reader."""
    parts = {name: writers.split(values, sizes) for name, values in arrays.items()}
    return [{name: values[i] for name, values in parts.items()} for i in range(len(sizes))]


def check(events, truth, labels=LABELS):
    for event, arrays in zip(events, truth, strict=True):
        for column, name in enumerate(("energy", "x", "y", "z")):
            assert event[name].dtype == np.float32
            np.testing.assert_array_equal(event[name], arrays["spacepoints"][:, column])
        for label in labels:
            np.testing.assert_array_equal(event[label], arrays[FILES[label]])


@settings(max_examples=25)
@given(sizes=st.lists(st.integers(0, 7), max_size=6), seed=st.integers(0, 2**31))
def test_a_shard_gives_its_events_exactly(tmp_path_factory, sizes, seed):
    folder = tmp_path_factory.mktemp("tpcpp")
    arrays = writers.tpcpp(folder, sizes=sizes, seed=seed)
    events = writers.read_all(READER, folder / "spacepoints_000.npz", ("x",), LABELS)
    check(events, expected(arrays, sizes))
    assert [event["event_id"] for event in events] == list(range(len(sizes)))


def test_a_folder_gives_its_shards_by_number(tmp_path):
    sizes = {"_2": (2, 0), "_10": (1,), "": (4, 1)}
    arrays = {suffix: writers.tpcpp(tmp_path, suffix, n, seed=len(suffix)) for suffix, n in sizes.items()}
    events = writers.read_all(READER, tmp_path, ("x",), LABELS)
    check(events, [event for suffix in ("", "_2", "_10") for event in expected(arrays[suffix], sizes[suffix])])
    assert [event["event_id"] for event in events] == [0, 1, 0, 1, 0]
    assert [event["source"] for event in events] == [
        f"spacepoints{suffix}.npz" for suffix in ("", "", "_2", "_2", "_10")
    ]
    assert READER.parts(tmp_path) == ("spacepoints.npz", "spacepoints_2.npz", "spacepoints_10.npz")
    writers.assert_same_columns(writers.read_parts(READER, tmp_path, ("x",), LABELS), events)


def test_labels_are_optional_and_read_when_asked_for(tmp_path):
    writers.tpcpp(tmp_path, labels=False)
    with pytest.raises(DataError, match="track_id") as error:
        writers.read_all(READER, tmp_path, ("x", "track_id"))
    writers.assert_one_line(error, tmp_path, "energy")
    assert set(writers.read_all(READER, tmp_path, ("x",), LABELS)[0]) == {*"xyz", "energy", "event_id", "source"}
    writers.tpcpp(tmp_path)
    assert "is_noise" not in writers.read_all(READER, tmp_path, (), ("track_id",))[0]


def same_events(events, truth):
    for event, arrays in zip(events, truth, strict=True):
        assert event.positions.dtype == np.float32
        np.testing.assert_array_equal(event.positions, arrays["spacepoints"][:, 1:])
        np.testing.assert_array_equal(event.features, arrays["spacepoints"][:, :1])
        for label in LABELS:
            np.testing.assert_array_equal(event.labels[label], arrays[FILES[label]])


def test_values_survive_to_events_and_through_the_events_file(tmp_path):
    sizes = (40, 0, 1, 90)
    truth = expected(writers.tpcpp(tmp_path, sizes=sizes), sizes)
    same_events(read_events(tmp_path, "sphenix-tpc"), truth)
    write_events(read_events(tmp_path, "sphenix-tpc"), tmp_path / "events.parquet")
    same_events(read_events(tmp_path / "events.parquet"), truth)


def test_an_impossible_label_costs_its_spacepoint_only(tmp_path):
    writers.tpcpp(tmp_path, sizes=(5,))
    data = np.column_stack([np.full(5, 200), np.linspace(35, 70, 5), np.zeros(5), np.ones(5)]).astype(np.float32)
    np.savez(tmp_path / "spacepoints_000.npz", data=data, size=[5])
    np.savez(tmp_path / "track_ids_000.npz", data=np.arange(5, dtype=np.int16), size=[5])
    np.savez(tmp_path / "pid_labels_000.npz", data=np.array([0, 1, 5, 2, 1]), size=[5])
    np.savez(tmp_path / "noise_tags_000.npz", data=np.array([0, 1, 1, 1, 2], np.uint8), size=[5])
    (event,) = read_events(tmp_path, "sphenix-tpc", max_rejected=1)
    assert {reason: places.tolist() for reason, places in event.left_out.items()} == {
        "particle_class is out of range": [2],
        "is_noise is out of range": [4],
    }
    assert event.labels["track_id"].tolist() == [0, 1, 3]
    assert event.labels["is_noise"].tolist() == [False, True, True]


def test_double_precision_is_kept(tmp_path):
    data = np.random.default_rng(0).normal(50, 1, (4, 4))
    np.savez(tmp_path / "spacepoints.npz", data=data, size=[1, 3])
    events = writers.read_all(READER, tmp_path)
    np.testing.assert_array_equal(np.concatenate([event["y"] for event in events]), data[:, 2])
    assert events[0]["y"].dtype == np.float64


SPLITS = {"labeled/train": ("_000", "_001"), "labeled/test": ("",), "unlabeled": ("_000",)}


@pytest.fixture
def release(tmp_path):
    """The published folders with two, one and one shards; the last without labels."""
    folder = tmp_path / "release"
    for seed, (split, suffixes) in enumerate(SPLITS.items()):
        for suffix in suffixes:
            writers.tpcpp(folder / split, suffix, (3, 0, 50), seed, labels=split != "unlabeled")
    return folder


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
@pytest.mark.parametrize("top", ["", "TPCpp-10M/"])
def test_the_published_zip_reads_as_its_folders(tmp_path, release, compression, top):
    path = writers.tpcpp_zip(tmp_path / "any name.zip", release, compression, top)
    assert READER.recognises(path)
    for split, suffixes in SPLITS.items():
        place = path / top / split
        labels = () if split == "unlabeled" else LABELS
        events = writers.read_all(READER, place, ("x", *labels), LABELS)
        assert READER.recognises(place)
        assert READER.parts(place) == tuple(f"{top}{split}/spacepoints{suffix}.npz" for suffix in suffixes)
        writers.assert_same_columns(writers.read_parts(READER, place, ("x",), LABELS), events)
        unpacked = writers.read_all(READER, release / split, ("x",), LABELS)
        writers.assert_same_columns(
            events, [{**event, "source": f"{top}{split}/{event['source']}"} for event in unpacked]
        )
        shard = place / f"spacepoints{suffixes[0]}.npz"
        alone = [{name: event[name] for name in event if name != "source"} for event in events[:3]]
        writers.assert_same_columns(writers.read_all(READER, shard, ("x",), LABELS), alone)


def test_a_zip_with_several_splits_needs_a_choice(tmp_path, release):
    path = writers.tpcpp_zip(tmp_path / "TPCpp-10M.zip", release)
    for read in (writers.read_all, writers.read_parts):
        with pytest.raises(DataError) as error:
            read(READER, path)
        writers.assert_one_line(error, path, "labeled/test, labeled/train, unlabeled", f"{path}/labeled/test")
    with pytest.raises(DataError, match="one split"):
        writers.read_all(READER, path / "labeled")
    with pytest.raises(DataError, match="no spacepoints"):
        writers.read_all(READER, path / "labelled")
    shutil.rmtree(release / "labeled")
    assert len(writers.read_all(READER, writers.tpcpp_zip(tmp_path / "TPCpp-10M.zip", release))) == 3


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_zip_gives_the_same_events_or_an_error(tmp_path, compression):
    writers.tpcpp(tmp_path / "train", sizes=(60, 5))
    path = writers.tpcpp_zip(tmp_path / "TPCpp-10M.zip", tmp_path / "train", compression)
    truth = writers.read_all(READER, path, ("x",), LABELS)
    for _ in writers.truncations(path):
        assert READER.recognises(path)
        with pytest.raises(DataError) as error:
            writers.read_all(READER, path, ("x",), LABELS)
        writers.assert_one_line(error, path)
    content = path.read_bytes()
    for place in range(0, len(content), 11):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x41]) + content[place + 1 :])
        with contextlib.suppress(DataError):
            events = writers.read_all(READER, path, ("x",), ())
            writers.assert_same_columns(
                events, [{name: event[name] for name in event if name not in LABELS} for event in truth]
            )


def test_describe_lists_every_split(tmp_path, release):
    path = writers.tpcpp_zip(tmp_path / "TPCpp-10M.zip", release)
    tables = {table.name: table for table in READER.describe(path)}
    assert tables["labeled/train/spacepoints_000.npz"].columns == dict.fromkeys(("energy", "x", "y", "z"), "float32")
    assert tables["labeled/test/noise_tags.npz"] == ("labeled/test/noise_tags.npz", 53, {"is_noise": "bool"})
    assert "unlabeled/track_ids_000.npz" not in tables
    assert [table.name for table in READER.describe(release / "unlabeled" / "spacepoints_000.npz")] == [
        "spacepoints_000.npz"
    ]


def test_blocks_larger_than_the_buffer_and_columns_stored_by_column(tmp_path):
    sizes = np.full(40, 3000)
    data = np.random.default_rng(0).normal(size=(sizes.sum(), 4)).astype(np.float32)
    for order, values in {"rows": data, "columns": np.asfortranarray(data), "big": data.astype(">f4")}.items():
        np.savez(tmp_path / f"spacepoints_{order}.npz", data=values, size=sizes)
        events = writers.read_all(READER, tmp_path / f"spacepoints_{order}.npz")
        check(events, expected({"spacepoints": data}, sizes), ())


@pytest.mark.parametrize("stem", ["spacepoints", "track_ids"])
def test_a_truncated_file_is_an_error(tmp_path, stem):
    writers.tpcpp(tmp_path, sizes=(300, 0, 1, 500))
    path = tmp_path / f"{stem}_000.npz"
    for _ in writers.truncations(path):
        with pytest.raises(DataError) as error:
            writers.read_all(READER, tmp_path, ("x",), LABELS)
        writers.assert_one_line(error, path)
        assert READER.recognises(tmp_path / "spacepoints_000.npz")


def test_flipped_bytes_give_the_same_events_or_an_error(tmp_path):
    path = tmp_path / "spacepoints_000.npz"
    truth = expected(writers.tpcpp(tmp_path, sizes=(30, 5)), (30, 5))
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x41]) + content[place + 1 :])
        with contextlib.suppress(DataError):
            check(writers.read_all(READER, path), truth, ())


def test_a_damaged_shard_never_ends_quietly(tmp_path):
    writers.tpcpp(tmp_path, sizes=(3, 2))
    path = tmp_path / "spacepoints_000.npz"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for payload in (members["data.npy"][:-8], members["data.npy"] + b"12345678"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data.npy", payload)
            archive.writestr("size.npy", members["size.npy"])
        with pytest.raises(DataError, match="'data'"):
            writers.read_all(READER, path)


@pytest.mark.parametrize(
    ("stem", "arrays", "words"),
    [
        ("spacepoints", {"data": np.zeros((5, 4), np.float32), "size": [4]}, "adds up to 4"),
        ("spacepoints", {"data": np.zeros((5, 4), np.float32), "size": [6, -1]}, "size"),
        ("spacepoints", {"data": np.zeros((5, 4), np.float32), "size": [[5]]}, "size"),
        ("spacepoints", {"data": np.zeros((5, 4), np.float32), "size": [5.0]}, "size"),
        ("spacepoints", {"data": np.zeros((5, 3), np.float32), "size": [5]}, "energy, x, y, z"),
        ("spacepoints", {"data": np.zeros(5, np.int64), "size": [5]}, "spacepoints file"),
        ("spacepoints", {"data": np.zeros((5, 4), np.float32)}, "no array 'size'"),
        ("spacepoints", {"points": np.zeros((5, 4), np.float32), "size": [5]}, "points, size"),
        ("track_ids", {"data": np.zeros(4, np.int64), "size": [4]}, "spacepoints_000.npz has 5"),
        ("track_ids", {"data": np.zeros(5, np.int64), "size": [3, 2]}, "differs from that of spacepoints_000.npz"),
        ("track_ids", {"data": np.zeros((5, 2), np.int64), "size": [5]}, "spacepoints_000.npz"),
        ("track_ids", {"data": np.zeros(5), "size": [5]}, "float64"),
        ("noise_tags", {"data": np.array(["a"] * 5), "size": [5]}, "not as integers"),
        ("track_ids", {"data": np.zeros(5, np.int64), "size": np.full(4, 2**63 + 2, np.uint64)}, "adds up to"),
        ("spacepoints", {"data": np.zeros((5, 4), np.longdouble), "size": [5]}, "energy, x, y, z"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, stem, arrays, words):
    writers.tpcpp(tmp_path, sizes=(5,))
    path = tmp_path / f"{stem}_000.npz"
    np.savez(path, **{name: np.asarray(values) for name, values in arrays.items()})
    with pytest.raises(DataError) as error:
        writers.read_all(READER, tmp_path, ("x",), LABELS)
    writers.assert_one_line(error, path, words)


def test_a_label_that_only_some_shards_have_is_an_error(tmp_path):
    writers.tpcpp(tmp_path, "_000")
    writers.tpcpp(tmp_path, "_001", labels=False)
    with pytest.raises(DataError, match=r"track_ids_001\.npz"):
        writers.read_all(READER, tmp_path, ("x",), LABELS)
    assert len(writers.read_all(READER, tmp_path, ("x",))) == 8


class Bomb:
    """Loading its pickle writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_pickles_are_refused_and_not_run(tmp_path):
    path = tmp_path / "spacepoints_000.npz"
    np.savez(path, data=np.array([Bomb(tmp_path / "ran")], dtype=object), size=np.array([1]))
    with pytest.raises(DataError, match="pickle") as error:
        writers.read_all(READER, path)
    writers.assert_one_line(error, path)
    assert not (tmp_path / "ran").exists()


def test_recognises_its_own_files_only(tmp_path):
    writers.tpcpp(tmp_path / "train", labels=False)
    assert READER.recognises(tmp_path / "train")
    assert READER.recognises(tmp_path / "train" / "spacepoints_000.npz")
    shutil.copy(tmp_path / "train" / "spacepoints_000.npz", tmp_path / "mine.npz")
    assert READER.recognises(tmp_path / "mine.npz")
    (tmp_path / "text.npz").write_text("not an archive")
    (tmp_path / "spacepoints_text.npz").write_text("not an archive")
    (tmp_path / "event000000001.npz").write_bytes(writers.npz_bytes(writers.silicon_arrays()))
    for name in ("text.npz", "event000000001.npz"):
        assert not READER.recognises(tmp_path / name)
    assert READER.recognises(tmp_path / "spacepoints_text.npz")
    for name in ("text.npz", "spacepoints_text.npz"):
        with pytest.raises(DataError, match="cannot be read"):
            writers.read_all(READER, tmp_path / name)
    (tmp_path / "empty").mkdir()
    assert not READER.recognises(tmp_path / "empty")


def test_an_event_of_many_spacepoints(tmp_path):
    sizes = (3, 200_000, 0, 70_000, 2)
    data = np.random.default_rng(0).normal(size=(sum(sizes), 4)).astype(np.float32)
    np.savez(tmp_path / "spacepoints.npz", data=data, size=sizes)
    check(writers.read_all(READER, tmp_path), expected({"spacepoints": data}, sizes), ())


def test_a_large_array_stored_by_column_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "LARGE", 1000)
    np.savez(tmp_path / "spacepoints.npz", data=np.asfortranarray(np.zeros((100, 4), np.float32)), size=[100])
    with pytest.raises(DataError, match="ascontiguousarray") as error:
        writers.read_all(READER, tmp_path)
    writers.assert_one_line(error, tmp_path)


@pytest.mark.parametrize("place", ["file", "stored", "deflated"])
def test_a_shard_is_not_held_in_memory(tmp_path, place):
    sizes = np.full(4000, 1000)
    folder = tmp_path / "train"
    folder.mkdir()
    with zipfile.ZipFile(folder / "spacepoints.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "<f4", "fortran_order": False, "shape": (int(sizes.sum()), 4)}
        )
        with archive.open("data.npy", "w") as member:
            member.write(header.getvalue())
            for _ in range(len(sizes)):
                member.write(bytes(16_000))
        with archive.open("size.npy", "w") as member:
            np.save(member, sizes)
    path = folder / "spacepoints.npz"
    if place != "file":
        compression = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED}[place]
        path = writers.tpcpp_zip(tmp_path / "release.zip", folder, compression)
    tracemalloc.start()
    count = sum(len(event["x"]) for event in READER.read(path, ("x",), ()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == sizes.sum()
    assert peak < 10e6  # the shard has 64 MB
