"""Liquid-argon time projection chambers: PILArNet-M and larnd-sim."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from fm4npp.detectors.base import Feature
from fm4npp.detectors.cartesian import CartesianDetector
from fm4npp.geometry import Bounds

PILARNET: dict[str, Any] = {"origin": [384.0, 384.0, 384.0], "length_unit": 0.3}
"""A cube of 768 voxels, centred on 384. That a voxel has 3 mm is what users of the set assume and is unconfirmed."""
LARNDSIM: dict[str, Any] = {
    "length_unit": "mm",
    "columns_of": {"x": "z", "y": "x", "z": "y"},
    "factors": {"energy": 0.0059},
}
"""Drift along the file's z. 1 mV is 250 electrons (LArPix gain of 4 uV an electron), 23.6 eV an electron-ion pair."""


class LArTPC(CartesianDetector):
    """A cube of liquid argon of 230.4 cm (768 voxels of 3 mm), centred on 0; the drift is along x, the causal axis.

    PILArNet-M: voxel indices become cm; a voxel's size is unconfirmed. Its charge is not drifted, so that x is the
    drift axis only by the convention of such detectors. track_id is the particle (group), -1 for low-energy deposits,
    which are real charge: they are of class "other" and not noise. For a model that should tag them, set
    `noise: no-track`. The first generation has no particle types.

    larnd-sim: mm become cm, and the axes are turned (x, y, z) = (z, x, y), so that the drift is along x; the turn
    keeps right-handed axes. The drift is counted from the first hit of the event, at 0. track_id is a reconstructed
    track, not truth, and its -1 is not noise. A chamber much smaller than the cube keeps its true size: use a YAML
    file of type `lartpc` with its own `low` and `high` to train on it alone.

    Energy is in MeV, as log(1 + E), which runs from 0.01 to 3 between the bounds (0.01 and 20 MeV) of the loader of
    PILArNet-M (youngsm/particle-imaging-models); no genuine file was at hand for a mean and a deviation. The charge of
    larnd-sim is turned to MeV of ionisation by the nominal gain of LArPix, 4 uV an electron (D. A. Dwyer et al.,
    JINST 13 (2018) P10007), and 23.6 eV an ion pair (M. Miyajima et al., Phys. Rev. A 9 (1974) 1438): nominal, with no
    correction for pedestal, recombination or attachment. It can be below 0 by the pedestal.
    """

    registered_name: ClassVar[str] = "lartpc"

    low: Bounds = (-115.2, -115.2, -115.2)
    high: Bounds = (115.2, 115.2, 115.2)
    measured: dict[str, Feature] = Field(default_factory=lambda: {"energy": Feature(log=True, unit="MeV")})
    no_track: int | None = -1
    noise: Literal["momentum", "no-track", "none"] = "none"
    formats: dict[str, dict[str, Any]] = Field(
        default_factory=lambda: {"pilarnet-hdf5": dict(PILARNET), "larndsim-hdf5": dict(LARNDSIM)}
    )
