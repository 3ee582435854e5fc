import contextlib
import io
import itertools
import tarfile
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm4npp import detectors, readers
from fm4npp.errors import DataError
from fm4npp.readers import sphenix_silicon
from tests.readers import writers

READER = readers.build("sphenix-silicon-npz")
EVENTS = {"event000000017": 4, "event000000003": 0, "event000000020": 1, "event000000100": 9}


def make(tracks=EVENTS):
    return {name: writers.silicon_arrays(count, seed) for seed, (name, count) in enumerate(tracks.items())}


def check(event, arrays):
    """Compare with the hits collected one by one."""
    hits = []
    for track, slots in enumerate(arrays["track_vector"].reshape(-1, 5, 3).tolist()):
        for layer, slot in zip((0, 1, 2, 3, 5), slots, strict=True):
            if slot != [0.0, 0.0, 0.0]:
                hits.append((*slot, track, layer, arrays["ptypes"][track], *arrays["momentums"][track]))
    names = ("x", "y", "z", "track_id", "layer", "pdg", "px", "py", "pz")
    for column, name in enumerate(names):
        np.testing.assert_array_equal(event[name], [hit[column] for hit in hits])
    particles = {"track_id": np.arange(len(arrays["ptypes"])), "pdg": arrays["ptypes"], "energy": arrays["energy"]}
    particles |= dict(zip(("px", "py", "pz"), arrays["momentums"].reshape(-1, 3).T, strict=True))
    particles |= dict(zip(("vx", "vy", "vz"), arrays["origin_vertices"].reshape(-1, 3).T, strict=True))
    for name, values in particles.items():
        np.testing.assert_array_equal(event[f"particle_{name}"], values)
    assert event["event_trigger"] == int(arrays["trigger"])


@settings(max_examples=25)
@given(tracks=st.integers(0, 6), seed=st.integers(0, 2**31), missing=st.sampled_from([0.0, 0.3, 1.0]))
def test_an_event_is_read_exactly(tmp_path_factory, tracks, seed, missing):
    path = tmp_path_factory.mktemp("silicon") / "event000000042.npz"
    arrays = writers.silicon_arrays(tracks, seed, missing)
    path.write_bytes(writers.npz_bytes(arrays))
    (event,) = writers.read_all(READER, path, ("x", "y", "z", "layer"))
    check(event, arrays)
    assert event["event_id"] == 42


@pytest.mark.parametrize("suffix", [".tar", ".tar.xz", ".tar.gz", ".tar.bz2"])
def test_an_archive_gives_its_events_in_its_order(tmp_path, suffix):
    arrays = make()
    path = writers.silicon_tar(tmp_path / f"train{suffix}", arrays)
    assert READER.recognises(path)
    events = writers.read_all(READER, path, ("x",))
    assert [event["event_id"] for event in events] == [17, 3, 20, 100]
    assert [event["source"] for event in events] == [f"train_gt/{name}.npz" for name in arrays]
    writers.assert_same_columns(writers.read_parts(READER, path, ("x",)), events)
    for event, truth in zip(events, arrays.values(), strict=True):
        check(event, truth)
    assert sorted(tmp_path.iterdir()) == [path]


def test_a_folder_gives_its_events_by_name(tmp_path):
    arrays = make()
    for name, values in arrays.items():
        (tmp_path / f"{name}.npz").write_bytes(writers.npz_bytes(values))
    assert READER.recognises(tmp_path)
    events = writers.read_all(READER, tmp_path, ("x",))
    assert [event["event_id"] for event in events] == [3, 17, 20, 100]
    for event, name in zip(events, sorted(arrays), strict=True):
        check(event, arrays[name])
        assert event["source"] == f"{name}.npz"


def test_a_folder_is_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(sphenix_silicon, "FILES", 3)
    for name in ("a", "b1", "c", "d", "e9", "f", "g"):
        (tmp_path / f"{name}.npz").write_bytes(writers.npz_bytes(writers.silicon_arrays(len(name))))
    assert READER.parts(tmp_path) == ["a.npz", "d.npz", "g.npz"]
    events = writers.read_parts(READER, tmp_path, ("x",))
    writers.assert_same_columns(events, writers.read_all(READER, tmp_path, ("x",)))
    assert [event["event_id"] for event in events] == [0, 1, 2, 3, 9, 5, 6]
    (tmp_path / "d.npz").rename(tmp_path / "z.npz")
    with pytest.raises(DataError, match=r"d\.npz"):
        list(READER.read_part(tmp_path, "d.npz", ("x",), ()))


