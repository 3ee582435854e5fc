"""Which query shall learn which track, and the loss once that is known, on packed tensors.

L levels, B events, T spacepoints, K true tracks of all events, Q queries. The true tracks of an event stand together,
those of the first event first.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat
from torch import Tensor
from torch.nn.functional import cross_entropy

from fm4npp.heads.assignment import Matcher, assign
from fm4npp.heads.mask_sums import mask_sums
from fm4npp.heads.true_tracks import TrueTracks

NO_TRACK, TRACK = 0, 1
"""The two classes of a query."""


class TrackLoss(BaseModel):
    """Weights of the loss, and of the cost by which queries and true tracks are matched (the released adapter's).

    Attributes:
        class_matched: of the cross-entropy of a query with a track.
        class_unmatched: of the cross-entropy of a query without one.
        dice: of the Dice loss of a pair.
        focal: of the focal loss of a pair.
        focal_alpha: of a track's own spacepoints against the others, in the focal loss.
        focal_gamma: how strongly the focal loss discounts well-classified spacepoints.
        match_class: in the matching, of minus the probability that the query is a track.
        match_dice: in the matching, of the Dice loss.
        match_focal: in the matching, of the focal loss.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    class_matched: NonNegativeFloat = 0.5
    class_unmatched: NonNegativeFloat = 0.1
    dice: NonNegativeFloat = 1.0
    focal: NonNegativeFloat = 30.0
    focal_alpha: float = Field(0.25, ge=0, le=1)
    focal_gamma: NonNegativeFloat = 2.0
    match_class: NonNegativeFloat = 0.5
    match_dice: NonNegativeFloat = 1.0
    match_focal: NonNegativeFloat = 30.0


def pair_dice(overlap: Tensor, total: Tensor, size: Tensor) -> Tensor:
    """Dice loss of a query with a track: 1 - (2 sum p t + 1) / (sum p + sum t + 1), between 0 and 1.

    The 1 in both places, as in MaskFormer (Cheng et al., arXiv:2107.06278), keeps an empty mask defined. The arguments
    are broadcast.

    Args:
        overlap: sum over the track's spacepoints of the probability p that they are the query's.
        total: the same sum over the event's spacepoints.
        size: number of the track's spacepoints.
    """
    return 1 - (2 * overlap + 1) / (total + size + 1)


def pair_focal(inside: Tensor, outside: Tensor, total_outside: Tensor, num_spacepoints: Tensor) -> Tensor:
    """Focal loss of a query with a track, the mean over the event's spacepoints; the arguments are broadcast.

    Args:
        inside: sum over the track's spacepoints of their terms as members of the mask, see `mask_sums`.
        outside: sum over the track's spacepoints of their terms if they were not.
        total_outside: sum over the event's spacepoints of their terms if none was a member.
        num_spacepoints: of the event.
    """
    return (inside - outside + total_outside) / num_spacepoints


def event_sums(sums: Tensor, tracks: TrueTracks) -> Tensor:
    """(3, L, K + B, Q) sums by track and background to (3, L, B, Q) sums by event."""
    num_events = len(tracks.num_counted)
    event = torch.cat([tracks.event, torch.arange(num_events, device=sums.device)])
    return sums.new_zeros(*sums.shape[:2], num_events, sums.shape[3]).index_add(2, event, sums)


def matching_cost(class_logits: Tensor, sums: Tensor, totals: Tensor, tracks: TrueTracks, loss: TrackLoss) -> Tensor:
    """What it costs to match a track with a query.

    Args:
        class_logits: (L, B, Q, 2).
        sums: (3, L, K + B, Q), see `mask_sums`.
        totals: (3, L, B, Q), see `event_sums`.
        tracks: K of them.
        loss: weights.

    Returns:
        (L, K, Q).
    """
    overlap, inside, outside = sums[:, :, : len(tracks.event)]
    total, _, total_outside = totals[:, :, tracks.event]
    dice = pair_dice(overlap, total, tracks.sizes[:, None])
    focal = pair_focal(inside, outside, total_outside, tracks.num_counted[tracks.event][:, None])
    probability = class_logits.softmax(3)[:, tracks.event, :, TRACK]
    return loss.match_dice * dice + loss.match_focal * focal - loss.match_class * probability


def track_losses(
    class_logits: Tensor, mask_logits: Tensor, tracks: TrueTracks, loss: TrackLoss, matcher: Matcher = "scipy"
) -> dict[str, Tensor]:
    """Weighted losses, summed over levels, pairs and events (paper appendix C.1.1).

    Args:
        class_logits: (L, B, Q, 2).
        mask_logits: (L, T, Q).
        tracks: the truth.
        loss: weights.
        matcher: which package finds the pairs.

    Returns:
        `class`, `dice` and `focal`.
    """
    sums = mask_sums(mask_logits, tracks.row, tracks.num_rows, loss.focal_alpha, loss.focal_gamma)
    totals = event_sums(sums, tracks)
    with torch.no_grad():
        cost = matching_cost(class_logits, sums, totals, tracks, loss)
        level, track, query = assign(cost, tracks.num_tracks, matcher)
    event = tracks.event[track]
    overlap, inside, outside = sums[:, level, track, query]
    total, _, total_outside = totals[:, level, event, query]
    dice = pair_dice(overlap, total, tracks.sizes[track])
    focal = pair_focal(inside, outside, total_outside, tracks.num_counted[event])
    return {
        "class": class_loss(class_logits, level, event, query, loss),
        "dice": loss.dice * dice.sum(),
        "focal": loss.focal * focal.sum(),
    }


def class_loss(class_logits: Tensor, level: Tensor, event: Tensor, query: Tensor, loss: TrackLoss) -> Tensor:
    """Weighted cross-entropy of all queries (L, B, Q, 2), of which those at the indices (P,) have a track."""
    target = torch.full(class_logits.shape[:3], NO_TRACK, device=class_logits.device)
    target[level, event, query] = TRACK
    entropy = cross_entropy(class_logits.flatten(0, 2), target.flatten(), reduction="none")
    weight = torch.where(target.flatten() == TRACK, loss.class_matched, loss.class_unmatched)
    return (weight * entropy).sum()
