"""Root-mean-square norms with hand-written gradients, block by block in the processor's cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fm4npp.backbones.packing import blocks, full_precision, silu


def inverse_rms(values: Tensor, eps: float) -> Tensor:
    """(..., W) to (..., 1): 1 / sqrt(mean(x^2) + eps)."""
    norm: Tensor = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    return norm.square_().div_(values.shape[-1]).add_(eps).rsqrt_()


def _rms_gradients(gradient: Tensor, values: Tensor, scale: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `values * scale * weight`, with scale the inverse rms of values.

    Args:
        gradient: (S, G, W).
        values: (S, G, W).
        scale: (S, G, 1).
        weight: (G, W).

    Returns:
        Gradients of values, (S, G, W), and of weight, (G, W).
    """
    product = gradient * values
    weight_gradient = torch.einsum("sg,sgw->gw", scale[..., 0], product)
    projection = torch.einsum("sgw,gw->sg", product, weight)[..., None]
    result = torch.mul(gradient, weight, out=product).mul_(scale)
    return result.addcmul_(values, scale.pow(3).mul_(projection), value=-1 / values.shape[-1]), weight_gradient


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = inverse_rms(values, eps)
        ctx.save_for_backward(values, scale, weight)
        return (values * scale).mul_(weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, scale, weight = ctx.saved_tensors
        result, weight_gradient = torch.empty_like(values), torch.zeros_like(weight)[None]
        with full_precision(values.device):
            for rows in blocks(values):
                found, weight_part = _rms_gradients(
                    gradient[rows, None], values[rows, None], scale[rows, None], weight[None]
                )
                result[rows] = found[:, 0]
                weight_gradient += weight_part
        return result, weight_gradient[0], None


class _GatedRMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, gate: Tensor, weight: Tensor, num_groups: int, eps: float) -> Tensor:
        result = torch.empty_like(values)
        scale = values.new_empty(len(values), num_groups, 1)
        for rows in blocks(values):
            gated = silu(gate[rows], out=result[rows]).mul_(values[rows]).unflatten(1, (num_groups, -1))
            scale[rows] = inverse_rms(gated, eps)
            gated.mul_(scale[rows]).mul_(weight.view(num_groups, -1))
        ctx.save_for_backward(values, gate, scale, weight)
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, gate, scale, weight = ctx.saved_tensors
        weight = weight.unflatten(0, (scale.shape[1], -1))
        result, gate_result = torch.empty_like(values), torch.empty_like(values)
        weight_gradient = torch.zeros_like(weight)
        with full_precision(values.device):
            for rows in blocks(values):
                opened = nn.functional.silu(gate[rows])
                gated = (values[rows] * opened).view(-1, *weight.shape)
                found, weight_part = _rms_gradients(gradient[rows].view_as(gated), gated, scale[rows], weight)
                weight_gradient += weight_part
                flat = found.flatten(1)
                torch.mul(flat, opened, out=result[rows])
                gate_result[rows] = torch.ops.aten.silu_backward(flat.mul_(values[rows]), gate[rows])
        return result, gate_result, weight_gradient.flatten(), None, None


class RMSNorm(nn.Module):
    """Scale rows to unit root mean square, then by a learned weight (arXiv:1910.07467).

    Args:
        width: features of a row.
        eps: added to the mean square.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, values: Tensor) -> Tensor:
        """(S, W) to (S, W)."""
        return _RMSNorm.apply(values, self.weight, self.eps)  # type: ignore[no-any-return, no-untyped-call]


class GatedRMSNorm(nn.Module):
    """RMSNorm(y * silu(z)), in groups of channels of their own mean square (Mamba-2, arXiv:2405.21060, section 7).

    Args:
        width: channels.
        num_groups: groups of channels.
        eps: added to the mean square.
    """

    def __init__(self, width: int, num_groups: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.num_groups = num_groups
        self.eps = eps

    def forward(self, values: Tensor, gate: Tensor) -> Tensor:
        """(S, W) values and (S, W) gate to (S, W)."""
        return _GatedRMSNorm.apply(  # type: ignore[no-any-return, no-untyped-call]
            values, gate, self.weight, self.num_groups, self.eps
        )
