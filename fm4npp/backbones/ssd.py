"""State-space duality: the Mamba-2 recurrence as matrix products over chunks (arXiv:2405.21060, section 6).

For each head, with the state h_t of shape (P, N) that is zero before an event's first row::

    h_t = exp(dt_t A) h_(t-1) + dt_t x_t B_t^T        y_t = h_t C_t + D x_t

Inside a chunk of Q rows, with s_t the sum of dt A up to t, that is
y_i = sum_(j <= i) exp(s_i - s_j) (C_i . B_j) dt_j x_j + exp(s_i) h C_i, where h is the state that enters the chunk;
only one state a chunk is carried on in order.

Axes in this module: S rows, K chunks of Q rows, H heads of P channels, G groups of heads that share B and C, N states.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fm4npp.backbones.packing import Layout, full_precision


class Sizes(NamedTuple):
    """Heads, channels of a head, groups and states of a layer."""

    num_heads: int
    head_dim: int
    num_groups: int
    state_size: int


class _Chunks(NamedTuple):
    """Views of one (S, H P + 2 G N) tensor, chunk by chunk: x (K, Q, H, P), B (K, Q, G, N) and C (K, Q, G, N)."""

    x: Tensor
    B: Tensor
    C: Tensor

    @classmethod
    def of(cls, xbc: Tensor, sizes: Sizes, chunk_size: int) -> _Chunks:
        heads, states = (sizes.num_heads, sizes.head_dim), (sizes.num_groups, sizes.state_size)
        width, depth = heads[0] * heads[1], states[0] * states[1]
        x, B, C = xbc.unflatten(0, (-1, chunk_size)).split([width, depth, depth], dim=-1)
        return cls(x.unflatten(-1, heads), B.unflatten(-1, states), C.unflatten(-1, states))


class _Decay(NamedTuple):
    """Decay factors: s (K, Q, H), from the chunk's start exp(s) and to its end (K, Q, H), of a whole chunk (K, H)."""

    s: Tensor
    from_start: Tensor
    to_end: Tensor
    whole: Tensor

    @classmethod
    def of(cls, dt: Tensor, A: Tensor) -> _Decay:
        s = (dt * A).cumsum(1)
        return cls(s, s.exp(), (s[:, -1:] - s).exp(), s[:, -1].exp())

    def between(self, head: int) -> Tensor:
        """(K, Q, Q): exp(s_i - s_j) of one head for j <= i, and 1 above the diagonal."""
        s = self.s[:, :, head]
        return (s[:, :, None] - s[:, None, :]).clamp_(max=0).exp_()


def _groups(sizes: Sizes) -> Iterator[tuple[int, slice]]:
    """Every group with its heads."""
    heads = sizes.num_heads // sizes.num_groups
    return ((group, slice(group * heads, (group + 1) * heads)) for group in range(sizes.num_groups))


def _outer(values: Tensor, states: Tensor, sizes: Sizes) -> Tensor:
    """Sum over a chunk's rows of outer products: (K, Q, H, P) and (K, Q, G, N) to (K, H, P, N)."""
    parts = [
        torch.bmm(values[:, :, heads].flatten(2).transpose(1, 2), states[:, :, group])
        for group, heads in _groups(sizes)
    ]
    return torch.cat(parts, 1).unflatten(1, (sizes.num_heads, sizes.head_dim))


def _read(states: Tensor, carried: Tensor, sizes: Sizes) -> Tensor:
    """Contract the state axis: (K, Q, G, N) with (K, H, P, N) to (K, Q, H, P)."""
    parts = [
        torch.bmm(states[:, :, group], carried[:, heads].flatten(1, 2).transpose(1, 2))
        for group, heads in _groups(sizes)
    ]
    return torch.cat(parts, 2).unflatten(2, (sizes.num_heads, sizes.head_dim))


def _carry(local: Tensor, decay: Tensor, steps: tuple[Tensor, ...]) -> Tensor:
    """The state that enters each chunk.

    Args:
        local: (K, H, P, N), what each chunk adds to the state.
        decay: (K, H), what is left of the state after a chunk.
        steps: the chunks at each place of their events, from the second place on.

    Returns:
        (K, H, P, N), zero for the first chunk of an event.
    """
    entering = torch.zeros_like(local)
    for chunks in steps:
        before = chunks - 1
        state = entering.index_select(0, before).mul_(decay.index_select(0, before)[..., None, None])
        entering.index_copy_(0, chunks, state.add_(local.index_select(0, before)))
    return entering


def _carry_back(direct: Tensor, decay: Tensor, steps: tuple[Tensor, ...]) -> Tensor:
    """The adjoint of `_carry`: gradients of the states entering chunks to those of the states leaving them."""
    leaving = torch.zeros_like(direct)
    for chunks in reversed(steps):
        state = leaving.index_select(0, chunks).mul_(decay.index_select(0, chunks)[..., None, None])
        leaving.index_copy_(0, chunks - 1, state.add_(direct.index_select(0, chunks)))
    return leaving