@pytest.mark.parametrize("change", ["deflated", "comment", "big-endian", "column", "version 2", "order", "float32"])
def test_archives_that_savez_would_write_otherwise(tmp_path, change):
    arrays = writers.silicon_arrays(5, seed=3)
    stored = dict(arrays)
    if change == "big-endian":
        stored = {name: values.astype(values.dtype.newbyteorder(">")) for name, values in arrays.items()}
    if change == "column":
        stored = {name: np.asfortranarray(values) if values.ndim else values for name, values in arrays.items()}
    if change == "order":
        stored = dict(reversed(arrays.items()))
    if change == "float32":
        arrays["track_vector"] = stored["track_vector"] = arrays["track_vector"].astype(np.float32)
    path = tmp_path / "event7.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if change == "deflated" else zipfile.ZIP_STORED) as archive:
        for name, values in stored.items():
            stream = io.BytesIO()
            np.lib.format.write_array(stream, values, version=(2, 0) if change == "version 2" else None)
            archive.writestr(f"{name}.npy", stream.getvalue())
        archive.comment = b"a comment" if change == "comment" else b""
    (event,) = writers.read_all(READER, path, ("x",))
    check(event, arrays)
    assert event["x"].dtype == arrays["track_vector"].dtype


def test_a_flipped_byte_gives_the_same_event_or_an_error(tmp_path):
    arrays = writers.silicon_arrays(3, seed=1)
    path = tmp_path / "event7.npz"
    content = writers.npz_bytes(arrays)
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ (1 << place % 8)]) + content[place + 1 :])
        with contextlib.suppress(DataError):
            check(writers.read_all(READER, path, ("x",))[0], arrays)


def test_a_number_too_long_for_an_event_id(tmp_path):
    path = tmp_path / f"event{10**19}.npz"
    path.write_bytes(writers.npz_bytes(writers.silicon_arrays(1)))
    with pytest.raises(DataError, match="too long") as error:
        writers.read_all(READER, path)
    writers.assert_one_line(error, path)


def test_only_a_zero_slot_is_missing(tmp_path):
    arrays = writers.silicon_arrays(2, missing=0)
    slots = arrays["track_vector"].reshape(2, 5, 3)
    slots[0, 0] = 0
    slots[0, 1] = (0, 0, 1e-9)
    slots[1, 2] = -0.0
    slots[1, 3, 1] = np.nan
    (tmp_path / "event1.npz").write_bytes(writers.npz_bytes(arrays))
    (event,) = READER.read(tmp_path / "event1.npz", ("x",), ())
    assert list(zip(event["track_id"].tolist(), event["layer"].tolist(), strict=True)) == [
        *((0, layer) for layer in (1, 2, 3, 5)),
        *((1, layer) for layer in (0, 1, 3, 5)),
    ]
    assert np.isnan(event["y"]).sum() == 1
    made = detectors.build("sphenix-silicon").event(event)
    assert made.left_out["y is not finite"].tolist() == np.flatnonzero(np.isnan(event["y"])).tolist()


def test_the_detector_makes_events_of_both_subsystems(tmp_path):
    arrays = make()
    path = writers.silicon_tar(tmp_path / "train.tar", arrays)
    for name, layers in {"sphenix-silicon": (0, 6), "sphenix-mvtx": (0, 2), "sphenix-intt": (3, 6)}.items():
        detector = detectors.build(name)
        for columns in READER.read(path, ("x", "y", "z", "layer"), ("track_id", "pdg", "px", "py")):
            event = detector.event(columns)
            kept = (columns["layer"] >= layers[0]) & (columns["layer"] <= layers[1])
            np.testing.assert_array_equal(event.positions[:, 0], columns["x"][kept])
            np.testing.assert_array_equal(event.labels["track_id"], columns["track_id"][kept])
            np.testing.assert_array_equal(
                event.labels["is_noise"], np.sqrt(columns["px"] ** 2 + columns["py"] ** 2)[kept] < 0.06
            )
            assert event.scalars == {"trigger": columns["event_trigger"]}
            assert len(event.particles["pdg"]) == len(columns["particle_pdg"])


@pytest.mark.parametrize("suffix", [".tar", ".tar.xz", ".tar.gz"])
def test_a_truncated_archive_is_an_error(tmp_path, suffix):
    path = writers.silicon_tar(tmp_path / f"train{suffix}", make())
    content = path.read_bytes()
    end = len(content)
    if suffix == ".tar":  # a tar ends in blocks of zeros, more of them than it needs
        end = len(content.rstrip(b"\0")) + 1000
        lengths = {*range(0, end, 512), *range(100, end, 1000)}
    else:
        lengths = {0, 1, end - 1, *range(0, end, 300)}
    for length in lengths:
        path.write_bytes(content[:length])
        READER.recognises(path)
        with pytest.raises(DataError) as error:
            writers.read_all(READER, path, ("x",))
        writers.assert_one_line(error, path)


def test_a_damaged_header_does_not_end_the_archive_quietly(tmp_path):
    path = writers.silicon_tar(tmp_path / "train.tar", make())
    with tarfile.open(path) as tar:
        header = tar.getmembers()[3].offset
    content = bytearray(path.read_bytes())
    content[header + 150] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        writers.read_all(READER, path, ("x",))
    writers.assert_one_line(error, path, "damaged")


