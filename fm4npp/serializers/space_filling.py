"""Space-filling curves: Hilbert and Z-order, the paper's ablations of the serialisation."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from fm4npp.geometry import Geometry
from fm4npp.serializers.base import Array, Serializer
from fm4npp.serializers.radial import outwards_within

NUM_BITS = 16
"""Bits of an axis, the depth of the released code's curves."""

CELLS_PER_UNIT = 1e4
"""Cells of the curve along a normalised axis, as in the released code."""


def cells(coordinates: Array, geometry: Geometry) -> Array:
    """Normalised coordinates to the cell of the curve that each point lies in.

    Args:
        coordinates: (N, 3), normalised.
        geometry: the detector's.

    Returns:
        (3, N) int64 in [0, 2^16 - 1], points beyond the ends in the end cells. The causal axis comes last, as in the
        released code, so it varies fastest.
    """
    axes = [(geometry.causal_axis + step) % 3 for step in (1, 2, 3)]
    scaled = np.asarray(coordinates, dtype=np.float64).reshape(-1, 3).T[axes] * CELLS_PER_UNIT
    return np.clip(scaled, 0, 2**NUM_BITS - 1).astype(np.int64)


def interleave(cells: Array) -> Array:
    """(3, N) int64 of 16 bits to (N,) int64 of 48: bit b of axis a becomes bit 3 b + 2 - a (Morton order)."""
    spread = cells.copy()
    for shift, mask in ((16, 0x00FF0000FF), (8, 0x00F00F00F00F), (4, 0x0C30C30C30C3), (2, 0x249249249249)):
        spread = (spread | (spread << shift)) & mask
    code: Array = (spread[0] << 2) | (spread[1] << 1) | spread[2]
    return code


def hilbert_transpose(cells: Array) -> Array:
    """Cells to their distance along the Hilbert curve, still spread over the axes.

    J. Skilling, "Programming the Hilbert curve", AIP Conf. Proc. 707, 381 (2004), `AxestoTranspose`, on all points
    at once.

    Args:
        cells: (3, N) int64 of 16 bits.

    Returns:
        (3, N) int64 of 16 bits; `interleave` gives the distance.
    """
    axes = cells.copy()
    for bit in range(NUM_BITS - 1, 0, -1):  # undo the excess work of the inverse
        low_bits = (1 << bit) - 1
        for axis in axes:
            is_set = -(axis >> bit & 1)  # all ones where the bit is set
            exchange = (axes[0] ^ axis) & low_bits & ~is_set
            axes[0] ^= exchange | (low_bits & is_set)
            axis ^= exchange
    axes[1] ^= axes[0]  # Gray encode
    axes[2] ^= axes[1]
    flips = np.zeros_like(axes[0])
    for bit in range(NUM_BITS - 1, 0, -1):
        flips ^= ((1 << bit) - 1) & -(axes[2] >> bit & 1)
    transpose: Array = axes ^ flips
    return transpose


class ZOrder(Serializer):
    """Z-order (Morton) curve through 16-bit cells of 1e-4 of a normalised axis; outwards within a cell."""

    registered_name: ClassVar[str] = "z-order"

    def order(self, coordinates: Array, geometry: Geometry) -> Array:
        """See `Serializer.order`."""
        return outwards_within(interleave(cells(coordinates, geometry)), coordinates, geometry)


class Hilbert(Serializer):
    """Hilbert curve through 16-bit cells of 1e-4 of a normalised axis; outwards within a cell."""

    registered_name: ClassVar[str] = "hilbert"

    def order(self, coordinates: Array, geometry: Geometry) -> Array:
        """See `Serializer.order`."""
        curve = interleave(hilbert_transpose(cells(coordinates, geometry)))
        return outwards_within(curve, coordinates, geometry)
