import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, adjusted_rand_score, f1_score, precision_score, recall_score
from sklearn.metrics import confusion_matrix as sklearn_confusion_matrix

from fm4npp.errors import DataError
from fm4npp.metrics import confusion_matrix, evaluate_classes, evaluate_tracks, per_event_ari

hits = st.tuples(st.integers(-1, 5), st.integers(-1, 5))
an_event = st.lists(hits, max_size=30).map(lambda pairs: tuple(np.array(pairs, dtype=np.int64).reshape(-1, 2).T))
some_events = st.lists(an_event, min_size=1, max_size=5)


def naive_counts(events, min_hits=1):
    """True tracks, found tracks and double-majority matches, set by set."""
    num_true = num_predicted = num_matched = 0
    for true, predicted in events:
        truth, found = (
            {
                track: {hit for hit, owner in enumerate(ids) if owner == track}
                for track in set(ids.tolist())
                if track >= 0
            }
            for ids in (true, predicted)
        )
        num_true += sum(len(members) >= min_hits for members in truth.values())
        for claimed in found.values():
            matches = [
                members
                for members in truth.values()
                if len(members & claimed) > len(claimed) / 2 and len(members & claimed) > len(members) / 2
            ]
            assert len(matches) <= 1
            num_predicted += not (matches and len(matches[0]) < min_hits)
            num_matched += bool(matches and len(matches[0]) >= min_hits)
    return num_true, num_predicted, num_matched


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
    metrics = evaluate_tracks(events, min_hits=min_hits)
    num_true, num_predicted, num_matched = naive_counts(events, min_hits)
    assert (metrics.num_true_tracks, metrics.num_predicted_tracks, metrics.num_matched) == (
        num_true,
        num_predicted,
        num_matched,
    )
    assert metrics.efficiency == (num_matched / num_true if num_true else None)
    assert metrics.purity == (num_matched / num_predicted if num_predicted else None)
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
    metrics = evaluate_tracks([event], min_hits=3)
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


@settings(max_examples=100, deadline=None)
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