def test_a_damaged_event_is_named(tmp_path):
    arrays = make()
    payload = writers.npz_bytes(arrays["event000000100"])
    for cut in (0, 10, len(payload) // 2, len(payload) - 1):
        for name, values in arrays.items():
            (tmp_path / f"{name}.npz").write_bytes(writers.npz_bytes(values))
        (tmp_path / "event000000100.npz").write_bytes(payload[:cut])
        with pytest.raises(DataError) as error:
            writers.read_all(READER, tmp_path, ("x",))
        writers.assert_one_line(error, tmp_path, "event000000100.npz")
        assert READER.recognises(tmp_path / "event000000100.npz")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"momentums": np.zeros((3, 3))}, "'momentums' has shape (3, 3), not (4, 3)"),
        ({"ptypes": np.zeros(5, int)}, "'ptypes'"),
        ({"track_vector": np.zeros((4, 12))}, "'track_vector' has shape (4, 12), not (4, 15)"),
        ({"trigger": np.zeros(2)}, "'trigger'"),
        ({"energy": None}, "no array 'energy'"),
        ({"trigger": np.array("yes")}, "'trigger' holds <U3"),
        ({"momentums": np.zeros((4, 3), complex)}, "'momentums' holds complex128"),
        ({"ptypes": np.array([None] * 4, dtype=object)}, "pickle"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, change, words):
    arrays = {**writers.silicon_arrays(4), **change}
    arrays = {name: values for name, values in arrays.items() if values is not None}
    path = writers.silicon_tar(tmp_path / "train.tar", {"event7": arrays})
    with pytest.raises(DataError) as error:
        writers.read_all(READER, path, ("x",))
    writers.assert_one_line(error, path, "train_gt/event7.npz", words)


def test_events_without_tracks_may_have_flat_arrays(tmp_path):
    arrays = {**writers.silicon_arrays(0), "momentums": np.zeros(0), "origin_vertices": np.zeros(0)}
    (tmp_path / "event5.npz").write_bytes(writers.npz_bytes(arrays))
    (event,) = READER.read(tmp_path, ("x",), ())
    check(event, arrays)


def test_no_events_and_other_columns(tmp_path):
    path = writers.silicon_tar(tmp_path / "train.tar", {})
    assert not READER.recognises(path)
    with pytest.raises(DataError, match=r"no \.npz"):
        writers.read_all(READER, path, ("x",))
    path = writers.silicon_tar(tmp_path / "train.tar", make())
    with pytest.raises(DataError, match="'adc'") as error:
        writers.read_all(READER, path, ("x", "adc"))
    writers.assert_one_line(error, path)


def test_recognises_its_own_files_only(tmp_path):
    writers.tpcpp(tmp_path / "tpcpp")
    (tmp_path / "event1.npz").write_text("text")
    (tmp_path / "text.tar").write_text("text")
    for path in (tmp_path / "tpcpp", tmp_path / "tpcpp" / "spacepoints_000.npz", tmp_path / "text.tar"):
        assert not READER.recognises(path)
    assert READER.recognises(tmp_path / "event1.npz")
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        tar.add(tmp_path / "tpcpp" / "spacepoints_000.npz")
    assert not READER.recognises(tmp_path / "other.tar")
    for path in (tmp_path / "text.tar", tmp_path / "other.tar", tmp_path / "event1.npz"):
        with pytest.raises(DataError) as error:
            writers.read_all(READER, path, ("x",))
        writers.assert_one_line(error, path)


@pytest.mark.shared_data
def test_the_public_sample(shared_data):
    path = shared_data / "sphenix_silicon" / "train.tar.xz"
    events = READER.read(path, ("x", "y", "z", "layer"), ())
    detector = detectors.build("sphenix-silicon")
    found = set()
    with tarfile.open(path) as tar:
        members = (member for member in tar if member.isfile())
        for member, event in zip(itertools.islice(members, 300), events, strict=False):
            with np.load(io.BytesIO(tar.extractfile(member).read())) as arrays:
                check(event, dict(arrays))
            assert member.name == f"train_gt/event{event['event_id']:09d}.npz"
            found |= set(detector.event(event).ids.tolist())
    assert found == {0, 1}


@pytest.mark.shared_data
@pytest.mark.slow
def test_all_events_of_the_public_sample(shared_data):
    events = list(READER.read(shared_data / "sphenix_silicon" / "train.tar.xz", (), ()))
    assert len(events) == 10_000
    assert sum(event["event_trigger"] for event in events) == 4945
    assert sum(len(event["particle_pdg"]) == 0 for event in events) == 128
    assert sum(len(event["particle_pdg"]) == 1 for event in events) == 374
