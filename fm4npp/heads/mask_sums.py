"""Sums over masks: all that Dice and focal loss of every query with every track need, in one pass over the masks.

T spacepoints, L levels, Q queries, R rows. A spacepoint belongs to one row only, a track or the background of its
event, so the sums of all tracks take as many additions as there are spacepoints, not spacepoints times tracks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

CHUNK_SIZE = 2**20
"""Elements of the masks worked on at once: temporaries of a few MB, not of the size of the masks."""


def mask_sums(logits: Tensor, row: Tensor, num_rows: int, alpha: float, gamma: float) -> Tensor:
    """Sums of each query's probabilities p and focal terms over the spacepoints of each row.

    A spacepoint's focal term is -alpha (1 - p)^gamma log p as a member of the mask, and
    -(1 - alpha) p^gamma log(1 - p) otherwise (Lin et al., arXiv:1708.02002). All come from the logits, so that no
    logarithm or gradient overflows. Besides the logits nothing of their size is kept for the gradient.

    Args:
        logits: (L, T, Q), of p; lower precision than float32 is summed in float32.
        row: (T,) int64 below `num_rows`, or `num_rows` for a spacepoint that is in no sum.
        num_rows: R.
        alpha: weight of members against the others.
        gamma: how strongly well-classified spacepoints are discounted.

    Returns:
        (3, L, R, Q): sums of p, of the terms as members, of the terms otherwise.
    """
    sums: Tensor = _MaskSums.apply(logits, row, num_rows, alpha, gamma)  # type: ignore[no-untyped-call]
    return sums


def chunks(logits: Tensor, dim: int) -> list[slice]:
    """Consecutive parts of one dimension, each with about `CHUNK_SIZE` elements of the tensor."""
    length = logits.shape[dim]
    step = max(CHUNK_SIZE * length // max(logits.numel(), 1), 1)
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def _terms(logits: Tensor, alpha: float, gamma: float) -> tuple[Tensor, Tensor, Tensor]:
    """The probability p, and the focal term as a member and otherwise; all of the shape of the logits."""
    p, minus_log_out = logits.sigmoid(), softplus(logits)
    inside = (minus_log_out - logits).mul_((1 - p).pow_(gamma)).mul_(alpha)
    return p, inside, minus_log_out.mul_(p**gamma).mul_(1 - alpha)


def _derivatives(logits: Tensor, alpha: float, gamma: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of the three terms, with respect to the logit."""
    p, minus_log_out = logits.sigmoid(), softplus(logits)
    q = 1 - p
    slope = p * q
    inside = (minus_log_out - logits).mul_(p).mul_(gamma).add_(q).mul_(q**gamma).mul_(-alpha)
    outside = minus_log_out.mul_(q).mul_(gamma).add_(p).mul_(p**gamma).mul_(1 - alpha)
    return slope, inside, outside


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class _MaskSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, row: Tensor, num_rows: int, alpha: float, gamma: float) -> Tensor:
        ctx.save_for_backward(logits, row)
        ctx.focal = alpha, gamma
        num_levels, _, num_queries = logits.shape
        # One row more than is returned, for the spacepoints that are in no sum.
        sums = _wide(logits[:, :0]).new_zeros(3, num_levels, num_rows + 1, num_queries)
        for part in chunks(logits, dim=1):
            for total, values in zip(sums, _terms(_wide(logits[:, part]), alpha, gamma), strict=True):
                total.index_add_(1, row[part], values)
        return sums[:, :, :num_rows]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        logits, row = ctx.saved_tensors
        nothing = gradient.new_zeros(*gradient.shape[:2], 1, gradient.shape[3])
        gradient = torch.cat([gradient, nothing], dim=2)
        result = torch.empty_like(logits)
        for part in chunks(logits, dim=1):
            derivatives = _derivatives(_wide(logits[:, part]), *ctx.focal)
            first, *others = (
                values.mul_(table.index_select(1, row[part]))
                for values, table in zip(derivatives, gradient, strict=True)
            )
            result[:, part] = sum(others, first)
        return result, None, None, None, None
