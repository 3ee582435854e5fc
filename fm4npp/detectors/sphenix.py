"""The trackers of sPHENIX in one event: MVTX, INTT and the time projection chamber."""

from __future__ import annotations

from typing import ClassVar

from fm4npp.detectors.composite import CompositeDetector
from fm4npp.detectors.cylindrical import CylindricalDetector
from fm4npp.detectors.sphenix_intt import SPHENIXINTT
from fm4npp.detectors.sphenix_mvtx import SPHENIXMVTX
from fm4npp.detectors.sphenix_tpc import SPHENIXTPC, TPC_LAYERS


class SPHENIX(CompositeDetector):
    """sPHENIX trackers: MVTX (layers 0 to 2), INTT (3 to 6) and TPC (7 to 54) together.

    The layers 55 and 56 are TPOT, a calibration detector over a twelfth of the azimuth; its spacepoints are left out.
    """

    registered_name: ClassVar[str] = "sphenix"

    parts: tuple[CylindricalDetector, ...] = (SPHENIXMVTX(), SPHENIXINTT(), SPHENIXTPC(layer_range=TPC_LAYERS))
