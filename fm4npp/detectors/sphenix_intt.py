"""The intermediate silicon strip tracker (INTT) of sPHENIX."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from pydantic import Field

from fm4npp.detectors import sphenix_material, svtx_evaluator
from fm4npp.detectors.cylindrical import CylindricalDetector
from fm4npp.detectors.response import Response

LADDERS = (12, 12, 16, 16)


def _dead_phi() -> tuple[float, ...]:
    """Azimuth between the sensors of neighbouring ladders, 256 strips of 78 um wide, in radians."""
    rows = zip(LADDERS, sphenix_material.INTT_RADII, strict=True)
    return tuple(2 * math.pi / ladders - 2 * math.atan(256 * 0.0078 / 2 / radius) for ladders, radius in rows)


class SPHENIXINTT(CylindricalDetector):
    """sPHENIX INTT: four half-layers of silicon strips, an inner and an outer barrel, between 7 and 10.6 cm.

    Half-layers at 7.188, 7.732, 9.680 and 10.262 cm, numbered 3 to 6; strips of 78 um in r-phi and 16 or 20 mm
    in z.

    The sensors of one half-layer (12 or 16 ladders of 256 strips) cover half of the azimuth, staggered with the
    other's.
    """

    registered_name: ClassVar[str] = "sphenix-intt"

    eta: tuple[float, float] = (-2.5, 2.5)
    radius: tuple[float, float] = (6.5, 11.0)
    layers: tuple[float, ...] = sphenix_material.INTT_RADII
    group_boundaries: tuple[float, ...] = (8.7,)
    layer_range: tuple[int, int] | None = (3, 6)
    formats: dict[str, dict[str, Any]] = Field(default_factory=lambda: {"root-rows": svtx_evaluator.fields()})
    # Strip pitch and length over the square root of 12 (the length is 16 mm in the middle, 20 mm further out: 18 mm);
    # efficiency of 99 % in a test beam (arXiv 2509.00908).
    response: Response | None = Response(
        field=sphenix_material.FIELD,
        half_length=22.8,
        resolution_rphi=0.00225,
        resolution_z=0.52,
        efficiency=0.99,
        medium="silicon",
        thickness=0.032,
        radiation_lengths=sphenix_material.INTT_LAYER,
        sectors=LADDERS,
        sector_phi=(0.0, math.pi / 12, 0.0, math.pi / 16),
        dead_phi=_dead_phi(),
        material=sphenix_material.MATERIAL,
        outer_radius=sphenix_material.CALORIMETER,
        outer_half_length=sphenix_material.TPC_HALF_LENGTH,
    )
