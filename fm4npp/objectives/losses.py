"""The loss that the objectives share."""

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
    if predictions.dtype.itemsize < 4:
        predictions = predictions.float()
    difference = (predictions - targets).masked_fill(~valid[..., None], 0)
    count = (valid.sum() * targets.shape[-1]).clamp(min=1)
    return difference.square().sum() / count
