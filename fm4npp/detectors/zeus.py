"""ZEUS at HERA: the energy-flow objects of the common ntuples."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from fm4npp.detectors.base import Feature
from fm4npp.detectors.objects import MOMENTUM, ObjectDetector


class ZEUS(ObjectDetector):
    """ZEUS: the energy-flow objects (ZUFOs) of the tree `orange`, which join tracks and calorimeter islands.

    `Zufo` is (px, py, pz, E) in GeV, z along the proton beam, and `Zufoecal` the energy in the calorimeter. The files
    hold no hits. `object_class` is the type of the object, the first number of `Tufo`. Tracks in place of
    energy-flow objects need no code, see `ObjectDetector`. Capitals of the branches differ between productions and do
    not matter; of two cycles of the tree the highest is read.

    Generated particles are not carried over: the ntuple matches them to tracks, not to energy-flow objects. Within the
    calorimeter, 2.2 to 176.5 degrees (ZEUS Collaboration, The ZEUS Detector, DESY 1993), |eta| is below 4. The scales
    are round numbers of the order of what jets give. Written to the documented schema; no genuine file was at hand.
    """

    registered_name: ClassVar[str] = "zeus"

    measured: dict[str, Feature] = Field(
        default_factory=lambda: {
            **MOMENTUM,
            "energy": Feature(mean=1.0, std=0.7, log=True, low=0.0, unit="GeV"),
            "calorimeter_energy": Feature(mean=1.0, std=5.0, unit="GeV"),
        }
    )
    columns_of: dict[str, str] = Field(
        default_factory=lambda: {
            "px": "Zufo[0]",
            "py": "Zufo[1]",
            "pz": "Zufo[2]",
            "energy": "Zufo[3]",
            "calorimeter_energy": "Zufoecal",
            "object_class": "Tufo[0]",
            "event_id": "Eventnr",
            "event_run": "Runnr",
            "event_vertex_x": "Xvtx",
            "event_vertex_y": "Yvtx",
            "event_vertex_z": "Zvtx",
        }
    )
