"""The selective scan: the Mamba-1 recurrence over chunks of packed events (arXiv:2312.00752, section 3).

For each channel d and state n, zero before an event's first row::

    h_t = exp(dt_t A) h_(t-1) + dt_t x_t B_t        y_t = sum_n C_t h_t + D x_t

Unlike in Mamba-2, each channel decays each of its states at a rate of its own, so that no matrix product does the work:
S D N exponentials and a handful of passes over as many numbers do. They run in parts that fit a core's cache. Narrow
layers run many chunks side by side: what each chunk adds to the state is found first, then the states that enter the
chunks, then the chunks' rows. In wide layers a single row fills a processor's vectors; there chunks run in order, the
state passes straight on, and nothing is computed twice. Every exponent is negative or zero.

Axes in this module: S rows, K chunks of Q rows, D channels, N states; k and d are the chunks and channels of a part.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fm4npp.backbones.packing import LEAST_EXPONENT, Layout, full_precision

PART_SIZE = 1 << 17
"""Numbers in a part on a CPU: half a MB each of decays, states and gradients stays in a core's cache."""
LARGE_PART_SIZE = 1 << 26
"""Numbers in a part elsewhere, where only memory bounds it."""
CHANNEL_STEP = 64
"""Channels of a part are a multiple of this, where they are not all."""
WIDE_STATE = 1 << 12
"""Numbers in the state, D N, from which the chunks run in order on a CPU."""

Part = tuple[slice, slice, slice]
"""Chunks, all rows or states, channels."""


