"""The monolithic-active-pixel vertex detector (MVTX) of sPHENIX."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from fm4npp.detectors import sphenix_material, svtx_evaluator
from fm4npp.detectors.cylindrical import CylindricalDetector
from fm4npp.detectors.response import Response


class SPHENIXMVTX(CylindricalDetector):
    """sPHENIX MVTX: three layers of ALPIDE pixels between 2.4 and 4.5 cm.

    Radii: nominal (middle) 25.23, 33.36, 41.48 mm, staves reach from 24.61 to 44.26 mm; the bounds leave room for
    the averaged hits of the public silicon sample. Pixel pitch 29.24 um in z and 26.88 um in r-phi.

    The number of pixels of a cluster is the feature `cluster_size` where it is asked for, since only some files have
    it (the evaluation ntuples do, the public silicon sample does not, and the fast simulation makes none):

        type: sphenix-mvtx
        measured: {cluster_size: {log: true, mean: 1.0, std: 0.6, unit: pixels, low: 0.0}}
    """

    registered_name: ClassVar[str] = "sphenix-mvtx"

    eta: tuple[float, float] = (-2.5, 2.5)
    radius: tuple[float, float] = (2.0, 5.0)
    layers: tuple[float, ...] = sphenix_material.MVTX_RADII
    group_boundaries: tuple[float, ...] = (2.93, 3.74)
    layer_range: tuple[int, int] | None = (0, 2)
    formats: dict[str, dict[str, Any]] = Field(
        default_factory=lambda: {"root-rows": svtx_evaluator.fields(cluster_size="size")}
    )
    # Pixels of 26.88 x 29.24 um give 5 um in clusters of several pixels, with an efficiency above 99 % (ALICE ITS2, the
    # same sensor: arXiv 2503.17233). The sensitive layer is 30 um of silicon; staves overlap in azimuth.
    response: Response | None = Response(
        field=sphenix_material.FIELD,
        half_length=13.55,
        resolution_rphi=0.0005,
        resolution_z=0.0005,
        efficiency=0.99,
        medium="silicon",
        thickness=0.003,
        radiation_lengths=sphenix_material.MVTX_LAYER,
        material=sphenix_material.MATERIAL,
        outer_radius=sphenix_material.CALORIMETER,
        outer_half_length=sphenix_material.TPC_HALF_LENGTH,
    )
