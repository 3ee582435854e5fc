import math
from dataclasses import asdict
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fm4npp.errors import ConfigurationError, DataError
from fm4npp.metrics import EDGES, TrackSelection, TracksOfEvent, clopper_pearson, evaluate_tracks

MOMENTA = {  # track -> px, py, pz; track 3 is not in the table, track 4 flies along the beam, track 5 is not measured
    0: (0.3, 0.4, 0.0),
    1: (0.0, 0.15, 0.3),
    2: (-3.0, 4.0, -2.0),
    4: (0.0, 0.0, 1.0),
    5: (math.nan, 1.0, 1.0),
}
PARTICLES = {
    "track_id": np.array(list(MOMENTA)),
    **{name: np.array([p[axis] for p in MOMENTA.values()]) for axis, name in enumerate(("px", "py", "pz"))},
}

hits = st.tuples(st.integers(-1, 5), st.integers(-1, 4), st.integers(0, 8))
an_event = st.lists(hits, max_size=25).map(lambda rows: tuple(np.array(rows, dtype=np.int64).reshape(-1, 3).T))
some_events = st.lists(an_event, min_size=1, max_size=4)
selections = st.builds(
    TrackSelection,
    min_hits=st.integers(1, 3),
    pt_min=st.sampled_from([None, 0.15, 0.5]),
    pt_max=st.sampled_from([None, 0.5, 5.0]),
    abs_eta_max=st.sampled_from([None, 0.0, 1.0]),
)


def momentum(track):
    """pT and eta of a particle, None where unknown."""
    px, py, pz = MOMENTA.get(track, (math.nan,) * 3)
    pt = math.hypot(px, py)
    return (None, None) if math.isnan(pt) else (pt, math.atanh(pz / math.hypot(pt, pz)) if pt else None)


def passes(track, size, selection):
    """Whether a true track counts, None if it is long enough and only its momentum is not known."""
    pt, eta = momentum(track)
    if size < selection.min_hits:
        return False
    asked = (selection.pt_min is not None or selection.pt_max is not None, selection.abs_eta_max is not None)
    if (asked[0] and pt is None) or (asked[1] and eta is None):
        return None
    return (
        (selection.pt_min is None or pt >= selection.pt_min)
        and (selection.pt_max is None or pt <= selection.pt_max)
        and (selection.abs_eta_max is None or abs(eta) <= selection.abs_eta_max)
    )


def naive(events, selection):
    """Sets of hits, one track at a time."""
    tracks, found_tracks, scores, unknown = [], [], [], 0
    for true, predicted, weights in events:
        truth, found = (
            {track: set(np.flatnonzero(ids == track)) for track in set(ids.tolist()) - {-1}}
            for ids in (true, predicted)
        )
        counts = {track: passes(track, len(members), selection) for track, members in truth.items()}
        unknown += sum(value is None for value in counts.values())
        matched = {}
        for claimed in found.values():
            owner = [track for track, members in truth.items() if 2 * len(members & claimed) > len(claimed)]
            if owner and not counts[owner[0]]:
                continue
            match = bool(owner) and 2 * len(truth[owner[0]] & claimed) > len(truth[owner[0]])
            found_tracks.append(SimpleNamespace(tracks=len(truth), matched=match, fake=not owner))
            if match:
                matched[owner[0]] = sum(weights[hit] for hit in truth[owner[0]] & claimed)
        mine = [track for track in truth if counts[track]]
        tracks += [SimpleNamespace(track=track, tracks=len(truth), matched=track in matched) for track in mine]
        total = sum(weights[hit] for track in mine for hit in truth[track])
        if total:
            scores.append(sum(matched.values()) / total)
    return tracks, found_tracks, scores, unknown


def as_given(event):
    true, predicted, weights = event
    return TracksOfEvent(true, predicted, PARTICLES, weights)


@settings(max_examples=30, deadline=None)
@given(some_events, selections)
def test_selections_and_weighted_scores_equal_naive_counting(events, selection):
    tracks, found, scores, unknown = naive(events, selection)
    metrics = evaluate_tracks(map(as_given, events), selection)
    assert metrics.selection == selection
    assert metrics.num_true_tracks == len(tracks)
    assert metrics.num_predicted_tracks == len(found)
    assert metrics.num_matched == sum(track.matched for track in tracks)
    assert metrics.num_true_tracks_of_unknown_momentum == unknown
    every = evaluate_tracks(map(as_given, events))
    assert metrics.num_true_tracks_left_out == every.num_true_tracks - len(tracks)
    assert metrics.num_predicted_tracks_left_out == every.num_predicted_tracks - len(found)
    assert metrics.hit_weights == "given"
    assert metrics.trackml_score == (pytest.approx(np.mean(scores)) if scores else None)


