"""One slice in azimuth after the other."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from fm4npp.geometry import Geometry
from fm4npp.serializers import Serializer


class Sectors(Serializer):
    """Sectors of the second axis (around the beam: the azimuth) one after the other, each from the inside out.

    Attributes:
        num_sectors: of one width.
    """

    registered_name: ClassVar[str] = "sectors"

    num_sectors: Annotated[int, Field(ge=1)] = 12

    def order(self, coordinates: NDArray[Any], geometry: Geometry) -> NDArray[Any]:
        """(N, 3) normalised coordinates to (N,) int64: the sequence in which they are read."""
        coordinates = np.asarray(coordinates).reshape(-1, 3)
        axis = (geometry.causal_axis - 1) % 3
        sector = np.floor(coordinates[:, axis] * self.num_sectors).clip(0, self.num_sectors - 1)
        outwards = geometry.causal_order(coordinates)
        return outwards[np.argsort(sector[outwards], kind="stable")]
