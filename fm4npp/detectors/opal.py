"""Not written yet."""

from __future__ import annotations

from typing import ClassVar

from fm4npp.detectors.cylindrical import CylindricalDetector


class OPAL(CylindricalDetector):
    """Not written yet."""

    registered_name: ClassVar[str] = "opal"
    radius: tuple[float, float] = (0.0, 100.0)


class OPALEvents(CylindricalDetector):
    """Not written yet."""

    registered_name: ClassVar[str] = "opal-events"
    radius: tuple[float, float] = (0.0, 100.0)
