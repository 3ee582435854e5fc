"""Outwards, and nothing else: the simplest causal order, and the tie-break of every other one."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from fm4npp.geometry import Geometry
from fm4npp.serializers.base import Array, Serializer


def outwards_within(keys: Array, coordinates: Array, geometry: Geometry) -> Array:
    """The permutation that sorts by a key, and outwards where keys are equal.

    Args:
        keys: (N,), integers; 16-bit ones sort fastest.
        coordinates: (N, 3), normalised.
        geometry: the detector's.

    Returns:
        (N,) int64. Only identical points keep the order of the input.
    """
    outwards = geometry.causal_order(coordinates)
    order: Array = outwards[np.argsort(keys[outwards], kind="stable")]
    return order


class Radial(Serializer):
    """Spacepoints from the innermost to the outermost, the baseline ordering of the paper's section 4.1."""

    registered_name: ClassVar[str] = "radial"

    def order(self, coordinates: Array, geometry: Geometry) -> Array:
        """See `Serializer.order`."""
        return geometry.causal_order(coordinates)
