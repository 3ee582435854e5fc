from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, adjusted_rand_score, f1_score, precision_score, recall_score
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix

from fm4npp.errors import DataError
from fm4npp.metrics import (
    TrackSelection,
    clopper_pearson,
    confusion_matrix,
    evaluate_classes,
    evaluate_tracks,
    per_event_ari,
)
from fm4npp.metrics.contingency import contingency
from fm4npp.metrics.counting import TrackCounts, match_tracks, track_counts
from fm4npp.metrics.selection import selected

hits = st.tuples(st.integers(-1, 5), st.integers(-1, 5))
an_event = st.lists(hits, max_size=30).map(lambda pairs: tuple(np.array(pairs, dtype=np.int64).reshape(-1, 2).T))
some_events = st.lists(an_event, min_size=1, max_size=5)


def naive_counts(events, min_hits=1):
    """What `track_counts` adds up, set by set."""
    total = Counter()
    for true, predicted in events:
        truth, found = (
            {
                track: {hit for hit, owner in enumerate(ids) if owner == track}
                for track in set(ids.tolist())
                if track >= 0
            }
            for ids in (true, predicted)
        )
        long = {track: members for track, members in truth.items() if len(members) >= min_hits}
        owners = {}
        for name, claimed in found.items():
            own = [track for track, members in truth.items() if len(members & claimed) > len(claimed) / 2]
            assert len(own) <= 1
            owners[name] = own[0] if own else None
        counted = {name: track for name, track in owners.items() if track is None or track in long}
        parts = Counter(track for track in counted.values() if track is not None)
        total["true"] += len(long)
        total["predicted"] += len(counted)
        total["fake"] += sum(track is None for track in counted.values())
        total["duplicate"] += sum(count - 1 for count in parts.values())
        total["split"] += sum(count > 1 for count in parts.values())
        total["true_weight"] += sum(len(members) for members in long.values())
        for name, track in counted.items():
            held = [members for members in long.values() if len(members & found[name]) > len(members) / 2]
            total["merged"] += len(held) > 1
            shared = len(found[name] & long[track]) if track is not None else 0
            if track is not None and shared > len(long[track]) / 2:
                total["matched"] += 1
                total["matched_weight"] += shared
                total["shared_of_true"] += shared / len(long[track])
                total["shared_of_predicted"] += shared / len(found[name])
    return total


