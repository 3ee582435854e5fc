"""The time projection chamber of sPHENIX, as simulated for TPCpp-10M."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from fm4npp.detectors import svtx_evaluator
from fm4npp.detectors.base import Feature, Response
from fm4npp.detectors.cylindrical import CylindricalDetector

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
    # Field, length and cluster resolutions of the 2023 simulation (sPHENIX coresoftware): 1.4 T map, 105.5 cm drift,
    # 150 um in r-phi and 500 um in z. The gain gives simulated spacepoints the mean energy of TPCpp-10M.
    response: Response | None = Response(
        field=1.4,
        half_length=105.5,
        resolution_rphi=0.015,
        resolution_z=0.05,
        efficiency=0.97,
        thickness=0.9,
        gain=125.0,
    )
