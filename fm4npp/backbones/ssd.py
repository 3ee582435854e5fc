"""State-space duality: the Mamba-2 recurrence as matrix products over chunks (arXiv:2405.21060, section 6).

For each head, with the state h_t of shape (P, N) that is zero before an event's first row::

    h_t = exp(dt_t A) h_(t-1) + dt_t x_t B_t^T        y_t = h_t C_t + D x_t

Inside a chunk of Q rows, with s_t the sum of dt A up to t, that is
y_i = sum_(j <= i) exp(s_i - s_j) (C_i . B_j) dt_j x_j + exp(s_i) h C_i, where h is the state that enters the chunk;
only one state a chunk is carried on in order.

Axes in this module: S rows, K chunks of Q rows, H heads of P channels, G groups of heads that share B and C, N states;
the J = H P / G channels of a group share a state of (N, J) numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fm4npp.backbones.packing import LEAST_EXPONENT, Layout, blocks, full_precision


class Sizes(NamedTuple):
    """Heads, channels of a head, groups and states of a layer."""

    num_heads: int
    head_dim: int
    num_groups: int
    state_size: int

    def states(self, like: Tensor, number: int) -> Tensor:
        """Room for states, (number, G, N, J), of which the first is zero."""
        channels = self.num_heads * self.head_dim // self.num_groups
        room = like.new_empty(number, self.num_groups, self.state_size, channels)
        room[0] = 0
        return room


class Chunks(NamedTuple):
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
    def of(cls, xbc: Tensor, dt: Tensor, A: Tensor, sizes: Sizes) -> Chunks:
        """Views of xbc, and decays; dt is (K, Q, H)."""
        s = (dt * A).cumsum(1)
        from_start, to_end = (exponent.clamp(min=LEAST_EXPONENT).exp_() for exponent in (s, s[:, -1:] - s))
        return cls(*_split(xbc, sizes, dt.shape[1]), dt, s, from_start, to_end, from_start[:, -1])

    def part(self, chunks: slice) -> Chunks:
        """Some of the chunks."""
        return Chunks(*(values[chunks] for values in self))

    def within(self) -> tuple[Tensor, Tensor]:
        """Decay from row j to row i, exp(s_i - s_j), (K, G, H / G, Q, Q), and C_i . B_j, (K, G, 1, Q, Q).

        The former is 1 above the diagonal, the latter 0.
        """
        num_groups = self.B.shape[2]
        s = self.s.transpose(1, 2).contiguous()
        between = (s[..., :, None] - s[..., None, :]).clamp_(min=LEAST_EXPONENT, max=0).exp_()
        scores = torch.matmul(self.C.transpose(1, 2), self.B.permute(0, 2, 3, 1)).tril_()
        return between.unflatten(1, (num_groups, -1)), scores[:, :, None]


def _split(xbc: Tensor, sizes: Sizes, chunk_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Views x (K, Q, H, P), B (K, Q, G, N) and C (K, Q, G, N) of (S, H P + 2 G N)."""
    heads, states = (sizes.num_heads, sizes.head_dim), (sizes.num_groups, sizes.state_size)
    widths = [heads[0] * heads[1], *[states[0] * states[1]] * 2]
    x, B, C = xbc.view(-1, chunk_size, sum(widths)).split(widths, dim=-1)
    return x.unflatten(-1, heads), B.unflatten(-1, states), C.unflatten(-1, states)


def _grouped(values: Tensor, num_groups: int) -> Tensor:
    """(K, Q, H, P) to (K, G, Q, J)."""
    grouped: Tensor = values.unflatten(2, (num_groups, -1)).flatten(3)
    return grouped.transpose(1, 2)


def _outer(values: Tensor, states: Tensor) -> Tensor:
    """Sum over a chunk's rows of outer products: (K, Q, H, P) and (K, Q, G, N) to (K, G, N, J)."""
    return torch.matmul(states.permute(0, 2, 3, 1), _grouped(values, states.shape[2]))


