"""The losses that the objectives share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def masked_mean_squared_error(predictions: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """The mean of the squared error over all valid numbers, at least in single precision.

    Args:
        predictions: (..., c); in half precision they are converted first.
        targets: (..., c).
        valid: (...) bool; where it is false neither side is looked at, whatever it holds.

    Returns:
        Scalar, 0 with a gradient of 0 if nothing is valid.
    """
    squares = _squared_error(predictions, targets, valid)
    count = (valid.sum() * targets.shape[-1]).clamp(min=1)
    return squares.sum() / count


def event_weighted_mean_squared_error(
    predictions: Tensor, targets: Tensor, valid: Tensor, weight: Tensor, share: Tensor
) -> Tensor:
    """The mean over events of each event's weight times its mean squared error (paper appendix B.7).

    (1/B) sum_i w_i (1/S_i) sum_j e_ij over the B events i that have a neighbour and their S_i spacepoints j that have
    one. The paper's e_ij is the sum of the squared error; here it is the mean over the valid numbers of the spacepoint.

    Args:
        predictions: (T, k, c); in half precision they are converted first.
        targets: (T, k, c).
        valid: (T, k) bool; where it is false neither side is looked at, whatever it holds.
        weight: (T,) w_i / S_i, 0 where nothing is valid.
        share: (T,) 1 / S_i, and 0; their sum is B.

    Returns:
        Scalar, 0 with a gradient of 0 if nothing is valid.
    """
    squares = _squared_error(predictions, targets, valid)
    count = (valid.sum(dim=1) * targets.shape[-1]).clamp(min=1)
    num_events = share.sum().round().clamp(min=1)  # a whole number but for the rounding of shares
    return (squares.sum(dim=(1, 2)) * (weight / count)).sum() / num_events


def _squared_error(predictions: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """(..., c), 0 where (...) is false; at least in single precision."""
    if predictions.dtype.itemsize < 4:
        predictions = predictions.float()
    return (predictions - targets).masked_fill(~valid[..., None], 0).square()
