"""Causal depthwise convolution along the sequence, followed by SiLU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fm4npp.backbones.packing import silu


class _CausalConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor, gap_rows: Tensor) -> Tensor:
        taps = weight.t().flip(0).contiguous()
        result = torch.addcmul(bias, values, taps[0])
        for lag in range(1, len(taps)):
            result[lag:].addcmul_(values[:-lag], taps[lag])
        ctx.save_for_backward(values, taps, result, gap_rows)
        return silu(result)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, taps, convolved, gap_rows = ctx.saved_tensors
        gradient = torch.ops.aten.silu_backward(gradient, convolved)
        result = gradient * taps[0]
        tap_gradients = torch.empty_like(taps)
        torch.sum(gradient * values, 0, out=tap_gradients[0])
        for lag in range(1, len(taps)):
            result[:-lag].addcmul_(gradient[lag:], taps[lag])
            torch.sum(gradient[lag:] * values[:-lag], 0, out=tap_gradients[lag])
        # The start of one event reaches back to the zero rows of the one before; there it must end.
        result.index_fill_(0, gap_rows, 0)
        return result, tap_gradients.flip(0).t(), gradient.sum(0), None


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
    result: Tensor = _CausalConvolution.apply(values, weight, bias, gap_rows)
    return result
