"""Sixteen cylinders of straw tubes."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from fm4npp.detectors import Feature, Response
from fm4npp.detectors.cylindrical import CylindricalDetector


class StrawTracker(CylindricalDetector):
    """Straws of 1 cm along the beam, in sixteen cylinders from 20 to 50 cm; a hit measures the charge, too."""

    registered_name: ClassVar[str] = "straw-tracker"

    eta: tuple[float, float] = (-1.8, 1.8)
    radius: tuple[float, float] = (18.0, 52.0)
    layers: tuple[float, ...] = tuple(20.0 + 2.0 * layer for layer in range(16))
    group_boundaries: tuple[float, ...] = (35.0,)
    measured: dict[str, Feature] = Field(
        default_factory=lambda: {"energy": Feature(mean=1.0, std=0.7, log=True, unit="keV", low=0.0)}
    )
    response: Response | None = Response(
        field=1.0,
        half_length=60.0,
        resolution_rphi=0.015,
        resolution_z=0.3,
        efficiency=0.97,
        medium="argon-methane",
        thickness=0.8,
        radiation_lengths=0.0005,
        gain=1.0,
    )