@settings(max_examples=100, deadline=None)
@given(an_event)
def test_ari_equals_scikit_learn(event):
    true, predicted = event
    ari = per_event_ari(true, predicted)
    if len(true) == 0:
        assert ari is None
    else:
        assert ari == pytest.approx(adjusted_rand_score(true, predicted), abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(some_events, st.integers(1, 4))
def test_track_metrics_equal_naive_counting(events, min_hits):
    selection = TrackSelection(min_hits=min_hits)
    metrics = evaluate_tracks(events, selection)
    naive = naive_counts(events, min_hits)
    tables = [contingency(*event) for event in events]
    summed = [track_counts(table, match_tracks(table, selected(table, selection)[0])) for table in tables]
    for name in TrackCounts._fields:
        assert sum(getattr(counts, name) for counts in summed) == pytest.approx(naive[name]), name
    for rate, part, whole in (
        ("efficiency", "matched", "true"),
        ("purity", "matched", "predicted"),
        ("fake_rate", "fake", "predicted"),
        ("duplicate_rate", "duplicate", "predicted"),
        ("split_rate", "split", "true"),
        ("merge_rate", "merged", "predicted"),
        ("hit_efficiency", "shared_of_true", "matched"),
        ("hit_purity", "shared_of_predicted", "matched"),
    ):
        expected = naive[part] / naive[whole] if naive[whole] else None
        assert getattr(metrics, rate) == (None if expected is None else pytest.approx(expected)), rate
    scores = [
        one["matched_weight"] / one["true_weight"]
        for event in events
        if (one := naive_counts([event], min_hits))["true_weight"]
    ]
    assert metrics.trackml_score == (pytest.approx(np.mean(scores)) if scores else None)
    assert metrics.num_events == len(events)
    assert metrics.num_hits == sum(len(true) for true, _ in events)


@settings(max_examples=50, deadline=None)
@given(some_events)
def test_both_means_of_ari_equal_scikit_learn(events):
    filled = [event for event in events if len(event[0])]
    metrics = evaluate_tracks(events)
    assert metrics.num_empty_events == len(events) - len(filled)
    assert metrics.num_single_hit_events == sum(len(true) == 1 for true, _ in events)
    if not filled:
        assert metrics.ari_per_event_mean is None
        assert metrics.ari_pooled is None
        return
    scores = [adjusted_rand_score(*event) for event in filled]
    assert metrics.ari_per_event_mean == pytest.approx(np.mean(scores), abs=1e-12)
    true, predicted = (
        np.concatenate([100 * index + event[side] for index, event in enumerate(filled)]) for side in (0, 1)
    )
    assert metrics.ari_pooled == pytest.approx(adjusted_rand_score(true, predicted), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(some_events)
def test_a_perfect_prediction_scores_exactly_one(events):
    metrics = evaluate_tracks([(true, true) for true, _ in events])
    assert metrics.ari_per_event_mean in (1.0, None)
    assert metrics.ari_pooled in (1.0, None)
    assert metrics.efficiency in (1.0, None)
    assert metrics.purity in (1.0, None)
    assert metrics.num_true_tracks == metrics.num_predicted_tracks == metrics.num_matched
    for name in ("hit_efficiency", "hit_purity", "trackml_score"):
        assert getattr(metrics, name) in (1.0, None)
    for name in ("fake_rate", "duplicate_rate", "split_rate", "merge_rate"):
        assert getattr(metrics, name) in (0.0, None)
    assert all(found.efficiency in (1.0, None) for found in metrics.efficiency_against["multiplicity"])
    for found in metrics.purity_against["multiplicity"]:
        assert found.purity in (1.0, None)
        assert found.fake_rate in (0.0, None)


@settings(max_examples=50, deadline=None)
@given(some_events, st.permutations(range(6)), st.integers(0, 10**6), st.integers(1, 3))
def test_names_and_order_do_not_matter(events, names, seed, min_hits):
    random = np.random.default_rng(seed)
    renamed = []
    for true, predicted in events:
        order = random.permutation(len(true))
        other = np.where(predicted < 0, -random.integers(1, 9), np.array(names)[predicted] * 10**15)
        renamed.append((true[order] * 7 + (true[order] < 0), other[order]))
    assert evaluate_tracks(renamed, min_hits) == evaluate_tracks(events, min_hits)


TRUE = [1] * 4 + [2] * 6


@pytest.mark.parametrize(
    ("predicted", "efficiency", "purity"),
    [
        pytest.param([1] * 4 + [2] * 4 + [3] * 2, 1, 2 / 3, id="a track split 4 to 2: the larger part still matches"),
        pytest.param([1] * 4 + [2] * 3 + [3] * 3, 1 / 2, 1 / 3, id="a track split in halves: none has a majority"),
        pytest.param([1] * 10, 1 / 2, 1, id="both merged: the larger has 6 of 10"),
        pytest.param([-1] * 4 + [2] * 6, 1 / 2, 1, id="a track dropped"),
        pytest.param([-1] * 10, 0, None, id="everything dropped"),
        pytest.param([1] * 3 + [5] + [2] * 6, 1, 2 / 3, id="a track invented"),
        pytest.param([1] * 2 + [2] * 8, 1 / 2, 1 / 2, id="2 of 4 is no majority"),
    ],
)
def test_hand_computed_efficiency_and_purity(predicted, efficiency, purity):
    metrics = evaluate_tracks([(TRUE, predicted)])
    assert (metrics.efficiency, metrics.purity) == (efficiency, purity)


@pytest.mark.parametrize(
    ("predicted", "fake", "duplicate", "split", "merge", "hit_efficiency", "hit_purity", "score"),
    [
        pytest.param([1] * 4 + [2] * 4 + [3] * 2, 0, 1 / 3, 1 / 2, 0, 5 / 6, 1, 8 / 10, id="split 4 to 2"),
        pytest.param([1] * 4 + [2] * 3 + [3] * 3, 0, 1 / 3, 1 / 2, 0, 1, 1, 4 / 10, id="split in halves"),
        pytest.param([1] * 10, 0, 0, 0, 1, 1, 6 / 10, 6 / 10, id="merged"),
        pytest.param([-1] * 4 + [2] * 6, 0, 0, 0, 0, 1, 1, 6 / 10, id="dropped"),
        pytest.param([1, 1, 5, 5] + [5] * 2 + [2] * 4, 1 / 3, 0, 0, 0, 4 / 6, 1, 4 / 10, id="invented of halves"),
    ],
)
def test_hand_computed_faults(predicted, fake, duplicate, split, merge, hit_efficiency, hit_purity, score):
    metrics = evaluate_tracks([(TRUE, predicted)])
    rates = metrics.fake_rate, metrics.duplicate_rate, metrics.split_rate, metrics.merge_rate
    assert rates == pytest.approx((fake, duplicate, split, merge))
    means = metrics.hit_efficiency, metrics.hit_purity, metrics.trackml_score
    assert means == pytest.approx((hit_efficiency, hit_purity, score))


def test_fragments_of_short_true_tracks_do_not_count():
    metrics = evaluate_tracks([([1] * 6 + [2] * 3, [1] * 6 + [2] * 1 + [3] * 2)], TrackSelection(min_hits=4))
    assert (metrics.num_predicted_tracks, metrics.purity, metrics.fake_rate) == (1, 1, 0)


def test_intervals_hold_the_metric_and_shrink_with_the_number_of_events():
    event = TRUE, [1] * 4 + [2] * 4 + [3] * 2
    other = TRUE, [1] * 10
    few, many = (evaluate_tracks([event, other] * count) for count in (5, 50))
    for name, (low, high) in few.intervals.items():
        assert low <= getattr(few, name) <= high
        narrower_low, narrower_high = many.intervals[name]
        assert narrower_high - narrower_low < high - low or high == low
    assert few.intervals["efficiency"] == clopper_pearson(15, 20)


def test_equally_long_tracks_merged_do_not_match():
    metrics = evaluate_tracks([([1] * 5 + [2] * 5, [1] * 10)])
    assert (metrics.efficiency, metrics.purity, metrics.ari_pooled) == (0, 0, 0)


def test_unassigned_spacepoints_count_in_the_size_of_a_found_track():
    assert evaluate_tracks([([1] * 4 + [-1] * 3, [1] * 7)]).num_matched == 1
    assert evaluate_tracks([([1] * 4 + [-1] * 4, [1] * 8)]).num_matched == 0


def test_unassigned_spacepoints_are_one_cluster_of_the_rand_index():
    assert per_event_ari([-1, -1, 1, 1], [3, 3, -1, -1]) == 1
    assert per_event_ari([-1, -2, 1, 1], [3, 3, 4, 4]) == 1
    assert per_event_ari([-1, -1, 1, 1], [3, 4, 5, 5]) == pytest.approx(adjusted_rand_score([0, 0, 1, 1], [3, 4, 5, 5]))


def test_short_true_tracks_can_be_left_out():
    event = [1, 1, 1, 1, 2, 2], [1, 1, 1, 1, 2, 2]
    metrics = evaluate_tracks([event], TrackSelection(min_hits=3))
    assert (metrics.num_true_tracks, metrics.num_predicted_tracks, metrics.num_matched) == (1, 1, 1)
    assert (metrics.efficiency, metrics.purity) == (1, 1)


def test_ratios_of_nothing_are_none():
    metrics = evaluate_tracks([])
    assert (metrics.ari_per_event_mean, metrics.ari_pooled, metrics.efficiency, metrics.purity) == (None,) * 4
    metrics = evaluate_tracks([([], []), ([-1], [-1])])
    assert (metrics.efficiency, metrics.purity, metrics.num_empty_events) == (None, None, 1)
    assert metrics.ari_per_event_mean == 1


def test_lengths_must_agree_and_the_event_is_named():
    with pytest.raises(DataError, match="event 1: true track ids"):
        evaluate_tracks([([1], [1]), ([1, 2], [1])])


def test_pair_counts_do_not_overflow():
    one_track = np.zeros(200_000, dtype=np.int64)
    halves = np.arange(200_000) % 2
    metrics = evaluate_tracks([(halves, halves)] * 3 + [(halves, one_track)])
    assert 0 < metrics.ari_pooled < 1
    assert metrics.ari_per_event_mean == 0.75


labels = st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 3)), max_size=40)
class_events = st.lists(labels.map(lambda pairs: tuple(np.array(pairs, dtype=np.int64).reshape(-1, 2).T)), max_size=4)


