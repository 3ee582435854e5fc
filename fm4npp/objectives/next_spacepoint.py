"""Next-spacepoint prediction, the naive objective that the paper argues against (section 4.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from fm4npp.geometry import Geometry
from fm4npp.objectives.base import Array, Objective
from fm4npp.objectives.losses import masked_mean_squared_error

if TYPE_CHECKING:
    from torch import Tensor


class NextSpacepoint(Objective):
    """Predict the coordinates of the next spacepoint of the sequence.

    `targets` receives the spacepoints in the serializer's order. The released code has no such target; its flag of that
    name shifts neighbour labels.
    """

    registered_name: ClassVar[str] = "next-spacepoint"

    @property
    def uses_order(self) -> bool:
        """It is what the objective is about."""
        return True

    @property
    def output_size(self) -> int:
        """Three normalised coordinates."""
        return 3

    def targets(
        self, coordinates: Array, geometry: Geometry, features: Mapping[str, Array], indices: Array | None = None
    ) -> dict[str, Array]:
        """See `Objective.targets`.

        Returns:
            coordinates: (N, 3) float32, normalised, of the next spacepoint; 0 for the last.
            valid: (N,) bool, false for the last.
        """
        coordinates = np.asarray(coordinates, dtype=np.float32).reshape(-1, 3)
        following = np.zeros_like(coordinates)
        following[:-1] = coordinates[1:]
        return {"coordinates": following, "valid": np.arange(1, len(coordinates) + 1) < len(coordinates)}

    def count(self, targets: Mapping[str, Tensor]) -> float:
        """See `Objective.count`: spacepoints that have a next one."""
        return float(targets["valid"].sum())

    def loss(self, predictions: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Mean squared error over the coordinates of all spacepoints but the last of each event."""
        return masked_mean_squared_error(predictions, targets["coordinates"], targets["valid"])
