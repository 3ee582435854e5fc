import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from fm4npp.errors import DataError
from fm4npp.metrics import evaluate_probabilities
from fm4npp.metrics.calibration import (
    LEAST_PROBABILITY,
    calibration_error,
    equal_count_edges,
    equal_width_edges,
    reliability_sums,
)
from fm4npp.metrics.ranking import CURVE_POINTS, average_precision, roc_auc, roc_curve, threshold_counts

scored = st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30)
counts = st.tuples(*[st.integers(0, 4)] * 3).filter(any)
point = st.tuples(st.integers(-1, 2), counts)
an_event = st.lists(point, max_size=15)
some_events = st.lists(an_event, max_size=5)


def as_arrays(event):
    """Few different probabilities, so that many are equal."""
    chances = np.array([np.array(numbers) / sum(numbers) for _, numbers in event]).reshape(-1, 3)
    return np.array([label for label, _ in event], dtype=np.int64), chances


@settings(max_examples=40, deadline=None)
@given(scored)
def test_areas_equal_scikit_learn_and_mann_whitney(pairs):
    scores, positive = np.array([score for score, _ in pairs], float), np.array([truth for _, truth in pairs], bool)
    above = threshold_counts(scores, positive)
    if positive.all() or not positive.any():
        assert np.isnan(roc_auc(above))
        assert np.isnan(average_precision(above))
        assert roc_curve(above).shape == (0, 2)
        return
    assert roc_auc(above) == pytest.approx(roc_auc_score(positive, scores), abs=1e-12)
    statistic = mannwhitneyu(scores[positive], scores[~positive]).statistic
    assert roc_auc(above) == pytest.approx(statistic / (positive.sum() * (~positive).sum()), abs=1e-12)
    assert average_precision(above) == pytest.approx(average_precision_score(positive, scores), abs=1e-12)
    theirs = np.stack(sklearn_roc_curve(positive, scores, drop_intermediate=False)[:2], axis=1)
    assert roc_curve(above) == pytest.approx(theirs)


def test_thinned_curves_keep_the_ends_and_stay_close():
    random = np.random.default_rng(0)
    positive = random.random(5000) < 0.1
    above = threshold_counts(random.normal(size=5000) + 2 * positive, positive)
    curve = roc_curve(above)
    assert len(curve) <= CURVE_POINTS
    assert (curve[0].tolist(), curve[-1].tolist()) == ([0, 0], [1, 1])
    assert (np.diff(curve, axis=0) >= 0).all()
    assert np.trapezoid(curve[:, 1], curve[:, 0]) == pytest.approx(roc_auc(above), abs=1e-3)


@settings(max_examples=20, deadline=None)
@given(some_events)
def test_probability_metrics_equal_scikit_learn(events):
    events = [as_arrays(event) for event in events]
    metrics = evaluate_probabilities(events, 3)
    true, chances = (
        np.concatenate([empty, *values])
        for empty, values in (
            (np.zeros(0, np.int64), [event[0] for event in events]),
            (np.zeros((0, 3)), [event[1] for event in events]),
        )
    )
    known = true >= 0
    true, chances = true[known], chances[known]
    assert (metrics.num_events, metrics.num_hits, metrics.num_unlabelled) == (len(events), len(true), (~known).sum())
    assert metrics.num_empty_events == sum((labels < 0).all() for labels, _ in events)
    assert "nan" not in repr(metrics).lower()
    if not len(true):
        assert (metrics.brier_score, metrics.log_loss, metrics.expected_calibration_error) == (None,) * 3
        assert metrics.expected_calibration_error_equal_count is metrics.macro_roc_auc is None
        return
    one_hot = np.eye(3)[true]
    assert metrics.brier_score == pytest.approx(np.mean(((chances - one_hot) ** 2).sum(axis=1)))
    at_least = np.maximum((chances * one_hot).sum(axis=1), LEAST_PROBABILITY)
    assert metrics.log_loss == pytest.approx(-np.mean(np.log(at_least)))
    defined = [index for index in range(3) if 0 < (true == index).sum() < len(true)]
    for index in range(3):
        ours = metrics.roc_auc[index], metrics.average_precision[index]
        mine = true == index
        theirs = (
            (roc_auc_score(mine, chances[:, index]), average_precision_score(mine, chances[:, index]))
            if (index in defined)
            else (None, None)
        )
        assert ours == (pytest.approx(theirs) if index in defined else theirs)
        assert bool(metrics.roc_curves[index]) == (index in defined)
        assert metrics.prevalence[index] == pytest.approx(mine.mean())
    means = [
        np.mean([values[index] for index in defined]) if defined else None
        for values in (metrics.roc_auc, metrics.average_precision)
    ]
    assert [metrics.macro_roc_auc, metrics.macro_average_precision] == (pytest.approx(means) if defined else means)


