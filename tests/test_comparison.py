import itertools
import math
from dataclasses import dataclass, fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata, ttest_rel, wilcoxon

from fm4npp.errors import DataError
from fm4npp.metrics import DEFINITIONS, definitions, holm, paired
from fm4npp.metrics.definitions import CLASSES

scores = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=8)


@settings(max_examples=20, deadline=None)
@given(scores)
def test_pairs_equal_scipy_and_naive_counting(pairs):
    first, second = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    found, opposite = paired(first, second), paired(second, first)
    difference = first - second
    changed = difference[difference != 0]
    assert (found.num_events, found.num_ties) == (len(pairs), len(pairs) - len(changed))
    assert found.wilcoxon_p == pytest.approx(opposite.wilcoxon_p)
    assert found.rank_biserial == -opposite.rank_biserial
    assert "nan" not in repr(found).lower()
    if not len(pairs):
        assert (found.mean_difference, found.interval, found.cohen_d) == (None, None, None)
    if not len(changed):
        assert (found.wilcoxon_p, found.rank_biserial, found.cohen_d) == (1.0, 0.0, 0.0 if pairs else None)
        return
    ranks = rankdata(np.abs(changed))
    up, down = ranks[changed > 0].sum(), ranks[changed < 0].sum()
    assert found.rank_biserial == pytest.approx((up - down) / (up + down))
    assert found.wilcoxon_p == pytest.approx(wilcoxon(changed).pvalue)
    low, high = found.interval
    assert low <= found.mean_difference <= high
    if np.ptp(difference):
        # t = d_z sqrt(E)
        assert found.cohen_d * math.sqrt(len(pairs)) == pytest.approx(ttest_rel(first, second).statistic)
    else:
        assert found.cohen_d is None


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(-9, 9).filter(bool), min_size=1, max_size=8))
def test_the_p_value_of_few_events_is_exact(differences):
    """Of all choices of signs, how many give ranks as one-sided, one way or the other."""
    ranks = rankdata(np.abs(differences))
    seen = np.sign(differences) @ ranks
    every = np.array([signs @ ranks for signs in map(np.array, itertools.product((-1, 1), repeat=len(ranks)))])
    tail = min((every >= seen - 1e-9).mean(), (every <= seen + 1e-9).mean())
    assert paired(differences, np.zeros(len(differences))).wilcoxon_p == pytest.approx(min(2 * tail, 1.0))


@pytest.mark.parametrize("num_events", [20, 45, 200])
@pytest.mark.parametrize("step", [0.25, 0.0], ids=["ties", "no ties"])
def test_the_p_value_of_many_events_is_that_of_scipy(num_events, step):
    random = np.random.default_rng(num_events)
    first, second = random.normal(0.2, 1.0, num_events), random.normal(0.0, 1.0, num_events)
    if step:
        first, second = np.round(first / step) * step, np.round(second / step) * step
    found = paired(first, second)
    assert found.wilcoxon_p == pytest.approx(wilcoxon((first - second)[first != second]).pvalue)
    assert found.num_ties == (first == second).sum()


def test_hand_made_comparison():
    found = paired([0.75, 0.5, 0.75, 1.0], [0.5, 0.5, 0.25, 0.25])
    assert (found.mean_difference, found.rank_biserial, found.num_events, found.num_ties) == (0.375, 1.0, 4, 1)
    assert found.wilcoxon_p == 2 / 2**3
    assert found.cohen_d == pytest.approx(0.375 / np.std([0.25, 0, 0.5, 0.75], ddof=1))
    one = paired([1.0], [0.0])
    assert (one.mean_difference, one.interval, one.wilcoxon_p, one.cohen_d) == (1.0, (1.0, 1.0), 1.0, None)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([1.0], [1.0, 2.0], "not of the same events"),
        ([[1.0]], [[1.0]], "not of the same events"),
        ([1.0, 2.0], [1.0, math.nan], "event 1: a score is not finite; leave that event out"),
    ],
)
def test_scores_that_cannot_be_compared(first, second, message):
    with pytest.raises(DataError, match=message):
        paired(first, second)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.01, 0.05])), max_size=7))
def test_holm_is_the_closed_test_of_bonferroni(p_values):
    """A hypothesis falls if every set of hypotheses that holds it falls by Bonferroni (Marcus et al. 1976)."""
    indices = range(len(p_values))
    sets = [chosen for size in indices for chosen in itertools.combinations(indices, size + 1)]
    closed = [
        max(min(1.0, len(chosen) * min(p_values[index] for index in chosen)) for chosen in sets if mine in chosen)
        for mine in indices
    ]
    assert holm(p_values) == pytest.approx(closed)


@pytest.mark.parametrize("wrong", [[0.5, 1.1], [-0.1], [math.nan], [[0.1]], 0.1])
def test_holm_wants_probabilities(wrong):
    with pytest.raises(DataError, match="p-values must be"):
        holm(wrong)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_field_has_a_definition(cls):
    found = definitions(cls)
    assert list(found) == [item.name for item in fields(cls)]
    assert found == DEFINITIONS[cls.__name__]
    for text in found.values():
        assert len(text.split()) > 1, "a report shows each of them alone"
        assert "likewise" not in text
        assert "\n" not in text
        assert "Attributes" not in text


def test_the_definition_is_what_the_docstring_says():
    """Also of what follows it."""

    @dataclass
    class Example:
        """An example.

        Attributes:
            one: the first: of two
                lines.
            two: the second.

        Raises:
            ValueError: never.
        """

        one: int
        two: int

    assert definitions(Example) == {"one": "the first: of two lines.", "two": "the second."}


def test_a_field_without_a_definition_is_an_error():
    @dataclass
    class Example:
        """An example.

        Attributes:
            one: the first.
        """

        one: int
        two: int

    with pytest.raises(ValueError, match="the docstring of Example does not define two"):
        definitions(Example)
    with pytest.raises(ValueError, match="int is not a dataclass"):
        definitions(int)