@settings(max_examples=30, deadline=None)
@given(some_events, selections)
def test_binned_rates_equal_naive_counting(events, selection):
    tracks, found, _, _ = naive(events, selection)
    metrics = evaluate_tracks(map(as_given, events), selection)
    values = {
        "pt": [momentum(track.track)[0] for track in tracks],
        "eta": [momentum(track.track)[1] for track in tracks],
        "multiplicity": [track.tracks for track in tracks],
    }
    for name, of_tracks in values.items():
        table = metrics.efficiency_against[name]
        for entry in table:
            inside = [
                track.matched
                for track, value in zip(tracks, of_tracks, strict=True)
                if value is not None
                and (entry.low is None or value >= entry.low)
                and (entry.high is None or value < entry.high)
            ]
            assert (entry.true, entry.matched) == (len(inside), sum(inside))
            assert entry.efficiency == (sum(inside) / len(inside) if inside else None)
            assert entry.interval == clopper_pearson(sum(inside), len(inside))
        unknown = [track.matched for track, value in zip(tracks, of_tracks, strict=True) if value is None]
        rest = metrics.efficiency_where_unknown.get(name)
        assert (rest.true, rest.matched) == (len(unknown), sum(unknown)) if rest else not unknown
        assert sum(entry.true for entry in table) + len(unknown) == len(tracks)
        assert all(left.high == right.low for left, right in pairwise(table))
        assert all(entry.low in (None, *EDGES[name]) and entry.high in (None, *EDGES[name]) for entry in table)
    assert sum(entry.num_events for entry in metrics.purity_against["multiplicity"]) == len(events)
    for entry in metrics.purity_against["multiplicity"]:
        inside = [track for track in found if (entry.low or 0) <= track.tracks < (entry.high or math.inf)]
        matched, fake = sum(track.matched for track in inside), sum(track.fake for track in inside)
        assert (entry.matched, entry.fake, entry.predicted) == (matched, fake, len(inside))
        assert entry.purity == (matched / len(inside) if inside else None)
        assert entry.fake_rate == (fake / len(inside) if inside else None)
        assert entry.purity_interval == clopper_pearson(matched, len(inside))
        assert entry.fake_rate_interval == clopper_pearson(fake, len(inside))


@settings(max_examples=20, deadline=None)
@given(some_events, selections, st.integers(0, 10**6))
def test_names_and_order_change_nothing(events, selection, seed):
    random = np.random.default_rng(seed)
    names, table = random.permutation(20), random.permutation(len(MOMENTA))
    other = []
    for true, predicted, weights in events:
        order = random.permutation(len(true))
        renamed = np.where(true < 0, -7, names[true]), np.where(predicted < 0, -2, 10**12 - predicted)
        particles = {name: values[table] for name, values in PARTICLES.items()}
        particles["track_id"] = names[particles["track_id"]]
        other.append((renamed[0][order], renamed[1][order], particles, weights[order]))
    # Weights are whole numbers here, so that sums do not depend on the order.
    assert evaluate_tracks(other, selection) == evaluate_tracks(map(as_given, events), selection)


@settings(max_examples=30, deadline=None)
@given(some_events, selections)
def test_a_perfect_prediction_scores_exactly_one_in_every_bin(events, selection):
    perfect = [(true, true, PARTICLES, weights / 7) for true, _, weights in events]
    metrics = evaluate_tracks(perfect, selection)
    assert metrics.trackml_score in (1.0, None)
    assert metrics.intervals["trackml_score"] in ((1.0, 1.0), None)
    bins = [*metrics.efficiency_where_unknown.values(), *sum(metrics.efficiency_against.values(), ())]
    assert all(entry.efficiency in (1.0, None) for entry in bins)
    assert all(entry.purity in (1.0, None) for entry in metrics.purity_against["multiplicity"])
    assert all(entry.fake_rate in (0.0, None) for entry in metrics.purity_against["multiplicity"])


def test_a_hand_made_weighted_score():
    # Track 1 is matched by 3 of its 4 hits, which weigh 5 of 6; track 2 by hits of weight 2 of 4; 9 is unassigned.
    true = [1, 1, 1, 1, 2, 2, 2, -1]
    found = [1, 1, 1, 5, 2, 2, 6, 2]
    weights = [1, 1, 3, 1, 1, 1, 2, 9]
    assert evaluate_tracks([(true, found)]).num_matched == 2
    assert evaluate_tracks([(true, found, None, weights)]).trackml_score == (5 + 2) / (6 + 4)
    assert (
        evaluate_tracks([(true, found, None, np.ones(8))]).trackml_score
        == evaluate_tracks([(true, found)]).trackml_score
    )


def test_a_majority_is_of_spacepoints_and_not_of_weight():
    assert evaluate_tracks([([1, 1, 1], [1, 2, 2], None, [8, 1, 1])]).trackml_score == 2 / 10


