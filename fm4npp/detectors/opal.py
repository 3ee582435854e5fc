"""OPAL at LEP: the tracks of the QCD ntuples, and the event-level ntuples of laboratory courses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from pydantic import Field

from fm4npp.detectors.base import Array, Columns, Feature
from fm4npp.detectors.objects import MOMENTUM, ObjectDetector

MIDDLE = (50.0, 0.0, 0.0)
"""Where the one token of an event-level ntuple is put, in cm: the middle of the bounds."""

NOT_COMPUTED: dict[str, dict[str, tuple[float, ...]]] = {
    "cos_thru_missing": {"cos_thru": (999.0,)},
    "cos_thet_missing": {"cos_thet": (999.0,)},
}
"""The flags of an event-level ntuple, and what stands for a missing value."""


class OPAL(ObjectDetector):
    """OPAL: the charged tracks of the QCD ntuple (HBOOK `QQNT200`, after h2root the tree `h10`).

    `Ptrk` is (px, py, pz) in GeV, D0 and Z0 are in cm, Dedx is in keV/cm, Nhcj counts the hits in the jet chamber, of
    159 wires, and Nhde those with a dE/dx. `Ichg` is 0 or 1 and not a sign: the charge is 2 Ichg - 1. In simulation
    `Iluc` is the PDG code of a track's particle, 0 if it has none. (Conventions: opal-edm4hep, docs/ntuple-schema.md;
    159 wires: OPAL Collaboration, NIM A 305 (1991) 275.)

    The hadron level (`Ptrkh`) is generated, not measured, and no index links a track to it; its energies sum to 1.3
    times the collision's (same source), so it is not carried over. Clusters (`Pclus`) are another collection: a YAML
    file of type `objects` reads them. Beyond 250 cm D0 and Z0 are no measurements (the jet chamber's radius is
    185 cm). Scales are round numbers; the mean of Dedx is the median of real tracks, 7.7 keV/cm (same source). Written
    to the documented schema; no genuine file was at hand.
    """

    registered_name: ClassVar[str] = "opal"

    measured: dict[str, Feature] = Field(
        default_factory=lambda: {
            **MOMENTUM,
            "charge": Feature(low=-1.0, high=1.0, unit="e"),
            "d0": Feature(std=0.5, low=-250.0, high=250.0, unit="cm"),
            "z0": Feature(std=5.0, low=-250.0, high=250.0, unit="cm"),
            "dedx": Feature(mean=7.7, std=3.0, unit="keV/cm"),
            "num_dedx_hits": Feature(mean=80.0, std=50.0, low=0.0, high=159.0),
            "num_hits": Feature(mean=110.0, std=50.0, low=0.0, high=159.0),
        }
    )
    columns_of: dict[str, str] = Field(
        default_factory=lambda: {
            "px": "Ptrk[0]",
            "py": "Ptrk[1]",
            "pz": "Ptrk[2]",
            "charge": "Ichg",
            "d0": "D0",
            "z0": "Z0",
            "dedx": "Dedx",
            "num_dedx_hits": "Nhde",
            "num_hits": "Nhcj",
            "pdg": "Iluc",
            "event_id": "Ievnt",
            "event_run": "Irun",
            "event_beam_energy": "Ebeam",
        }
    )

    def _values(self, columns: Columns) -> dict[str, Array]:
        values = super()._values(columns)
        return {**values, "charge": 2 * values["charge"].astype(np.float64) - 1}


class OPALEvents(ObjectDetector):
    """OPAL's laboratory-course ntuples (tree `myTTree`): six numbers an event, read as one token.

    The files hold no tracks and no clusters, so the token carries no geometry: it always lies in the middle of the
    bounds, and nothing can be learned from positions. It is there so that event classification has these events to
    work with. The cosines `cos_thru` and `cos_thet` are 999 where they were not computed, which sets a flag; in other
    columns 999 is a number like others.

    Not among the features, because they give the class away: `run` is the same in a whole file, `E_lep` (the beam
    energy) nearly so, and event numbers differ between files. `event` is kept as the event's number `event_number`,
    which no model sees; it is not unique in a file, so `event_id` counts the entries. The class is the file, `source`.

    Scales: mean and standard deviation over the 365,960 events of the four public simulated files. Pcharged has
    outliers up to 7e5 GeV, so its logarithm is taken, and they are kept.
    """

    registered_name: ClassVar[str] = "opal-events"

    measured: dict[str, Feature] = Field(
        default_factory=lambda: {
            "Ncharged": Feature(mean=1.583, std=0.904, log=True, low=0.0),
            "Pcharged": Feature(mean=3.499, std=1.451, log=True, low=0.0, unit="GeV"),
            "E_ecal": Feature(mean=45.51, std=33.76, low=0.0, unit="GeV"),
            "E_hcal": Feature(mean=1.493, std=1.059, log=True, low=0.0, unit="GeV"),
            "cos_thru": Feature(std=0.609, low=-1.0, high=1.0),
            "cos_thet": Feature(std=0.634, low=-1.0, high=1.0),
            "cos_thru_missing": Feature(),
            "cos_thet_missing": Feature(),
        }
    )
    missing: dict[str, dict[str, tuple[float, ...]]] = Field(default_factory=lambda: dict(NOT_COMPUTED))
    columns_of: dict[str, str] = Field(default_factory=lambda: {"event_number": "event"})

    @property
    def position_quantities(self) -> tuple[str, ...]:
        """None: an event is one token."""
        return ()

    def positions(self, values: Mapping[str, Array]) -> Array:
        """(N, 3) in cm: the same place for every token."""
        return np.tile(MIDDLE, (len(next(iter(values.values()))), 1))
