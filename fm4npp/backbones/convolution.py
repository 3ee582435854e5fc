"""Causal depthwise convolution inside each event, followed by SiLU.

The first rows of a chunk reach back into the chunk before it, or to zeros where an event begins; they are computed by
themselves from a few gathered rows, and all others in place. Axes: k chunks of Q rows, K taps.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fm4npp.backbones.packing import Layout, blocks, silu


def _correlate(values: Tensor, taps: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """Correlate along the second axis without padding.

    Args:
        values: (k, K - 1 + n, channels).
        taps: (K, channels), for the earliest row first.
        bias: (channels,), or None for zero.
        out: (k, n, channels), overwritten.
    """
    num_rows = out.shape[1]
    if bias is None:
        torch.mul(values[:, :num_rows], taps[0], out=out)
    else:
        torch.addcmul(bias, values[:, :num_rows], taps[0], out=out)
    for place in range(1, len(taps)):
        out.addcmul_(values[:, place : place + num_rows], taps[place])


def reach_back(chunks: Tensor, before: Tensor, first: Tensor) -> Tensor:
    """The last rows of the chunk before each one.

    Args:
        chunks: (k, Q, channels) that follow each other.
        before: (1, K - 1, channels), the last rows before them.
        first: the chunks that begin an event.

    Returns:
        (k, K - 1, channels), zero where an event begins.
    """
    return torch.cat([before, chunks[:-1, -before.shape[1] :]]).index_fill_(0, first, 0)


def convolve(chunks: Tensor, history: Tensor, taps: Tensor, bias: Tensor, out: Tensor) -> None:
    """Causal convolution of chunks.

    Args:
        chunks: (k, Q, channels).
        history: (k, K - 1, channels), the rows before each chunk.
        taps: (K, channels), the last is the present row's.
        bias: (channels,).
        out: (k, Q, channels), overwritten.
    """
    reach = history.shape[1]
    _correlate(torch.cat([history, chunks[:, :reach]], dim=1), taps, bias, out[:, :reach])
    _correlate(chunks, taps, bias, out[:, reach:])


class _CausalConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor, layout: Layout, keep: bool) -> Tensor:
        chunks, taps = values.unflatten(0, (-1, layout.chunk_size)), weight.t().contiguous()
        history = reach_back(chunks, chunks.new_zeros(1, len(taps) - 1, chunks.shape[2]), layout.first)
        convolved = torch.empty_like(chunks, memory_format=torch.contiguous_format)
        result = torch.empty_like(convolved) if keep else convolved
        for part in blocks(convolved):
            convolve(chunks[part], history[part], taps, bias, convolved[part])
            if keep:
                silu(convolved[part], out=result[part])
            else:
                result[part] = silu(convolved[part])
        ctx.save_for_backward(values, taps, convolved, history, layout.first)
        return result.flatten(0, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, taps, convolved, history, first = ctx.saved_tensors
        chunks, gradient = values.view(convolved.shape), gradient.view(convolved.shape)
        reach, backwards = len(taps) - 1, taps.flip(0)
        inner, result = torch.empty_like(convolved), torch.empty_like(convolved)
        tap_gradients = torch.zeros_like(taps)
        for part in blocks(convolved):
            torch.ops.aten.silu_backward.grad_input(gradient[part], convolved[part], grad_input=inner[part])
            _correlate(inner[part], backwards, None, result[part, : result.shape[1] - reach])
            tap_gradients += _tap_gradients(inner[part, reach:], chunks[part])
        # The last rows of a chunk act on the next one, unless their event ends.
        future = torch.zeros_like(history)
        future[:-1] = inner[1:, :reach].index_fill(0, first[1:] - 1, 0)
        _correlate(torch.cat([inner[:, -reach:], future], dim=1), backwards, None, result[:, -reach:])
        tap_gradients += _tap_gradients(inner[:, :reach], torch.cat([history, chunks[:, :reach]], dim=1))
        return result.flatten(0, 1), tap_gradients.t(), inner.sum((0, 1)), None, None


def _tap_gradients(inner: Tensor, values: Tensor) -> Tensor:
    """(k, n, channels) gradients and (k, K - 1 + n, channels) inputs to (K, channels)."""
    num_rows = inner.shape[1]
    places = range(values.shape[1] - num_rows + 1)
    return torch.stack([(inner * values[:, place : place + num_rows]).sum((0, 1)) for place in places])


def causal_convolution(values: Tensor, weight: Tensor, bias: Tensor, layout: Layout) -> Tensor:
    """SiLU of a causal depthwise convolution inside each event.

    Args:
        values: (S, channels).
        weight: (channels, K), the last tap is the present row's; a chunk has at least K - 1 rows.
        bias: (channels,).
        layout: where events and chunks begin.

    Returns:
        (S, channels).
    """
    return _CausalConvolution.apply(  # type: ignore[no-any-return, no-untyped-call]
        values, weight, bias, layout, torch.is_grad_enabled()
    )
