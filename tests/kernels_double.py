"""Plain PyTorch functions with the names, arguments and shapes of causal-conv1d's and mamba-ssm's kernels.

They stand in for the compiled ones on machines without CUDA, so that everything around them is tested there.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fm4npp.backbones.kernels import Kernels
from fm4npp.testing import reference


def causal_conv1d_fn(x: Tensor, weight: Tensor, bias: Tensor, seq_idx: Tensor, activation: str) -> Tensor:
    """x (1, channels, T), weight (channels, K), seq_idx (1, T) int32."""
    assert activation == "silu"
    assert seq_idx.dtype == torch.int32
    assert x.stride(1) == 1, "the kernel keeps events apart only where channels lie together"
    weights = {"conv1d.weight": weight[:, None], "conv1d.bias": bias}
    events = [reference.convolution(rows, weights) for rows in x[0].T.split(_lengths(seq_idx))]
    return torch.cat(events).T[None]


def mamba_chunk_scan_combined(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    *,
    D: Tensor,
    dt_bias: Tensor,
    dt_softplus: bool,
    seq_idx: Tensor,
) -> Tensor:
    """x (1, T, H, P), dt (1, T, H), A (H,), B and C (1, T, G, N), D (H,)."""
    assert dt_softplus
    dt = F.softplus(dt[0] + dt_bias)
    bounds = torch.tensor([0, *_lengths(seq_idx)]).cumsum(0).tolist()
    events = [reference.recurrence(x[0, a:b], dt[a:b], A, B[0, a:b], C[0, a:b], D) for a, b in pairwise(bounds)]
    return torch.cat(events)[None]


def selective_scan_fn(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, *, D: Tensor, delta_bias: Tensor, delta_softplus: bool
) -> Tensor:
    """u and delta (batch, D, L), A (D, N), B and C (batch, N, L)."""
    assert delta_softplus
    dt = F.softplus(delta + delta_bias[:, None])
    events = zip(u, dt, B, C, strict=True)
    return torch.stack([reference.selective_recurrence(x.T, t.T, A, b.T, c.T, D).T for x, t, b, c in events])


def _lengths(seq_idx: Tensor) -> list[int]:
    return torch.unique_consecutive(seq_idx[0], return_counts=True)[1].tolist()


def right() -> Kernels:
    return Kernels(causal_conv1d_fn, mamba_chunk_scan_combined, selective_scan_fn, "double 1.0")


def without_C() -> Kernels:
    """A scan that drops C, as the released project's fallback did."""

    def scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk_size: int, **named: Any) -> Tensor:
        return mamba_chunk_scan_combined(x, dt, A, B, torch.ones_like(C), chunk_size, **named)

    def selective(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, **named: Any) -> Tensor:
        return selective_scan_fn(u, delta, A, B, torch.ones_like(C), **named)

    return Kernels(causal_conv1d_fn, scan, selective, "without C")


def leaking() -> Kernels:
    """A convolution that reads on into the event before."""

    def convolution(x: Tensor, weight: Tensor, bias: Tensor, seq_idx: Tensor, activation: str) -> Tensor:
        return causal_conv1d_fn(x, weight, bias, torch.zeros_like(seq_idx), activation)

    return Kernels(convolution, mamba_chunk_scan_combined, selective_scan_fn, "leaking")


def failing() -> Kernels:
    def scan(*arguments: Any, **named: Any) -> Tensor:
        raise RuntimeError("causal_conv1d with channel last layout requires strides to be multiples of 8\nmore")

    return Kernels(scan, scan, scan, "failing")
