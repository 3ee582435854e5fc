import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, rankdata, spearmanr
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

from fm4npp.errors import DataError
from fm4npp.metrics import evaluate_values
from fm4npp.metrics.regression import METRICS, resolution

number = st.integers(-3, 3).map(float)
true_number = st.one_of(number, st.just(math.nan))
an_event = st.lists(st.tuples(true_number, number), max_size=12)
some_events = st.lists(an_event, max_size=5)


def as_arrays(event):
    return tuple(np.array(event, dtype=np.float64).reshape(-1, 2).T)


@settings(max_examples=40, deadline=None)
@given(some_events)
def test_values_equal_scikit_learn_and_scipy(events):
    events = [as_arrays(event) for event in events]
    metrics = evaluate_values(events)
    true, predicted = (np.concatenate([np.zeros(0), *(event[side] for event in events)]) for side in (0, 1))
    known = ~np.isnan(true)
    true, predicted = true[known], predicted[known]
    assert (metrics.num_events, metrics.num_values, metrics.num_unknown) == (len(events), len(true), (~known).sum())
    assert metrics.num_empty_events == sum(np.isnan(values).all() for values, _ in events)
    assert "nan" not in repr(metrics).lower()
    if not len(true):
        assert all(getattr(metrics, name) is None and metrics.intervals[name] is None for name in METRICS)
        return
    assert metrics.mean_absolute_error == pytest.approx(mean_absolute_error(true, predicted))
    assert metrics.root_mean_squared_error == pytest.approx(root_mean_squared_error(true, predicted))
    assert metrics.bias == pytest.approx(np.mean(predicted - true), abs=1e-12)
    assert metrics.resolution == resolution(predicted - true)
    if np.ptp(true):
        assert metrics.r_squared == pytest.approx(r2_score(true, predicted), abs=1e-9)
    else:
        assert metrics.r_squared is None
    if np.ptp(true) and np.ptp(predicted):
        assert metrics.pearson == pytest.approx(pearsonr(true, predicted).statistic, abs=1e-9)
        assert metrics.spearman == pytest.approx(spearmanr(true, predicted).statistic, abs=1e-9)
    else:
        assert metrics.pearson is metrics.spearman is None


@settings(max_examples=15, deadline=None)
@given(some_events)
def test_a_perfect_prediction_is_exactly_perfect(events):
    events = [(true, np.nan_to_num(true)) for true, _ in map(as_arrays, events)]
    metrics = evaluate_values(events)
    for name in ("mean_absolute_error", "root_mean_squared_error", "bias", "resolution"):
        assert (getattr(metrics, name), metrics.intervals[name]) in ((0.0, (0.0, 0.0)), (None, None))
    for name in ("r_squared", "pearson", "spearman"):
        assert getattr(metrics, name) in (1.0, None)
        assert metrics.intervals[name] in ((1.0, 1.0), None)


@settings(max_examples=15, deadline=None)
@given(some_events, st.integers(0, 10**6))
def test_the_order_of_values_does_not_matter(events, seed):
    random = np.random.default_rng(seed)
    events = [as_arrays(event) for event in events]
    orders = [random.permutation(len(true)) for true, _ in events]
    other = [(true[order], guess[order]) for (true, guess), order in zip(events, orders, strict=True)]
    # Halves and whole numbers: sums are exact.
    assert evaluate_values(events) == evaluate_values(other)


def test_the_resolution_is_the_width_of_a_normal_distribution():
    residuals = np.random.default_rng(0).normal(3.0, 0.2, size=200_000)
    assert resolution(residuals) == pytest.approx(0.2, rel=0.01)
    assert resolution([1.0, 1.0, 1.0, 9.0, -50.0, 1.0, 1.0, 1.0, 1.0, 1.0]) == 0
    assert np.isnan(resolution([]))


