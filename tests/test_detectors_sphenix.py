import textwrap

import numpy as np
import pytest

from fm4npp import detectors, readers
from fm4npp.data import read_events, write_events
from fm4npp.detectors.mapped import OTHER_SUBSYSTEM, SECONDARY
from fm4npp.errors import DataError
from fm4npp.testing.detectors import check_detector, made_columns
from tests.readers import root_rows_writer

NAMES = ("sphenix-tpc", "sphenix-mvtx", "sphenix-intt", "sphenix-silicon", "sphenix")
LAYERS = {"sphenix-tpc": (7, 54), "sphenix-mvtx": (0, 2), "sphenix-intt": (3, 6), "sphenix-silicon": (0, 6)}
SIZES = (200, 1, 40, 300)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("svtx") / "g4svtx_eval.root"
    return path, root_rows_writer.write(path, SIZES)


@pytest.mark.parametrize("name", NAMES)
def test_the_contract(name):
    detector = detectors.build(name)
    measured = (made_columns(detector, seed) for seed in range(20))
    columns = next(columns for columns in measured if name != "sphenix" or columns["layer"][0] >= 7)
    check_detector(detector, columns)  # the first spacepoint has all features: a NaN in one that it lacks is no fault


@pytest.mark.parametrize("name", NAMES[:3])
def test_the_contract_of_the_evaluator(name):
    detector = detectors.build(name).reading("root-rows")
    spacepoints = {
        key: column for key, column in detector.columns_of.items() if not key.startswith(("particle_", "event_"))
    }
    check_detector(detector.replace(columns_of=spacepoints))


def test_other_formats_are_read_as_before():
    assert [column.name for column in detectors.build("sphenix-tpc").columns][:4] == ["x", "y", "z", "energy"]
    assert detectors.build("sphenix-tpc").layer_range is None


@pytest.mark.parametrize("name", NAMES)
def test_clusters_of_the_evaluator(file, name):
    path, written = file
    low, high = LAYERS.get(name, (0, 54))
    events = list(read_events(path, name))
    assert [event.event_id for event in events] == [0, 1, 2, 3]
    for event, (_, columns, truth) in zip(events, written, strict=True):
        mine = (columns["layer"] >= low) & (columns["layer"] <= high)
        assert event.num_read == len(columns["x"])
        assert set(event.left_out) <= {OTHER_SUBSYSTEM}
        np.testing.assert_array_equal(event.places, np.flatnonzero(mine))
        positions = np.stack([columns[axis][mine] for axis in "xyz"], axis=1)
        assert event.positions.dtype == np.float32
        np.testing.assert_array_equal(event.positions, positions)
        np.testing.assert_array_equal(event.labels["layer"], columns["layer"][mine])
        check_labels(event, {key: values[mine] for key, values in columns.items()})
        assert event.particles["track_id"].tolist() == [1, 2, 3, SECONDARY + 1, SECONDARY + 7]
        np.testing.assert_array_equal(event.particles["px"], truth["gpx"])
        np.testing.assert_array_equal(event.particles["vz"], truth["gvz"])
        assert set(event.labels["track_id"].tolist()) <= {-1, *event.particles["track_id"].tolist()}
        if name in ("sphenix-tpc", "sphenix"):
            tpc = columns["layer"][mine] >= 7
            np.testing.assert_array_equal(event.feature("energy"), np.where(tpc, columns["adc"][mine], 0))


def test_the_sizes_of_clusters_of_pixels(file, tmp_path):
    path, written = file
    description = tmp_path / "mvtx.yaml"
    docstring = type(detectors.build("sphenix-mvtx")).__doc__
    description.write_text(textwrap.dedent("\n".join(docstring.splitlines()[-3:])))
    detector = detectors.load(description)
    check_detector(detector)
    for event, (_, columns, _) in zip(read_events(path, detector), written, strict=True):
        np.testing.assert_array_equal(event.feature("cluster_size"), columns["size"][columns["layer"] <= 2])


def check_labels(event, columns):
    for track, particle_class, noise, row in zip(
        *(event.labels[name].tolist() for name in ("track_id", "particle_class", "is_noise")),
        zip(*(columns[name].tolist() for name in ("gtrackID", "gflavor", "gpx", "gpy")), strict=True),
        strict=True,
    ):
        number, pdg, px, py = row
        if number != number:
            assert (track, particle_class, noise) == (-1, -1, True)
        else:
            assert track == (number if number > 0 else SECONDARY - number)
            assert particle_class == {211: 1, 321: 2, 2212: 3, 11: 4}.get(abs(pdg), 0)
            assert noise == (np.hypot(px, py) < 0.06)


