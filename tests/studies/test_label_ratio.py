"""Label ratios of curves drawn by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fm4npp.studies.label_ratio import Bracket, answer, label_ratios, labels_to_reach, verdict

LABELS = (100, 1000, 10000)


@pytest.mark.parametrize(
    ("scores", "target", "expected", "told"),
    [
        ((0.2, 0.4, 0.6), 0.4, Bracket(1000, 1000), "1e+03 x"),
        ((0.2, 0.4, 0.6), 0.3, Bracket(100 * math.sqrt(10), 100 * math.sqrt(10)), "316 x"),  # halfway in the logarithm
        ((0.2, 0.4, 0.6), 0.1, Bracket(0, 100), "fewer than 100 x"),
        ((0.2, 0.4, 0.6), 0.7, Bracket(10000, math.inf), "more than 1e+04 x"),
        ((0.2, 0.5, 0.4), 0.45, Bracket(100 * 10 ** (0.25 / 0.3), 100 * 10 ** (0.25 / 0.3)), "681 x"),  # the first time
        ((0.5, 0.5, 0.5), 0.5, Bracket(100, 100), "100 x"),
    ],
)
def test_labels_to_reach_a_score(scores, target, expected, told):
    found = labels_to_reach(LABELS, scores, target)
    assert found == pytest.approx(expected)
    assert str(found) == told


def test_a_variant_that_needs_ten_times_the_labels():
    """Scores that rise by 0.1 a decade, one variant 0.1 below the other."""
    reference = np.array([[0.5, 0.5], [0.6, 0.6], [0.7, 0.7]])
    ratios = label_ratios(LABELS, reference, reference - 0.1)
    assert ratios[0].ratio == pytest.approx((10, 10))
    assert ratios[0].interval == pytest.approx((10, 10))
    assert ratios[2].ratio == (1, math.inf)
    assert [verdict(one) for one in ratios] == ["yes", "yes", "not decided"]
    text = answer("macro_f1", {"random-init": ratios})
    assert text == (
        "Does pretraining save 4 x the labels, at equal macro_f1? Against random-init at 100 labels yes (10 x; 95%: "
        "10 x), at 1,000 labels yes (10 x; 95%: 10 x), "
        "at 10,000 labels not decided (more than 1 x; 95%: more than 1 x)."
    )


def test_the_interval_spans_what_the_seeds_say():
    """One seed needs as many labels, the other ten times as many: nothing is decided."""
    reference = np.array([[0.5, 0.5], [0.6, 0.6], [0.7, 0.7]])
    other = reference - np.array([0.0, 0.1])
    (first, _, _) = label_ratios(LABELS, reference, other)
    assert first.ratio == pytest.approx((math.sqrt(10),) * 2)
    assert first.interval == pytest.approx((1, 10))
    assert verdict(first) == "not decided"


def test_one_seed_has_no_interval():
    (found, *_) = label_ratios(LABELS, np.array([[0.5], [0.6], [0.7]]), np.array([[0.4], [0.5], [0.6]]))
    assert found.interval is None
    assert verdict(found) == "not decided"


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3), st.floats(0, 1))
def test_nothing_is_extrapolated(scores, target):
    low, high = labels_to_reach(LABELS, scores, target)
    assert low == high or (low, high) in ((0, LABELS[0]), (LABELS[-1], math.inf))
    assert low == 0 or LABELS[0] <= low <= LABELS[-1] * (1 + 1e-12)
