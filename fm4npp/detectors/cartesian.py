"""A box of readout, such as a liquid-argon TPC, as data."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from fm4npp.detectors.mapped import MappedDetector
from fm4npp.geometry import Bounds, Geometry


class CartesianDetector(MappedDetector):
    """A detector in x, y, z without a beam in the middle; usable as a YAML file of type `cartesian`.

    Attributes:
        low: lower bounds of x, y, z in cm, mapped to 0.
        high: upper bounds, mapped to 1.
        causal_axis: index of the axis that "outwards" means: the drift axis, or the beam's.
        layers: nominal places of layers along it, in cm.
        group_boundaries: places between groups of layers along it, in cm.
    """

    registered_name: ClassVar[str] = "cartesian"

    low: Bounds
    high: Bounds
    causal_axis: Annotated[int, Field(ge=0, le=2)] = 0
    layers: tuple[float, ...] = ()
    group_boundaries: tuple[float, ...] = ()

    @property
    def geometry(self) -> Geometry:
        """(x, y, z) between the bounds, outward along `causal_axis`."""
        return Geometry(
            system="cartesian",
            low=self.low,
            high=self.high,
            causal_axis=self.causal_axis,
            group_boundaries=self.group_boundaries,
            layers=self.layers,
        )