def test_scores_of_probabilities_equal_scikit_learn():
    random = np.random.default_rng(1)
    chances = random.dirichlet([0.5, 1.0, 2.0, 0.7], size=400)
    true = np.array([random.choice(4, p=row) for row in chances])
    metrics = evaluate_probabilities([(true[:100], chances[:100]), (true[100:], chances[100:])], 4)
    assert metrics.brier_score == pytest.approx(brier_score_loss(true, chances, labels=range(4), scale_by_half=False))
    assert metrics.log_loss == pytest.approx(log_loss(true, chances, labels=range(4)))
    areas = roc_auc_score(true, chances, multi_class="ovr", average=None, labels=range(4))
    assert metrics.roc_auc == pytest.approx(areas)
    assert metrics.macro_roc_auc == pytest.approx(np.mean(areas))


def naive_calibration_error(top, right, low, high):
    """Bins (low, high], spacepoint by spacepoint."""
    total = 0.0
    for lower, upper in zip(low, high, strict=True):
        inside = [(t, r) for t, r in zip(top, right, strict=True) if lower < t <= upper]
        total += abs(sum(t for t, _ in inside) - sum(r for _, r in inside))
    return total / len(top)


def test_calibration_errors_equal_naive_counting():
    random = np.random.default_rng(2)
    top = random.uniform(0.2, 1.0, size=300)
    right = random.random(300) < top**2
    edges = equal_width_edges()
    bounds = [index / 15 for index in range(16)]
    ours = calibration_error(reliability_sums(top, right, edges))
    assert ours == pytest.approx(naive_calibration_error(top, right, bounds[:-1], bounds[1:]))
    ordered = sorted(zip(top, right, strict=True))
    groups = [ordered[start : start + 20] for start in range(0, 300, 20)]
    expected = sum(abs(sum(t for t, _ in group) - sum(r for _, r in group)) for group in groups) / 300
    sums = reliability_sums(top, right, equal_count_edges(top))
    assert sums[:, 0].tolist() == [20] * 15
    assert calibration_error(sums) == pytest.approx(expected)


def test_hand_made_calibration():
    # Probabilities 0.8 (right), 0.8 (wrong), 0.6 (right): bins of 2 and 1 spacepoints.
    metrics = evaluate_probabilities([([0, 0, 1], [[0.8, 0.2], [0.2, 0.8], [0.4, 0.6]]), ([], [])], 2)
    assert metrics.expected_calibration_error == pytest.approx((abs(1.6 - 1) + abs(0.6 - 1)) / 3)
    assert metrics.brier_score == pytest.approx((2 * 0.04 + 2 * 0.64 + 2 * 0.16) / 3)
    assert metrics.log_loss == pytest.approx(-(math.log(0.8) + math.log(0.2) + math.log(0.6)) / 3)
    filled = [entry for entry in metrics.reliability if entry.num_hits]
    assert [(entry.num_hits, entry.accuracy) for entry in filled] == [(1, 1.0), (2, 0.5)]
    assert [entry.mean_probability for entry in filled] == pytest.approx([0.6, 0.8])
    assert all(entry.low < entry.mean_probability <= entry.high for entry in filled)
    assert len(metrics.reliability) == 15
    assert metrics.num_empty_events == 1


@settings(max_examples=15, deadline=None)
@given(some_events)
def test_certain_and_right_is_exactly_perfect(events):
    events = [(labels, np.eye(3)[labels]) for labels, _ in map(as_arrays, events)]
    metrics = evaluate_probabilities(events, 3)
    assert metrics.expected_calibration_error in (0.0, None)
    assert metrics.expected_calibration_error_equal_count in (0.0, None)
    assert metrics.brier_score in (0.0, None)
    assert metrics.log_loss in (0.0, None)
    for values in (metrics.roc_auc, metrics.average_precision):
        assert set(values) <= {1.0, None}
    assert {metrics.macro_roc_auc, metrics.macro_average_precision} <= {1.0, None}
    assert {*metrics.roc_auc_intervals, *metrics.average_precision_intervals} <= {(1.0, 1.0), None}


