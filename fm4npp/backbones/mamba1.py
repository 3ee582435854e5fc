"""The Mamba-1 backbone: pre-norm residual blocks of a gated selective scan (arXiv:2312.00752, section 3)."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from fm4npp.backbones.base import BackboneConfig, Count
from fm4npp.backbones.convolution import causal_convolution
from fm4npp.backbones.kernels import Sequence
from fm4npp.backbones.packing import Layout, blocks, full_precision, rowwise_linear, silu
from fm4npp.backbones.selective_scan import selective_scan
from fm4npp.backbones.stack import StackBackbone, StackConfig, initial_dt_bias
from fm4npp.batch import pad, unpad


class Mamba1Config(StackConfig):
    """Sizes of a Mamba-1 stack; the defaults are the paper's, but for the state size.

    Attributes:
        dt_rank: numbers of a row from which its step sizes are made; None is filled with width / 16, rounded up.
        chunk_size: by default 16 up to 16 states and 32 for more: every chunk keeps one state for the gradient, and
            ends an event in idle rows.
    """

    dt_rank: Count | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.dt_rank is None:
            object.__setattr__(self, "dt_rank", math.ceil(self.width / 16))
        return self

    @property
    def splits(self) -> list[int]:
        """Rows of `x_proj` for dt, B and C."""
        assert self.dt_rank is not None
        return [self.dt_rank, self.num_states, self.num_states]

    @property
    def _kept_in_mixer(self) -> int:
        states = self.inner_width * self.num_states // self.rows_per_chunk
        return 7 * self.inner_width + sum(self.splits) + states

    @property
    def _projection_flops(self) -> int:
        rank = self.splits[0]
        return 2 * self.inner_width * (3 * self.width + sum(self.splits) + rank)

    @property
    def rows_per_chunk(self) -> int:
        """`chunk_size`, or its default."""
        return self.chunk_size or (16 if self.splits[-1] <= 16 else 32)


class Mamba1Mixer(nn.Module):
    """Projection, causal convolution, selective scan, gate, projection; names as in mamba-ssm.

    Rows of `in_proj` are [x | z], those of `x_proj` [dt | B | C].
    """

    def __init__(self, config: Mamba1Config) -> None:
        super().__init__()
        inner = config.inner_width
        self.splits = config.splits
        rank, num_states, _ = config.splits
        self.in_proj = nn.Linear(config.width, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, config.conv_width, groups=inner)
        self.x_proj = nn.Linear(inner, sum(self.splits), bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        self.dt_proj.bias = nn.Parameter(initial_dt_bias(inner, config.dt_min, config.dt_max))
        self.A_log = nn.Parameter(torch.arange(1.0, num_states + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, config.width, bias=False)

    def forward(self, rows: Tensor, layout: Layout | Sequence) -> Tensor:
        """Mix rows, (S, W) to (S, W); zero rows stay zero, for z = 0 closes their gate."""
        projected = rowwise_linear(rows, self.in_proj.weight)
        with full_precision(rows.device):
            x, z = projected.to(self.A_log.dtype).chunk(2, dim=-1)
            taps, A = self.conv1d.weight[:, 0], -self.A_log.exp()
            if isinstance(layout, Sequence):
                x = layout.convolution(x, taps, self._conv_bias)
            else:
                x = causal_convolution(x, taps, self._conv_bias, layout)
            low_rank, B, C = rowwise_linear(x, self.x_proj.weight).split(self.splits, dim=-1)
            if isinstance(layout, Sequence):
                y = self._compiled(x, rowwise_linear(low_rank, self.dt_proj.weight), A, B, C, layout)
            else:
                dt = _step_size(rowwise_linear(low_rank, self.dt_proj.weight, self.dt_proj.bias))
                y = selective_scan(x, dt, A, B, C, self.D, layout)
            gated = _gate(y, z)
        return rowwise_linear(gated, self.out_proj.weight)

    def _compiled(self, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, layout: Sequence) -> Tensor:
        """The scan by mamba-ssm's kernel, which keeps no events apart: each is a row of a padded batch."""
        padded = [pad(values, layout.offsets) for values in (x, dt, B, C)]
        columns = [values.transpose(1, 2).contiguous() for values, _ in padded]
        x, dt, B, C = columns
        y = layout.kernels.selective_scan_fn(
            x, dt, A, B, C, D=self.D, delta_bias=self.dt_proj.bias, delta_softplus=True
        )
        return unpad(y.transpose(1, 2), padded[0][1])

    @property
    def _conv_bias(self) -> Tensor:
        assert self.conv1d.bias is not None
        return self.conv1d.bias


class _StepSize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        dt = torch.empty_like(values)
        for rows in blocks(values):
            part = values[rows]
            torch.abs(part, out=dt[rows]).neg_().exp_().log1p_().add_(part.clamp(min=0))
        ctx.save_for_backward(dt)
        return dt

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        dt: Tensor = ctx.saved_tensors[0]
        # The slope, sigmoid(x), is 1 - exp(-dt).
        return dt.neg().expm1_().mul_(gradient).neg_()


def _step_size(values: Tensor) -> Tensor:
    """Softplus with a hand-written gradient, (S, inner) to (S, inner)."""
    return _StepSize.apply(values)  # type: ignore[no-any-return, no-untyped-call]


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(values, gate)
        result = torch.empty_like(values)
        for rows in blocks(values):
            torch.mul(silu(gate[rows]), values[rows], out=result[rows])
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        values, gate = ctx.saved_tensors
        result, gate_result = torch.empty_like(values), torch.empty_like(values)
        for rows in blocks(values):
            torch.mul(gradient[rows], silu(gate[rows]), out=result[rows])
            gate_result[rows] = torch.ops.aten.silu_backward(gradient[rows] * values[rows], gate[rows])
        return result, gate_result


def _gate(values: Tensor, gate: Tensor) -> Tensor:
    """Values times SiLU of the gate, (S, inner) each."""
    return _Gate.apply(values, gate)  # type: ignore[no-any-return, no-untyped-call]


class Mamba1Backbone(StackBackbone):
    """Mamba-1 blocks."""

    registered_name: ClassVar[str] = "mamba1"
    Config: ClassVar[type[BackboneConfig]] = Mamba1Config
    Mixer: ClassVar[type[nn.Module]] = Mamba1Mixer
    config: Mamba1Config
