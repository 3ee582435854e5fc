"""The Mamba-2 block as a plain recurrence in float64: slow, obvious, and what every fast path must agree with."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from fm4npp.backbones.mamba2 import Mamba2Backbone, Mamba2Block, Mamba2Config, Mamba2Mixer

TOLERANCE = 5e-6
"""Largest relative difference of a float32 backbone to the recurrence that is taken for agreement."""


def recurrence(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The state-space recurrence, one spacepoint after the other (arXiv:2405.21060, eq. 1 and 2).

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


def mixer(module: Mamba2Mixer, rows: Tensor) -> Tensor:
    """One event through a mixer: projection, causal convolution with SiLU, recurrence, gated norm, projection.

    Args:
        module: whose float64 copies of the weights are used.
        rows: (L, W) of one event.

    Returns:
        (L, W) float64.
    """
    weights = {name: parameter.detach().double() for name, parameter in module.named_parameters()}
    heads, width, groups, state = module.sizes
    z, xbc, dt = (rows.double() @ weights["in_proj.weight"].T).split(module.splits, dim=1)
    taps = weights["conv1d.weight"][:, 0]
    padded = F.pad(xbc, (0, 0, taps.shape[1] - 1, 0))
    xbc = F.silu(sum(padded[k : k + len(xbc)] * taps[:, k] for k in range(taps.shape[1])) + weights["conv1d.bias"])
    x, B, C = xbc.split([heads * width, groups * state, groups * state], dim=1)
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


def backbone(module: Mamba2Backbone, embedding: Tensor, offsets: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Packed events through a backbone, each alone; the float64 counterpart of `Mamba2Backbone.forward`."""

    def norm(values: Tensor, weight: Tensor) -> Tensor:
        scale = torch.rsqrt(values.square().mean(-1, keepdim=True) + module.config.eps)
        return values * scale * weight.detach().double()

    stream = embedding.double()
    updates = []
    bounds = offsets.tolist()
    for block in module.layers:
        assert isinstance(block, Mamba2Block)
        rows = norm(stream, block.norm.weight)
        events = [mixer(block.mixer, rows[start:stop]) for start, stop in pairwise(bounds)]
        updates.append(torch.cat(events))
        stream = stream + updates[-1]
    return tuple(updates), norm(stream, module.norm_f.weight)


@torch.no_grad()
def backbone_error(device: str = "cpu") -> float:
    """Largest difference of this machine's float32 backbone to the recurrence, relative to the largest value.

    Two blocks on three packed events of 1, 70 and 200 spacepoints, with fixed random weights and inputs.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Mamba2Backbone(Mamba2Config(width=64, num_layers=2, state_size=16))
    offsets = torch.tensor([0, 1, 71, 271])
    embedding = torch.randn(271, 64, generator=generator)
    expected = backbone(module, embedding, offsets)
    found = module.to(device)(embedding.to(device), offsets.to(device))
    pairs = [*zip(expected[0], found[0], strict=True), (expected[1], found[1])]
    return max(float((value.cpu() - truth).abs().max() / truth.abs().max()) for truth, value in pairs)
