"""Which query shall learn which track: pair costs on padded tensors, and the Hungarian assignment.

B events, S spacepoints (padded), Q queries, M tracks (padded). Padding is only ever the boolean mask: it is in no
track and adds to no sum, so there is no track made of padding.
"""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import softplus

from fm4npp.batch import event_index, pad


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
