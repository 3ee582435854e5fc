"""Attention on padded events, and the small network that heads are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


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
