"""Which spacepoints belong to which true track, in one table for all events of a batch.

B events, T spacepoints, K true tracks of all events; those of an event stand together, the first event's first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fm4npp.batch import event_index

Unlabelled = Literal["background", "ignored"]


@dataclass(frozen=True)
class TrueTracks:
    """Which spacepoints belong to which true track.

    Attributes:
        row: (T,) int64, below K the spacepoint's track; K + b for the background of event b; K + B if it is ignored.
        event: (K,) int64, the event of each track.
        sizes: (K,) int64, spacepoints of each track.
        num_counted: (B,) int64, spacepoints of each event that are not ignored.
        num_tracks: of each event.
    """

    row: Tensor
    event: Tensor
    sizes: Tensor
    num_counted: Tensor
    num_tracks: tuple[int, ...]

    @property
    def num_rows(self) -> int:
        """K + B."""
        return len(self.event) + len(self.num_counted)


def true_tracks(
    track_id: Tensor, offsets: Tensor, unlabelled: Unlabelled = "background", min_hits: int = 1
) -> TrueTracks:
    """The true tracks of a batch; within an event by increasing id.

    Args:
        track_id: (T,) int64, unique within an event; below 0: the spacepoint belongs to no track.
        offsets: (B + 1,).
        unlabelled: what spacepoints of no track are: background, in no mask, or ignored, in no sum at all.
        min_hits: the spacepoints of a track with fewer are background.
    """
    event, labelled, num_events = event_index(offsets), track_id >= 0, len(offsets) - 1
    ids, compact = torch.unique(track_id, return_inverse=True)
    tracks, track, sizes = torch.unique((event * len(ids) + compact)[labelled], return_inverse=True, return_counts=True)
    kept = sizes >= min_hits
    num_kept = int(kept.sum())
    row = num_kept + (event if unlabelled == "background" else torch.full_like(event, num_events))
    row[labelled] = torch.where(kept[track], kept.cumsum(0)[track] - 1, num_kept + event[labelled])
    track_event = tracks[kept] // max(len(ids), 1)
    return TrueTracks(
        row=row,
        event=track_event,
        sizes=sizes[kept],
        num_counted=torch.bincount(event[row < num_kept + num_events], minlength=num_events),
        num_tracks=tuple(torch.bincount(track_event, minlength=num_events).tolist()),
    )


def choose_num_queries(num_tracks: Iterable[int], margin: float = 1.2, multiple: int = 8) -> int:
    """The most tracks of any event times a margin, rounded up.

    Args:
        num_tracks: of each event.
        margin: for the event with more tracks than any of these.
        multiple: what the result is a multiple of; processors like round sizes.
    """
    return multiple * max(math.ceil(max(num_tracks, default=0) * margin / multiple), 1)
