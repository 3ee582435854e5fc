"""Which query shall learn which track, and the loss once that is known, on padded tensors.

B events, S spacepoints (padded), Q queries, M tracks (padded). Padding is only ever the boolean mask: it is in no
track and adds to no sum, so there is no track made of padding.
"""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from fm4npp.batch import event_index, pad

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


def track_members(track_id: Tensor, offsets: Tensor) -> Tensor:
    """Which spacepoints belong to which true track.

    Args:
        track_id: (T,) int64, unique within an event; below 0: the spacepoint belongs to no track.
        offsets: (B + 1,).

    Returns:
        (B, M, S) bool, M the most tracks of any event. An event's tracks come first, by increasing id; the rows
        after them are empty.
    """
    event, kept = event_index(offsets), track_id >= 0
    ids, compact = torch.unique(track_id, return_inverse=True)
    tracks, inverse = torch.unique((event * len(ids) + compact)[kept], return_inverse=True)
    counts = torch.bincount(tracks // max(len(ids), 1), minlength=len(offsets) - 1)
    first = counts.cumsum(0) - counts
    row = torch.full_like(track_id, -1)
    row[kept] = inverse - first[event[kept]]
    num_rows = int(counts.max()) if len(counts) else 0
    members, _ = pad(row[:, None] == torch.arange(num_rows, device=row.device), offsets)
    return members.transpose(1, 2)


def pair_dice(logits: Tensor, members: Tensor, mask: Tensor) -> Tensor:
    """Dice loss of every query with every track: 1 - (2 sum p t + 1) / (sum p + sum t + 1).

    The 1 in both places, as in MaskFormer (Cheng et al., arXiv:2107.06278), keeps an empty mask defined.

    Args:
        logits: (B, Q, S), of the probability p that a spacepoint belongs to the query's track.
        members: (B, M, S) float, t: 1 where a spacepoint belongs to the track.
        mask: (B, S) bool, true where there is a spacepoint.

    Returns:
        (B, Q, M), between 0 and 1.
    """
    probability = logits.sigmoid() * mask[:, None]
    overlap = probability @ members.transpose(1, 2)
    total = probability.sum(2)[:, :, None] + members.sum(2)[:, None, :]
    return 1 - (2 * overlap + 1) / (total + 1)


def pair_focal(logits: Tensor, members: Tensor, mask: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss of every query with every track, the mean over the event's own spacepoints.

    A member costs -alpha (1 - p)^gamma log p, any other spacepoint -(1 - alpha) p^gamma log(1 - p)
    (Lin et al., arXiv:1708.02002). Taken from the logits, so that no logarithm or gradient overflows.

    Args:
        logits: (B, Q, S), of the probability p.
        members: (B, M, S) float, 1 where a spacepoint belongs to the track.
        mask: (B, S) bool, true where there is a spacepoint.
        alpha: weight of the members against the others.
        gamma: how strongly well-classified spacepoints are discounted.

    Returns:
        (B, Q, M); 0 for an event without spacepoints.
    """
    log_in, log_out = -softplus(-logits), -softplus(logits)  # log p and log(1 - p)
    inside = -alpha * torch.exp(gamma * log_out) * log_in
    outside = -(1 - alpha) * torch.exp(gamma * log_in) * log_out * mask[:, None]
    total = (inside - outside) @ members.transpose(1, 2) + outside.sum(2)[:, :, None]
    return total / mask.sum(1).clamp(min=1)[:, None, None]


def hungarian(cost: Tensor, num_tracks: Tensor) -> Tensor:
    """The assignment of least total cost, event by event (Kuhn 1955; `scipy.optimize.linear_sum_assignment`).

    Args:
        cost: (B, Q, M).
        num_tracks: (B,) int64, how many of an event's M columns are tracks.

    Returns:
        (3, P) int64: event, query and track of each pair. An event has min(Q, its number of tracks) pairs; no query
        and no track is in two of them.
    """
    # Diverged logits make the loss not a number, which the training loop reports; scipy would fail here without a hint.
    table = torch.nan_to_num(cost.detach().double()).cpu().numpy()
    pairs = [torch.zeros(3, 0, dtype=torch.int64)]
    for event, columns in enumerate(num_tracks.tolist()):
        queries, tracks = (torch.from_numpy(index) for index in linear_sum_assignment(table[event, :, :columns]))
        pairs.append(torch.stack([torch.full_like(queries, event), queries, tracks]))
    return torch.cat(pairs, dim=1).to(cost.device)


def matching_cost(class_logits: Tensor, mask_logits: Tensor, members: Tensor, mask: Tensor, loss: TrackLoss) -> Tensor:
    """(B, Q, M): what it costs to match a query with a track; arguments as for `level_loss`, `members` float."""
    dice = pair_dice(mask_logits, members, mask)
    focal = pair_focal(mask_logits, members, mask, loss.focal_alpha, loss.focal_gamma)
    probability = class_logits.softmax(2)[..., TRACK, None]
    return loss.match_dice * dice + loss.match_focal * focal - loss.match_class * probability


def level_loss(
    class_logits: Tensor, mask_logits: Tensor, members: Tensor, mask: Tensor, loss: TrackLoss
) -> dict[str, Tensor]:
    """Weighted losses of one level, summed over pairs and events (paper appendix C.1.1).

    Args:
        class_logits: (B, Q, 2).
        mask_logits: (B, Q, S).
        members: (B, M, S) bool, true where a spacepoint belongs to the track.
        mask: (B, S) bool, true where there is a spacepoint.
        loss: weights.

    Returns:
        `class`, `dice` and `focal`.
    """
    truth = members.float()
    with torch.no_grad():
        cost = matching_cost(class_logits, mask_logits, truth, mask, loss)
        event, query, track = hungarian(cost, members.any(dim=2).sum(dim=1))
    target = torch.full(class_logits.shape[:2], NO_TRACK, device=class_logits.device)
    target[event, query] = TRACK
    entropy = cross_entropy(class_logits.flatten(0, 1), target.flatten(), reduction="none")
    weight = torch.where(target.flatten() == TRACK, loss.class_matched, loss.class_unmatched)
    # A pair is a batch entry with one query and one track.
    pairs = mask_logits[event, query][:, None], truth[event, track][:, None], mask[event]
    return {
        "class": (weight * entropy).sum(),
        "dice": loss.dice * pair_dice(*pairs).sum(),
        "focal": loss.focal * pair_focal(*pairs, loss.focal_alpha, loss.focal_gamma).sum(),
    }
