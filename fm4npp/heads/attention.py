"""Attention on padded events, which events to pad together, and the small networks that heads are made of."""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from fm4npp.batch import lengths

SHORT = 64
"""Events of up to so many spacepoints are padded to a common length: more groups would cost more than the padding."""


class EventGroup(NamedTuple):
    """Some events of a batch.

    Attributes:
        events: (b,) int64, their indices in the batch.
        tokens: (n,) int64, the indices of their tokens in the batch, event by event.
        offsets: (b + 1,), where each begins among these tokens.
    """

    events: Tensor
    tokens: Tensor
    offsets: Tensor


def groups_of_similar_length(offsets: Tensor) -> list[EventGroup]:
    """Events to pad together: in each group the longest has less than twice the spacepoints of the others.

    Padded to the longest of the batch, one long event among many short ones would take the memory and time of many
    long ones. Only events of up to 64 spacepoints are together however short they are.

    Args:
        offsets: (B + 1,).

    Returns:
        At least one group, of no events for a batch without any; each event is in one of them.
    """
    sizes = lengths(offsets)

    def doublings(event: int) -> int:
        return (max(counts[event], SHORT) - 1).bit_length()

    counts: list[int] = sizes.tolist()
    by_length = sorted(range(len(counts)), key=doublings)
    groups = [torch.tensor(list(events), device=offsets.device) for _, events in groupby(by_length, key=doublings)]
    return [_group(offsets, events) for events in groups] or [EventGroup(sizes, sizes, offsets)]


def _group(offsets: Tensor, events: Tensor) -> EventGroup:
    own = torch.cat([offsets.new_zeros(1), lengths(offsets)[events].cumsum(0)])
    shift = torch.repeat_interleave(offsets[events] - own[:-1], lengths(own))
    return EventGroup(events, torch.arange(len(shift), device=offsets.device) + shift, own)


def feed_forward(width: int, hidden: int, output: int) -> nn.Sequential:
    """LayerNorm, Linear, GELU, Linear: (..., width) to (..., output)."""
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, output))


def attention_mask(mask: Tensor, bias: Tensor | None) -> Tensor:
    """What `scaled_dot_product_attention` is to add or to leave out.

    Args:
        mask: (B, S) bool, true where there is a key. Where an event has none, all its keys stay visible, because a
            softmax over nothing is not a number; the caller drops that event's result.
        bias: (B, Q, S), added to the logits of all heads.

    Returns:
        (B, 1, 1, S) bool or (B, 1, Q, S) in the type of `bias`, minus infinity where there is no key.
    """
    visible = (mask | ~mask.any(dim=1, keepdim=True))[:, None, None, :]
    return visible if bias is None else bias[:, None].masked_fill(~visible, -torch.inf)


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with query, key, value and output maps.

    Args:
        width: of queries, keys, values and output; a multiple of `num_heads`.
        num_heads: heads that attend side by side.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """What each query gathers from the keys of its own event.

        Args:
            queries: (B, Q, W).
            keys: (B, S, W), from which the values are made too.
            mask: (B, S) bool, true where there is a key; without it all are there.
            bias: (B, Q, S), added to the attention logits of all heads; needs `mask`.

        Returns:
            (B, Q, W); 0 for an event without keys.
        """
        query, key, value = self._split(self.query(queries)), self._split(self.key(keys)), self._split(self.value(keys))
        if mask is None:
            return self._join(scaled_dot_product_attention(query, key, value))
        allowed = attention_mask(mask, None if bias is None else bias.to(query.dtype))
        attended = self._join(scaled_dot_product_attention(query, key, value, attn_mask=allowed))
        return attended * mask.any(dim=1)[:, None, None]

    def _split(self, values: Tensor) -> Tensor:
        num_events, count, width = values.shape
        return values.view(num_events, count, self.num_heads, width // self.num_heads).transpose(1, 2)

    def _join(self, values: Tensor) -> Tensor:
        joined: Tensor = self.output(values.transpose(1, 2).flatten(2))
        return joined


class DecoderLayer(nn.Module):
    """Queries gather from the spacepoints, then from each other; every step is a prenorm residual."""

    def __init__(self, width: int, hidden: int, num_heads: int) -> None:
        super().__init__()
        self.cross_norm = nn.LayerNorm(width)
        self.cross_attention = MultiHeadAttention(width, num_heads)
        self.self_norm = nn.LayerNorm(width)
        self.self_attention = MultiHeadAttention(width, num_heads)
        self.feed_forward = feed_forward(width, hidden, width)

    def forward(self, queries: Tensor, positions: Tensor, points: Tensor, mask: Tensor, bias: Tensor) -> Tensor:
        """Refined queries.

        Args:
            queries: (B, Q, W).
            positions: (Q, W), added to the queries in cross-attention only.
            points: (B, S, W).
            mask: (B, S) bool, true where there is a spacepoint.
            bias: (B, Q, S), added to the cross-attention's logits.

        Returns:
            (B, Q, W).
        """
        queries = queries + self.cross_attention(self.cross_norm(queries) + positions, points, mask, bias)
        normed = self.self_norm(queries)
        queries = queries + self.self_attention(normed, normed)
        refined: Tensor = queries + self.feed_forward(queries)
        return refined
