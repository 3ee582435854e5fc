"""The Mamba-2 backbone: pre-norm residual blocks of a gated state-space mixer (arXiv:2405.21060, section 7)."""

from __future__ import annotations

import os
from functools import cache
from types import ModuleType
from typing import ClassVar, Self

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor, nn

from fm4npp.backbones.base import BackboneConfig, Count
from fm4npp.backbones.convolution import causal_convolution
from fm4npp.backbones.kernels import Sequence
from fm4npp.backbones.norms import GatedRMSNorm
from fm4npp.backbones.packing import Layout, full_precision, rowwise_linear, softplus
from fm4npp.backbones.ssd import Sizes, ssd
from fm4npp.backbones.stack import StackBackbone, StackConfig, initial_dt_bias
from fm4npp.errors import first_line

LOOP_TYPES = (torch.float32, torch.float64)
"""Numbers that the compiled loops know."""
KERNEL_CHUNK_SIZE = 256
"""Rows of a chunk inside mamba-ssm's kernels, its own default."""


class Mamba2Config(StackConfig):
    """Sizes of a Mamba-2 stack; the defaults are the paper's.

    Attributes:
        head_dim: P, channels of a head; it must divide expand * width.
        num_groups: G, groups of heads; the heads of a group share B and C.
        A_init_range: initial decay rates are uniform in this range.
        chunk_size: by default the power of two next to head_dim within 16 and 64: 64 for heads of 64 channels, 16 for
            heads of 4.
    """

    head_dim: Count = 64
    num_groups: Count = 1
    A_init_range: tuple[float, float] = (1.0, 16.0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.inner_width % self.head_dim:
            raise ValueError(f"head_dim {self.head_dim} does not divide expand * width = {self.inner_width}")
        if self.num_heads % self.num_groups:
            raise ValueError(f"num_groups {self.num_groups} does not divide the number of heads, {self.num_heads}")
        if not 0 < self.A_init_range[0] <= self.A_init_range[1]:
            raise ValueError(f"A_init_range {self.A_init_range} is not a range of positive numbers")
        return self

    @property
    def num_heads(self) -> int:
        """Heads of a block."""
        return self.inner_width // self.head_dim

    @property
    def num_channels(self) -> int:
        """Channels of the convolution: x, B and C."""
        return self.inner_width + 2 * self.num_groups * self.num_states

    @property
    def _kept_in_mixer(self) -> int:
        projected = self.inner_width + self.num_channels + self.num_heads
        states = self.inner_width * self.num_states // self.rows_per_chunk
        return projected + 2 * self.num_channels + 2 * self.inner_width + 6 * self.num_heads + states

    @property
    def _projection_flops(self) -> int:
        return 2 * self.width * (2 * self.inner_width + self.num_channels + self.num_heads)

    @property
    def sizes(self) -> Sizes:
        """How the channels of the state-space part divide."""
        return Sizes(self.num_heads, self.head_dim, self.num_groups, self.num_states)

    @property
    def rows_per_chunk(self) -> int:
        """`chunk_size`, or its default."""
        return self.chunk_size or min(max(1 << (self.head_dim - 1).bit_length(), 16), 64)


@cache
def _import_loops() -> ModuleType | str:
    """`mamba2_compiled`, or in one line why it cannot be used; imported, and tried, once."""
    try:
        from fm4npp.backbones import mamba2_compiled
        from fm4npp.backbones.compiled_kernels import copy

        copy(np.zeros(1, np.float32), np.zeros(1, np.float32))
    except ImportError:
        return "numba is not installed (extra fast)"
    except Exception as error:  # a numba of another version, or no place to keep the compiled code
        return f"numba cannot compile it ({type(error).__name__}: {first_line(error)})"
    return mamba2_compiled


def compiled_loops() -> ModuleType | str:
    """The compiled element-wise loops for CPUs, or in one line why they are not used."""
    if os.environ.get("FM4NPP_COMPILED") == "0":
        return "switched off by FM4NPP_COMPILED=0"
    return _import_loops()


class Mamba2Mixer(nn.Module):
    """Projection, causal convolution, state-space recurrence, gated norm, projection; names as in mamba-ssm.

    Rows of `in_proj` are [z | x | B | C | dt].
    """

    def __init__(self, config: Mamba2Config) -> None:
        super().__init__()
        self.sizes = config.sizes
        inner, heads = config.inner_width, config.num_heads
        channels = config.num_channels
        self.splits = [inner, channels, heads]
        self.in_proj = nn.Linear(config.width, sum(self.splits), bias=False)
        self.conv1d = nn.Conv1d(channels, channels, config.conv_width, groups=channels)
        self.dt_bias = nn.Parameter(initial_dt_bias(heads, config.dt_min, config.dt_max))
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(*config.A_init_range).log())
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = GatedRMSNorm(inner, config.num_groups, config.eps)
        self.out_proj = nn.Linear(inner, config.width, bias=False)

    def forward(self, rows: Tensor, layout: Layout | Sequence) -> Tensor:
        """Mix rows, (S, W) to (S, W); zero rows stay zero, for nothing but z = 0 reaches them unscaled."""
        projected = rowwise_linear(rows, self.in_proj.weight)
        with full_precision(rows.device):
            normed = self.core(projected.to(self.A_log.dtype), layout)
        return rowwise_linear(normed, self.out_proj.weight)

    def core(self, projected: Tensor, layout: Layout | Sequence) -> Tensor:
        """What is between the projections: (S, rows of `in_proj`) to (S, inner width)."""
        A = -self.A_log.exp()
        known = projected.device.type == "cpu" and projected.dtype in LOOP_TYPES
        if isinstance(layout, Layout) and known and not torch.compiler.is_compiling():
            loops = compiled_loops()
            if isinstance(loops, ModuleType):
                return self._looped(loops, projected, A, layout)
        z, xbc, dt = projected.split(self.splits, dim=-1)
        y = self._compiled(xbc, dt, A, layout) if isinstance(layout, Sequence) else self._chunked(xbc, dt, A, layout)
        normed: Tensor = self.norm(y, z)
        return normed

    def _looped(self, loops: ModuleType, projected: Tensor, A: Tensor, layout: Layout) -> Tensor:
        """By compiled loops, (S, H P)."""
        weight, norm = self.conv1d.weight[:, 0], self.norm
        normed: Tensor = loops.core(
            projected, weight, self._conv_bias, self.dt_bias, A, self.D, norm.weight, norm.eps, self.sizes, layout
        )
        return normed

    def _chunked(self, xbc: Tensor, dt: Tensor, A: Tensor, layout: Layout) -> Tensor:
        """Convolution and recurrence in PyTorch, (S, H P)."""
        xbc = causal_convolution(xbc, self.conv1d.weight[:, 0], self._conv_bias, layout)
        return ssd(xbc, softplus(dt + self.dt_bias), A, self.D, self.sizes, layout)

    def _compiled(self, xbc: Tensor, dt: Tensor, A: Tensor, layout: Sequence) -> Tensor:
        """The same by mamba-ssm's kernels, (T, H P)."""
        heads, channels, groups, states = self.sizes
        xbc = layout.convolution(xbc, self.conv1d.weight[:, 0], self._conv_bias)
        x, B, C = xbc.split([heads * channels, groups * states, groups * states], dim=-1)
        y = layout.kernels.mamba_chunk_scan_combined(
            x.unflatten(-1, (heads, channels))[None],
            dt[None],
            A,
            B.unflatten(-1, (groups, states))[None],
            C.unflatten(-1, (groups, states))[None],
            KERNEL_CHUNK_SIZE,
            D=self.D,
            dt_bias=self.dt_bias,
            dt_softplus=True,
            seq_idx=layout.seq_idx,
        )
        return y[0].flatten(1)

    @property
    def _conv_bias(self) -> Tensor:
        assert self.conv1d.bias is not None
        return self.conv1d.bias


class Mamba2Backbone(StackBackbone):
    """Mamba-2 blocks."""

    registered_name: ClassVar[str] = "mamba2"
    Config: ClassVar[type[BackboneConfig]] = Mamba2Config
    Mixer: ClassVar[type[nn.Module]] = Mamba2Mixer
    config: Mamba2Config
