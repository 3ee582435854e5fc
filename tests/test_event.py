import copy
import dataclasses
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fm4npp.errors import DataError
from fm4npp.event import PARTICLE_CLASSES, Event, exact, particle_class


def make(count=4, **fields):
    values = {
        "positions": np.arange(3.0 * count).reshape(count, 3),
        "features": np.arange(2.0 * count).reshape(count, 2),
        "feature_names": ("energy", "time"),
        "labels": {"track_id": np.arange(count), "is_noise": np.arange(count) % 2, "layer": np.arange(count) + 0.5},
        "particles": {"pdg": np.array([11, 211])},
        "scalars": {"trigger": 1},
        "detector": "mine",
        "event_id": 9,
    }
    return Event(**{**values, **fields})


def test_types_and_defaults():
    event = make()
    assert len(event) == 4
    assert (event.positions.dtype, event.features.dtype, event.ids.dtype) == (np.float64, np.float32, np.int16)
    assert make(positions=np.ones((4, 3), np.float32)).positions.dtype == np.float32
    assert make(positions=np.ones((4, 3), int)).positions.dtype == np.float32
    assert event.labels["track_id"].dtype == np.int64
    assert event.labels["is_noise"].tolist() == [False, True, False, True]
    assert event.labels["layer"].tolist() == [0.5, 1.5, 2.5, 3.5]
    assert event.ids.tolist() == [0, 0, 0, 0]
    assert event.subsystems == ("mine",)
    assert event.feature("time").tolist() == [1.0, 3.0, 5.0, 7.0]
    with pytest.raises(DataError, match="has no feature 'charge'"):
        event.feature("charge")


def test_big_endian_arrays_become_native():
    event = make(positions=np.ones((4, 3), ">f8"), labels={"layer": np.arange(4, dtype=">i4")})
    assert event.positions.dtype.isnative
    assert event.labels["layer"].dtype == np.int32
    assert event.labels["layer"].tolist() == [0, 1, 2, 3]


def test_nothing_can_be_changed_and_nothing_is_shared():
    positions, track_ids = np.zeros((4, 3), np.float32), np.arange(4)
    event = make(positions=positions, labels={"track_id": track_ids})
    positions += 1
    track_ids += 1
    assert event.positions.max() == 0
    assert event.labels["track_id"].tolist() == [0, 1, 2, 3]
    for array in (event.positions, event.features, event.ids, event.labels["track_id"], event.particles["pdg"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 5
    with pytest.raises(TypeError):
        event.labels["track_id"] = track_ids
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.detector = "other"


@pytest.mark.parametrize("positions", [[], np.empty((0, 3))])
def test_an_event_without_spacepoints(positions):
    event = Event(positions=positions, features=[], feature_names=("energy",), labels={"track_id": []})
    assert len(event) == 0
    assert event.positions.shape == (0, 3)
    assert event.features.shape == (0, 1)
    assert Event(positions=positions, features=[]).features.shape == (0, 0)
    assert Event(positions=np.ones((2, 3)), features=[]).features.shape == (2, 0)


@given(st.integers(0, 8).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.integers(0, max(n - 1, 0)), max_size=n))))
def test_take_moves_everything_together(drawn):
    count, index = drawn
    event = make(count, detector_ids=np.arange(count) % 2, subsystems=("a", "b"))
    taken = event.take(np.array(index, dtype=int))
    for place, hit in enumerate(index):
        assert taken.positions[place].tolist() == event.positions[hit].tolist()
        assert taken.features[place].tolist() == event.features[hit].tolist()
        assert taken.ids[place] == event.ids[hit]
        assert all(taken.labels[name][place] == event.labels[name][hit] for name in event.labels)
    assert len(taken) == len(index)
    assert taken.particles["pdg"].tolist() == [11, 211]
    assert (taken.event_id, taken.scalars, taken.detector) == (9, {"trigger": 1}, "mine")


def test_take_by_mask():
    assert make().take(np.array([True, False, False, True])).labels["track_id"].tolist() == [0, 3]


