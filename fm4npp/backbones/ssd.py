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

    def between(self, head: int) -> Tensor:
        """Decay from row j to row i >= j, exp(s_i - s_j), of one head, (K, Q, Q); 1 above the diagonal."""
        s = self.s[:, :, head]
        return (s[:, :, None] - s[:, None, :]).clamp_(max=0).exp_()

    def scores(self, group: int) -> Tensor:
        """C_i . B_j of one group, (K, Q, Q); 0 above the diagonal."""
        return torch.bmm(self.C[:, :, group], self.B[:, :, group].transpose(1, 2)).tril_()


def _split(xbc: Tensor, sizes: Sizes, chunk_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views x (K, Q, H, P), B (K, Q, G, N) and C (K, Q, G, N) of (S, H P + 2 G N)."""
    heads, states = (sizes.num_heads, sizes.head_dim), (sizes.num_groups, sizes.state_size)
    widths = [heads[0] * heads[1], *[states[0] * states[1]] * 2]
    x, B, C = xbc.view(-1, chunk_size, sum(widths)).split(widths, dim=-1)
    return x.unflatten(-1, heads), B.unflatten(-1, states), C.unflatten(-1, states)


def _groups(sizes: Sizes) -> Iterator[tuple[int, slice]]:
    """Every group with its heads."""
    heads = sizes.num_heads // sizes.num_groups
    return ((group, slice(group * heads, (group + 1) * heads)) for group in range(sizes.num_groups))


def _concatenate(parts: list[Tensor], dim: int) -> Tensor:
    """As `torch.cat`, which copies even a single part."""
    return torch.cat(parts, dim) if len(parts) > 1 else parts[0]


def _outer(values: Tensor, states: Tensor, sizes: Sizes) -> Tensor:
    """Sum over a chunk's rows of outer products: (K, Q, H, P) and (K, Q, G, N) to (K, H, P, N)."""
    parts = [torch.bmm(values[:, :, heads].flatten(2).transpose(1, 2), states[:, :, g]) for g, heads in _groups(sizes)]
    return _concatenate(parts, 1).unflatten(1, (sizes.num_heads, sizes.head_dim))


def _read(states: Tensor, carried: Tensor, sizes: Sizes) -> Tensor:
    """Contract the state axis: (K, Q, G, N) with (K, H, P, N) to (K, Q, H, P)."""
    parts = [torch.bmm(states[:, :, g], carried[:, heads].flatten(1, 2).transpose(1, 2)) for g, heads in _groups(sizes)]
    return _concatenate(parts, 2).unflatten(2, (sizes.num_heads, sizes.head_dim))


def _contract(values: Tensor, carried: Tensor, sizes: Sizes) -> Tensor:
    """Contract heads and channels: (K, Q, H, P) with (K, H, P, N) to (K, Q, G, N)."""
    parts = [torch.bmm(values[:, :, heads].flatten(2), carried[:, heads].flatten(1, 2)) for _, heads in _groups(sizes)]
    return torch.stack(parts, 2)


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


def _output(chunks: _Chunks, entering: Tensor, D: Tensor, sizes: Sizes) -> Tensor:
    """(K, Q, H, P) of chunks whose entering states, (K, H, P, N), are known."""
    y = _read(chunks.C, entering, sizes).mul_(chunks.from_start[..., None])
    x_dt = chunks.x * chunks.dt[..., None]
    for group, heads in _groups(sizes):
        scores = chunks.scores(group)
        for head in range(heads.start, heads.stop):
            y[:, :, head].baddbmm_(chunks.between(head).mul_(scores), x_dt[:, :, head])
    return y.addcmul_(chunks.x, D[:, None])


class _Gradients(NamedTuple):
    """Gradients of chunks: of x, B and C; of dt in dt x (K, Q, H); of s (K, Q, H); and <dy, x> (K, Q, H)."""

    x: Tensor
    B: Tensor
    C: Tensor
    dt: Tensor
    s: Tensor
    dy_x: Tensor


def _gradients(
    dy: Tensor, y: Tensor, chunks: _Chunks, entering: Tensor, leaving: Tensor, D: Tensor, sizes: Sizes
) -> _Gradients:
    """Gradients of chunks, given those of their outputs, (K, Q, H, P), and of the states leaving them."""
    x, dt = chunks.x, chunks.dt
    x_dt = x * dt[..., None]
    dC = _contract(dy * chunks.from_start[..., None], entering, sizes)
    dB = _contract(x_dt * chunks.to_end[..., None], leaving, sizes)
    dx_dt = _read(chunks.B, leaving, sizes).mul_(chunks.to_end[..., None])
    for group, heads in _groups(sizes):
        scores = chunks.scores(group)
        dscores = torch.zeros_like(scores)
        for head in range(heads.start, heads.stop):
            between = chunks.between(head)
            dscores.addcmul_(torch.bmm(dy[:, :, head], x_dt[:, :, head].transpose(1, 2)), between)
            dx_dt[:, :, head].baddbmm_(between.mul_(scores).transpose(1, 2), dy[:, :, head])
        dscores.tril_()
        dC[:, :, group].baddbmm_(dscores, chunks.B[:, :, group])
        dB[:, :, group].baddbmm_(dscores.transpose(1, 2), chunks.C[:, :, group])

    # exp(s_i) scales all of y_i but D x_i, exp(-s_j) all that x_j causes: their gradients need no Q x Q block.
    dy_x, ddt = torch.linalg.vecdot(dy, x), torch.linalg.vecdot(x, dx_dt)
    ds = torch.linalg.vecdot(dy, y).sub_(dy_x * D).sub_(ddt * dt)
    return _Gradients(dx_dt.mul_(dt[..., None]).addcmul_(dy, D[:, None]), dB, dC, ddt, ds, dy_x)


class _SSD(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, xbc: Tensor, dt: Tensor, A: Tensor, D: Tensor, sizes: Sizes, layout: Layout) -> Tensor:
        dt = dt.unflatten(0, (-1, layout.chunk_size))
        chunks = _Chunks.of(xbc, dt, A, sizes)
        y = torch.empty_like(chunks.x, memory_format=torch.contiguous_format)
        local = y.new_empty(len(dt), sizes.num_heads, sizes.head_dim, sizes.state_size)
        parts = [(part, chunks.part(part)) for part in blocks(y)]
        for part, some in parts:
            local[part] = _outer(some.x * (some.dt * some.to_end)[..., None], some.B, sizes)
        entering = _carry(local, chunks.whole, layout.steps)
        for part, some in parts:
            y[part] = _output(some, entering[part], D, sizes)
        ctx.save_for_backward(y, xbc, dt, A, D, entering)
        ctx.sizes, ctx.layout = sizes, layout
        return y.view(len(xbc), -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        with full_precision(dy.device):
            return (*_backward(dy, *ctx.saved_tensors, ctx.sizes, ctx.layout), None, None)


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
) -> tuple[Tensor, ...]:
    """Gradients of xbc, dt (S, H), A and D."""
    dy = dy.reshape(y.shape)
    chunks = _Chunks.of(xbc, dt, A, sizes)
    parts = [(part, chunks.part(part)) for part in blocks(y)]
    direct = torch.empty_like(entering)
    for part, some in parts:
        direct[part] = _outer(dy[part] * some.from_start[..., None], some.C, sizes)
    leaving = _carry_back(direct, chunks.whole, layout.steps)

    dxbc = torch.empty_like(xbc)
    result = _Gradients(*_split(dxbc, sizes, layout.chunk_size), *(torch.empty_like(dt) for _ in range(3)))
    for part, some in parts:
        found = _gradients(dy[part], y[part], some, entering[part], leaving[part], D, sizes)
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
    result: Tensor = _SSD.apply(xbc, dt, A, D, sizes, layout)
    return result
