"""A cylindrical tracker as data: bounds, layers, columns and labels are fields, so a leaf class only fills them in."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from fm4npp.detectors.mapped import MappedDetector
from fm4npp.geometry import Geometry


class CylindricalDetector(MappedDetector):
    """A tracker around the beam, described by its fields alone; usable as a YAML file of type `cylindrical`.

    Attributes:
        eta: pseudorapidity mapped to [0, 1].
        radius: radii in cm mapped to [0, 1].
        layers: nominal radii of the layers, in cm.
        group_boundaries: radii between groups of layers, in cm.
    """

    registered_name: ClassVar[str] = "cylindrical"

    eta: tuple[float, float] = (-2.0, 2.0)
    radius: tuple[float, float]
    layers: tuple[float, ...] = ()
    group_boundaries: tuple[float, ...] = ()

    @property
    def geometry(self) -> Geometry:
        """(eta, phi, r) between the detector's bounds, phi periodic, outward along r."""
        return Geometry(
            low=(self.eta[0], -np.pi, self.radius[0]),
            high=(self.eta[1], np.pi, self.radius[1]),
            group_boundaries=self.group_boundaries,
            layers=self.layers,
        )
