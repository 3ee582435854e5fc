"""State-space duality: the Mamba-2 recurrence as matrix products over chunks (arXiv:2405.21060, section 6).

For each head, with the state h_t of shape (P, N) that is zero before an event's first row::

    h_t = exp(dt_t A) h_(t-1) + dt_t x_t B_t^T        y_t = h_t C_t + D x_t

Inside a chunk of Q rows, with s_t the sum of dt A up to t, that is
y_i = sum_(j <= i) exp(s_i - s_j) (C_i . B_j) dt_j x_j + exp(s_i) h C_i, where h is the state that enters the chunk;
only one state a chunk is carried on in order.

Axes in this module: S rows, K chunks of Q rows, H heads of P channels, G groups of heads that share B and C, N states.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fm4npp.backbones.packing import Layout, blocks, full_precision


class Sizes(NamedTuple):
    """Heads, channels of a head, groups and states of a layer."""

    num_heads: int
    head_dim: int
    num_groups: int
    state_size: int


class _Chunks(NamedTuple):
    """What one or more chunks hold.

    Attributes:
        x: (K, Q, H, P).
        B: (K, Q, G, N).
        C: (K, Q, G, N).
        dt: (K, Q, H).
        s: (K, Q, H), sum of dt A from the chunk's start.
        from_start: (K, Q, H), decay of the state that enters, exp(s).
        to_end: (K, Q, H), decay from a row to the chunk's end.
        whole: (K, H), decay over the chunk.
    """

    x: Tensor
    B: Tensor
    C: Tensor
    dt: Tensor
    s: Tensor
    from_start: Tensor
    to_end: Tensor
    whole: Tensor

    @classmethod
    def of(cls, xbc: Tensor, dt: Tensor, A: Tensor, sizes: Sizes) -> _Chunks:
        """Views of xbc, and decays; dt is (K, Q, H)."""
        s = (dt * A).cumsum(1)
        return cls(*_split(xbc, sizes, dt.shape[1]), dt, s, s.exp(), (s[:, -1:] - s).exp(), s[:, -1].exp())

    def part(self, chunks: slice) -> _Chunks:
        """Some of the chunks."""
        return _Chunks(*(values[chunks] for values in self))

    def within(self) -> tuple[Tensor, Tensor]:
        """Decay from row j to row i, exp(s_i - s_j), (K, G, H / G, Q, Q), and C_i . B_j, (K, G, 1, Q, Q).

        The former is 1 above the diagonal, the latter 0.
        """
        num_groups = self.B.shape[2]
        s = self.s.transpose(1, 2).contiguous()
        between = (s[..., :, None] - s[..., None, :]).clamp_(max=0).exp_()
        scores = torch.matmul(self.C.transpose(1, 2), self.B.permute(0, 2, 3, 1)).tril_()
        return between.unflatten(1, (num_groups, -1)), scores[:, :, None]


def _split(xbc: Tensor, sizes: Sizes, chunk_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views x (K, Q, H, P), B (K, Q, G, N) and C (K, Q, G, N) of (S, H P + 2 G N)."""
    heads, states = (sizes.num_heads, sizes.head_dim), (sizes.num_groups, sizes.state_size)
    widths = [heads[0] * heads[1], *[states[0] * states[1]] * 2]
    x, B, C = xbc.view(-1, chunk_size, sum(widths)).split(widths, dim=-1)
    return x.unflatten(-1, heads), B.unflatten(-1, states), C.unflatten(-1, states)


def _outer(values: Tensor, states: Tensor) -> Tensor:
    """Sum over a chunk's rows of outer products: (K, Q, H, P) and (K, Q, G, N) to (K, H, P, N)."""
    num_groups = states.shape[2]
    grouped = values.unflatten(2, (num_groups, -1)).flatten(3).permute(0, 2, 3, 1)
    return torch.matmul(grouped, states.transpose(1, 2)).view(len(values), *values.shape[2:], -1)


def _read(states: Tensor, carried: Tensor) -> Tensor:
    """Contract the state axis: (K, Q, G, N) with (K, H, P, N) to (K, Q, H, P)."""
    grouped = carried.unflatten(1, (states.shape[2], -1)).flatten(2, 3)
    read = torch.matmul(states.transpose(1, 2), grouped.transpose(2, 3))
    return read.transpose(1, 2).reshape(*states.shape[:2], *carried.shape[1:3])


def _contract(values: Tensor, carried: Tensor, num_groups: int) -> Tensor:
    """Contract heads and channels: (K, Q, H, P) with (K, H, P, N) to (K, G, Q, N)."""
    grouped = values.unflatten(2, (num_groups, -1)).flatten(3).transpose(1, 2)
    return torch.matmul(grouped, carried.unflatten(1, (num_groups, -1)).flatten(2, 3))


def _by_head(values: Tensor) -> Tensor:
    """(K, Q, H, P) to (K H, Q, P), contiguous."""
    return values.transpose(1, 2).flatten(0, 1)


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


