"""The detector of the TrackML challenge, which is the generic detector of ACTS."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fm4npp.detectors.base import Array
from fm4npp.detectors.cylindrical import CylindricalDetector
from fm4npp.detectors.units import LengthUnit
from fm4npp.errors import DataError


class TrackML(CylindricalDetector):
    """TrackML: pixels, short and long silicon strips, in barrels and in disks.

    Barrel layers at r = 32, 72, 116, 172 (pixels), 260, 360, 500, 660 (short strips), 820, 1020 mm (long strips); pixel
    disks from 30 to 176 mm up to |z| = 1500 mm, strip disks from 240 to 700 and from 750 to 1020 mm up to 2950 mm
    (S. Amrouche et al., arXiv 1904.06778; ACTS, GenericDetectorBuilder). Hence r up to 105 cm with the tilt of the
    modules, |eta| up to arsinh(1500 / 30) = 4.6, and group boundaries in the gaps between the three technologies.
    Nothing is measured in every file of the format; `charge` of the cells can be declared in `measured`. The label
    `weight`, where a file has it, is that of a spacepoint in the TrackML score.

    `particle_id` 0 means noise in TrackML files, and is a particle like others in files of the ACTS dialect, whose
    events say nothing of noise. Both are checked against the table of particles. A particle of PDG code 0, which ACTS
    writes for "not known", has no class.
    """

    registered_name: ClassVar[str] = "trackml"
    other_labels: ClassVar[tuple[str, ...]] = ("layer", "weight")

    eta: tuple[float, float] = (-4.6, 4.6)
    radius: tuple[float, float] = (3.0, 105.0)
    layers: tuple[float, ...] = (3.2, 7.2, 11.6, 17.2, 26.0, 36.0, 50.0, 66.0, 82.0, 102.0)
    group_boundaries: tuple[float, ...] = (21.0, 72.5)
    length_unit: LengthUnit = "mm"
    no_track: int | None = 0
    noise: Any = "no-track"
    formats: dict[str, dict[str, Any]] = Field(
        default_factory=lambda: {"acts-csv": {"no_track": None, "noise": "none"}}
    )

    def _labels(self, values: Mapping[str, Array], particles: Mapping[str, Array]) -> dict[str, Array]:
        labels = super()._labels(values, particles)
        listed = particles.get("track_id")
        if listed is None or "track_id" not in values:
            return labels
        self._check_zero(values["track_id"], listed)
        if "pdg" in particles and "particle_class" in labels:
            unknown = np.isin(values["track_id"], listed[np.asarray(particles["pdg"]) == 0])
            labels["particle_class"] = np.where(unknown, -1, labels["particle_class"])
        return labels

    def _check_zero(self, track_id: Array, listed: Array) -> None:
        """Refuse events whose table of particles says that 0 means something else than `no_track` does."""
        if self.no_track == 0 and (listed == 0).any():
            raise DataError(
                "particle_id 0 is in the table of particles, but stands for noise here",
                remedy="set `no_track: null` and `noise: none` in a detector's YAML file",
            )
        if self.no_track is None and (track_id == 0).any() and not (listed == 0).any():
            raise DataError(
                "particle_id 0 is not in the table of particles, so it may stand for noise",
                remedy="set `no_track: 0` in a detector's YAML file",
            )
