"""The intermediate silicon strip tracker (INTT) of sPHENIX."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from fm4npp.detectors import svtx_evaluator
from fm4npp.detectors.base import Response
from fm4npp.detectors.cylindrical import CylindricalDetector


class SPHENIXINTT(CylindricalDetector):
    """sPHENIX INTT: four half-layers of silicon strips, an inner and an outer barrel, between 7 and 10.6 cm.

    Half-layers at 7.188, 7.732, 9.680 and 10.262 cm, numbered 3 to 6; strips of 78 um in r-phi and 16 or 20 mm
    in z.
    """

    registered_name: ClassVar[str] = "sphenix-intt"

    eta: tuple[float, float] = (-2.5, 2.5)
    radius: tuple[float, float] = (6.5, 11.0)
    layers: tuple[float, ...] = (7.188, 7.732, 9.680, 10.262)
    group_boundaries: tuple[float, ...] = (8.7,)
    layer_range: tuple[int, int] | None = (3, 6)
    formats: dict[str, dict[str, Any]] = Field(default_factory=lambda: {"root-rows": svtx_evaluator.fields()})
    response: Response | None = Response(
        field=1.4,
        half_length=22.8,
        resolution_rphi=0.00225,
        resolution_z=0.5,
        efficiency=0.97,
        thickness=0.032,
    )
