"""The monolithic-active-pixel vertex detector (MVTX) of sPHENIX."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from fm4npp.detectors import svtx_evaluator
from fm4npp.detectors.base import Response
from fm4npp.detectors.cylindrical import CylindricalDetector


class SPHENIXMVTX(CylindricalDetector):
    """sPHENIX MVTX: three layers of ALPIDE pixels between 2.4 and 4.5 cm.

    Radii: nominal (middle) 25.23, 33.36, 41.48 mm, staves reach from 24.61 to 44.26 mm; the bounds leave room for
    the averaged hits of the public silicon sample. Pixel pitch 29.24 um in z and 26.88 um in r-phi.
    """

    registered_name: ClassVar[str] = "sphenix-mvtx"

    eta: tuple[float, float] = (-2.5, 2.5)
    radius: tuple[float, float] = (2.0, 5.0)
    layers: tuple[float, ...] = (2.523, 3.336, 4.148)
    group_boundaries: tuple[float, ...] = (2.93, 3.74)
    layer_range: tuple[int, int] | None = (0, 2)
    formats: dict[str, dict[str, Any]] = Field(default_factory=lambda: {"root-rows": svtx_evaluator.fields()})
    response: Response | None = Response(
        field=1.4,
        half_length=13.55,
        resolution_rphi=0.0005,
        resolution_z=0.0005,
        efficiency=0.98,
        thickness=0.003,
    )