def test_hand_made_values():
    metrics = evaluate_values([([1.0, 2.0], [2.0, 2.0]), ([math.nan], [7.0]), ([4.0], [1.0]), ([], [])])
    assert (metrics.mean_absolute_error, metrics.bias) == (4 / 3, -2 / 3)
    assert metrics.root_mean_squared_error == math.sqrt(10 / 3)
    assert metrics.r_squared == pytest.approx(1 - 10 / (14 / 3))
    assert metrics.pearson == pytest.approx((10 - 3 * 7 / 3 * 5 / 3) / math.sqrt(14 / 3 * 2 / 3))
    assert (metrics.num_events, metrics.num_empty_events, metrics.num_values, metrics.num_unknown) == (4, 2, 3, 1)


def events_of(num_events, seed):
    random = np.random.default_rng(seed)
    for _ in range(num_events):
        true = random.normal(size=30)
        # The error has a part that the whole event shares.
        yield true, true + 0.3 + 0.3 * random.normal() + 0.5 * random.standard_t(4, size=30)


def test_intervals_are_those_of_exact_metrics_of_resampled_events():
    events = list(events_of(60, seed=1))
    metrics = evaluate_values(events)
    random = np.random.default_rng(2)
    samples = {name: [] for name in METRICS}
    for _ in range(400):
        drawn = [events[index] for index in random.integers(0, 60, size=60)]
        true, predicted = (np.concatenate([event[side] for event in drawn]) for side in (0, 1))
        residuals = predicted - true
        for name, value in (
            ("mean_absolute_error", np.abs(residuals).mean()),
            ("root_mean_squared_error", np.sqrt((residuals**2).mean())),
            ("bias", residuals.mean()),
            ("resolution", resolution(residuals)),
            ("r_squared", 1 - (residuals**2).mean() / true.var()),
            ("pearson", np.corrcoef(true, predicted)[0, 1]),
            ("spearman", np.corrcoef(rankdata(true), rankdata(predicted))[0, 1]),
        ):
            samples[name].append(value)
    for name, values in samples.items():
        low, high = metrics.intervals[name]
        assert low < getattr(metrics, name) < high
        assert (low, high) == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=0.5 * np.std(values)), name


def test_intervals_are_about_the_exact_metric():
    """Resampling one event gives that event."""
    random = np.random.default_rng(3)
    metrics = evaluate_values([(np.zeros(50), random.exponential(size=50))])
    assert metrics.intervals["resolution"] == pytest.approx((metrics.resolution,) * 2, abs=1e-12)
    assert metrics.intervals["bias"] == pytest.approx((metrics.bias,) * 2)


def test_the_interval_of_the_resolution_is_finer_than_a_bin():
    residuals = np.random.default_rng(4).normal(size=(50, 400))
    low, high = evaluate_values([(np.zeros(400), values) for values in residuals]).intervals["resolution"]
    # A quantile at share p of N has the error sqrt(p (1 - p) / N) / density; both bounds are correlated by p / (1 - p).
    share, density = 0.1587, 0.2420
    error = math.sqrt(share * (1 - share) / residuals.size * (1 - share / (1 - share)) / 2) / density
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.25)


def test_large_offsets_do_not_spoil_correlations():
    true, predicted = (np.array(values) + 1e8 / 3 for values in ([1.0, 2.0, 3.0, 5.0], [1.5, 2.0, 2.5, 6.0]))
    metrics = evaluate_values([(true, predicted)] * 3)
    assert metrics.pearson == pytest.approx(pearsonr(true, predicted).statistic, rel=1e-9)
    assert metrics.r_squared == pytest.approx(r2_score(true, predicted), rel=1e-9)
    assert evaluate_values([([0.1] * 7, [0.1] * 3 + [0.2] * 4)] * 3).r_squared is None


@pytest.mark.parametrize(
    ("true", "predicted", "message"),
    [
        ([1.0], [1.0, 2.0], "event 1: true values of shape .1,., predicted of shape .2,."),
        ([[1.0]], [[1.0]], "event 1: true values of shape .1, 1."),
        ([1.0, 2.0], [1.0, math.nan], "event 1: the predicted value 1 is nan"),
        ([math.nan], [math.inf], "event 1: the predicted value 0 is inf"),
        ([math.inf], [1.0], "event 1: the true value 0 is inf"),
    ],
)
def test_wrong_values_are_explained(true, predicted, message):
    with pytest.raises(DataError, match=message):
        evaluate_values([([], []), (true, predicted)])
