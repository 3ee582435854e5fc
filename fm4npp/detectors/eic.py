"""The central tracker of ePIC, the experiment of the Electron-Ion Collider."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from fm4npp.detectors.base import Column, Feature
from fm4npp.detectors.cylindrical import CylindricalDetector
from fm4npp.detectors.units import LengthUnit

CHOICE = "collection/"
"""How the reader `podio` calls the column that chooses a collection of hits."""
MEASURED = (
    "BackwardMPGDEndcapRecHits",
    "ForwardMPGDEndcapRecHits",
    "MPGDBarrelRecHits",
    "OuterMPGDBarrelRecHits",
    "SiBarrelTrackerRecHits",
    "SiBarrelVertexRecHits",
    "SiEndcapTrackerRecHits",
    "TOFBarrelRecHits",
    "TOFEndcapRecHits",
)
"""Measured hits of the subsystems around the beam (EDM4eic TrackerHit), as EICrecon calls them in its own test file."""
SIMULATED = (
    "BackwardMPGDEndcapHits",
    "ForwardMPGDEndcapHits",
    "MPGDBarrelHits",
    "OuterMPGDBarrelHits",
    "SiBarrelHits",
    "VertexBarrelHits",
    "TrackerEndcapHits",
    "TOFBarrelHits",
    "TOFEndcapHits",
)
"""Simulated hits of the same subsystems (EDM4hep SimTrackerHit), read where a file has no measured ones."""


class EIC(CylindricalDetector):
    """ePIC central tracker: silicon vertex and barrel layers, micro-pattern gas detectors, time of flight, and disks.

    Files are podio, EDM4eic or EDM4hep: positions and vertices in mm, energies and momenta in GeV. The hits of
    far-forward and far-backward trackers (B0, Roman pots, tagger) and of Cherenkov detectors are not read. A file
    of simulated hits gives the particles' true crossings, and the number `simulated` of the event says so.

    Bounds: |eta| <= 3.5 is the acceptance for tracking that the EIC asks for (Yellow Report, NPA 1026 (2022) 122447);
    radii are those of the hits of EICrecon's own test file (3.8 to 74.6 cm) with a margin. The barrel's layers and the
    scale of the energy, as log(1 + keV), are from that file too: 43 hits of 5 electrons of 1 GeV, so it is rough.
    Disks have no nominal radius, so `layers` leaves them out; outwards is along r for them as well.

    Labels are of the MCParticle of each hit; a hit without one is noise of the readout, as is one whose particle has
    less than `noise_below_pt`.

    Attributes:
        collections: names of the collections of hits that are read, as many as the file has; of measured and
            simulated ones, the measured.
    """

    registered_name: ClassVar[str] = "eic"

    collections: tuple[str, ...] = (*MEASURED, *SIMULATED)
    eta: tuple[float, float] = (-3.5, 3.5)
    radius: tuple[float, float] = (3.0, 77.0)
    layers: tuple[float, ...] = (3.8, 5.03, 12.5, 26.2, 42.3, 55.7, 64.8, 74.0)
    group_boundaries: tuple[float, ...] = (19.0, 49.0)
    measured: dict[str, Feature] = Field(
        default_factory=lambda: {"energy": Feature(mean=3.4, std=1.1, log=True, unit="keV", low=0.0)}
    )
    factors: dict[str, float] = Field(default_factory=lambda: {"energy": 1e6})
    length_unit: LengthUnit = "mm"
    no_track: int | None = -1
    unlisted: Literal["unknown", "noise"] = "noise"

    @property
    def columns(self) -> tuple[Column, ...]:
        """Those of every mapped detector, and one for each collection, which chooses it."""
        return (*super().columns, *(Column(CHOICE + name, required=False) for name in self.collections))