def _read(states: Tensor, carried: Tensor, shape: torch.Size) -> Tensor:
    """Contract the state axis: (K, Q, G, N) with (K, G, N, J) to `shape`, (K, Q, H, P)."""
    return torch.matmul(states.transpose(1, 2), carried).transpose(1, 2).reshape(shape)


def _contract(values: Tensor, carried: Tensor) -> Tensor:
    """Contract heads and channels: (K, Q, H, P) with (K, G, N, J) to (K, G, Q, N)."""
    return torch.matmul(_grouped(values, carried.shape[1]), carried.transpose(2, 3))


def _by_channel(decay: Tensor, carried: Tensor) -> Tensor:
    """(K, H) to (K, G, 1, J), the same for all channels of a head."""
    _, num_groups, _, channels = carried.shape
    return decay.repeat_interleave(channels * num_groups // decay.shape[1], dim=1).view(-1, num_groups, 1, channels)


def _by_head(values: Tensor) -> Tensor:
    """(K, Q, H, P) to (K H, Q, P), contiguous."""
    return values.transpose(1, 2).flatten(0, 1)


def _carry(entering: Tensor, local: Tensor, decay: Tensor, is_first: Sequence[bool]) -> None:
    """Carry the state through chunks.

    Args:
        entering: (K + 1, G, N, J), the state that enters each chunk and, last, the chunk after them; overwritten but
            for the first.
        local: (K, G, N, J), what each chunk adds to the state.
        decay: (K, H), what is left of the state after a chunk.
        is_first: whether each of the K chunks and the one after them starts with no state.
    """
    decay = _by_channel(decay, local)
    for chunk, reset in enumerate(is_first[1:]):
        if reset:
            entering[chunk + 1].zero_()
        else:
            torch.addcmul(local[chunk], entering[chunk], decay[chunk], out=entering[chunk + 1])


def _carry_back(leaving: Tensor, direct: Tensor, decay: Tensor, is_first: Sequence[bool]) -> None:
    """The adjoint of `_carry`.

    Args:
        leaving: (K + 1, G, N, J), gradients of the state that leaves the chunk before them and of those that leave
            each chunk; overwritten but for the last.
        direct: (K, G, N, J), gradients of the states that enter, by what a chunk reads of them.
        decay: (K, H).
        is_first: whether each of the K chunks starts with no state.
    """
    decay = _by_channel(decay, direct)
    for chunk in reversed(range(len(is_first))):
        if is_first[chunk]:
            leaving[chunk].zero_()
        else:
            torch.addcmul(direct[chunk], leaving[chunk + 1], decay[chunk], out=leaving[chunk])


def _scan(chunks: Chunks, D: Tensor, entering: Tensor, is_first: Sequence[bool]) -> Tensor:
    """Outputs of K chunks that follow each other.

    Args:
        chunks: what they hold.
        D: (H,), direct path.
        entering: (K + 1, G, N, J), the state that enters each chunk and, last, the chunk after them; only the first
            is read, all others are written.
        is_first: whether each of the K chunks and the one after them starts with no state.

    Returns:
        (K, Q, H, P).
    """
    local = _outer(chunks.x * (chunks.dt * chunks.to_end)[..., None], chunks.B)
    _carry(entering, local, chunks.whole, is_first)
    y = _read(chunks.C, entering[:-1], chunks.x.shape)
    y.mul_(chunks.from_start[..., None]).addcmul_(chunks.x, D[:, None])
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


def _gradients(dy: Tensor, y: Tensor, chunks: Chunks, entering: Tensor, leaving: Tensor, D: Tensor) -> _Gradients:
    """Gradients of K chunks.

    Args:
        dy: (K, Q, H, P), gradients of their outputs.
        y: (K, Q, H, P), their outputs.
        chunks: what they hold.
        entering: (K + 1, G, N, J), the states that enter them and the chunk after.
        leaving: (K, G, N, J), gradients of the states that leave them; zero at the end of an event.
        D: (H,).
    """
    x, B, C, dt = chunks[:4]
    x_dt = x * dt[..., None]
    between, scores = chunks.within()
    dy_heads = _by_head(dy)
    dscores = torch.bmm(dy_heads, _by_head(x_dt).transpose(1, 2)).view_as(between).mul_(between).sum(2).tril_()
    inside = torch.bmm(between.mul_(scores).flatten(0, 2).transpose(1, 2), dy_heads)
    dx_dt = _read(B, leaving, x.shape).mul_(chunks.to_end[..., None])
    dx_dt += inside.view(len(dy), len(D), *inside.shape[1:]).transpose(1, 2)
    dC = _contract(dy * chunks.from_start[..., None], entering[:-1])
    dC += torch.matmul(dscores, B.transpose(1, 2))
    dB = _contract(x_dt.mul_(chunks.to_end[..., None]), leaving)
    dB += torch.matmul(dscores.transpose(2, 3), C.transpose(1, 2))

    # exp(s_i) scales all of y_i but D x_i, exp(-s_j) all that x_j causes: their gradients need no Q x Q block.
    dy_x, ddt = torch.linalg.vecdot(dy, x), torch.linalg.vecdot(x, dx_dt)
    ds = torch.linalg.vecdot(dy, y).sub_(dy_x * D).sub_(ddt * dt)
    # The decay over a whole chunk also acts on the state that enters the next one.
    ds[:, -1] += (leaving * entering[1:]).sum(2).view(len(dy), *x.shape[2:]).sum(2)
    dx = dx_dt.mul_(dt[..., None]).addcmul_(dy, D[:, None])
    return _Gradients(dx, dB.transpose(1, 2), dC.transpose(1, 2), ddt, ds, dy_x)


class _SSD(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, xbc: Tensor, dt: Tensor, A: Tensor, D: Tensor, sizes: Sizes, layout: Layout, keep: bool
    ) -> Tensor:
        chunks = Chunks.of(xbc, dt.unflatten(0, (-1, layout.chunk_size)), A, sizes)
        y = torch.empty_like(chunks.x, memory_format=torch.contiguous_format)
        parts, is_first = list(blocks(y)), (*layout.is_first, True)
        entering = sizes.states(y, (len(y) if keep else parts[0].stop) + 1)
        for part in parts:
            room = entering[part.start : part.stop + 1] if keep else entering[: part.stop - part.start + 1]
            y[part] = _scan(chunks.part(part), D, room, is_first[part.start : part.stop + 1])
            if not keep:
                entering[0] = room[-1]
        ctx.save_for_backward(y, xbc, chunks.dt, A, D, entering)
        ctx.sizes, ctx.layout = sizes, layout
        return y.view(len(xbc), -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        with full_precision(dy.device):
            gradients = _backward(dy, ctx.saved_tensors, ctx.sizes, ctx.layout)
        return (*gradients, None, None, None)


def _backward(dy: Tensor, saved: tuple[Tensor, ...], sizes: Sizes, layout: Layout) -> tuple[Tensor, ...]:
    """Gradients of xbc, dt (S, H), A and D."""
    y, xbc, dt, A, D, entering = saved
    dy = dy.reshape(y.shape)
    chunks = Chunks.of(xbc, dt, A, sizes)
    dxbc = torch.empty_like(xbc)
    result = _Gradients(*_split(dxbc, sizes, layout.chunk_size), *(torch.empty_like(dt) for _ in range(3)))
    following: Tensor | None = None
    for part in reversed(list(blocks(y))):
        some, around = chunks.part(part), entering[part.start : part.stop + 1]
        direct = _outer(dy[part] * some.from_start[..., None], some.C)
        leaving = torch.empty_like(around)
        leaving[-1] = following if following is not None else 0
        _carry_back(leaving, direct, some.whole, layout.is_first[part])
        following = leaving[0]
        found = _gradients(dy[part], y[part], some, around, leaving[1:], D)
        for whole, values in zip(result, found, strict=True):
            whole[part] = values
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
    return _SSD.apply(xbc, dt, A, D, sizes, layout, torch.is_grad_enabled())  # type: ignore[no-any-return, no-untyped-call]
