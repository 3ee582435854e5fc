"""What the tracks of an event add up to: matched, fake, duplicate, split and merged ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fm4npp.metrics.contingency import Contingency

Array = NDArray[Any]


class Matching(NamedTuple):
    """Which tracks of one event count, and which belong together.

    A found track *belongs* to the true track that has more than half of its spacepoints. One that belongs to a true
    track that does not count is neither right nor wrong, and does not count either.

    Attributes:
        true: (R,) bool, true tracks that count.
        predicted: (C,) bool, found tracks that count.
        matches: (K,) bool, pairs that match by the double-majority rule.
        owned: (R,) int64, found tracks that belong to each true track that counts.
        held: (C,) int64, true tracks that count of which each found track that counts has more than half.
    """

    true: Array
    predicted: Array
    matches: Array
    owned: Array
    held: Array


class TrackCounts(NamedTuple):
    """What the tracks of one event, or of a set, add up to; only those that count.

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
        matched_weight: weight of the spacepoints that matched pairs share.
        true_weight: weight of the spacepoints of true tracks.
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
    matched_weight: float
    true_weight: float


NO_TRACKS = TrackCounts(*([0] * len(TrackCounts._fields)))


def match_tracks(table: Contingency, counting: Array) -> Matching:
    """Match true and found tracks of one event.

    A match is double-majority (TrackML, Amrouche et al. 2020; paper section 3): more than half of the found track's
    spacepoints belong to the true track, and more than half of the true track's are in the found track. So nothing
    matches twice. Unassigned spacepoints are not a track; those of a found track that truth leaves unassigned count in
    its size.

    Args:
        table: of the event.
        counting: (R,) bool, true tracks that count.
    """
    row, column = table.row, table.column
    found = table.predicted_ids >= 0
    tracks = (table.true_ids[row] >= 0) & found[column]
    belongs = tracks & (2 * table.shared > table.predicted_sizes[column])
    holds = tracks & (2 * table.shared > table.true_sizes[row])
    found[column[belongs & ~counting[row]]] = False
    return Matching(
        true=counting,
        predicted=found,
        matches=belongs & holds & counting[row],
        owned=np.bincount(row[belongs & counting[row]], minlength=len(counting)),
        held=np.bincount(column[holds & counting[row] & found[column]], minlength=len(found)),
    )


def track_counts(table: Contingency, matching: Matching) -> TrackCounts:
    """What the tracks of one event add up to.

    Args:
        table: of the event.
        matching: of its tracks.
    """
    match, owned = matching.matches, matching.owned
    shared, of_true = table.shared[match], np.bincount(table.row, table.shared_weights, len(table.true_ids))
    return TrackCounts(
        true=int(matching.true.sum()),
        predicted=int(matching.predicted.sum()),
        matched=int(match.sum()),
        fake=int(matching.predicted.sum() - owned.sum()),
        duplicate=int(np.maximum(owned - 1, 0).sum()),
        split=int((owned > 1).sum()),
        merged=int((matching.held > 1).sum()),
        shared_of_true=float((shared / table.true_sizes[table.row[match]]).sum()),
        shared_of_predicted=float((shared / table.predicted_sizes[table.column[match]]).sum()),
        matched_weight=float(table.shared_weights[match].sum()),
        true_weight=float(of_true[matching.true].sum()),
    )
