"""The time projection chamber of STAR."""

from __future__ import annotations

import math
from typing import ClassVar

from pydantic import Field

from fm4npp.detectors.base import Feature
from fm4npp.detectors.cylindrical import CylindricalDetector
from fm4npp.detectors.response import Material, Response

LAYERS = (
    *(60.0 + 4.8 * row for row in range(8)),
    *(98.8 + 5.2 * row for row in range(5)),
    *(127.195 + 2.0 * row for row in range(32)),
)
NUM_PADS = (
    88, 96, 104, 112, 118, 126, 134, 142, 150, 158, 166, 174, 182,
    98, 100, 102, 104, 106, 106, 108, 110, 112, 112, 114, 116, 118, 120, 122, 122,
    124, 126, 128, 128, 130, 132, 134, 136, 138, 138, 140, 142, 144, 144, 144, 144,
)  # fmt: skip
"""Pads of each row in one sector, 3.35 mm apart in the 13 inner rows and 6.7 mm in the outer (star-sw, tpcegeo)."""


def _rows(inner: float, outer: float) -> tuple[float, ...]:
    """One value for inner and one for outer rows to one for each row."""
    return (inner,) * 13 + (outer,) * 32


def _dead_phi() -> tuple[float, ...]:
    """Azimuth of each row that no pad covers, at every boundary of sectors, in radians."""
    rows = zip(LAYERS, NUM_PADS, _rows(0.335, 0.67), strict=True)
    return tuple(math.pi / 6 - 2 * math.atan(pads * pitch / 2 / radius) for radius, pads, pitch in rows)


GAIN = 74.0
"""ADC units per keV, fitted so that single pions have the mean energy of the public simulated events, 348. Threshold
and saturation are the smallest and the largest energy there."""
# M. Anderson et al., NIM A 499 (2003) 659: field, diffusion in P10 at 0.5 T, pads of 11.5 and 19.5 mm along the radius,
# two hits apart by 0.8 (inner) or 1.3 cm along the row, or by 2.7 cm along the drift, are resolved; membrane of 70 um.
# Field cages are 0.62 % and 1.26 % of X0 there; the beam pipe is 1 mm of beryllium at 4 cm (star-sw, pipegeo), with air
# between them. There is nothing else: no silicon, as from 2008 on. The calorimeter's front is at 220 cm (M. Beddo et
# al., NIM A 499 (2003) 725). Electrons per cm: 94 in argon, 53 in methane (F. Sauli, CERN 77-09).
#
# Single-point resolutions are estimates of the middle of the ranges shown there, 0.3 to 1 mm along the row and about
# 1 mm along the drift; so is the efficiency, for dead channels.
RESPONSE = Response(
    field=0.5,
    half_length=210.0,
    resolution_rphi=0.06,
    resolution_z=0.1,
    efficiency=0.97,
    medium="argon-methane",
    thickness=_rows(1.15, 1.95),
    gain=GAIN,
    threshold=14 / GAIN,
    saturation=8600 / GAIN,
    planes=12,
    sectors=12,
    dead_phi=_dead_phi(),
    dead_z=0.0035,
    diffusion_rphi=0.023,
    diffusion_z=0.036,
    electrons=90.0,
    merge_rphi=_rows(0.8, 1.3),
    merge_z=2.7,
    material=(
        Material(name="beam-pipe", radius=3.95, half_length=76.2, medium="beryllium", radiation_lengths=0.1 / 35.28),
        Material(name="air", radius=25.0, half_length=210.0, medium="air", radiation_lengths=42 / 30390),
        Material(name="inner-field-cage", radius=46.8, half_length=210.0, medium="kapton", radiation_lengths=0.0062),
        Material(name="gas", radius=53.0, half_length=210.0, medium="argon-methane", radiation_lengths=12 / 12830),
        Material(name="outer-field-cage", radius=200.5, half_length=210.0, medium="kapton", radiation_lengths=0.0126),
    ),
    outer_radius=220.0,
)


class STARTPC(CylindricalDetector):
    """STAR TPC before the inner upgrade: 13 inner and 32 outer pad rows between 60 and 190 cm.

    Inner rows at 60.0 to 93.6 cm every 4.8 cm and at 98.8 to 119.6 cm every 5.2 cm, outer rows at 127.195 to
    189.195 cm every 2 cm (M. Anderson et al., NIM A 499 (2003) 659); rows are straight, so the radius of a
    spacepoint exceeds its row's by up to 3.5 %. Energy is the cluster's ADC sum, scaled by the mean (348) and
    standard deviation (449) of public simulated events.
    """

    registered_name: ClassVar[str] = "star-tpc"

    radius: tuple[float, float] = (59.0, 196.0)
    layers: tuple[float, ...] = LAYERS
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
    response: Response | None = RESPONSE
