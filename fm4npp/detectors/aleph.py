"""ALEPH at LEP: the energy-flow objects of the archived data."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from fm4npp.detectors.base import Feature
from fm4npp.detectors.objects import MOMENTUM, ObjectDetector

TRACK = ("d0", "z0", "ntpc", "nitc", "nvdet")
"""What only an object with a track has."""
NO_TRACK: dict[str, dict[str, tuple[float, ...]]] = {"track_missing": dict.fromkeys(TRACK, (-1.0,))}
QUANTITIES = ("px", "py", "pz", "mass", "charge", *TRACK)
EVENT = {
    "event_id": "EventNo",
    "event_run": "RunNo",
    "event_ecm": "Energy",
    "event_vertex_flag": "bFlag",
    "event_vertex_x": "bx",
    "event_vertex_y": "by",
    "event_vertex_error_x": "ebx",
    "event_vertex_error_y": "eby",
}
"""Numbers of the whole event in the MIT trees, under the names that `aleph-ascii` gives them."""


class ALEPH(ObjectDetector):
    """ALEPH: charged tracks, leptons, V0s, photons and neutral hadrons of the energy-flow reconstruction.

    Reads the archived text (`aleph-ascii`) and the tree `t` of the MIT ROOT files (`root-tree`); their trees `tgen`
    and `tgenBefore`, of generated particles, have the same branches and are left alone. Momenta and masses in GeV,
    d0 and z0 in cm. `object_class` is pwflag: 0 charged track, 1 and 2 charged leptons, 3 V0, 4 photon, 5 neutral
    hadron.

    ntpc, nitc, nvdet are numbers of hits, at most 21 in the TPC, 8 in the inner chamber and 2 in the vertex detector;
    no hit positions are archived. Objects without a track hold -1 in d0, z0 and the three numbers, the trees also -999
    and -127: where all five do, `track_missing` is 1. A track with d0 = -1 cm is kept as it is.

    |d0| and |z0| beyond 250 cm, further out than the TPC reaches (its radius is 180 cm, its half length 220 cm; ALEPH
    Collaboration, NIM A 294 (1990) 121), are no measurements. The scales are round numbers of the order of what
    hadronic Z decays give. Written to the documented schema; no genuine file was at hand.
    """

    registered_name: ClassVar[str] = "aleph"

    measured: dict[str, Feature] = Field(
        default_factory=lambda: {
            **MOMENTUM,
            "charge": Feature(unit="e"),
            "mass": Feature(mean=0.1, std=0.1, unit="GeV"),
            "d0": Feature(std=0.3, low=-250.0, high=250.0, unit="cm"),
            "z0": Feature(std=1.0, low=-250.0, high=250.0, unit="cm"),
            "ntpc": Feature(mean=15.0, std=6.0, low=0.0, high=21.0),
            "nitc": Feature(mean=5.0, std=3.0, low=0.0, high=8.0),
            "nvdet": Feature(mean=1.0, std=1.0, low=0.0, high=2.0),
            "track_missing": Feature(),
        }
    )
    columns_of: dict[str, str] = Field(default_factory=lambda: {"object_class": "pwflag"})
    missing: dict[str, dict[str, tuple[float, ...]]] = Field(default_factory=lambda: dict(NO_TRACK))
    formats: dict[str, dict[str, Any]] = Field(
        default_factory=lambda: {
            "root-tree": {
                "columns_of": {
                    **{name: f"t/{name}" for name in QUANTITIES},
                    "object_class": "t/pwflag",
                    **{name: f"t/{branch}" for name, branch in EVENT.items()},
                },
                "missing": {
                    "track_missing": {name: [-1.0, -999.0 if name in ("d0", "z0") else -127.0] for name in TRACK}
                },
            }
        }
    )
