"""Experiments whose files hold reconstructed objects and no hits: tracks or energy-flow objects are the spacepoints."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from fm4npp.detectors.base import Array, Column, Columns, Feature
from fm4npp.detectors.cylindrical import CylindricalDetector
from fm4npp.detectors.units import in_gev
from fm4npp.errors import DataError
from fm4npp.event import Event, exact

SOFTEST = 100.0
"""Radius in cm that an object without transverse momentum would have."""
PT = "pt"
"""The feature that is computed from px and py."""
OBJECT_CLASS = "object_class"
"""The label that holds what the experiment's reconstruction calls an object."""
MOMENTUM: Mapping[str, Feature] = {
    "px": Feature(std=5.0, unit="GeV"),
    "py": Feature(std=5.0, unit="GeV"),
    "pz": Feature(std=5.0, unit="GeV"),
    PT: Feature(mean=0.6, std=0.5, log=True, unit="GeV"),
}
"""Features that every such detector has. The scales are round numbers of the order of what a particle of a jet has."""


def pseudo_positions(px: Array, py: Array, pz: Array) -> Array:
    """Where objects are put in space.

    The direction is the momentum's, and the distance from the beam is rho = 100 cm / (1 + pT / GeV): hard objects
    inside, soft ones outside, all of them in (0, 100] cm. It falls with pT like the paper's track parameter
    q / (pT + 1). An object along the beam (pT = 0) has no azimuth and is put on the beam axis.

    Args:
        px: (N,) in GeV.
        py: (N,) in GeV.
        pz: (N,) in GeV.

    Returns:
        (N, 3) float64 in cm: rho cos(phi), rho sin(phi), rho sinh(eta).
    """
    momentum = np.stack([px, py, pz], axis=1).astype(np.float64)
    pt = np.hypot(momentum[:, 0], momentum[:, 1])
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        positions: Array = momentum / pt[:, None] * (SOFTEST / (1 + pt))[:, None]
    along = pt == 0
    positions[along] = 0
    positions[along, 2] = SOFTEST * np.sign(momentum[along, 2])
    return positions


def momenta(positions: Array) -> Array:
    """The inverse of `pseudo_positions`: (N, 3) in cm to (N, 3) px, py, pz in GeV, to about 1e-14 (1 + pT) / pT."""
    positions = np.asarray(positions, dtype=np.float64).reshape(-1, 3)
    rho = np.hypot(positions[:, 0], positions[:, 1])
    values: Array = positions * ((SOFTEST / rho - 1) / rho)[:, None]
    return values


def _among(values: Array, numbers: tuple[float, ...]) -> Array:
    """(N,) bool, which values are one of some numbers; `np.isin` takes ten times as long on an event."""
    found: Array = reduce(np.logical_or, (values == number for number in numbers))
    return found


