"""How good found tracks are: adjusted Rand index, efficiency and purity.

Everywhere, a track id below 0 means that a spacepoint is unassigned: it is in no track. The Rand index compares
partitions of all spacepoints, so there the unassigned ones of an event form one cluster, in truth and in prediction.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
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
    """

    true_ids: Array
    predicted_ids: Array
    true_sizes: Array
    predicted_sizes: Array
    row: Array
    column: Array
    shared: Array


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


@dataclass(frozen=True)
class TrackingMetrics:
    """Metrics of a set of events; a ratio that is not defined, for want of events or tracks, is None.

    Attributes:
        ari_per_event_mean: adjusted Rand index, the mean over events with spacepoints. An event of one spacepoint
            scores 1.
        ari_pooled: adjusted Rand index of all spacepoints at once, the clusters of different events being distinct.
        efficiency: matched / true tracks of the whole set (recall).
        purity: matched / found tracks of the whole set (precision).
        num_events: all events.
        num_empty_events: events without spacepoints; they enter no mean.
        num_single_hit_events: events of one spacepoint.
        num_hits: spacepoints.
        num_true_tracks: true tracks of at least `min_hits` spacepoints.
        num_predicted_tracks: found tracks, but for those that match a true track below `min_hits`.
        num_matched: pairs of a true and a found track by the double-majority rule.
        min_hits: fewest spacepoints of a true track that counts.
    """

    ari_per_event_mean: float | None
    ari_pooled: float | None
    efficiency: float | None
    purity: float | None
    num_events: int
    num_empty_events: int
    num_single_hit_events: int
    num_hits: int
    num_true_tracks: int
    num_predicted_tracks: int
    num_matched: int
    min_hits: int


def contingency(true: ArrayLike, predicted: ArrayLike) -> Contingency:
    """Shared spacepoints of all true and found clusters of one event.

    Args:
        true: (N,) track ids; below 0: unassigned.
        predicted: (N,) track ids; below 0: unassigned.

    Raises:
        DataError: if the lengths differ.
    """
    true_track, predicted_track = (np.maximum(np.asarray(ids, dtype=np.int64), -1) for ids in (true, predicted))
    if true_track.shape != predicted_track.shape or true_track.ndim != 1:
        raise DataError(f"true track ids of shape {true_track.shape}, predicted of shape {predicted_track.shape}")
    true_ids, row, true_sizes = np.unique(true_track, return_inverse=True, return_counts=True)
    predicted_ids, column, predicted_sizes = np.unique(predicted_track, return_inverse=True, return_counts=True)
    num_columns = max(len(predicted_ids), 1)
    pair, shared = np.unique(row * num_columns + column, return_counts=True)
    return Contingency(
        true_ids, predicted_ids, true_sizes, predicted_sizes, pair // num_columns, pair % num_columns, shared
    )


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


def double_majority(table: Contingency) -> tuple[Array, Array]:
    """Which found track matches which true track (TrackML, Amrouche et al. 2020; paper section 3).

    More than half of the found track's spacepoints belong to the true track, and more than half of the true track's
    are in the found track. So nothing matches twice. Unassigned spacepoints are not a track; those of a found track
    that truth leaves unassigned count in its size.

    Returns:
        Two (P,) int64: row and column of the matches.
    """
    row, column = table.row, table.column
    tracks = (table.true_ids[row] >= 0) & (table.predicted_ids[column] >= 0)
    majority = (2 * table.shared > table.true_sizes[row]) & (2 * table.shared > table.predicted_sizes[column])
    return row[tracks & majority], column[tracks & majority]


def track_counts(table: Contingency, min_hits: int = 1) -> tuple[int, int, int]:
    """Numbers of true tracks, found tracks and matches of one event.

    Args:
        table: of the event.
        min_hits: true tracks of fewer spacepoints do not count. A found track that matches such a one is neither
            right nor wrong, and does not count either.
    """
    matched, _ = double_majority(table)
    num_true = int(((table.true_ids >= 0) & (table.true_sizes >= min_hits)).sum())
    num_matched = int((table.true_sizes[matched] >= min_hits).sum())
    num_predicted = int((table.predicted_ids >= 0).sum()) - (len(matched) - num_matched)
    return num_true, num_predicted, num_matched


def evaluate_tracks(events: Iterable[tuple[ArrayLike, ArrayLike]], min_hits: int = 1) -> TrackingMetrics:
    """Tracking metrics of a set of events, read once and one by one.

    Args:
        events: for every event the true and the predicted track ids, each (N,); below 0: unassigned.
        min_hits: fewest spacepoints of a true track that counts in efficiency and purity.

    Raises:
        DataError: if an event's lengths differ.
    """
    sizes: list[int] = []
    scores: list[float] = []
    pairs, tracks = [0, 0, 0], [0, 0, 0]
    for index, (true, predicted) in enumerate(events):
        try:
            table = contingency(true, predicted)
        except DataError as error:
            raise error.at(event=index) from None
        counts = pair_counts(table)
        sizes.append(int(table.true_sizes.sum()))
        scores += [adjusted_rand_index(counts)] if sizes[-1] else []
        pairs = [total + count for total, count in zip(pairs, counts[:3], strict=True)]
        tracks = [total + count for total, count in zip(tracks, track_counts(table, min_hits), strict=True)]
    num_hits, (num_true, num_predicted, num_matched) = sum(sizes), tracks
    both, together, found = pairs
    pooled = PairCounts(both, together, found, num_hits * (num_hits - 1) // 2)
    return TrackingMetrics(
        ari_per_event_mean=sum(scores) / len(scores) if scores else None,
        ari_pooled=adjusted_rand_index(pooled) if num_hits else None,
        efficiency=num_matched / num_true if num_true else None,
        purity=num_matched / num_predicted if num_predicted else None,
        num_events=len(sizes),
        num_empty_events=sizes.count(0),
        num_single_hit_events=sizes.count(1),
        num_hits=num_hits,
        num_true_tracks=num_true,
        num_predicted_tracks=num_predicted,
        num_matched=num_matched,
        min_hits=min_hits,
    )
