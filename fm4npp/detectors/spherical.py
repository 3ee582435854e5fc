"""Cells around the collision at all depths, such as a calorimeter's, as data."""

from __future__ import annotations

import math
from typing import ClassVar

from fm4npp.detectors.mapped import MappedDetector
from fm4npp.geometry import Geometry


class SphericalDetector(MappedDetector):
    """Cells around the collision, described by their fields alone; usable as a YAML file of type `spherical`.

    For calorimeters with end caps, whose cells point to the collision: depth is the distance from it. One whose barrel
    is what matters may as well be `cylindrical`.

    Attributes:
        theta: polar angles in radians mapped to [0, 1].
        distance: from the collision, in cm, mapped to [0, 1].
        layers: nominal distances of layers in depth, in cm.
        group_boundaries: distances between groups of layers, in cm.
    """

    registered_name: ClassVar[str] = "spherical"

    theta: tuple[float, float] = (0.0, math.pi)
    distance: tuple[float, float]
    layers: tuple[float, ...] = ()
    group_boundaries: tuple[float, ...] = ()

    @property
    def geometry(self) -> Geometry:
        """(theta, phi, distance) between the detector's bounds, phi periodic, outward along the distance."""
        return Geometry(
            system="spherical",
            low=(self.theta[0], -math.pi, self.distance[0]),
            high=(self.theta[1], math.pi, self.distance[1]),
            group_boundaries=self.group_boundaries,
            layers=self.layers,
        )
