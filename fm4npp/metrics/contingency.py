"""How the spacepoints of an event are shared between true and found clusters, and the Rand index of that.

Everywhere, a track id below 0 means that a spacepoint is unassigned: it is in no track. The Rand index compares
partitions of all spacepoints, so there the unassigned ones of an event form one cluster, in truth and in prediction.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fm4npp.errors import DataError

Array = NDArray[Any]


class Contingency(NamedTuple):
    """How the spacepoints of one event are shared between true and found clusters.

    Attributes:
        true_ids: (R,) int64, ids of the true clusters, -1 for the unassigned spacepoints.
        predicted_ids: (C,) int64, ids of the found clusters, likewise.
        true_sizes: (R,) int64, spacepoints of each.
        predicted_sizes: (C,) int64.
        row: (K,) int64, true cluster of each pair of clusters that share spacepoints.
        column: (K,) int64, found cluster of the pair.
        shared: (K,) int64, spacepoints that they share.
        shared_weights: (K,) float64, weight of these; their number, if the spacepoints have no weights.
    """

    true_ids: Array
    predicted_ids: Array
    true_sizes: Array
    predicted_sizes: Array
    row: Array
    column: Array
    shared: Array
    shared_weights: Array


class PairCounts(NamedTuple):
    """Numbers of pairs of spacepoints.

    Attributes:
        both: pairs together in a true cluster and in a found one.
        true: pairs together in a true cluster.
        predicted: pairs together in a found cluster.
        pairs: all pairs.
    """

    both: int
    true: int
    predicted: int
    pairs: int


def contingency(true: ArrayLike, predicted: ArrayLike, weights: ArrayLike | None = None) -> Contingency:
    """Shared spacepoints of all true and found clusters of one event.

    Args:
        true: (N,) track ids; below 0: unassigned.
        predicted: (N,) track ids; below 0: unassigned.
        weights: (N,) of the spacepoints, finite and not negative; None: all are 1.

    Raises:
        DataError: if the lengths differ or a weight is impossible.
    """
    true_track, predicted_track = (np.maximum(np.asarray(ids, dtype=np.int64), -1) for ids in (true, predicted))
    if true_track.shape != predicted_track.shape or true_track.ndim != 1:
        raise DataError(f"true track ids of shape {true_track.shape}, predicted of shape {predicted_track.shape}")
    true_ids, row, true_sizes = np.unique(true_track, return_inverse=True, return_counts=True)
    predicted_ids, column, predicted_sizes = np.unique(predicted_track, return_inverse=True, return_counts=True)
    num_columns = max(len(predicted_ids), 1)
    pair, place, shared = np.unique(row * num_columns + column, return_inverse=True, return_counts=True)
    row, column = pair // num_columns, pair % num_columns
    shared_weights = (
        shared.astype(np.float64)
        if weights is None
        else np.bincount(place, _checked(weights, len(true_track)), minlength=len(pair))
    )
    return Contingency(true_ids, predicted_ids, true_sizes, predicted_sizes, row, column, shared, shared_weights)


def _checked(weights: ArrayLike, count: int) -> Array:
    values = np.asarray(weights, dtype=np.float64)
    if values.shape != (count,):
        raise DataError(f"weights of shape {values.shape} for {count} spacepoints")
    wrong = ~(np.isfinite(values) & (values >= 0))
    if wrong.any():
        raise DataError(
            f"the weight {values[wrong][0]} of spacepoint {int(np.argmax(wrong))} is negative or not finite"
        )
    return values


def pair_counts(table: Contingency) -> PairCounts:
    """Pairs of spacepoints that share clusters, from the sizes of these."""
    sizes = table.shared, table.true_sizes, table.predicted_sizes, table.true_sizes.sum(keepdims=True)
    return PairCounts(*(int((size * (size - 1) // 2).sum()) for size in sizes))


def adjusted_rand_index(counts: PairCounts) -> float:
    """Agreement of two partitions, 1 if they are equal, 0 on average if they are unrelated.

    (index - expected) / (maximum - expected), where index is the number of pairs together in both, expected its mean
    over random partitions with the same cluster sizes, and maximum the mean of the pairs together in either (Hubert
    and Arabie 1985, eq. 5). In integers up to the last division.
    """
    both, true, predicted, pairs = counts
    expected = true * predicted
    spread = (true + predicted) * pairs - 2 * expected
    # 0 only where both partitions are all singletons or both one cluster: they are equal.
    return 2 * (both * pairs - expected) / spread if spread else 1.0


def per_event_ari(true: ArrayLike, predicted: ArrayLike) -> float | None:
    """Adjusted Rand index of one event, the unassigned spacepoints being one cluster.

    Args:
        true: (N,) track ids; below 0: unassigned.
        predicted: (N,) track ids; below 0: unassigned.

    Returns:
        1 for a single spacepoint, None for an event without.
    """
    table = contingency(true, predicted)
    return adjusted_rand_index(pair_counts(table)) if len(table.shared) else None