def test_events_without_weight_or_tracks_are_in_no_mean_and_never_nan():
    metrics = evaluate_tracks([([1, 1], [1, 1], None, [0, 0]), ([], [], {}, []), ([-1], [3], PARTICLES, [1])])
    assert (metrics.trackml_score, metrics.num_events, metrics.num_empty_events) == (None, 3, 1)
    assert metrics.efficiency_against["pt"] == ()
    assert metrics.efficiency_where_unknown["pt"].true == 1
    assert [(entry.low, entry.high, entry.fake) for entry in metrics.purity_against["multiplicity"]] == [
        (None, 1, 1),
        (1, 2, 0),
    ]
    assert "nan" not in repr(metrics).lower()
    assert "nan" not in repr(evaluate_tracks([])).lower()


def test_merging_splitting_dropping_and_inventing_show_in_their_own_bins():
    true = [0] * 4 + [1] * 4 + [2] * 4 + [-1] * 2  # pT 0.5, 0.15 and 5 GeV/c
    merged_dropped_invented = [0] * 7 + [-1] * 5 + [7] * 2
    split_in_halves = [0] * 4 + [1, 1, 8, 8] + [9] * 4 + [-1] * 2
    events = [(true, predicted, PARTICLES) for predicted in (merged_dropped_invented, split_in_halves)]
    metrics = evaluate_tracks(events)
    by_pt = {entry.low: (entry.matched, entry.true) for entry in metrics.efficiency_against["pt"] if entry.true}
    assert by_pt == {0.5: (2, 2), 0.1: (0, 2), 5.0: (1, 2)}
    (entry,) = metrics.purity_against["multiplicity"]
    assert (entry.low, entry.high, entry.num_events) == (2, 4, 2)
    assert (entry.matched, entry.fake, entry.predicted) == (3, 1, 6)


def test_other_edges_and_quantities_of_particles():
    particles = {**PARTICLES, "vz": [1.0, 2.0, 3.0, 4.0, 5.0]}
    metrics = evaluate_tracks([([0, 1, 2, 3], [0, -1, 2, 3], particles)], edges={"vz": (0, 2), "p": (1,)})
    assert metrics.purity_against == {}
    assert [asdict(entry) for entry in metrics.efficiency_against["vz"]] == [
        {"low": 0, "high": 2, "matched": 1, "true": 1, "efficiency": 1, "interval": clopper_pearson(1, 1)},
        {"low": 2, "high": None, "matched": 1, "true": 2, "efficiency": 0.5, "interval": clopper_pearson(1, 2)},
    ]
    assert metrics.efficiency_where_unknown["vz"].matched == metrics.efficiency_where_unknown["vz"].true == 1
    assert [(entry.low, entry.true) for entry in metrics.efficiency_against["p"]] == [(None, 2), (1, 1)]


@pytest.mark.parametrize(
    ("selection", "counting"),
    [
        (TrackSelection(pt_min=0.5), [0, 2]),
        (TrackSelection(pt_max=0.5), [0, 1, 4]),
        (TrackSelection(abs_eta_max=0.39), [0]),
        (TrackSelection(abs_eta_max=0.4), [0, 2]),
        (TrackSelection(abs_eta_max=1.5), [0, 1, 2]),
        (TrackSelection(min_hits=2), []),
    ],
)
def test_bounds_belong_to_a_selection_and_both_directions_count(selection, counting):
    for track in range(6):
        assert evaluate_tracks([([track], [track], PARTICLES)], selection).num_true_tracks == (track in counting)


def test_a_selection_says_what_it_is():
    assert str(TrackSelection()) == "true tracks of at least 1 spacepoint"
    everything = TrackSelection(3, 0.5, 10, 1.1)
    assert str(everything) == "true tracks of at least 3 spacepoints, pT >= 0.5 GeV/c, pT <= 10 GeV/c, |eta| <= 1.1"


@pytest.mark.parametrize(
    "wrong",
    [{"min_hits": 0}, {"pt_min": -1.0}, {"pt_min": 2.0, "pt_max": 1.0}, {"abs_eta_max": -0.1}, {"pt_min": math.nan}],
)
def test_impossible_selections_are_refused(wrong):
    with pytest.raises(ConfigurationError, match="no track can be selected by: true tracks of"):
        TrackSelection(**wrong)


@pytest.mark.parametrize("edges", [(), (1, 1), (2, 1), (0, math.nan), (0, math.inf)])
def test_edges_must_increase(edges):
    with pytest.raises(ConfigurationError, match="the bin edges of pt"):
        evaluate_tracks([], edges={"pt": edges})


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1], "event 1: weights of shape .1,. for 2 spacepoints"),
        ([1, -1], "event 1: the weight -1.0 of spacepoint 1"),
        ([math.nan, 1], "event 1: the weight nan of spacepoint 0"),
        (None, "event 1: some events have weights .* give all or none"),
    ],
)
def test_wrong_weights_are_explained(weights, message):
    with pytest.raises(DataError, match=message):
        evaluate_tracks([([1], [1], None, [1.0]), ([1, 2], [1, 2], None, weights)])
