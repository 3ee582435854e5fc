"""What most heads begin with: a spacepoint's inputs, and self-attention within its event."""

from __future__ import annotations

from typing import Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from fm4npp.batch import pad, unpad
from fm4npp.heads.attention import MultiHeadAttention, groups_of_similar_length
from fm4npp.heads.base import HeadConfig


class EncoderConfig(HeadConfig):
    """Sizes of what heads share.

    Attributes:
        width: of the attention and of what follows.
        num_layers: self-attention layers (paper appendix C.4); the released adapters have 1.
        num_heads: attention heads.
    """

    width: PositiveInt = 256
    num_layers: int = Field(1, ge=0, le=4)
    num_heads: PositiveInt = 4

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}")
        return self

    def layers(self) -> nn.ModuleList:
        """New self-attention layers."""
        return nn.ModuleList(SelfAttention(self.width, self.num_heads) for _ in range(self.num_layers))


class SelfAttention(nn.Module):
    """Every spacepoint gathers from all of its event: a prenorm residual without a feed-forward network."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = MultiHeadAttention(width, num_heads)

    def forward(self, points: Tensor, mask: Tensor) -> Tensor:
        """(B, S, W) and (B, S) bool, true where there is a spacepoint, to (B, S, W)."""
        normed = self.norm(points)
        gathered: Tensor = points + self.attention(normed, normed, mask)
        return gathered


def attended(points: Tensor, offsets: Tensor, layers: nn.ModuleList) -> Tensor:
    """(T, W) packed points through self-attention layers, within each of the (B + 1,) `offsets`' events."""
    if not len(layers):
        return points
    groups = groups_of_similar_length(offsets)
    parts = []
    for group in groups:
        padded, mask = pad(points[group.tokens], group.offsets)
        for layer in layers:
            padded = layer(padded, mask)
        parts.append(unpad(padded, mask))
    return torch.cat(parts)[torch.cat([group.tokens for group in groups]).argsort()]
