import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from fm4npp.metrics import bootstrap, clopper_pearson


@given(st.integers(0, 200), st.integers(1, 200), st.floats(0.5, 0.999))
def test_clopper_pearson_equals_scipy(successes, more, confidence):
    trials = successes + more if successes % 2 else max(successes, 1)  # all of them, too
    ours = clopper_pearson(successes, trials, confidence)
    theirs = binomtest(successes, trials).proportion_ci(confidence, method="exact")
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_rates_of_nothing_and_impossible_ones():
    assert clopper_pearson(0, 0) is None
    for successes, trials in ((3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="successes"):
            clopper_pearson(successes, trials)


def mean(sums):
    with np.errstate(invalid="ignore"):
        return (sums[..., 0] / sums[..., 1])[..., None]


def test_the_bootstrap_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    sums = np.stack([values, np.ones_like(values)], axis=1)
    ((low, high),) = bootstrap(sums, mean, confidence=0.6827, replicas=4000)
    assert (low + high) / 2 == pytest.approx(values.mean(), abs=0.02)
    assert (high - low) / 2 == pytest.approx(values.std() / 20, rel=0.05)
    assert bootstrap(sums, mean) == bootstrap(sums, mean)


def test_the_bootstrap_covers_as_often_as_it_says():
    random = np.random.default_rng(2)
    covered = 0
    for _ in range(300):
        sums = np.stack([random.exponential(1.0, size=80), np.ones(80)], axis=1)
        ((low, high),) = bootstrap(sums, mean, confidence=0.9, replicas=300)
        covered += low <= 1.0 <= high
    assert 0.82 < covered / 300 < 0.95


def test_what_no_sample_defines_has_no_interval():
    assert bootstrap(np.zeros((0, 2)), mean) == [None]
    assert bootstrap(np.zeros((3, 2)), mean) == [None]


def test_memory_is_bounded_without_changing_the_samples(monkeypatch):
    sums = np.random.default_rng(3).random((50, 2))
    whole = bootstrap(sums, mean, replicas=64)
    monkeypatch.setattr("fm4npp.metrics.uncertainty.DRAWS", 100)
    assert bootstrap(sums, mean, replicas=64)[0] == pytest.approx(whole[0], rel=1e-12)