def _output(chunks: _Chunks, entering: Tensor, D: Tensor) -> Tensor:
    """(K, Q, H, P) of chunks whose entering states, (K, H, P, N), are known."""
    y = _read(chunks.C, entering).mul_(chunks.from_start[..., None]).addcmul_(chunks.x, D[:, None])
    between, scores = chunks.within()
    inside = torch.bmm(between.mul_(scores).flatten(0, 2), _by_head(chunks.x * chunks.dt[..., None]))
    return y.add_(inside.view(len(y), len(D), *inside.shape[1:]).transpose(1, 2))


class _Gradients(NamedTuple):
    """Gradients of chunks: of x, B and C; of dt in dt x (K, Q, H); of s (K, Q, H); and <dy, x> (K, Q, H)."""

    x: Tensor
    B: Tensor
    C: Tensor
    dt: Tensor
    s: Tensor
    dy_x: Tensor


def _gradients(dy: Tensor, y: Tensor, chunks: _Chunks, entering: Tensor, leaving: Tensor, D: Tensor) -> _Gradients:
    """Gradients of chunks, given those of their outputs, (K, Q, H, P), and of the states leaving them."""
    x, B, C, dt = chunks[:4]
    num_groups = B.shape[2]
    x_dt = x * dt[..., None]
    between, scores = chunks.within()
    dy_heads = _by_head(dy)
    dscores = torch.bmm(dy_heads, _by_head(x_dt).transpose(1, 2)).view_as(between).mul_(between).sum(2).tril_()
    inside = torch.bmm(between.mul_(scores).flatten(0, 2).transpose(1, 2), dy_heads)
    dx_dt = _read(B, leaving).mul_(chunks.to_end[..., None])
    dx_dt += inside.view(len(dy), len(D), *inside.shape[1:]).transpose(1, 2)
    dC = _contract(dy * chunks.from_start[..., None], entering, num_groups)
    dC += torch.matmul(dscores, B.transpose(1, 2))
    dB = _contract(x_dt.mul_(chunks.to_end[..., None]), leaving, num_groups)
    dB += torch.matmul(dscores.transpose(2, 3), C.transpose(1, 2))

    # exp(s_i) scales all of y_i but D x_i, exp(-s_j) all that x_j causes: their gradients need no Q x Q block.
    dy_x, ddt = torch.linalg.vecdot(dy, x), torch.linalg.vecdot(x, dx_dt)
    ds = torch.linalg.vecdot(dy, y).sub_(dy_x * D).sub_(ddt * dt)
    dx = dx_dt.mul_(dt[..., None]).addcmul_(dy, D[:, None])
    return _Gradients(dx, dB.transpose(1, 2), dC.transpose(1, 2), ddt, ds, dy_x)


class _SSD(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, xbc: Tensor, dt: Tensor, A: Tensor, D: Tensor, sizes: Sizes, layout: Layout) -> Tensor:
        dt = dt.unflatten(0, (-1, layout.chunk_size))
        chunks = _Chunks.of(xbc, dt, A, sizes)
        y = torch.empty_like(chunks.x, memory_format=torch.contiguous_format)
        local = y.new_empty(len(dt), sizes.num_heads, sizes.head_dim, sizes.state_size)
        parts = [(part, chunks.part(part)) for part in blocks(y)]
        for part, some in parts:
            local[part] = _outer(some.x * (some.dt * some.to_end)[..., None], some.B)
        entering = _carry(local, chunks.whole, layout.steps)
        for part, some in parts:
            y[part] = _output(some, entering[part], D)
        ctx.save_for_backward(y, xbc, dt, A, D, entering)
        ctx.sizes, ctx.layout = sizes, layout
        return y.view(len(xbc), -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        with full_precision(dy.device):
            gradients = _backward(dy, ctx.saved_tensors, ctx.sizes, ctx.layout)
        return (*gradients, None, None)


def _backward(dy: Tensor, saved: tuple[Tensor, ...], sizes: Sizes, layout: Layout) -> tuple[Tensor, ...]:
    """Gradients of xbc, dt (S, H), A and D."""
    y, xbc, dt, A, D, entering = saved
    dy = dy.reshape(y.shape)
    chunks = _Chunks.of(xbc, dt, A, sizes)
    parts = [(part, chunks.part(part)) for part in blocks(y)]
    direct = torch.empty_like(entering)
    for part, some in parts:
        direct[part] = _outer(dy[part] * some.from_start[..., None], some.C)
    leaving = _carry_back(direct, chunks.whole, layout.steps)

    dxbc = torch.empty_like(xbc)
    result = _Gradients(*_split(dxbc, sizes, layout.chunk_size), *(torch.empty_like(dt) for _ in range(3)))
    for part, some in parts:
        found = _gradients(dy[part], y[part], some, entering[part], leaving[part], D)
        for whole, values in zip(result, found, strict=True):
            whole[part] = values
    # The decay over a whole chunk also acts on the state that enters the next one.
    result.s[:-1, -1] += torch.linalg.vecdot(leaving[:-1].flatten(2), entering[1:].flatten(2))
    da = result.s.flip(1).cumsum(1).flip(1)
    ddt = torch.addcmul(result.dt, da, A)
    return dxbc, ddt.flatten(0, 1), (da * dt).sum((0, 1)), result.dy_x.sum((0, 1))


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
    return _SSD.apply(xbc, dt, A, D, sizes, layout)  # type: ignore[no-any-return, no-untyped-call]
