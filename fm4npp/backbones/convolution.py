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


def _outside(values: Tensor, layout: Layout, reach: int, after: bool = False) -> Tensor:
    """The rows just before, or just after, each chunk: of its event, zero beyond it.

    Args:
        values: (S, channels).
        layout: where events and chunks begin.
        reach: how many rows.
        after: whether those after.

    Returns:
        (k, reach, channels).
    """
    chunk_size, (starts, stops) = layout.chunk_size, layout.bounds
    first = torch.arange(0, len(values), chunk_size, device=values.device)
    shifts = torch.arange(chunk_size, chunk_size + reach) if after else torch.arange(-reach, 0)
    rows = first[:, None] + shifts.to(values.device)
    beyond = (rows < starts[:, None]) | (rows >= stops[:, None])
    found = values.index_select(0, rows.clamp(0, len(values) - 1).flatten()).view(*rows.shape, values.shape[1])
    return found.masked_fill_(beyond[..., None], 0)


def _convolve(chunks: Tensor, history: Tensor, taps: Tensor, bias: Tensor, out: Tensor) -> None:
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
        history = _outside(values, layout, len(taps) - 1)
        convolved = torch.empty_like(chunks, memory_format=torch.contiguous_format)
        result = torch.empty_like(convolved) if keep else convolved
        for part in blocks(convolved):
            _convolve(chunks[part], history[part], taps, bias, convolved[part])
            if keep:
                silu(convolved[part], out=result[part])
            else:
                result[part] = silu(convolved[part])
        ctx.save_for_backward(values, taps, convolved, history)
        ctx.layout = layout
        return result.flatten(0, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, taps, convolved, history = ctx.saved_tensors
        chunks, gradient = values.view(convolved.shape), gradient.view(convolved.shape)
        reach, inside, backwards = len(taps) - 1, max(chunks.shape[1] - len(taps) + 1, 0), taps.flip(0)
        inner, result = torch.empty_like(convolved), torch.empty_like(convolved)
        tap_gradients = torch.zeros_like(taps)
        for part in blocks(convolved):
            torch.ops.aten.silu_backward.grad_input(gradient[part], convolved[part], grad_input=inner[part])
            _correlate(inner[part], backwards, None, result[part, :inside])
            tap_gradients += _tap_gradients(inner[part, reach:], chunks[part], len(taps))
        # The last rows of a chunk act on the next ones of their event.
        future = _outside(inner.flatten(0, 1), ctx.layout, reach, after=True)
        _correlate(torch.cat([inner[:, inside:], future], dim=1), backwards, None, result[:, inside:])
        tap_gradients += _tap_gradients(inner[:, :reach], torch.cat([history, chunks[:, :reach]], dim=1), len(taps))
        return result.flatten(0, 1), tap_gradients.t(), inner.sum((0, 1)), None, None


def _tap_gradients(inner: Tensor, values: Tensor, num_taps: int) -> Tensor:
    """(k, n, channels) gradients and (k, K - 1 + n, channels) inputs to (K, channels)."""
    num_rows = inner.shape[1]
    return torch.stack([(inner * values[:, tap : tap + num_rows]).sum((0, 1)) for tap in range(num_taps)])


def causal_convolution(values: Tensor, weight: Tensor, bias: Tensor, layout: Layout) -> Tensor:
    """SiLU of a causal depthwise convolution inside each event.

    Args:
        values: (S, channels).
        weight: (channels, K), the last tap is the present row's.
        bias: (channels,).
        layout: where events and chunks begin.

    Returns:
        (S, channels).
    """
    return _CausalConvolution.apply(  # type: ignore[no-any-return, no-untyped-call]
        values, weight, bias, layout, torch.is_grad_enabled()
    )
