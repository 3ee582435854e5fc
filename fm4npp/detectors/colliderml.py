"""The Open Data Detector, of the ColliderML data sets."""

from __future__ import annotations

from typing import ClassVar

from fm4npp.detectors.cylindrical import CylindricalDetector
from fm4npp.detectors.units import LengthUnit


class ColliderML(CylindricalDetector):
    """The tracker of the Open Data Detector: pixels, short and long silicon strips, in barrels and in disks.

    Measured on the hits of ten public events (CERN/ColliderML-Release-1, ttbar without pile-up): barrel
    layers where half of the hits lie on either side (3.22, 6.82, 11.42, 17.02, 26.0, 36.0, 50.0, 66.0, 82.0, 102.1 cm),
    r from 3.20 to 103.15 cm, |eta| up to 4.28, |z| up to 302.6 cm; group boundaries in the gaps between pixels (to 17.4
    cm), short strips (24.0 to 70.2 cm) and long strips (from 81.0 cm).

    Lengths in mm, momenta in GeV. Only about a third of the hits belong to particles that the table lists: the others
    have a track, but no class, and nothing says which are noise; `unlisted: noise` takes them for noise. Nothing is
    measured but positions: the time of a hit is the simulation's.
    """

    registered_name: ClassVar[str] = "colliderml"

    eta: tuple[float, float] = (-4.3, 4.3)
    radius: tuple[float, float] = (3.0, 105.0)
    layers: tuple[float, ...] = (3.22, 6.82, 11.42, 17.02, 26.0, 36.0, 50.0, 66.0, 82.0, 102.1)
    group_boundaries: tuple[float, ...] = (20.7, 75.6)
    length_unit: LengthUnit = "mm"