@pytest.mark.parametrize("copied", [lambda event: pickle.loads(pickle.dumps(event)), copy.deepcopy, copy.copy])
def test_copies_and_pickles(copied):
    event = make(detector_ids=[0, 1, 0, 1], subsystems=("a", "b"))
    other = copied(event)
    for name in ("positions", "features", "detector_ids"):
        assert getattr(other, name).tobytes() == getattr(event, name).tobytes()
    assert {name: values.tolist() for name, values in other.labels.items()} == {
        name: values.tolist() for name, values in event.labels.items()
    }
    assert (other.scalars, other.subsystems, other.event_id) == (event.scalars, event.subsystems, event.event_id)
    assert not other.positions.flags.writeable


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"positions": np.ones((4, 2))}, "positions"),
        ({"positions": np.ones((2, 6))}, "positions"),
        ({"positions": np.ones(12)}, "positions"),
        ({"positions": np.array([["a", "b", "c"]] * 4)}, "positions"),
        ({"positions": np.full((4, 3), np.nan)}, "4 spacepoints with a position that is not finite"),
        ({"positions": np.full((4, 3), -np.inf)}, "not finite"),
        ({"features": np.ones((4, 1))}, "features"),
        ({"features": np.ones((2, 4))}, "features"),
        ({"features": np.ones((3, 2))}, "3 values of features for 4 spacepoints"),
        ({"features": np.array([[1.0, np.inf]] * 4)}, "not finite"),
        ({"feature_names": ("energy", "energy")}, "two features of one name"),
        ({"feature_names": ()}, "features"),
        ({"labels": {"track_id": [1, 2, 3]}}, "3 values of track_id for 4 spacepoints"),
        ({"labels": {"track_id": [1, 2.5, 3, 4]}}, "track_id cannot be int64: 2.5"),
        ({"labels": {"track_id": [1, np.nan, 3, 4]}}, "track_id cannot be int64: nan"),
        ({"labels": {"track_id": np.full(4, 2**63, np.uint64)}}, "track_id cannot be int64"),
        ({"labels": {"is_noise": [0, 1, 2, 0]}}, "is_noise cannot be bool: 2"),
        ({"labels": {"track_id": np.zeros((4, 1))}}, "track_id"),
        ({"labels": {"track_id": 3}}, "track_id"),
        ({"labels": {"track_id": ["a", "b", "c", "d"]}}, "track_id"),
        ({"particles": {"pdg": [1], "px": [1.0, 2.0]}}, "different lengths"),
        ({"detector_ids": [0, 0, 0]}, "3 values of detector_ids"),
        ({"detector_ids": [0, 0, 0, 1]}, "outside the list of subsystems"),
        ({"detector_ids": [0, 0, 0, -1]}, "outside"),
        ({"detector_ids": [0, 0, 0, -1], "detector": ""}, "outside"),
        ({"detector_ids": [0, 0, 0, 65536]}, "detector_ids cannot be int16"),
    ],
)
def test_what_does_not_fit_is_refused(fields, words):
    with pytest.raises(DataError, match=words) as error:
        make(**fields)
    assert "\n" not in str(error.value)
    assert error.value.event == 9


def test_exact_keeps_values():
    assert exact([1.0, 2.0], np.int32, "it").tolist() == [1, 2]
    assert np.isnan(exact(np.array([np.nan, 0.5]), np.float32, "it")[0])
    with pytest.raises(DataError, match=r"it cannot be float32: 0\.1 \(entry 1\)"):
        exact([0.5, 0.1], np.float32, "it")


def test_particle_classes():
    codes = {211: "pion", -211: "pion", 321: "kaon", -321: "kaon", 2212: "proton", -2212: "proton", 11: "electron"}
    codes |= {-11: "electron", 22: "other", 13: "other", 0: "other", 111: "other", 2112: "other"}
    assert [PARTICLE_CLASSES[index] for index in particle_class(np.array(list(codes)))] == list(codes.values())
    assert particle_class(np.array([211.0])).tolist() == [1]
    with pytest.raises(DataError, match="pdg"):
        particle_class(np.array([np.nan]))
