"""How crowded it is around a spacepoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.spatial import KDTree

from fm4npp.geometry import Geometry
from fm4npp.objectives import Objective

if TYPE_CHECKING:
    from torch import Tensor


class Crowding(Objective):
    """Predict log(1 + number of other spacepoints within a distance), for several distances.

    Attributes:
        distances: in normalised coordinates.
    """

    registered_name: ClassVar[str] = "crowding"

    distances: Annotated[tuple[float, ...], Field(min_length=1)] = (0.02, 0.05, 0.1, 0.2)

    @property
    def output_size(self) -> int:
        """One number a distance."""
        return len(self.distances)

    def targets(
        self,
        coordinates: NDArray[Any],
        geometry: Geometry,
        features: Mapping[str, NDArray[Any]],
        indices: NDArray[Any] | None = None,
    ) -> dict[str, NDArray[Any]]:
        """`crowding`: (N, distances) float32."""
        points = np.asarray(coordinates, dtype=np.float64).reshape(-1, 3)
        counts = np.zeros((len(points), len(self.distances)))
        for place, distance in enumerate(self.distances) if len(points) else ():
            counts[:, place] = KDTree(points).query_ball_point(points, distance, return_length=True)
        return {"crowding": np.log(np.maximum(counts, 1)).astype(np.float32)}

    def loss(self, predictions: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Mean squared error; 0 of no spacepoints."""
        error = (predictions.float() - targets["crowding"]).square()
        return error.sum() / max(error.numel(), 1)
