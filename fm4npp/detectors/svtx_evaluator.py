"""The columns of the SvtxEvaluator, the evaluation ntuples of the sPHENIX tracking."""

from __future__ import annotations

from typing import Any

SPACEPOINTS = {
    "x": "x",
    "y": "y",
    "z": "z",
    "layer": "layer",
    "track_id": "gtrackID",
    "pdg": "gflavor",
    "px": "gpx",
    "py": "gpy",
    "event_id": "event",
}
"""Quantity -> branch of the tree `ntp_cluster`: one row a cluster, truth from the particle that gave most energy."""
PARTICLES = {
    "particle_track_id": "gtrackID",
    "particle_pdg": "gflavor",
    "particle_px": "gpx",
    "particle_py": "gpy",
    "particle_pz": "gpz",
    "particle_vx": "gvx",
    "particle_vy": "gvy",
    "particle_vz": "gvz",
    "particle_primary": "gprimary",
}
"""Quantity -> branch of the tree `ntp_gtrack`: one row a simulated particle."""


def fields(**features: str) -> dict[str, Any]:
    """The fields of a detector that differ in these files.

    Schema: sPHENIX coresoftware, simulation/g4simulation/g4eval/SvtxEvaluator.cc. Lengths in cm, momenta in GeV/c.
    Truth is NaN for a cluster without a matching particle, such as one of electronic noise, and ids below 0 are those
    of secondaries (g4main/PHG4TruthInfoContainer.h).

    Args:
        features: feature -> branch of `ntp_cluster`.
    """
    columns = {quantity: f"ntp_cluster/{branch}" for quantity, branch in {**SPACEPOINTS, **features}.items()}
    columns |= {quantity: f"ntp_gtrack/{branch}" for quantity, branch in PARTICLES.items()}
    return {"columns_of": columns, "nan_is_no_track": True, "negative_tracks": True, "unlisted": "noise"}
