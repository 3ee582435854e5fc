"""The layout in which packed events run through a backbone, and products whose rows do not depend on each other.

An event's output must not change by one bit with its batch mates. Three habits of CPU libraries stand against that:

- a matrix product of fewer than 16 rows, or of more than 512 summands on several threads, is summed in another order
  than a larger or smaller one: `rowwise_linear` never asks for such a product;
- PyTorch's vectorised `silu`, `sigmoid` and `softplus` end in a scalar loop that rounds differently, and where it
  begins depends on the size of the tensor: `silu` and `softplus` here are built of `exp` and `log1p`, which do not;
- a chunk that holds the end of one event and the start of the next: `Layout` gives every event chunks of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

MIN_ROWS = 64
"""Rows below which a product is filled up with zeros (16 were enough on the processors measured)."""
MAX_SUMMANDS = 512
"""Summands of one product on a CPU; more are added up piece by piece."""
BLOCK_SIZE = 1 << 18
"""Numbers in a block: 1 MB in single precision, so that a chain of operations on it stays in a core's cache."""

LEAST_EXPONENT = -60.0
"""Smaller exponents are raised to this one: exp(-60) is nothing beside 1 in double precision too, and numbers too small
for the usual format make an exponential 200 times slower and a product 20 times."""


@dataclass(frozen=True)
class Layout:
    """Where packed tokens lie when every event starts at a chunk; the rows left over are zero.

    Attributes:
        rows: (T,), the row of each token.
        num_rows: S, all rows, a multiple of the chunk size.
        chunk_size: rows of a chunk, Q.
        first: the chunks that do not continue the one before.
        is_first: for each of the S / Q chunks, whether it is one of `first`.
    """

    rows: Tensor
    num_rows: int
    chunk_size: int
    first: Tensor
    is_first: tuple[bool, ...]

    @classmethod
    def of(cls, offsets: Tensor, chunk_size: int) -> Layout:
        """Lay out events.

        Args:
            offsets: (B + 1,), where each event starts.
            chunk_size: rows of a chunk.
        """
        sizes = offsets.diff()
        sizes = sizes[sizes > 0]
        num_chunks = (sizes + chunk_size - 1) // chunk_size
        ends = num_chunks.cumsum(0)
        shift = (ends - num_chunks) * chunk_size - (sizes.cumsum(0) - sizes)
        rows = torch.arange(int(sizes.sum()), device=offsets.device) + shift.repeat_interleave(sizes)
        occupied = int(num_chunks.sum())
        total = max(occupied, -(-MIN_ROWS // chunk_size))
        is_first = torch.zeros(total, dtype=torch.bool, device=offsets.device)
        is_first[ends - num_chunks] = True
        is_first[occupied:] = True
        return cls(rows, total * chunk_size, chunk_size, is_first.nonzero()[:, 0], tuple(is_first.tolist()))

    @cached_property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """For each chunk the first row of its event, and the row after its event's last chunk; (S / Q,) each."""
        edges = torch.cat([self.first * self.chunk_size, self.first.new_tensor([self.num_rows])])
        lengths = edges.diff() // self.chunk_size
        return edges[:-1].repeat_interleave(lengths), edges[1:].repeat_interleave(lengths)

    @cached_property
    def steps(self) -> tuple[Tensor, ...]:
        """For every place in an event after the first, the chunks at that place, by number."""
        chunks = torch.arange(len(self.is_first), device=self.first.device)
        place = chunks - self.bounds[0] // self.chunk_size
        by_place: tuple[Tensor, ...] = place.argsort(stable=True).split(torch.bincount(place).tolist())
        return by_place[1:]

    def align(self, packed: Tensor) -> Tensor:
        """(T, W) to (S, W), zero where there is no token."""
        return _Align.apply(packed, self.rows, self.num_rows)  # type: ignore[no-any-return, no-untyped-call]

    def pack(self, aligned: Tensor) -> Tensor:
        """(S, W) to (T, W), the inverse of `align`."""
        if len(self.rows) == self.num_rows:
            return aligned
        return _Pack.apply(aligned, self.rows, self.num_rows)  # type: ignore[no-any-return, no-untyped-call]


def _scatter(packed: Tensor, rows: Tensor, num_rows: int) -> Tensor:
    return packed.new_zeros(num_rows, packed.shape[1]).index_copy_(0, rows, packed)


class _Align(torch.autograd.Function):
    """Scatter rows; no row is met twice, so the gradient is a plain gather."""

    @staticmethod
    def forward(ctx: Any, packed: Tensor, rows: Tensor, num_rows: int) -> Tensor:
        ctx.save_for_backward(rows)
        return _scatter(packed, rows, num_rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient.index_select(0, ctx.saved_tensors[0]), None, None


class _Pack(torch.autograd.Function):
    """Gather rows; the gradient is a scatter without sums, much cheaper than that of `index_select`."""

    @staticmethod
    def forward(ctx: Any, aligned: Tensor, rows: Tensor, num_rows: int) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.num_rows = num_rows
        return aligned.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _scatter(gradient, ctx.saved_tensors[0], ctx.num_rows), None, None


def rowwise_linear(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear map of each row whose bits do not depend on the other rows or on their number.

    Args:
        values: (R, inputs).
        weight: (outputs, inputs).
        bias: (outputs,).

    Returns:
        (R, outputs).
    """
    num_rows = len(values)
    if num_rows < MIN_ROWS:
        values = F.pad(values, (0, 0, 0, MIN_ROWS - num_rows))
    width = values.shape[1]
    piece = MAX_SUMMANDS if values.device.type == "cpu" else width
    result = F.linear(values[:, :piece], weight[:, :piece], bias)
    for start in range(piece, width, piece):
        part = slice(start, start + piece)
        result = result + F.linear(values[:, part], weight[:, part])
    return result[:num_rows] if num_rows < MIN_ROWS else result


def silu(values: Tensor, out: Tensor | None = None) -> Tensor:
    """SiLU, x / (1 + exp(-x)), the same bits wherever an element lies; any shape, written to `out` if it is given."""
    denominator = torch.neg(values, out=out).exp_().add_(1)
    return torch.div(values, denominator, out=denominator)


def softplus(values: Tensor) -> Tensor:
    """Softplus, log(1 + exp(x)), the same bits wherever an element lies; differentiable, any shape."""
    # Above 40 the result is x itself in double precision, and exp must not overflow.
    return values.clamp(max=40).exp().log1p() + (values - 40).relu()


def blocks(values: Tensor) -> Iterator[slice]:
    """Slices along the first axis that fit a core's cache; everything at once where there is no such cache.

    Args:
        values: (R, ...), at least one row.
    """
    rows = max(BLOCK_SIZE // values[0].numel(), 1) if values.device.type == "cpu" else len(values)
    return (slice(start, min(start + rows, len(values))) for start in range(0, len(values), rows))


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Autocast switched off: inside, what is float32 stays so."""
    with torch.autocast(device.type, enabled=False):
        yield
