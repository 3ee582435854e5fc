"""MVTX and INTT of sPHENIX in one event."""

from __future__ import annotations

from typing import ClassVar

from fm4npp.detectors.composite import CompositeDetector
from fm4npp.detectors.cylindrical import CylindricalDetector
from fm4npp.detectors.sphenix_intt import SPHENIXINTT
from fm4npp.detectors.sphenix_mvtx import SPHENIXMVTX


class SPHENIXSilicon(CompositeDetector):
    """sPHENIX silicon trackers: MVTX (layers 0 to 2) and INTT (layers 3 to 6) together."""

    registered_name: ClassVar[str] = "sphenix-silicon"

    parts: tuple[CylindricalDetector, ...] = (SPHENIXMVTX(), SPHENIXINTT())
