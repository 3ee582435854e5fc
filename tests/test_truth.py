"""What heads are trained towards: labels of spacepoints, numbers of their particles, numbers of events."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fm4npp.errors import DataError
from fm4npp.event import Event
from fm4npp.truth import DERIVED, missing, truth


def event(tracks=(5, -1, 2, 5, 9), particles=(2, 5, 7)):
    momenta = {name: np.arange(1.0, len(particles) + 1) * scale for name, scale in (("px", 3), ("py", 4), ("pz", 12))}
    return Event(
        positions=np.ones((len(tracks), 3)),
        features=np.empty((len(tracks), 0)),
        labels={"track_id": np.array(tracks, np.int64)},
        particles={"track_id": np.array(particles, np.int64), **momenta},
        scalars={"trigger": 1},
        event_id=7,
        source="a.parquet",
    )


def test_every_spacepoint_gets_the_number_of_its_own_particle():
    np.testing.assert_array_equal(truth(event(), "particle.px"), [6, np.nan, 3, 6, np.nan])
    np.testing.assert_allclose(truth(event(), "particle.pt"), [10, np.nan, 5, 10, np.nan])
    np.testing.assert_allclose(truth(event(), "particle.p"), [26, np.nan, 13, 26, np.nan])
    np.testing.assert_allclose(truth(event(), "particle.log_pt"), np.log([10, np.nan, 5, 10, np.nan]))
    np.testing.assert_allclose(np.sinh(truth(event(), "particle.eta")[:1]), 12 / 5)
    np.testing.assert_allclose(truth(event(), "particle.phi")[:1], np.arctan2(4, 3))


def test_an_event_has_one_of_its_scalars():
    np.testing.assert_array_equal(truth(event(), "event.trigger"), [1.0])
    np.testing.assert_array_equal(truth(event(), "track_id"), [5, -1, 2, 5, 9])


@pytest.mark.parametrize("name", ["particle.charge", "event.weight", "is_noise", "particle."])
def test_what_is_not_there_is_one_line_with_file_and_event(name):
    with pytest.raises(DataError, match=f"a.parquet: event 7: has no label '{name}'; convert") as caught:
        truth(event(), name)
    assert "\n" not in str(caught.value)


def test_a_particle_at_rest_has_no_logarithm_or_pseudorapidity():
    still = Event(
        positions=np.ones((1, 3)),
        features=np.empty((1, 0)),
        labels={"track_id": [0]},
        particles={"track_id": [0], "px": [0.0], "py": [0.0], "pz": [0.0]},
    )
    assert truth(still, "particle.pt") == 0
    assert np.isnan([truth(still, "particle.log_pt"), truth(still, "particle.eta")]).all()


@given(
    st.lists(st.integers(-2, 6), max_size=12),
    st.lists(st.integers(0, 6), max_size=7, unique=True),
)
def test_owners_are_found_as_a_dictionary_finds_them(tracks, particles):
    given_event = event(tracks, particles)
    momentum = dict(zip(particles, given_event.particles["px"], strict=True))
    expected = [momentum.get(track, np.nan) for track in tracks]
    np.testing.assert_array_equal(truth(given_event, "particle.px"), expected)


def test_what_is_missing_is_known_from_the_names_alone():
    wanted = ["track_id", "particle.pt", "particle.pz", "event.trigger"]
    assert missing(wanted, ["track_id"], ["track_id", "px", "py", "pz"], ["trigger"]) == []
    assert missing(wanted, [], ["track_id", "px"], []) == sorted(wanted)
    assert set(DERIVED) == {"pt", "log_pt", "p", "eta", "phi"}