class _Inputs(NamedTuple):
    """What a scan reads.

    Attributes:
        x: (K, Q, D).
        dt: (K, Q, D).
        A: (N, D).
        B: (K, Q, N).
        C: (K, Q, N).
        D: (D,).
    """

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor

    @classmethod
    def of(cls, chunk_size: int, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> _Inputs:
        """From rows, and A as (D, N)."""
        x, dt, B, C = (values.unflatten(0, (-1, chunk_size)) for values in (x, dt, B, C))
        return cls(x, dt, A.t().contiguous(), B, C, D)

    @property
    def in_order(self) -> bool:
        """Whether chunks run one after the other."""
        return self.x.device.type == "cpu" and self.A.numel() >= WIDE_STATE

    def parts(self, in_order: bool) -> list[Part]:
        """All parts, those of the same channels in order of their chunks."""
        (num_chunks, chunk_size, num_channels), num_states = self.x.shape, len(self.A)
        size = (PART_SIZE if self.x.device.type == "cpu" else LARGE_PART_SIZE) // (chunk_size * num_states)
        channels = min(max(size // CHANNEL_STEP, 1) * CHANNEL_STEP, num_channels)
        chunks = 1 if in_order else max(size // channels, 1)
        return [
            (slice(chunk, chunk + chunks), slice(None), slice(channel, channel + channels))
            for channel in range(0, num_channels, channels)
            for chunk in range(0, num_chunks, chunks)
        ]

    def part(self, part: Part) -> _Inputs:
        """Some chunks and channels."""
        x, dt, A, B, C, D = self
        chunks, _, channels = part
        return _Inputs(x[part], dt[part], A[:, channels], B[chunks], C[chunks], D[channels])


class _Buffer:
    """Room for a number of every row, state and channel of a part, made once: fresh memory costs as much as a pass.

    Attributes:
        all: (k, Q, N, d).
        rows: its Q slices, (k, N, d).
    """

    def __init__(self) -> None:
        self.all = torch.empty(0)
        self.rows: tuple[Tensor, ...] = ()

    def fit(self, inputs: _Inputs) -> _Buffer:
        """Take the shape of a part."""
        shape = (*inputs.x.shape[:2], *inputs.A.shape)
        if self.all.shape != shape:
            self.all = inputs.x.new_empty(shape)
            self.rows = self.all.unbind(1)
        return self


def _contract(weights: Tensor, values: Tensor) -> Tensor:
    """(..., R) and (..., R, C) to (..., C)."""
    *axes, inner, outer = values.shape
    result = torch.bmm(weights.reshape(-1, 1, inner), values.reshape(-1, inner, outer))
    return result.view(*axes, outer)


def _decays(time: Tensor, A: Tensor, out: Tensor) -> Tensor:
    """exp(time A), by broadcasting."""
    torch.mul(time, A, out=out)
    if time.device.type != "cpu" or time.max() * A.min() < LEAST_EXPONENT:
        out.clamp_(min=LEAST_EXPONENT)
    return out.exp_()


def _run(inputs: _Inputs, entering: Tensor, decays: _Buffer, states: _Buffer) -> None:
    """Fill in exp(dt A) and the state after each row; the states that enter are (k, N, d)."""
    _decays(inputs.dt[:, :, None], inputs.A, decays.fit(inputs).all)
    torch.mul((inputs.dt * inputs.x)[:, :, None], inputs.B[..., None], out=states.fit(inputs).all)
    state = entering
    for row, decay in zip(states.rows, decays.rows, strict=True):
        state = row.addcmul_(decay, state)


def _decayed_sums(inputs: _Inputs, room: Tensor, dy: Tensor | None = None) -> Tensor:
    """What each chunk adds to the state at its end; with dy, to the gradient of the state at its start.

    That is, with t the time between a row and the chunk's end, the sum over rows of exp(t A) dt x B, or, with t the
    time from the chunk's start through a row, of exp(t A) dy C.

    Args:
        inputs: of all chunks.
        room: (K, N, D), for the result.
        dy: (K, Q, D), gradients of the outputs.

    Returns:
        (K, N, D).
    """
    ones = inputs.x.new_ones(inputs.x.shape[1], inputs.x.shape[1])
    between = (ones.triu(1) if dy is None else ones.tril())[None]
    buffer = _Buffer()
    for part in inputs.parts(in_order=False):
        x, dt, A, B, C, _ = some = inputs.part(part)
        values, weights = (dt * x, B) if dy is None else (dy[part], C)
        terms = buffer.fit(some).all.view(len(x), len(A), *x.shape[1:])
        time = torch.bmm(between.expand(len(dt), -1, -1), dt)
        _decays(time[:, None], A[:, None], terms).mul_(values[:, None])
        room[part] = _contract(weights.transpose(1, 2), terms)
    return room


def _carry(added: Tensor, inputs: _Inputs, steps: tuple[Tensor, ...], back: bool = False) -> Tensor:
    """States that enter chunks from what each chunk adds; backward, gradients of the states that leave chunks.

    Args:
        added: (K, N, D).
        inputs: whose dt and A decay the state over a chunk.
        steps: chunks that take over from the one before, in order.
        back: whether they hand over to it instead.

    Returns:
        (K, N, D), zero for the first chunk of an event or, backward, for its last.
    """
    result = torch.zeros_like(added)
    if not steps:
        return result
    later = torch.cat(steps)
    sizes = [len(chunks) for chunks in steps]
    giving, taking = (later, later - 1) if back else (later - 1, later)
    local = added.index_select(0, giving)
    decays = _decays(inputs.dt.sum(1).index_select(0, giving)[:, None], inputs.A, torch.empty_like(local))
    turns = list(zip(*(values.split(sizes) for values in (giving, taking, decays, local)), strict=True))
    for source, target, decay, state in reversed(turns) if back else turns:
        result.index_copy_(0, target, state.addcmul_(decay, result.index_select(0, source)))
    return result


def _continuing(layout: Layout) -> set[int]:
    """Chunks that are not the first of their event."""
    return set(torch.cat(layout.steps).tolist()) if layout.steps else set()


def _scan(inputs: _Inputs, layout: Layout) -> tuple[Tensor, Tensor]:
    """Outputs, (K, Q, D), and the states that enter chunks, (K, N, D)."""
    y, in_order = torch.empty_like(inputs.x), inputs.in_order
    continuing = _continuing(layout) if in_order else set()
    room = y.new_empty(len(y), *inputs.A.shape)
    entering = room if in_order else _carry(_decayed_sums(inputs, room), inputs, layout.steps)
    decays, states = _Buffer(), _Buffer()
    for part in inputs.parts(in_order):
        some = inputs.part(part)
        if in_order:
            entering[part] = states.rows[-1] if part[0].start in continuing else 0
        _run(some, entering[part], decays, states)
        torch.addcmul(_contract(some.C, states.all), some.x, some.D, out=y[part])
    return y, entering


class _Gradients(NamedTuple):
    """Gradients of x (K, Q, D), dt (K, Q, D), A (N, D), B (K, Q, N), C (K, Q, N) and D (D,)."""

    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor


def _gradients(
    dy: Tensor, inputs: _Inputs, entering: Tensor, leaving: Tensor, buffers: list[_Buffer]
) -> tuple[_Gradients, Tensor]:
    """Gradients of a part, and those of the states that enter it, (k, N, d).

    Args:
        dy: (k, Q, d).
        inputs: of the part.
        entering: (k, N, d), states.
        leaving: (k, N, d), gradients of the states that leave.
        buffers: room for decays, states and gradients of states.
    """
    x, dt, A, B, C, D = inputs
    decays, states, dstates = (buffer.fit(inputs) for buffer in buffers)
    _run(inputs, entering, decays, states)
    dC = _contract(dy, states.all.transpose(2, 3))

    torch.mul(dy[:, :, None], C[..., None], out=dstates.all)
    dstates.rows[-1].add_(leaving)
    for row in range(dt.shape[1] - 1, 0, -1):
        dstates.rows[row - 1].addcmul_(decays.rows[row], dstates.rows[row])
    dentering = decays.rows[0] * dstates.rows[0]
    dB = _contract(dt * x, dstates.all.transpose(2, 3))
    ddt_x = _contract(B, dstates.all)

    # From here on `decays` holds the gradient of dt A: decay * state before * dstates.
    decays.all[:, 1:].mul_(states.all[:, :-1])
    decays.rows[0].mul_(entering)
    decays.all.mul_(dstates.all)
    ddt = torch.mul(decays.all, A, out=states.all).sum(2).addcmul_(ddt_x, x)
    dA = decays.all.mul_(dt[:, :, None]).sum((0, 1))
    return _Gradients(ddt_x.mul_(dt).addcmul_(dy, D), ddt, dA, dB, dC, (dy * x).sum((0, 1))), dentering


def _backward(dy: Tensor, inputs: _Inputs, entering: Tensor, layout: Layout) -> _Gradients:
    """Gradients from those of the outputs, (K, Q, D)."""
    in_order = inputs.in_order
    continuing = _continuing(layout) if in_order else set()
    room = torch.empty_like(entering)
    leaving = room if in_order else _carry(_decayed_sums(inputs, room, dy), inputs, layout.steps, back=True)
    x, dt, A, B, C, D = inputs
    result = _Gradients(*map(torch.empty_like, (x, dt)), *map(torch.zeros_like, (A, B, C, D)))
    buffers = [_Buffer(), _Buffer(), _Buffer()]
    dentering = leaving[:0]
    for part in reversed(inputs.parts(in_order)):
        chunks, _, channels = part
        if in_order:
            leaving[part] = dentering if chunks.stop in continuing else 0
        found, dentering = _gradients(dy[part], inputs.part(part), entering[part], leaving[part], buffers)
        result.x[part], result.dt[part] = found.x, found.dt
        result.A[:, channels] += found.A
        result.B[chunks] += found.B
        result.C[chunks] += found.C
        result.D[channels] += found.D
    return result


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, layout: Layout) -> Tensor:
        y, entering = _scan(_Inputs.of(layout.chunk_size, x, dt, A, B, C, D), layout)
        ctx.save_for_backward(x, dt, A, B, C, D, entering)
        ctx.layout = layout
        return y.view_as(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        *saved, entering = ctx.saved_tensors
        with full_precision(dy.device):
            inputs = _Inputs.of(ctx.layout.chunk_size, *saved)
            found = _backward(dy.contiguous().view_as(inputs.x), inputs, entering, ctx.layout)
        dx, ddt, dB, dC = (values.flatten(0, 1) for values in (found.x, found.dt, found.B, found.C))
        return dx, ddt, found.A.t(), dB, dC, found.D, None


def selective_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, layout: Layout) -> Tensor:
    """The selective state-space recurrence over aligned events.

    The gradient is written by hand: it makes the states of a chunk's rows again instead of keeping them.

    Args:
        x: (S, D).
        dt: (S, D), step sizes, positive.
        A: (D, N), negative.
        B: (S, N).
        C: (S, N).
        D: (D,), direct path.
        layout: where events and chunks begin.

    Returns:
        (S, D).
    """
    return _SelectiveScan.apply(x, dt, A, B, C, D, layout)  # type: ignore[no-any-return, no-untyped-call]
