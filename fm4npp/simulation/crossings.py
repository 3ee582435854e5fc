"""Where particles cross the measuring layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Crossings:
    """True crossings of layers, in no particular order.

    Attributes:
        particle: (C,) int64, index into `Particles`.
        layer: (C,) int64, index into `Layers`.
        position: (C, 3) float64 in cm, on the layer's cylinder.
        momentum: (C, 3) float64 in GeV/c.
        path: (C,) float64 in cm, the longest path there can be in the layer: what was flown since the cylinder crossed
            before; more where layers are thicker than the space between cylinders.
    """

    particle: Array
    layer: Array
    position: Array
    momentum: Array
    path: Array

    def __len__(self) -> int:
        return len(self.particle)
