"""How good found tracks are: adjusted Rand index, efficiency, purity, and what is wrong with the others.

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
from fm4npp.metrics.uncertainty import CONFIDENCE, Interval, bootstrap, clopper_pearson

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


class TrackCounts(NamedTuple):
    """What the tracks of one event, or of a set, add up to; a true track counts if it is long enough.

    A found track *belongs* to the true track that has more than half of its spacepoints. One that belongs to a true
    track that does not count is neither right nor wrong, and does not count either.

    Attributes:
        true: true tracks.
        predicted: found tracks.
        matched: pairs of a true and a found track by the double-majority rule.
        fake: found tracks that belong to no true track.
        duplicate: found tracks beyond the first that belongs to the same true track.
        split: true tracks that two or more found tracks belong to.
        merged: found tracks with more than half of each of two or more true tracks.
        shared_of_true: sum over the matched pairs of shared / true spacepoints.
        shared_of_predicted: likewise, of shared / found spacepoints.
        matched_hits: spacepoints that matched pairs share.
        true_hits: spacepoints of true tracks.
    """

    true: int
    predicted: int
    matched: int
    fake: int
    duplicate: int
    split: int
    merged: int
    shared_of_true: float
    shared_of_predicted: float
    matched_hits: int
    true_hits: int


@dataclass(frozen=True)
class TrackingMetrics:
    """Metrics of a set of events; a ratio that is not defined, for want of events or tracks, is None.

    Attributes:
        ari_per_event_mean: adjusted Rand index, the mean over events with spacepoints. An event of one spacepoint
            scores 1.
        ari_pooled: adjusted Rand index of all spacepoints at once, the clusters of different events being distinct.
        efficiency: matched / true tracks of the whole set (recall).
        purity: matched / found tracks of the whole set (precision).
        fake_rate: found tracks that belong to no true track / found tracks.
        duplicate_rate: found tracks beyond the first that belongs to the same true track / found tracks.
        split_rate: true tracks that two or more found tracks belong to / true tracks.
        merge_rate: found tracks with more than half of each of two or more true tracks / found tracks.
        hit_efficiency: share of a true track's spacepoints that its match has, the mean over matches.
        hit_purity: share of a found track's spacepoints that its match has, the mean over matches.
        trackml_score: spacepoints shared by matches / spacepoints of true tracks, the mean over events that have any:
            the TrackML score with equal weights (Amrouche et al. 2020).
        intervals: metric -> its interval, or None. Of rates that of Clopper and Pearson, of the others the bootstrap
            over events.
        confidence: of the intervals.
        num_events: all events.
        num_empty_events: events without spacepoints; they enter no mean.
        num_single_hit_events: events of one spacepoint.
        num_hits: spacepoints.
        num_true_tracks: true tracks of at least `min_hits` spacepoints.
        num_predicted_tracks: found tracks, but for those that belong to a true track below `min_hits`.
        num_matched: pairs of a true and a found track by the double-majority rule.
        min_hits: fewest spacepoints of a true track that counts.
    """

    ari_per_event_mean: float | None
    ari_pooled: float | None
    efficiency: float | None
    purity: float | None
    fake_rate: float | None
    duplicate_rate: float | None
    split_rate: float | None
    merge_rate: float | None
    hit_efficiency: float | None
    hit_purity: float | None
    trackml_score: float | None
    intervals: dict[str, Interval | None]
    confidence: float
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


def track_counts(table: Contingency, min_hits: int = 1) -> TrackCounts:
    """What the tracks of one event add up to.

    A match is double-majority (TrackML, Amrouche et al. 2020; paper section 3): more than half of the found track's
    spacepoints belong to the true track, and more than half of the true track's are in the found track. So nothing
    matches twice. Unassigned spacepoints are not a track; those of a found track that truth leaves unassigned count in
    its size.

    Args:
        table: of the event.
        min_hits: true tracks of fewer spacepoints do not count.
    """
    counting = (table.true_ids >= 0) & (table.true_sizes >= min_hits)
    found = table.predicted_ids >= 0
    tracks = (table.true_ids[table.row] >= 0) & found[table.column]
    row, column, shared = table.row[tracks], table.column[tracks], table.shared[tracks]
    belongs = 2 * shared > table.predicted_sizes[column]
    holds = 2 * shared > table.true_sizes[row]
    found[column[belongs & ~counting[row]]] = False
    owned = np.bincount(row[belongs & counting[row]], minlength=len(counting))
    held = np.bincount(column[holds & counting[row] & found[column]], minlength=len(found))
    match = belongs & holds & counting[row]
    shared = shared[match]
    return TrackCounts(
        true=int(counting.sum()),
        predicted=int(found.sum()),
        matched=int(match.sum()),
        fake=int(found.sum() - owned.sum()),
        duplicate=int(np.maximum(owned - 1, 0).sum()),
        split=int((owned > 1).sum()),
        merged=int((held > 1).sum()),
        shared_of_true=float((shared / table.true_sizes[row[match]]).sum()),
        shared_of_predicted=float((shared / table.predicted_sizes[column[match]]).sum()),
        matched_hits=int(shared.sum()),
        true_hits=int(table.true_sizes[counting].sum()),
    )


def evaluate_tracks(events: Iterable[tuple[ArrayLike, ArrayLike]], min_hits: int = 1) -> TrackingMetrics:
    """Tracking metrics of a set of events, read once and one by one.

    Args:
        events: for every event the true and the predicted track ids, each (N,); below 0: unassigned.
        min_hits: fewest spacepoints of a true track that counts, but for the Rand index.

    Raises:
        DataError: if an event's lengths differ.
    """
    sizes: list[int] = []
    pairs: list[PairCounts] = []
    tracks: list[TrackCounts] = []
    for index, (true, predicted) in enumerate(events):
        try:
            table = contingency(true, predicted)
        except DataError as error:
            raise error.at(event=index) from None
        sizes.append(int(table.true_sizes.sum()))
        pairs.append(pair_counts(table))
        tracks.append(track_counts(table, min_hits))
    total = TrackCounts(*(sum(values) for values in zip(*tracks, strict=True))) if tracks else NO_TRACKS
    rates = {
        "efficiency": (total.matched, total.true),
        "purity": (total.matched, total.predicted),
        "fake_rate": (total.fake, total.predicted),
        "duplicate_rate": (total.duplicate, total.predicted),
        "split_rate": (total.split, total.true),
        "merge_rate": (total.merged, total.predicted),
    }
    intervals = {name: clopper_pearson(*counts) for name, counts in rates.items()}
    sums = _event_sums(sizes, pairs, tracks)
    means = _means(sums.sum(axis=0))
    intervals |= zip(MEANS, bootstrap(sums, _means), strict=True)
    return TrackingMetrics(
        **{name: part / whole if whole else None for name, (part, whole) in rates.items()},
        **{name: None if np.isnan(mean) else float(mean) for name, mean in zip(MEANS, means, strict=True)},
        intervals=intervals,
        confidence=CONFIDENCE,
        num_events=len(sizes),
        num_empty_events=sizes.count(0),
        num_single_hit_events=sizes.count(1),
        num_hits=sum(sizes),
        num_true_tracks=total.true,
        num_predicted_tracks=total.predicted,
        num_matched=total.matched,
        min_hits=min_hits,
    )


NO_TRACKS = TrackCounts(*([0] * len(TrackCounts._fields)))
MEANS = ("ari_per_event_mean", "ari_pooled", "hit_efficiency", "hit_purity", "trackml_score")
"""What `_means` computes."""


def _event_sums(sizes: list[int], pairs: list[PairCounts], tracks: list[TrackCounts]) -> Array:
    """(E, 11) numbers of which all means are functions of the sums."""
    rows = [
        (
            adjusted_rand_index(counts) if size else 0.0,
            bool(size),
            *counts[:3],
            size,
            event.shared_of_true,
            event.shared_of_predicted,
            event.matched,
            event.matched_hits / event.true_hits if event.true_hits else 0.0,
            bool(event.true_hits),
        )
        for size, counts, event in zip(sizes, pairs, tracks, strict=True)
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, 11)


def _means(sums: Array) -> Array:
    """(..., 11) sums to (..., 5) `MEANS`, NaN where there is nothing to take the mean of."""
    ari, filled, both, true, predicted, size, of_true, of_predicted, matched, score, with_tracks = np.moveaxis(
        sums, -1, 0
    )
    expected = true * predicted
    all_pairs = size * (size - 1) / 2
    spread = (true + predicted) * all_pairs - 2 * expected
    with np.errstate(divide="ignore", invalid="ignore"):
        pooled = np.where(spread != 0, 2 * (both * all_pairs - expected) / spread, np.where(size > 0, 1.0, np.nan))
        ratios = [ari / filled, pooled, of_true / matched, of_predicted / matched, score / with_tracks]
    return np.stack(ratios, axis=-1)