def _forward(xbc: Tensor, dt: Tensor, A: Tensor, D: Tensor, sizes: Sizes, layout: Layout) -> tuple[Tensor, Tensor]:
    """Output (K, Q, H, P) and the states entering the chunks (K, H, P, N); arguments as in `ssd`, dt (K, Q, H)."""
    x, B, C = _Chunks.of(xbc, sizes, layout.chunk_size)
    decay = _Decay.of(dt, A)
    x_dt = x * dt[..., None]
    entering = _carry(_outer(x_dt * decay.to_end[..., None], B, sizes), decay.whole, layout.steps)
    y = _read(C, entering, sizes).mul_(decay.from_start[..., None])
    for group, heads in _groups(sizes):
        scores = torch.bmm(C[:, :, group], B[:, :, group].transpose(1, 2)).tril_()
        for head in range(heads.start, heads.stop):
            y[:, :, head] += torch.bmm(decay.between(head).mul_(scores), x_dt[:, :, head])
    return y.addcmul_(x, D[:, None]), entering


def _backward(
    dy: Tensor,
    y: Tensor,
    xbc: Tensor,
    dt: Tensor,
    A: Tensor,
    D: Tensor,
    entering: Tensor,
    sizes: Sizes,
    layout: Layout,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of xbc, dt (K, Q, H), A and D; dy and y are (K, Q, H, P)."""
    x, B, C = _Chunks.of(xbc, sizes, layout.chunk_size)
    decay = _Decay.of(dt, A)
    result = torch.empty_like(xbc)
    dx, dB, dC = _Chunks.of(result, sizes, layout.chunk_size)

    x_dt = x * dt[..., None]
    decayed = dy * decay.from_start[..., None]
    leaving = _carry_back(_outer(decayed, C, sizes), decay.whole, layout.steps)
    _join(dC, decayed, entering, sizes)
    _join(dB, torch.mul(x_dt, decay.to_end[..., None], out=decayed), leaving, sizes)
    dx_dt = _read(B, leaving, sizes).mul_(decay.to_end[..., None])
    for group, heads in _groups(sizes):
        B_group, C_group = B[:, :, group], C[:, :, group]
        scores = torch.bmm(C_group, B_group.transpose(1, 2)).tril_()
        dscores = torch.zeros_like(scores)
        for head in range(heads.start, heads.stop):
            between = decay.between(head)
            dscores.addcmul_(torch.bmm(dy[:, :, head], x_dt[:, :, head].transpose(1, 2)), between)
            dx_dt[:, :, head] += torch.bmm(between.mul_(scores).transpose(1, 2), dy[:, :, head])
        dscores.tril_()
        dC[:, :, group] += torch.bmm(dscores, B_group)
        dB[:, :, group] += torch.bmm(dscores.transpose(1, 2), C_group)

    # exp(s_i) scales all of y_i except D x_i, exp(-s_j) all that comes of x_j: their gradients need no Q x Q block.
    dy_x, x_dx_dt = torch.linalg.vecdot(dy, x), torch.linalg.vecdot(x, dx_dt)
    ds = torch.linalg.vecdot(dy, y).sub_(dy_x * D).sub_(x_dx_dt * dt)
    ds[:-1, -1] += (leaving[:-1] * entering[1:]).sum((-1, -2))
    da = ds.flip(1).cumsum(1).flip(1)
    torch.mul(dx_dt, dt[..., None], out=dx).addcmul_(dy, D[:, None])
    return result, x_dx_dt.addcmul_(da, A), (da * dt).sum((0, 1)), dy_x.sum((0, 1))


def _join(target: Tensor, values: Tensor, carried: Tensor, sizes: Sizes) -> None:
    """Contract heads and channels: (K, Q, H, P) with (K, H, P, N) into the target (K, Q, G, N)."""
    for group, heads in _groups(sizes):
        target[:, :, group] = torch.bmm(values[:, :, heads].flatten(2), carried[:, heads].flatten(1, 2))


class _SSD(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, xbc: Tensor, dt: Tensor, A: Tensor, D: Tensor, sizes: Sizes, layout: Layout) -> Tensor:
        dt = dt.unflatten(0, (-1, layout.chunk_size))
        y, entering = _forward(xbc, dt, A, D, sizes, layout)
        ctx.save_for_backward(y, xbc, dt, A, D, entering)
        ctx.sizes, ctx.layout = sizes, layout
        return y.view(len(xbc), -1)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        with full_precision(dy.device):
            dxbc, ddt, dA, dD = _backward(dy.reshape(saved[0].shape), *saved, ctx.sizes, ctx.layout)
        return dxbc, ddt.flatten(0, 1), dA, dD, None, None


def ssd(xbc: Tensor, dt: Tensor, A: Tensor, D: Tensor, sizes: Sizes, layout: Layout) -> Tensor:
    """The state-space recurrence over aligned events.

    The gradient is written by hand: it makes the Q x Q blocks again instead of keeping them.

    Args:
        xbc: (S, H P + 2 G N), channels [x | B | C].
        dt: (S, H), step sizes, positive.
        A: (H,), negative.
        D: (H,), direct path.
        sizes: how the channels divide.
        layout: where events and chunks begin.

    Returns:
        (S, H P).
    """
    result: Tensor = _SSD.apply(xbc, dt, A, D, sizes, layout)
    return result