def test_the_way_to_parquet_and_back(file, tmp_path):
    path, _ = file
    events = list(read_events(path, "sphenix"))
    write_events(iter(events), tmp_path / "events.parquet")
    again = list(read_events(tmp_path / "events.parquet"))
    assert len(again) == len(events)
    for event, other in zip(events, again, strict=True):
        np.testing.assert_array_equal(event.positions, other.positions)
        np.testing.assert_array_equal(event.ids, other.ids)
        for name in ("track_id", "particle_class", "is_noise", "layer"):
            np.testing.assert_array_equal(event.labels[name], other.labels[name])
        for name, values in event.particles.items():
            np.testing.assert_array_equal(values, other.particles[name])


def test_a_file_without_particles(tmp_path):
    path = tmp_path / "g4svtx_eval.root"
    root_rows_writer.write(path, gtrack=False)
    events = list(read_events(path, "sphenix-tpc"))
    assert (len(events), events[0].particles) == (4, {})
    assert "track_id" in events[0].labels


def test_three_subsystems_keep_the_order_of_the_file(file):
    path, written = file
    event = next(iter(read_events(path, "sphenix")))
    assert event.subsystems == ("sphenix-mvtx", "sphenix-intt", "sphenix-tpc")
    layer = written[0][1]["layer"]
    expected = np.digitize(layer, [3, 7, 55])
    assert event.ids.tolist() == expected[expected < 3].tolist()
    assert len(event.left_out[OTHER_SUBSYSTEM]) == (layer >= 55).sum() > 0


def test_spacepoints_of_no_part_are_left_out():
    detector = detectors.build("sphenix-silicon")
    points = {axis: np.full(5, 5.0) for axis in "xyz"}
    event = detector.event({**points, "layer": np.array([3.0, 7, np.nan, 4, 55]), "track_id": np.arange(5)})
    assert event.labels["track_id"].tolist() == [0, 3]
    assert {reason: places.tolist() for reason, places in event.left_out.items()} == {
        OTHER_SUBSYSTEM: [1, 4],
        "layer is not finite": [2],
    }
    assert event.places.tolist() == [0, 3]


def test_parts_that_claim_the_same_are_refused():
    parts = [{"type": "sphenix-mvtx"}, {"type": "sphenix-intt", "layer_range": [2, 6]}]
    detector = detectors.build({"type": "sphenix-silicon", "parts": parts})
    points = {axis: np.full(3, 3.0) for axis in "xyz"}
    with pytest.raises(DataError, match="1 spacepoints belong to several"):
        detector.event({**points, "layer": np.array([0, 2, 4])})


def tpc(**fields):
    return detectors.build({"type": "sphenix-tpc", **fields})


def columns(**others):
    return {"x": np.full(3, 40.0), "y": np.full(3, 5.0), "z": np.zeros(3), "energy": np.ones(3), **others}


@pytest.mark.parametrize(("unlisted", "noise"), [("noise", [False, True, True]), ("unknown", None)])
def test_nan_is_no_track(unlisted, noise):
    truth = {"track_id": np.array([4, np.nan, 6]), "pdg": [211, np.nan, 11], "px": [1, np.nan, 0], "py": [1, np.nan, 0]}
    detector = tpc(nan_is_no_track=True, unlisted=unlisted)
    labels = detector.event(columns(**truth)).labels
    assert labels["track_id"].tolist() == [4, -1, 6]
    assert labels["particle_class"].tolist() == [1, -1, 4]
    assert ("is_noise" in labels) == (noise is not None)
    assert noise is None or labels["is_noise"].tolist() == noise
    whole = {name: np.zeros(3) for name in truth}
    assert detector.event(columns(**whole)).labels.keys() == labels.keys()


def test_track_ids_below_zero_may_be_particles():
    assert tpc().event(columns(track_id=np.array([-5, 2, -1]))).labels["track_id"].tolist() == [-5, 2, -1]
    detector = tpc(negative_tracks=True, no_track=-1)
    ids = np.array([-5, 2, -1])
    for values in (ids, ids.astype(np.int32), ids.astype(np.float32)):
        assert detector.event(columns(track_id=values)).labels["track_id"].tolist() == [SECONDARY + 5, 2, -1]


def test_track_ids_that_were_rounded_are_refused():
    with pytest.raises(DataError, match="16777216"):
        tpc().event(columns(track_id=np.array([1, 2, 2**24], np.float32)))
    assert tpc().event(columns(track_id=np.array([1, 2, 2**24 - 1], np.float32))).labels["track_id"][2] == 2**24 - 1


def test_the_reader_is_found(file):
    path, _ = file
    assert [name for name in readers.names() if readers.build(name).recognises(path)] == ["root-rows"]
