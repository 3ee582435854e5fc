"""The Mamba-2 backbone: pre-norm residual blocks of a gated state-space mixer (arXiv:2405.21060, section 7)."""

from __future__ import annotations

import math
from typing import ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from fm4npp.backbones.base import Backbone, BackboneConfig, Count
from fm4npp.backbones.convolution import causal_convolution
from fm4npp.backbones.norms import GatedRMSNorm, RMSNorm
from fm4npp.backbones.packing import Layout, full_precision, rowwise_linear, softplus
from fm4npp.backbones.ssd import Sizes, ssd


class Mamba2Config(BackboneConfig):
    """Sizes of a Mamba-2 stack; the defaults are the paper's.

    Attributes:
        state_size: N, numbers remembered for each channel; None is filled with width / 16, at least 1.
        head_dim: P, channels of a head; it must divide expand * width.
        num_groups: G, groups of heads; the heads of a group share B and C.
        expand: inner channels for one of the width.
        conv_width: taps of the causal convolution.
        dt_min: least initial step size.
        dt_max: largest initial step size.
        A_init_range: initial decay rates are uniform in this range.
        eps: of all norms.
        chunk_size: rows of a chunk, Q. It decides speed, not results (they agree to 1e-6). None stands for the power
            of two next to head_dim within 16 and 64: 64 for heads of 64 channels, 16 for heads of 4.
    """

    state_size: Count | None = None
    head_dim: Count = 64
    num_groups: Count = 1
    expand: Count = 2
    conv_width: Count = 4
    dt_min: float = Field(1e-3, gt=0)
    dt_max: float = Field(1e-1, gt=0)
    A_init_range: tuple[float, float] = (1.0, 16.0)
    eps: float = Field(1e-5, gt=0)
    chunk_size: Count | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.state_size is None:
            object.__setattr__(self, "state_size", max(self.width // 16, 1))
        if self.inner_width % self.head_dim:
            raise ValueError(f"head_dim {self.head_dim} does not divide expand * width = {self.inner_width}")
        if self.num_heads % self.num_groups:
            raise ValueError(f"num_groups {self.num_groups} does not divide the number of heads, {self.num_heads}")
        if self.dt_min > self.dt_max:
            raise ValueError(f"dt_min {self.dt_min} exceeds dt_max {self.dt_max}")
        if not 0 < self.A_init_range[0] <= self.A_init_range[1]:
            raise ValueError(f"A_init_range {self.A_init_range} is not a range of positive numbers")
        return self

    @property
    def inner_width(self) -> int:
        """Channels inside a block."""
        return self.expand * self.width

    @property
    def num_heads(self) -> int:
        """Heads of a block."""
        return self.inner_width // self.head_dim

    @property
    def sizes(self) -> Sizes:
        """How the channels of the state-space part divide."""
        assert self.state_size is not None
        return Sizes(self.num_heads, self.head_dim, self.num_groups, self.state_size)

    @property
    def rows_per_chunk(self) -> int:
        """`chunk_size`, or its default."""
        return self.chunk_size or min(max(1 << (self.head_dim - 1).bit_length(), 16), 64)


class Mamba2Mixer(nn.Module):
    """Projection, causal convolution, state-space recurrence, gated norm, projection; names as in mamba-ssm.

    Rows of `in_proj` are [z | x | B | C | dt].
    """

    def __init__(self, config: Mamba2Config) -> None:
        super().__init__()
        self.sizes = config.sizes
        inner, heads = config.inner_width, config.num_heads
        channels = inner + 2 * config.num_groups * self.sizes.state_size
        self.splits = [inner, channels, heads]
        self.in_proj = nn.Linear(config.width, sum(self.splits), bias=False)
        self.conv1d = nn.Conv1d(channels, channels, config.conv_width, groups=channels)
        self.dt_bias = nn.Parameter(_initial_dt_bias(heads, config.dt_min, config.dt_max))
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(*config.A_init_range).log())
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = GatedRMSNorm(inner, config.num_groups, config.eps)
        self.out_proj = nn.Linear(inner, config.width, bias=False)

    def forward(self, rows: Tensor, layout: Layout) -> Tensor:
        """Mix aligned rows, (S, W) to (S, W); zero rows stay zero, for nothing but z = 0 reaches them unscaled."""
        projected = rowwise_linear(rows, self.in_proj.weight)
        with full_precision(rows.device):
            z, xbc, dt = projected.to(self.A_log.dtype).split(self.splits, dim=-1)
            xbc = causal_convolution(xbc, self.conv1d.weight[:, 0], self._conv_bias, layout.gap_rows)
            dt = softplus(dt + self.dt_bias)
            y = ssd(xbc, dt, -self.A_log.exp(), self.D, self.sizes, layout)
            normed = self.norm(y, z)
        return rowwise_linear(normed, self.out_proj.weight)

    @property
    def _conv_bias(self) -> Tensor:
        assert self.conv1d.bias is not None
        return self.conv1d.bias


def _initial_dt_bias(num_heads: int, dt_min: float, dt_max: float) -> Tensor:
    """Inverse softplus of step sizes log-uniform in [dt_min, dt_max], (num_heads,)."""
    dt = torch.empty(num_heads).uniform_(math.log(dt_min), math.log(dt_max)).exp()
    return dt + torch.log(-torch.expm1(-dt))


class Mamba2Block(nn.Module):
    """Norm and mixer; the caller adds the result to the residual stream."""

    def __init__(self, config: Mamba2Config) -> None:
        super().__init__()
        self.norm = RMSNorm(config.width, config.eps)
        self.mixer = Mamba2Mixer(config)

    def forward(self, rows: Tensor, layout: Layout) -> Tensor:
        """(S, W) residual stream to its (S, W) update."""
        update: Tensor = self.mixer(self.norm(rows), layout)
        return update


class Mamba2Backbone(Backbone):
    """Mamba-2 blocks; an event's output does not change by one bit with its batch mates."""

    registered_name: ClassVar[str] = "mamba2"
    Config: ClassVar[type[BackboneConfig]] = Mamba2Config
    config: Mamba2Config

    def __init__(self, config: Mamba2Config) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(Mamba2Block(config) for _ in range(config.num_layers))
        self.norm_f = RMSNorm(config.width, config.eps)

    def forward(self, embedding: Tensor, offsets: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """See `Backbone.forward`."""
        layout = Layout.of(offsets, self.config.rows_per_chunk, self.config.conv_width - 1)
        # Under autocast the products are bfloat16; the stream that sums them up stays in the weights' precision.
        stream = layout.align(embedding.to(self.norm_f.weight.dtype))
        updates = []
        for block in self.layers:
            update = block(stream, layout).to(stream.dtype)
            stream = stream + update
            updates.append(layout.pack(update))
        return tuple(updates), layout.pack(self.norm_f(stream))
