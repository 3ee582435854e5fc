"""The time projection chamber of sPHENIX, as simulated for TPCpp-10M."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from pydantic import Field

from fm4npp.detectors import sphenix_material, svtx_evaluator
from fm4npp.detectors.base import Feature
from fm4npp.detectors.cylindrical import CylindricalDetector
from fm4npp.detectors.response import Response

# Layer radii in cm of the 2023 geometry that TPCpp-10M was simulated with (arXiv 2509.05792; sPHENIX coresoftware,
# layers 7 to 54 in three pad groups of 16).
LAYERS = (
    31.3720, 31.9440, 32.5159, 33.0879, 33.6599, 34.2318, 34.8038, 35.3758,
    35.9477, 36.5197, 37.0917, 37.6636, 38.2356, 38.8076, 39.3795, 39.9515,
    41.6590, 42.6797, 43.7003, 44.7210, 45.7417, 46.7623, 47.7830, 48.8037,
    49.8243, 50.8450, 51.8657, 52.8863, 53.9070, 54.9277, 55.9483, 56.9690,
    58.9110, 60.0081, 61.1051, 62.2022, 63.2993, 64.3963, 65.4934, 66.5905,
    67.6875, 68.7846, 69.8817, 70.9787, 72.0758, 73.1729, 74.2699, 75.3670,
)  # fmt: skip
TPC_LAYERS = (7, 54)
"""Numbers of the first and the last layer, where one file holds all subsystems (sPHENIX coresoftware)."""


def _regions(inner: float, middle: float, outer: float) -> tuple[float, ...]:
    """One value for each of the three pad groups to one for each layer."""
    return (inner,) * 16 + (middle,) * 16 + (outer,) * 16


NUM_PADS = _regions(1152, 1536, 2304)
"""Pads on the full circle of each layer."""
PITCH = tuple(2 * math.pi * radius / pads for radius, pads in zip(LAYERS, NUM_PADS, strict=True))
"""Of the pads of each layer, cm."""
GAIN = 81.0
"""ADC units per keV, fitted: simulated minimum-bias events have the mean energy of TPCpp-10M (docs/simulation.md). From
the electronics: 16.7 electrons/keV, a gain of 1400, 48 mV/fC and 1024 counts for 2.2 V are 84 at the peak."""
# sPHENIX coresoftware as of 2023: PHG4TpcSubsystem for dimensions, pads and the insensitive edges of its 12 sectors
# (0.5236 rad less the active 0.5024, 0.5087, 0.5097 rad), PHG4TpcElectronDrift for diffusion and electrons (Ne:CF4
# 50:50), G4_TPC.C for the single-point resolutions. Clusters lie on 144 flat surfaces a layer. The membrane is 5.6 mm
# thick. A time bin is 53 ns at 8 um/ns, 0.424 mm.
#
# A cluster reaches 3 pads and 5 time bins to either side of its largest (TpcClusterizer).
#
# Threshold and saturation are the smallest and the largest energy in TPCpp-10M, 23 and 6250 ADC units. (The electronics
# has 4 times a noise of 670 electrons as threshold, and 1024 counts; after a gain of 1400 these are 0.11 and 12 keV in
# one pad and time bin, PHG4TpcDigitizer.) That simulation has no dead channels, so nothing else is inefficient.
RESPONSE = Response(
    field=sphenix_material.FIELD,
    half_length=sphenix_material.TPC_HALF_LENGTH,
    resolution_rphi=0.015,
    resolution_z=0.05,
    medium="neon-cf4",
    thickness=(0.534, 0.595) * 8 + (1.012,) * 16 + (1.088,) * 16,
    gain=GAIN,
    threshold=23 / GAIN,
    saturation=6250 / GAIN,
    planes=144,
    sectors=12,
    dead_phi=_regions(0.0212, 0.0149, 0.0139),
    dead_z=0.28,
    diffusion_rphi=0.004,
    diffusion_z=0.012,
    electrons=71.5,
    merge_rphi=tuple(2 * pitch for pitch in PITCH),
    merge_z=2 * 0.0424,
    longest_rphi=tuple(7 * pitch for pitch in PITCH),
    longest_z=11 * 0.0424,
    material=sphenix_material.MATERIAL,
    outer_radius=sphenix_material.CALORIMETER,
)


class SPHENIXTPC(CylindricalDetector):
    """sPHENIX TPC: 48 layers between 31 and 75 cm in a 1.4 T field, with the energy scale of TPCpp-10M.

    Bounds and scales are those of the released checkpoints: eta in [-2, 2], r between the smallest and the
    largest radius of a cluster, energy in ADC-like units with mean 253.0982 and standard deviation 268.7093.
    The paper prints [30, 78] cm for r; the released code and checkpoints use the limits below. Of ntuples of the
    SvtxEvaluator (`root-rows`) the clusters of layers 7 to 54 are read, with the ADC sum as energy.
    """

    registered_name: ClassVar[str] = "sphenix-tpc"

    radius: tuple[float, float] = (31.371997833251953, 75.38493347167969)
    layers: tuple[float, ...] = LAYERS
    group_boundaries: tuple[float, ...] = (40.0, 57.0)
    measured: dict[str, Feature] = Field(
        default_factory=lambda: {"energy": Feature(mean=253.0982, std=268.7093, unit="ADC", low=0.0)}
    )
    formats: dict[str, dict[str, Any]] = Field(
        default_factory=lambda: {"root-rows": {**svtx_evaluator.fields(energy="adc"), "layer_range": list(TPC_LAYERS)}}
    )
    response: Response | None = RESPONSE
