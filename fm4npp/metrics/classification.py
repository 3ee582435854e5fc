"""How good the classes of spacepoints are: accuracy, precision, recall, F1, from one confusion matrix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fm4npp.errors import DataError
from fm4npp.metrics.uncertainty import CONFIDENCE, Interval, bootstrap

Array = NDArray[Any]
PerClass = tuple[float | None, ...]


@dataclass(frozen=True)
class ClassificationMetrics:
    """Metrics of a set of events, every labelled spacepoint counting once; what is not defined is None.

    Attributes:
        accuracy: spacepoints of the right class / all.
        precision: of every class, right / predicted; 0 for a class that is true somewhere but never predicted, None
            for one that is neither.
        recall: of every class, right / true; None for a class that is true nowhere.
        f1: of every class, 2 right / (predicted + true); None for a class that is neither.
        macro_precision: mean of the precision over the classes that are true somewhere.
        macro_recall: mean of the recall over the classes that are true somewhere.
        macro_f1: mean of F1 over the classes that are true somewhere.
        intervals: accuracy or macro mean -> its interval, or None: bootstrap over events.
        confidence: confidence level of the intervals.
        confusion: C rows of C numbers of spacepoints, a row a true class, a column a predicted one.
        num_events: all events, empty ones too.
        num_hits: labelled spacepoints.
        num_unlabelled: spacepoints left out because their true class is below 0.
    """

    accuracy: float | None
    precision: PerClass
    recall: PerClass
    f1: PerClass
    macro_precision: float | None
    macro_recall: float | None
    macro_f1: float | None
    intervals: dict[str, Interval | None]
    confidence: float
    confusion: tuple[tuple[int, ...], ...]
    num_events: int
    num_hits: int
    num_unlabelled: int


def confusion_matrix(true: ArrayLike, predicted: ArrayLike, num_classes: int) -> Array:
    """Numbers of spacepoints by true and predicted class.

    Args:
        true: (N,) classes; below 0: unknown, left out.
        predicted: (N,) classes, 0 to C - 1.
        num_classes: C.

    Returns:
        (C, C) int64, a row a true class, a column a predicted one.

    Raises:
        DataError: if the lengths differ or a class is out of range.
    """
    actual, guess = (np.asarray(classes).astype(np.int64) for classes in (true, predicted))
    if actual.shape != guess.shape or actual.ndim != 1:
        raise DataError(f"true classes of shape {actual.shape}, predicted of shape {guess.shape}")
    for what, classes, wrong in (
        ("true", actual, actual >= num_classes),
        ("predicted", guess, (guess < 0) | (guess >= num_classes)),
    ):
        if wrong.any():
            raise DataError(f"the {what} class {classes[wrong][0]} is not one of 0 to {num_classes - 1}")
    labelled = actual >= 0
    index = actual[labelled] * num_classes + guess[labelled]
    counts: Array = np.bincount(index, minlength=num_classes**2).reshape(num_classes, num_classes)
    return counts


def evaluate_classes(events: Iterable[tuple[ArrayLike, ArrayLike]], num_classes: int) -> ClassificationMetrics:
    """Classification metrics of a set of events, read once and one by one.

    Args:
        events: for every event the true and the predicted classes, each (N,); a true class below 0 is unknown.
        num_classes: C.

    Raises:
        DataError: if an event's lengths differ or a class is out of range.
    """
    each: list[Array] = []
    num_all = 0
    for index, (true, predicted) in enumerate(events):
        try:
            each.append(confusion_matrix(true, predicted, num_classes))
        except DataError as error:
            raise error.at(event=index) from None
        num_all += len(np.asarray(true))
    stacked = np.array(each, dtype=np.int64).reshape(-1, num_classes, num_classes)
    confusion = stacked.sum(axis=0)
    num_hits = int(confusion.sum())
    intervals = bootstrap(
        stacked.reshape(len(stacked), num_classes**2),
        lambda sums: _means(sums.reshape(*sums.shape[:-1], num_classes, num_classes)),
    )
    metrics: dict[str, Any] = dict(zip(MEANS, _defined(_means(confusion)), strict=True))
    metrics |= {name: _defined(values) for name, values in _of_classes(confusion).items()}
    return ClassificationMetrics(
        **metrics,
        intervals=dict(zip(MEANS, intervals, strict=True)),
        confidence=CONFIDENCE,
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        num_events=len(each),
        num_hits=num_hits,
        num_unlabelled=num_all - num_hits,
    )


MEANS = ("accuracy", "macro_precision", "macro_recall", "macro_f1")
"""What `_means` computes."""


def _of_classes(confusion: Array) -> dict[str, Array]:
    """(..., C, C) confusion to (..., C) of each, NaN where it is not defined."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    true, predicted = confusion.sum(axis=-1), confusion.sum(axis=-2)
    either = (true + predicted) > 0
    return {
        "precision": np.where(either, right / np.maximum(predicted, 1), np.nan),
        "recall": np.where(true > 0, right / np.maximum(true, 1), np.nan),
        "f1": np.where(either, 2 * right / np.maximum(true + predicted, 1), np.nan),
    }


def _means(confusion: Array) -> Array:
    """(..., C, C) confusion to (..., 4) `MEANS`; the mean is over the classes that are true somewhere."""
    right, true = np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(axis=-1)
    present, num_hits = true > 0, true.sum(axis=-1)
    with np.errstate(invalid="ignore"):
        macro = [
            np.where(present, values, 0.0).sum(axis=-1) / present.sum(axis=-1)
            for values in _of_classes(confusion).values()
        ]
        return np.stack([right.sum(axis=-1) / num_hits, *macro], axis=-1)


def _defined(values: Array) -> PerClass:
    return tuple(None if np.isnan(value) else float(value) for value in values)
