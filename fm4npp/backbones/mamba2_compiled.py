"""What lies between the projections of a Mamba-2 mixer, with compiled element-wise loops, on CPUs.

The equations are those of `convolution`, `ssd` and `norms`. Products of matrices stay PyTorch's, for many chunks
at once; everything between two of them is one pass of a kernel, shared by as many threads as PyTorch has.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fm4npp.backbones import compiled_gradients as gradients
from fm4npp.backbones import compiled_kernels as kernels
from fm4npp.backbones.packing import Layout, full_precision
from fm4npp.backbones.ssd import Sizes

Array = kernels.Array
BLOCK_ROWS = 256
"""Rows of a block, the least share of a thread."""
BLOCKS_PER_THREAD = 4
"""Blocks a thread does of each kernel before the next, so that what it wrote is still in the cache."""
BLOCK_STATES = 16
"""Rows of (N, J) states that are carried together."""


@lru_cache(maxsize=1)
def _pool(process: int, num_threads: int) -> ThreadPoolExecutor:
    """Threads besides the calling one; a forked process has none of its parent's."""
    return ThreadPoolExecutor(num_threads - 1, thread_name_prefix="mamba2")


def _run(kernel: Callable[..., None], count: int, size: int, rooms: Tensor, *arguments: Any) -> None:
    """Run a kernel over `count` items in blocks of `size`, each thread on its share of the blocks."""
    arrays = [value.detach().numpy() if isinstance(value, Tensor) else value for value in arguments]
    num_blocks = -(-count // size)
    num_shares = min(torch.get_num_threads(), num_blocks)
    bounds = [num_blocks * share // num_shares for share in range(num_shares + 1)]
    shares = [(bounds[i], bounds[i + 1], size, rooms[i].numpy(), *arrays) for i in range(num_shares)]
    pool = _pool(os.getpid(), torch.get_num_threads()) if num_shares > 1 else None
    others = [pool.submit(kernel, *share) for share in shares[1:]] if pool else []
    kernel(*shares[0])
    for other in others:
        other.result()


def _events(layout: Layout) -> tuple[Array, Array, Array]:
    """For each chunk the first row of its event, the row after its event's last chunk, and whether it is the first."""
    start, stop = layout.bounds
    return start.numpy(), stop.numpy(), np.array(layout.is_first)


def _product(left: Tensor, right: Tensor, out: Tensor, add: bool = False) -> Tensor:
    """Products of the last two axes of (K, L, ., .), written or added to `out`."""
    a, b, flat = left.flatten(0, 1), right.flatten(0, 1), out.flatten(0, 1)
    torch.baddbmm(flat, a, b, out=flat) if add else torch.bmm(a, b, out=flat)
    return out


def _parts(num_chunks: int, chunk_size: int) -> tuple[int, list[slice]]:
    """Chunks of a block, and slices of the chunks that stay in the cache, of whole blocks."""
    block = max(BLOCK_ROWS // chunk_size, 1)
    size = block * BLOCKS_PER_THREAD * torch.get_num_threads()
    return block, [slice(first, min(first + size, num_chunks)) for first in range(0, num_chunks, size)]


def _rooms(projected: Tensor, num_heads: int, chunk_size: int) -> Tensor:
    """Room in which each thread keeps rows of intermediate results."""
    return projected.new_empty(torch.get_num_threads(), 2 * num_heads + 3, max(projected.shape[1], chunk_size))


class _Core(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, weight: Tensor, bias: Tensor, dt_bias: Tensor, A: Tensor, D: Tensor, scale: Tensor,
        eps: float, sizes: Sizes, layout: Layout, keep: bool,
    ) -> Tensor:  # fmt: skip
        heads, width, groups, states = sizes
        num_rows, channels = layout.chunk_size, heads * width // groups
        num_chunks = len(projected) // num_rows
        block, parts = _parts(num_chunks, num_rows)
        start, _, is_first = _events(layout)
        rooms = _rooms(projected, heads, num_rows)
        taps, precise = weight.t().contiguous(), projected.detach().numpy().dtype.type(eps)

        def room(number: int, *shape: int) -> Tensor:
            return projected.new_empty(number, *shape)

        kept = [
            room(num_chunks if keep else parts[0].stop, *shape)
            for shape in (
                (heads, num_rows, width),  # x
                (groups, num_rows, states),  # B
                (groups, num_rows, states),  # C
                (heads, num_rows),  # dt
                (heads, num_rows),  # s
                (groups, channels),  # whole
                (groups, states, channels),  # states that enter
                (groups, num_rows, num_rows),  # scores
                (groups, num_rows, channels),  # y
            )
        ]
        scratch = [
            room(parts[0].stop, *shape)
            for shape in ((groups, num_rows, channels), (heads, num_rows, num_rows), (heads, num_rows, width))
        ]
        carried, normed = room(groups * states, channels), room(num_chunks, num_rows, heads * width)
        z = projected.view(num_chunks, num_rows, -1)
        for part in parts:
            at, count = part.start, part.stop - part.start
            x, B, C, dt, s, whole, state, scores, y = (v[part] if keep else v[:count] for v in kept)
            inflow, masked, inside = (values[:count] for values in scratch)
            _run(
                kernels.prepare, count, block, rooms,
                at, projected, start, taps, bias, dt_bias, A, x, B, C, inflow, dt, s, whole.view(count, -1),
            )  # fmt: skip
            flat = _product(B.mT, inflow, state).view(count, -1, channels)
            _run(kernels.carry, len(carried), BLOCK_STATES, rooms, at, flat, whole, is_first, carried)
            _run(kernels.mask, count, block, rooms, _product(C, B.mT, scores), s, dt, masked)
            _run(
                kernels.finish, count, block, rooms,
                z[part].flatten(0, 1), x, _product(masked, x, inside), s, D, scale, precise,
                _product(C, state, y), normed[part].flatten(0, 1),
            )  # fmt: skip
        ctx.save_for_backward(projected, taps, bias, dt_bias, A, D, scale, *kept)
        ctx.eps, ctx.layout = precise, layout
        return normed.flatten(0, 1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        with full_precision(gradient.device):
            return (*_backward(gradient.contiguous(), ctx.saved_tensors, ctx.eps, ctx.layout), *[None] * 4)


def _backward(gradient: Tensor, saved: tuple[Tensor, ...], eps: Any, layout: Layout) -> tuple[Tensor, ...]:
    """Gradients of the seven tensors that enter."""
    projected, taps, bias, dt_bias, A, D, scale, *kept = saved
    num_chunks, num_rows = len(kept[0]), layout.chunk_size
    block, parts = _parts(num_chunks, num_rows)
    start, stop, is_first = _events(layout)
    x, B, C, dt, s, whole, state, scores, y = kept
    rooms = _rooms(projected, x.shape[1], num_rows)
    dprojected = torch.empty_like(projected)
    dmixed = projected.new_empty(len(projected), len(bias))
    sums = [v.new_empty(-(-num_chunks // block), *v.shape) for v in (taps, bias, dt_bias, A, D, scale)]
    size = parts[0].stop
    scratch = [torch.empty_like(values[:size]) for values in (x, y, dt, state, scores, x, y, B, C, y)]
    scratch.append(x.new_empty(size, x.shape[1], num_rows, num_rows))
    carried = state[0].flatten(0, 1).new_zeros(state.shape[1] * state.shape[2], state.shape[3])
    overlap_room = whole.new_empty(-(-len(carried) // BLOCK_STATES), size, *whole.shape[1:])

    for part in reversed(parts):
        at, count = part.start, part.stop - part.start
        rows = slice(at * num_rows, part.stop * num_rows)
        x, B, C, dt, s, whole, entering, scores, y = (values[part] for values in kept)
        dy, outflow, ds, leaving, dscores, inside, read, dB, dC, inflow, products = (v[:count] for v in scratch)
        dtaps, dbias, ddt_bias, dA, dD, dscale = (v[at // block : -(-part.stop // block)] for v in sums)
        overlap = overlap_room[:, :count].contiguous()
        _run(
            gradients.norm_backward, count, block, rooms,
            gradient[rows], projected[rows], x, dt, s, y, D, scale, eps,
            dprojected[rows], dy, outflow, inflow, ds, dD, dscale,
        )  # fmt: skip
        flat = _product(C.mT, outflow, leaving).view(count, -1, leaving.shape[-1])
        _run(
            gradients.carry_back, len(carried), BLOCK_STATES, rooms,
            at, flat, state.flatten(1, 2), whole, is_first, carried, overlap,
        )  # fmt: skip
        _run(gradients.mask_backward, count, block, rooms, scores, s, dt, _product(dy, x.mT, products), dscores)
        _product(outflow, entering.mT, _product(dscores, B, dC), add=True)
        _product(inflow, leaving.mT, _product(dscores.mT, C, dB), add=True)
        _run(
            gradients.finish_backward, count, block, rooms,
            at, projected, start, taps, bias, dt_bias, A, D, x, dt, s, dy,
            _product(products.mT, dy, inside), _product(B, leaving, read), dB, dC, ds,
            overlap.sum(0).view(*s.shape[:2], -1).sum(2), dprojected, dmixed, dtaps, dbias, ddt_bias, dA,
        )  # fmt: skip
        _run(
            gradients.convolution_backward, count, block, rooms,
            at, count, len(scale), dmixed, stop, taps, dprojected,
        )  # fmt: skip
    totals = [torch.from_numpy(values.numpy().sum(0)) for values in sums]
    return dprojected, totals[0].t(), *totals[1:]


def core(
    projected: Tensor, weight: Tensor, bias: Tensor, dt_bias: Tensor, A: Tensor, D: Tensor, scale: Tensor, eps: float,
    sizes: Sizes, layout: Layout,
) -> Tensor:  # fmt: skip
    """Convolution, recurrence and gated norm.

    Args:
        projected: (S, H P + H P + 2 G N + H), rows [z | x | B | C | dt].
        weight: (channels, T), taps of the convolution.
        bias: (channels,), of the convolution.
        dt_bias: (H,).
        A: (H,), negative.
        D: (H,), direct path.
        scale: (H P,), weight of the gated norm.
        eps: of the gated norm.
        sizes: how the channels divide.
        layout: where events and chunks begin.

    Returns:
        (S, H P).
    """
    # Copies, as their memory is read as NumPy arrays, which fixes its size; FSDP frees that of a parameter.
    small = (bias.clone(), dt_bias.clone(), A, D.clone(), scale.clone())
    return _Core.apply(  # type: ignore[no-any-return, no-untyped-call]
        projected.contiguous(), weight, *small, eps, sizes, layout, torch.is_grad_enabled()
    )
