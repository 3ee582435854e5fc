"""The time projection chamber of STAR."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from fm4npp.detectors.base import Feature, Response
from fm4npp.detectors.cylindrical import CylindricalDetector


class STARTPC(CylindricalDetector):
    """STAR TPC before the inner upgrade: 13 inner and 32 outer pad rows between 60 and 190 cm.

    Inner rows at 60.0 to 93.6 cm every 4.8 cm and at 98.8 to 119.6 cm every 5.2 cm, outer rows at 127.195 to
    189.195 cm every 2 cm (M. Anderson et al., NIM A 499 (2003) 659); rows are straight, so the radius of a
    spacepoint exceeds its row's by up to 3.5 %. Energy is the cluster's ADC sum, scaled by the mean (348) and
    standard deviation (449) of public simulated events.
    """

    registered_name: ClassVar[str] = "star-tpc"

    radius: tuple[float, float] = (59.0, 196.0)
    layers: tuple[float, ...] = (
        *(60.0 + 4.8 * row for row in range(8)),
        *(98.8 + 5.2 * row for row in range(5)),
        *(127.195 + 2.0 * row for row in range(32)),
    )
    group_boundaries: tuple[float, ...] = (125.0,)
    measured: dict[str, Feature] = Field(
        default_factory=lambda: {"energy": Feature(mean=348.0, std=449.0, unit="ADC", low=0.0)}
    )
    columns_of: dict[str, str] = Field(
        default_factory=lambda: {
            "x": "TPCHits_x",
            "y": "TPCHits_y",
            "z": "TPCHits_z",
            "energy": "TPCHits_adc",
            "track_id": "TPCHits_IdTruth",
        }
    )
    response: Response | None = Response(
        field=0.5,
        half_length=210.0,
        resolution_rphi=0.06,
        resolution_z=0.1,
        efficiency=0.95,
        thickness=2.0,
        gain=190.0,
    )
