"""State-space backbones as plain recurrences in float64: slow, obvious, and what every fast path must agree with.

Gradients flow through everything here, so that they can be compared too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fm4npp.backbones.mamba1 import Mamba1Mixer
from fm4npp.backbones.mamba2 import Mamba2Mixer
from fm4npp.backbones.stack import StackBackbone


def recurrence(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The recurrence of Mamba-2, one spacepoint after the other (arXiv:2405.21060, eq. 1 and 2).

    h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t, y_t = C_t h_t + D x_t, with h_0 = 0.

    Args:
        x: (L, H, P).
        dt: (L, H).
        A: (H,), negative.
        B: (L, G, N), shared by H / G heads each.
        C: (L, G, N).
        D: (H,).

    Returns:
        (L, H, P).
    """
    heads_per_group = x.shape[1] // B.shape[1]
    B, C = B.repeat_interleave(heads_per_group, dim=1), C.repeat_interleave(heads_per_group, dim=1)
    state = x.new_zeros(*x.shape[1:], B.shape[2])
    outputs = []
    for t in range(len(x)):
        decay = torch.exp(dt[t] * A)[:, None, None]
        state = decay * state + (dt[t][:, None] * x[t])[:, :, None] * B[t][:, None, :]
        outputs.append((state * C[t][:, None, :]).sum(-1) + D[:, None] * x[t])
    return torch.stack(outputs) if outputs else x


def selective_recurrence(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The recurrence of Mamba-1, one spacepoint after the other (arXiv:2312.00752, eq. 2 and algorithm 2).

    h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t, y_t = C_t h_t + D x_t, with h_0 = 0.

    Args:
        x: (L, D).
        dt: (L, D).
        A: (D, N), negative.
        B: (L, N), shared by all channels.
        C: (L, N).
        D: (D,).

    Returns:
        (L, D).
    """
    state = torch.zeros_like(A)
    outputs = []
    for t in range(len(x)):
        state = torch.exp(dt[t][:, None] * A) * state + (dt[t] * x[t])[:, None] * B[t]
        outputs.append((state * C[t]).sum(-1) + D * x[t])
    return torch.stack(outputs) if outputs else x


def convolution(rows: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """SiLU of the causal depthwise convolution, (L, channels) to (L, channels)."""
    taps = weights["conv1d.weight"][:, 0]
    padded = F.pad(rows, (0, 0, taps.shape[1] - 1, 0))
    return F.silu(sum(padded[k : k + len(rows)] * taps[:, k] for k in range(taps.shape[1])) + weights["conv1d.bias"])


def mamba2_mixer(module: Mamba2Mixer, rows: Tensor) -> Tensor:
    """One event through a Mamba-2 mixer: projection, convolution, recurrence, gated norm, projection.

    Args:
        module: whose float64 copies of the weights are used.
        rows: (L, W) of one event.

    Returns:
        (L, W) float64.
    """
    weights = _weights(module)
    heads, width, groups, state = module.sizes
    z, xbc, dt = (rows.double() @ weights["in_proj.weight"].T).split(module.splits, dim=1)
    x, B, C = convolution(xbc, weights).split([heads * width, groups * state, groups * state], dim=1)
    y = recurrence(
        x.unflatten(1, (heads, width)),
        F.softplus(dt + weights["dt_bias"]),
        -weights["A_log"].exp(),
        B.unflatten(1, (groups, state)),
        C.unflatten(1, (groups, state)),
        weights["D"],
    )
    gated = (y.flatten(1) * F.silu(z)).unflatten(1, (groups, -1))
    normed = gated * torch.rsqrt(gated.square().mean(-1, keepdim=True) + module.norm.eps)
    result: Tensor = (normed.flatten(1) * weights["norm.weight"]) @ weights["out_proj.weight"].T
    return result


def mamba1_mixer(module: Mamba1Mixer, rows: Tensor) -> Tensor:
    """One event through a Mamba-1 mixer: projection, convolution, recurrence, gate, projection; see `mamba2_mixer`."""
    weights = _weights(module)
    num_channels, num_states = weights["A_log"].shape
    x, z = (rows.double() @ weights["in_proj.weight"].T).split(num_channels, dim=1)
    x = convolution(x, weights)
    rank = weights["dt_proj.weight"].shape[1]
    low_rank, B, C = (x @ weights["x_proj.weight"].T).split([rank, num_states, num_states], dim=1)
    dt = F.softplus(low_rank @ weights["dt_proj.weight"].T + weights["dt_proj.bias"])
    y = selective_recurrence(x, dt, -weights["A_log"].exp(), B, C, weights["D"])
    return (y * F.silu(z)) @ weights["out_proj.weight"].T


MIXERS: Mapping[str, Callable[..., Tensor]] = {"mamba1": mamba1_mixer, "mamba2": mamba2_mixer}
"""Registered backbone -> the reference of its mixer."""


def backbone(module: StackBackbone, embedding: Tensor, offsets: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Packed events through a backbone, each alone; the float64 counterpart of `StackBackbone.forward`."""
    mixer, blocks = MIXERS[module.registered_name], cast(list[Any], module.layers)

    def norm(values: Tensor, weight: Tensor) -> Tensor:
        scale = torch.rsqrt(values.square().mean(-1, keepdim=True) + module.config.eps)
        return values * scale * weight.double()

    stream = embedding.double()
    updates = []
    for block in blocks:
        rows = norm(stream, block.norm.weight)
        events = [mixer(block.mixer, rows[start:stop]) for start, stop in pairwise(offsets.tolist())]
        updates.append(torch.cat(events))
        stream = stream + updates[-1]
    return tuple(updates), norm(stream, module.norm_f.weight)


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.double() for name, parameter in module.named_parameters()}