@settings(max_examples=15, deadline=None)
@given(some_events, st.integers(0, 10**6))
def test_the_order_of_spacepoints_does_not_matter(events, seed):
    random = np.random.default_rng(seed)
    events = [as_arrays(event) for event in events]
    orders = [random.permutation(len(labels)) for labels, _ in events]
    other = [(labels[order], chances[order]) for (labels, chances), order in zip(events, orders, strict=True)]
    ours, theirs = (evaluate_probabilities(those, 3) for those in (events, other))
    assert (ours.roc_auc, ours.roc_curves, ours.roc_auc_intervals) == (
        theirs.roc_auc,
        theirs.roc_curves,
        theirs.roc_auc_intervals,
    )
    for name in ("expected_calibration_error", "expected_calibration_error_equal_count", "brier_score", "log_loss"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name))


def events_of(num_events, seed, num_hits=40):
    random = np.random.default_rng(seed)
    for _ in range(num_events):
        true = random.integers(0, 2, size=num_hits)
        # All spacepoints of an event share an offset: they are not independent.
        score = 1 / (1 + np.exp(-(true - 0.5 + random.normal() + random.normal(size=num_hits))))
        yield true, np.stack([1 - score, score], axis=1)


def test_intervals_are_those_of_exact_areas_of_resampled_events():
    events = list(events_of(60, seed=3))
    metrics = evaluate_probabilities(events, 2)
    random = np.random.default_rng(4)
    areas, precisions = [], []
    for _ in range(300):
        drawn = [events[index] for index in random.integers(0, 60, size=60)]
        above = threshold_counts(
            np.concatenate([chances[:, 1] for _, chances in drawn]), np.concatenate([true for true, _ in drawn]) == 1
        )
        areas.append(roc_auc(above))
        precisions.append(average_precision(above))
    for (low, high), samples in (
        (metrics.roc_auc_intervals[1], areas),
        (metrics.average_precision_intervals[1], precisions),
    ):
        spread = np.std(samples)
        assert (low, high) == pytest.approx(np.quantile(samples, [0.025, 0.975]), abs=0.4 * spread)
    for name in ("brier_score", "log_loss", "macro_roc_auc", "macro_average_precision"):
        low, high = metrics.intervals[name]
        assert low < getattr(metrics, name) < high


def test_intervals_are_about_the_exact_metric():
    """Resampling one event gives that event."""
    metrics = evaluate_probabilities(events_of(1, seed=5, num_hits=2000), 2)
    for intervals, exact in (
        (metrics.roc_auc_intervals, metrics.roc_auc),
        (metrics.average_precision_intervals, metrics.average_precision),
        ((metrics.intervals["macro_roc_auc"],), (metrics.macro_roc_auc,)),
    ):
        assert [low for low, _ in intervals] == pytest.approx(exact, abs=1e-12)
        assert [high for _, high in intervals] == pytest.approx(exact, abs=1e-12)


def test_separated_classes_are_certain_in_more_spacepoints_than_bins():
    random = np.random.default_rng(6)
    high, low = random.uniform(0.6, 1.0, size=(5, 200)), random.uniform(0.0, 0.4, size=(5, 200))
    scores = np.concatenate([high, low], axis=1)
    events = [(np.repeat([1, 0], 200), np.stack([1 - score, score], axis=1)) for score in scores]
    assert set(evaluate_probabilities(events, 2).roc_auc_intervals) == {(1.0, 1.0)}


@pytest.mark.parametrize(
    ("true", "chances", "message"),
    [
        ([0], [[0.5, 0.5], [1, 0]], "event 1: true classes of shape .1,., probabilities of shape .2, 2."),
        ([0], [[1, 0, 0]], "event 1: true classes of shape"),
        ([2], [[1, 0]], "event 1: the true class 2 is not one of 0 to 1"),
        ([0, 1], [[1, 0], [0.5, 0.6]], "event 1: the probabilities of spacepoint 1"),
        ([0], [[1.5, -0.5]], "event 1: the probabilities of spacepoint 0"),
        ([0], [[1.005, 0]], "event 1: the probabilities of spacepoint 0"),
        ([0], [[math.nan, 1]], "event 1: the probabilities of spacepoint 0"),
    ],
)
def test_wrong_probabilities_are_explained(true, chances, message):
    with pytest.raises(DataError, match=message):
        evaluate_probabilities([([], []), (true, chances)], 2)