@settings(max_examples=30, deadline=None)
@given(class_events)
def test_class_metrics_equal_scikit_learn(events):
    metrics = evaluate_classes(events, num_classes=4)
    true, predicted = (np.concatenate([np.zeros(0, np.int64), *(event[side] for event in events)]) for side in (0, 1))
    known = true >= 0
    assert (metrics.num_events, metrics.num_hits, metrics.num_unlabelled) == (len(events), known.sum(), (~known).sum())
    if not known.any():
        assert (metrics.accuracy, metrics.macro_precision, metrics.macro_recall, metrics.macro_f1) == (None,) * 4
        assert metrics.recall == (None,) * 4
        return
    true, predicted = true[known], predicted[known]
    present = np.unique(true)
    options = {"labels": present, "zero_division": 0}
    assert metrics.accuracy == pytest.approx(accuracy_score(true, predicted))
    for ours, per_class, theirs in (
        (metrics.macro_precision, metrics.precision, precision_score),
        (metrics.macro_recall, metrics.recall, recall_score),
        (metrics.macro_f1, metrics.f1, f1_score),
    ):
        assert ours == pytest.approx(theirs(true, predicted, average="macro", **options))
        assert [per_class[index] for index in present] == pytest.approx(
            theirs(true, predicted, average=None, **options)
        )
    assert np.array_equal(metrics.confusion, sklearn_confusion_matrix(true, predicted, labels=range(4)))