class ObjectDetector(CylindricalDetector):
    """Reconstructed objects as spacepoints, described by fields alone; usable as a YAML file of type `objects`.

    The positions are *pseudo-positions*, see `pseudo_positions`; `momenta` inverts them. The features px, py, pz hold
    the momenta of the file bit for bit (as float32; in MeV if the file is, unless `factors` has 0.001 for each), and
    `pt` is computed from them, in GeV. Momenta are measured here and no truth, so `is_noise` is not derived. An
    object with pT = 0 is left out and counted.

    Quantities of `columns_of` beside those of `MappedDetector`: `object_class`, an integer that says what the
    reconstruction takes an object for; it becomes a label, never an input. With `pdg`, the code 0 means "unknown".

    For example, the tracks of ZEUS in place of its energy-flow objects:

        type: objects
        name: zeus-tracks
        columns_of: {px: Trk_px, py: Trk_py, pz: Trk_pz, charge: Trk_charge, event_id: Eventnr, event_run: Runnr}
        measured: {px: {std: 5}, py: {std: 5}, pz: {std: 5}, pt: {mean: 0.6, std: 0.5, log: true}, charge: {}}

    Attributes:
        missing: flag -> feature -> its values in the file that stand for "missing". Where *all* features of one flag
            hold such a value, each becomes its scale's mean, so 0 in the model, and the feature named like the flag
            is 1; elsewhere it is 0. Every flag must be in `measured`.
        particles_by_place: `track_id` counts the rows of the particles' table from 0; the table has no ids.
    """

    registered_name: ClassVar[str] = "objects"

    eta: tuple[float, float] = (-4.0, 4.0)
    radius: tuple[float, float] = (0.0, SOFTEST)
    measured: dict[str, Feature] = Field(default_factory=lambda: dict(MOMENTUM))
    noise: Literal["momentum", "no-track", "none"] = "none"
    missing: dict[str, dict[str, tuple[float, ...]]] = Field(default_factory=dict)
    particles_by_place: bool = False

    @model_validator(mode="after")
    def _check_missing(self) -> Self:
        of_flags = [name for sentinels in self.missing.values() for name in sentinels]
        if absent := sorted({*self.missing, *of_flags} - set(self.measured)):
            raise ValueError(f"missing: {', '.join(absent)} not among the features of measured")
        if twice := sorted({name for name in of_flags if of_flags.count(name) > 1 or name in {*self.missing, PT}}):
            raise ValueError(f"missing: {', '.join(twice)} cannot be under this flag, or is under two")
        if not all(sentinels and all(sentinels.values()) for sentinels in self.missing.values()):
            raise ValueError("missing: every flag needs features, and every feature values")
        return self

    @property
    def columns(self) -> tuple[Column, ...]:
        """See `MappedDetector.columns`; the class of the objects too, where the file has it."""
        columns, name = super().columns, self._column(OBJECT_CLASS)
        return columns if name in {column.name for column in columns} else (*columns, Column(name, required=False))

    @property
    def position_quantities(self) -> tuple[str, ...]:
        """Momenta."""
        return ("px", "py", "pz")

    def positions(self, values: Mapping[str, Array]) -> Array:
        """See `pseudo_positions`; (N, 3) float64 in cm."""
        return pseudo_positions(*(in_gev(values[name], self.energy_unit) for name in self.position_quantities))

    @property
    def _required(self) -> tuple[str, ...]:
        return tuple(name for name in super()._required if name not in {*self.missing, PT})

    def _values(self, columns: Columns) -> dict[str, Array]:
        values = super()._values(columns)
        if PT in self.measured:
            pt = np.hypot(values["px"].astype(np.float64), values["py"].astype(np.float64))
            values[PT] = in_gev(pt, self.energy_unit)
        if (classes := self._get(columns, OBJECT_CLASS)) is not None:
            if len(classes) != (count := len(next(iter(values.values())))):
                problem = f"{len(classes)} values in {self._column(OBJECT_CLASS)!r} for {count} objects"
                raise DataError(problem, remedy="the file's columns do not belong together")
            values[OBJECT_CLASS] = classes
        for flag, sentinels in self.missing.items():
            values |= self._without(values, flag, sentinels)
        return values

    def _without(
        self, values: Mapping[str, Array], flag: str, sentinels: Mapping[str, tuple[float, ...]]
    ) -> dict[str, Array]:
        """One flag of `missing`, and its features without the values that stand for it."""
        absent = reduce(np.logical_and, (_among(values[name], numbers) for name, numbers in sentinels.items()))
        changed = {flag: absent}
        for name in sentinels if absent.any() else ():
            mean = float(self.measured[name].restored(np.zeros(1))[0]) / self.factors.get(name, 1)
            changed[name] = np.where(absent, mean, values[name])
        return changed

    def _faults(self, positions: Array, features: Mapping[str, Array], values: Mapping[str, Array]) -> dict[str, Array]:
        faults = super()._faults(positions, features, values)
        classes = values.get(OBJECT_CLASS)
        if classes is not None and classes.dtype.kind == "f" and (broken := classes != np.rint(classes)).any():
            faults[f"{OBJECT_CLASS} is no whole number"] = broken  # true of NaN; infinity fails as an integer
        return faults

    def _labels(self, values: Mapping[str, Array], particles: Mapping[str, Array]) -> dict[str, Array]:
        measured = set(self.position_quantities)
        labels = super()._labels({name: array for name, array in values.items() if name not in measured}, particles)
        if "pdg" in values and "particle_class" not in values:
            labels["particle_class"] = np.where(values["pdg"] == 0, -1, labels["particle_class"])
        if OBJECT_CLASS in values:
            labels[OBJECT_CLASS] = exact(values[OBJECT_CLASS], np.int64, OBJECT_CLASS)
        return labels

    def _particles(self, columns: Columns) -> dict[str, Array]:
        particles = super()._particles(columns)
        if self.particles_by_place and particles and "track_id" not in particles:
            particles["track_id"] = np.arange(len(next(iter(particles.values()))))
        return particles

    def event(self, columns: Columns) -> Event:
        """See `MappedDetector.event`.

        Raises:
            DataError: also if, with `particles_by_place`, an object's particle is beyond the end of the table.
        """
        event = super().event(columns)
        if self.particles_by_place and event.particles and "track_id" in event.labels:
            count = len(event.particles["track_id"])
            if (last := event.labels["track_id"].max(initial=-1)) >= count:
                problem = f"an object belongs to particle {last} of {count}"
                raise DataError(problem, remedy="the file's columns do not belong together")
        return event
