"""Not written yet."""

from __future__ import annotations

from typing import ClassVar

from fm4npp.detectors.cylindrical import CylindricalDetector


class TrackML(CylindricalDetector):
    """Not written yet."""

    registered_name: ClassVar[str] = "trackml"
    radius: tuple[float, float] = (0.0, 100.0)