def test_hand_computed_class_metrics():
    metrics = evaluate_classes([([0, 0, 1, -1], [0, 3, 0, 2]), ([1], [0])], num_classes=5)
    assert metrics.confusion[0] == (1, 0, 0, 1, 0)
    assert metrics.accuracy == 1 / 4
    assert metrics.precision == (1 / 3, 0, None, 0, None)
    assert metrics.recall == (1 / 2, 0, None, None, None)
    assert metrics.f1 == (2 / 5, 0, None, 0, None)
    assert (metrics.macro_precision, metrics.macro_recall) == (1 / 6, 1 / 4)
    assert metrics.num_unlabelled == 1


def test_perfect_classes_score_exactly_one():
    metrics = evaluate_classes([([0, 2, 2], [0, 2, 2])], num_classes=3)
    assert (metrics.accuracy, metrics.macro_precision, metrics.macro_recall, metrics.macro_f1) == (1, 1, 1, 1)


def test_boolean_classes():
    assert confusion_matrix(np.array([True, False]), np.array([True, True]), 2).tolist() == [[0, 1], [0, 1]]


@pytest.mark.parametrize(
    ("true", "predicted", "message"),
    [
        ([0], [0, 1], "event 0: true classes of shape"),
        ([3], [0], "event 0: the true class 3 is not one of 0 to 2"),
        ([0], [-1], "event 0: the predicted class -1"),
        ([0], [3], "event 0: the predicted class 3"),
    ],
)
def test_wrong_classes_are_explained(true, predicted, message):
    with pytest.raises(DataError, match=message):
        evaluate_classes([(true, predicted)], num_classes=3)
