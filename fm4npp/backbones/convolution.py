"""Causal depthwise convolution along the sequence, followed by SiLU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fm4npp.backbones.packing import blocks, silu


class _CausalConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor, gap_rows: Tensor) -> Tensor:
        taps = weight.t().flip(0).contiguous()
        convolved = torch.empty_like(values, memory_format=torch.contiguous_format)
        result = torch.empty_like(convolved)
        for rows in blocks(values):
            part = torch.addcmul(bias, values[rows], taps[0], out=convolved[rows])
            for lag in range(1, len(taps)):
                start = max(rows.start - lag, 0)
                part[start + lag - rows.start :].addcmul_(values[start : rows.stop - lag], taps[lag])
            result[rows] = silu(part)
        ctx.save_for_backward(values, taps, convolved, gap_rows)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, taps, convolved, gap_rows = ctx.saved_tensors
        result = torch.zeros_like(convolved)
        tap_gradients, bias_gradient = torch.zeros_like(taps), torch.zeros_like(taps[0])
        for rows in blocks(values):
            inner = torch.ops.aten.silu_backward(gradient[rows], convolved[rows])
            bias_gradient += inner.sum(0)
            for lag in range(len(taps)):
                source = slice(max(rows.start - lag, 0), rows.stop - lag)
                part = inner[source.start + lag - rows.start :]
                result[source].addcmul_(part, taps[lag])
                tap_gradients[lag] += (part * values[source]).sum(0)
        # The start of one event reaches back to the zero rows of the one before; there it must end.
        result.index_fill_(0, gap_rows, 0)
        return result, tap_gradients.flip(0).t(), bias_gradient, None


def causal_convolution(values: Tensor, weight: Tensor, bias: Tensor, gap_rows: Tensor) -> Tensor:
    """SiLU of a causal depthwise convolution over events that are followed by at least K - 1 zero rows.

    Args:
        values: (S, channels).
        weight: (channels, K), the last tap is the present row's.
        bias: (channels,).
        gap_rows: the last K - 1 zero rows of each event.

    Returns:
        (S, channels).
    """
    return _CausalConvolution.apply(values, weight, bias, gap_rows)  # type: ignore[no-any-return, no-untyped-call]
