"""DELPHI at LEP: the particles of the open data's nanoAOD files."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from fm4npp.detectors.base import Feature
from fm4npp.detectors.objects import MOMENTUM, ObjectDetector

VECTOR = "fourMomentum.fCoordinates.f"
"""Where ROOT keeps the components of a Lorentz vector: fX, fY, fZ, fT."""
AXES = {"px": "X", "py": "Y", "pz": "Z", "energy": "T"}


class DELPHI(ObjectDetector):
    """DELPHI: the reconstructed particles, charged and neutral, of a `delphi-nanoaod` file (RNTuple or TTree).

    Particles are the collection `Part`, all of them, locked ones included; four-momenta in GeV. `object_class` is the
    PDG code that the reconstruction gives a particle (Part_pdgId). In simulation `Part_simIdx` (-1: none) links each to
    the table of simulated particles (SimPart), which gives `track_id` and `particle_class`.

    The hits of the vertex detector (VdHit_R, VdHit_RPhi) are not used: they have no z, and a module number in place of
    an azimuth, so no position in space follows from them. The scales are round numbers of the order of what hadronic Z
    decays give. Written to the documented schema; no genuine file was at hand.
    """

    registered_name: ClassVar[str] = "delphi"

    measured: dict[str, Feature] = Field(
        default_factory=lambda: {
            **MOMENTUM,
            "energy": Feature(mean=1.0, std=0.7, log=True, low=0.0, unit="GeV"),
            "charge": Feature(unit="e"),
        }
    )
    columns_of: dict[str, str] = Field(
        default_factory=lambda: {
            **{name: f"Part_{VECTOR}{axis}" for name, axis in AXES.items()},
            "charge": "Part_charge",
            "object_class": "Part_pdgId",
            "track_id": "Part_simIdx",
            **{f"particle_{name}": f"SimPart_{VECTOR}{axis}" for name, axis in AXES.items()},
            "particle_pdg": "SimPart_pdgId",
            "particle_charge": "SimPart_charge",
            "event_id": "Event_evtNumber",
            "event_run": "Event_runNumber",
            "event_ecm": "Event_cmEnergy",
            "event_magnetic_field": "Event_magField",
        }
    )
    no_track: int | None = -1
    particles_by_place: bool = True
