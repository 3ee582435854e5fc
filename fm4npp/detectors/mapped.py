"""Detectors described by fields alone: which column of a file is what, in which unit, and what its labels mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, ValidationError, model_validator

from fm4npp.detectors.base import Array, Column, Columns, Detector, Feature, Positive
from fm4npp.detectors.columns import TRUTH, apart, constant_within, first_reasons, of_particles, one_value, outside
from fm4npp.detectors.response import Response
from fm4npp.detectors.units import AngleUnit, EnergyUnit, LengthUnit, from_polar, in_centimetres, in_gev, in_radians
from fm4npp.errors import DataError
from fm4npp.event import LABEL_DTYPES, PARTICLE_CLASSES, Event, exact, particle_class
from fm4npp.geometry import Bounds
from fm4npp.registry import explain

OTHER_SUBSYSTEM = "of other subsystems"
"""Why a spacepoint that nothing is wrong with is left out of an event."""
FAR = 1.5
"""A position further out of the bounds than this, in widths of the bounds, is no measurement of this detector."""
SECONDARY = 2**31
"""What `negative_tracks` adds to the size of an id below 0: more than any 32-bit id, so that no two become one."""
LENGTHS = frozenset({"vx", "vy", "vz"})
ENERGIES = frozenset({"px", "py", "pz", "energy", "mass"})
"""Quantities of particles that have a unit."""


class MappedDetector(Detector):
    """A detector whose events are made from named columns; usable without code, as a YAML file of a subclass's type.

    Attributes:
        measured: features of a spacepoint and how they are scaled.
        columns_of: quantity -> its column in the file, where the names differ. Quantities are x, y, z (or r, phi, z),
            the features, track_id, particle_class, is_noise, layer, pdg, px, py; `particle_<name>` for particles
            (track_id, pdg, px, py, pz, energy, mass, vx, vy, vz, ...), `event_<name>` for numbers of the whole event,
            `event_id`.
        length_unit: unit of x, y, z and of particles' vx, vy, vz in the file: cm, mm, m, or a number of cm.
        energy_unit: unit of px, py, pz and of particles' energy and mass in the file.
        position: whether the file places spacepoints by x, y, z or, around the beam, by r, phi, z; these are the
            quantities then.
        angle_unit: of phi in the file.
        origin: subtracted from x, y, z first, in the file's unit.
        factors: feature -> what the file's values are multiplied by to be in the feature's unit.
        layer_range: keep the spacepoints whose column `layer` lies in this closed range; None keeps all.
        no_track: value of `track_id` that means "belongs to no track" in the file, if there is one.
        nan_is_no_track: whether a `track_id` that is NaN means that no particle made the spacepoint (`unlisted` says
            what it is then), and is no fault.
        negative_tracks: whether ids below 0 are particles too, as the secondaries of sPHENIX; -5 becomes 2**31 + 5,
            since an event's ids below 0 belong to no track.
        unlisted: what a spacepoint is whose particle the file's table of particles lacks, or that has none: of
            "unknown" class, so that momenta do not give `is_noise`, or "noise".
        noise: where `is_noise` comes from when the file has no such tag: "momentum" (of the spacepoint's particle,
            transverse), "no-track" (`track_id` is `no_track`), or "none".
        noise_below_pt: with "momentum": a spacepoint is noise below this, in GeV/c. 0.06 is what the released labels
            use (the paper says momentum).
        formats: reader -> fields of this detector that differ in files of that format.
        response: constants of the fast simulation.
    """

    measured: dict[str, Feature] = Field(default_factory=dict)
    columns_of: dict[str, str] = Field(default_factory=dict)
    length_unit: LengthUnit = "cm"
    energy_unit: EnergyUnit = "GeV"
    position: Literal["x-y-z", "r-phi-z"] = "x-y-z"
    angle_unit: AngleUnit = "rad"
    origin: Bounds = (0.0, 0.0, 0.0)
    factors: dict[str, Positive] = Field(default_factory=dict)
    layer_range: tuple[int, int] | None = None
    no_track: int | None = None
    nan_is_no_track: bool = False
    negative_tracks: bool = False
    unlisted: Literal["unknown", "noise"] = "unknown"
    noise: Literal["momentum", "no-track", "none"] = "momentum"
    noise_below_pt: Annotated[float, Field(ge=0)] = 0.06
    formats: dict[str, dict[str, Any]] = Field(default_factory=dict)
    response: Response | None = None

    other_labels: ClassVar[tuple[str, ...]] = ("layer",)
    """Labels that are taken as they are where the file has them."""

    @model_validator(mode="after")
    def _check_geometry(self) -> Self:
        try:
            _ = self.geometry
        except ValidationError as error:
            raise ValueError(explain(error)) from error
        return self

    @model_validator(mode="after")
    def _check_origin(self) -> Self:
        if self.position != "x-y-z" and any(self.origin):
            raise ValueError("origin: is subtracted from x, y, z; leave it out with position: r-phi-z")
        return self

    @model_validator(mode="after")
    def _check_formats(self) -> Self:
        for name, fields in self.formats.items():
            if unknown := set(fields) - (set(type(self).model_fields) - {"formats", "name"}):
                raise ValueError(f"formats: {name}: unknown key {', '.join(sorted(unknown))}")
            type(self).model_validate({**self.model_dump(), **fields, "formats": {}})
        return self

    def reading(self, reader: str) -> Self:
        """See `Detector.reading`: with the fields that `formats` gives for this reader."""
        return self.replace(**self.formats[reader], formats={}) if reader in self.formats else self

    @property
    def columns(self) -> tuple[Column, ...]:
        """Positions and features are required, labels and truth are taken where the file has them."""
        required = self._required
        optional = [name for name in (*LABEL_DTYPES, *TRUTH, *self.other_labels) if name not in required]
        optional += [name for name in self.columns_of if name.startswith(("particle_", "event_"))]
        names = dict.fromkeys(self._column(name) for name in required)
        return tuple(Column(name) for name in names) + tuple(
            Column(name, required=False) for name in dict.fromkeys(map(self._column, optional)) if name not in names
        )

    @property
    def features(self) -> dict[str, Feature]:
        """The field `measured`."""
        return self.measured

    @property
    def responses(self) -> dict[str, tuple[Any, Response]]:
        """The detector's own layers, if it has a response."""
        return {self.name: (self.geometry, self.response)} if self.response and self.geometry.layers else {}

    @property
    def position_quantities(self) -> tuple[str, ...]:
        """What `positions` needs of a spacepoint."""
        return tuple(self.position.split("-"))

    def positions(self, values: Mapping[str, Array]) -> Array:
        """Where the spacepoints are.

        Args:
            values: quantity -> (N,), in the file's units.

        Returns:
            (N, 3) in cm, see `in_centimetres`; not a number where phi is beyond two turns, as no angle is.
        """
        if self.position == "r-phi-z":
            r, phi, z = (values[name] for name in self.position_quantities)
            return from_polar(
                in_centimetres(r, self.length_unit),
                in_radians(phi, self.angle_unit),
                in_centimetres(z, self.length_unit),
            )
        axes = [
            in_centimetres(values[axis] - shift if shift else values[axis], self.length_unit)
            for axis, shift in zip(self.position_quantities, self.origin, strict=True)
        ]
        return np.stack(axes, axis=1)

    def placed(self, columns: Columns) -> Array:
        """Columns of a file to (N, 3) positions in cm of this detector's spacepoints, possible or not.

        Raises:
            DataError: if a column is absent.
        """
        with np.errstate(all="ignore"):
            return self.positions({name: self._require(columns, name) for name in self.position_quantities})[
                self.selection(columns)
            ]

    def selection(self, columns: Columns) -> Array:
        """Columns of a file to (N,) bool: the spacepoints that this detector measured."""
        if self.layer_range is None:
            return np.ones(len(self._require(columns, self.position_quantities[0])), dtype=bool)
        layer = self._require(columns, "layer")
        return (layer >= self.layer_range[0]) & (layer <= self.layer_range[1])

    def event(self, columns: Columns) -> Event:
        """See `Detector.event`; spacepoints with impossible values are left out, and the event says which and why."""
        values = self._values(columns)
        with np.errstate(all="ignore"):
            positions = self.positions(values)
            features = {name: values[name] * self.factors.get(name, 1) for name in self.measured}
            faults = self._faults(positions, features, values)
        others = {OTHER_SUBSYSTEM: ~self.selection(columns)} if self.layer_range else {}
        left_out: dict[str, Array] = {}
        if others or faults:
            left_out, kept = first_reasons({**others, **faults})
            positions, values = positions[kept], {name: array[kept] for name, array in values.items()}
            features = {name: array[kept] for name, array in features.items()}
        particles = self._particles(columns)
        return Event(
            positions=positions,
            features=np.stack(list(features.values()), axis=1) if features else np.empty((len(positions), 0)),
            feature_names=tuple(features),
            labels=self._labels(values, particles),
            particles=particles,
            scalars={k: one_value(v, k) for k, v in self._prefixed(columns, "event_").items() if k != "id"},
            detector=self.name,
            event_id=int(one_value(columns.get(self._column("event_id"), columns.get("event_id", 0)), "event_id")),
            left_out=left_out,
        )

    def events(self, columns: Columns, offsets: Array, event_ids: Array, source: str) -> Iterator[Event | DataError]:
        """See `Detector.events`; all events at once, unless that fails for one of them."""
        names = {f"event_{name}" for name in self._prefixed(columns, "event_")} - {"event_id"}
        scalars = {name: np.asarray(columns[self._column(name)]) for name in names}
        particles = self._prefixed(columns, "particle_", exclude=LABEL_DTYPES)
        if not particles and all(constant_within(values, offsets) for values in scalars.values()):
            mapped = {self._column(name) for name in names}
            rest = {name: values for name, values in columns.items() if name not in mapped}
            try:
                whole = self.event({**rest, "event_id": 0}).with_source(source)
            except DataError:
                pass
            else:
                of_events = {name.removeprefix("event_"): values[offsets[:-1]] for name, values in scalars.items()}
                return apart(whole, offsets, event_ids, of_events)
        return super().events(columns, offsets, event_ids, source)

    @property
    def _required(self) -> tuple[str, ...]:
        return (*self.position_quantities, *self.measured, *(("layer",) if self.layer_range else ()))

    def _values(self, columns: Columns) -> dict[str, Array]:
        """Quantity -> (N,) as in the file, of everything that an event is made from."""
        values = {name: self._require(columns, name) for name in self._required}
        wanted = (*LABEL_DTYPES, *TRUTH, *self.other_labels)
        truth = {name: self._get(columns, name) for name in wanted if name not in values}
        values |= {name: array for name, array in truth.items() if array is not None}
        values |= {name: self._ids(values[name]) for name in ("track_id",) if name in values}
        count = len(next(iter(values.values())))
        for name, array in values.items():
            if len(array) != count:
                raise DataError(
                    f"{len(array)} values in {self._column(name)!r} for {count} positions",
                    remedy="the file's columns do not belong together",
                )
        return values

    def _faults(self, positions: Array, features: Mapping[str, Array], values: Mapping[str, Array]) -> dict[str, Array]:
        """What is wrong with some spacepoint -> (N,) bool, whether it is."""
        faults: dict[str, Array] = {}
        for name in dict.fromkeys((*self._required, *(name for name in LABEL_DTYPES if name in values))):
            if name == "track_id" and self.nan_is_no_track:
                continue
            if values[name].dtype.kind == "f":
                faults[f"{name} is not finite"] = ~np.isfinite(values[name])
        geometry = self.geometry
        if self.position == "r-phi-z":
            faults[f"phi is beyond two turns in {self.angle_unit}: another angle_unit?"] = ~np.isfinite(positions[:, 0])
        if not geometry.contains(positions, FAR).all():
            low, high = np.asarray(geometry.low), np.asarray(geometry.high)
            distance = np.abs((geometry.natural(positions) - low) / (high - low) - 0.5)
            if geometry.system == "cylindrical":
                faults["on the beam axis (r = 0)"] = np.asarray((positions[:, :2] == 0).all(axis=1))
            for axis, name in enumerate(geometry.axes):
                faults[f"{name} is out of range"] = ~(distance[:, axis] <= 0.5 + FAR)
        for name, feature in self.measured.items():
            faults[f"{name} is out of range"] = ~feature.plausible(features[name])
        if "particle_class" in values:
            faults["particle_class is out of range"] = outside(values["particle_class"], -1, len(PARTICLE_CLASSES) - 1)
        if "is_noise" in values and values["is_noise"].dtype.kind != "b":
            faults["is_noise is out of range"] = outside(values["is_noise"], 0, 1)
        return {reason: fault for reason, fault in faults.items() if fault.any()}

    def _labels(self, values: Mapping[str, Array], particles: Mapping[str, Array]) -> dict[str, Array]:
        """Quantity -> (N,) as in the file, to the labels that it gives, stored or derived."""
        given = dict(values)
        unlisted = self._fill_unmatched(given)
        if not {"pdg", "px", "py"} & given.keys() and "track_id" in given:
            truth, unlisted = of_particles(given["track_id"], particles)
            given |= {name: truth[name] for name in truth if name == "pdg" or self.unlisted == "noise"}
        if "particle_class" not in given and "pdg" in given:
            classes = particle_class(given["pdg"])
            given["particle_class"] = np.where(unlisted, -1, classes) if unlisted.any() else classes
        if "is_noise" not in given and (tag := self._noise(given)) is not None:
            given["is_noise"] = tag | unlisted if unlisted.any() else tag
        if "track_id" in given and self.no_track is not None:
            given["track_id"] = np.where(given["track_id"] == self.no_track, -1, given["track_id"])
        return {name: given[name] for name in (*LABEL_DTYPES, *self.other_labels) if name in given}

    def _fill_unmatched(self, given: dict[str, Array]) -> Array:
        """(N,) bool, which spacepoints no particle made; their truth in `given`, which is NaN, becomes numbers."""
        ids = given.get("track_id", np.empty(0))
        unmatched = np.isnan(ids) if self.nan_is_no_track and ids.dtype.kind == "f" else np.zeros(len(ids), dtype=bool)
        if self.nan_is_no_track and self.unlisted == "unknown":
            given.pop("px", None)
        if unmatched.any():
            truth = {name: given[name] for name in TRUTH if name in given}
            given |= {name: np.where(unmatched, 0, values) for name, values in truth.items()}
            given["track_id"] = np.where(unmatched, -1, ids)
        return unmatched

    def _ids(self, ids: Array) -> Array:
        """Track ids (N,), those below 0 made positive if they are particles.

        Raises:
            DataError: if one is so large that another could have been rounded to it.
        """
        if ids.dtype.kind == "f" and (large := np.abs(ids) >= 2.0 ** (np.finfo(ids.dtype).nmant + 1)).any():
            raise DataError(
                f"track_id {ids[large][0]} is stored as {ids.dtype}, which cannot tell it from its neighbours"
            )
        if not self.negative_tracks:
            return ids
        wide = ids.astype(np.float64 if ids.dtype.kind == "f" else np.int64)
        secondary = (wide < 0) & (wide != (0 if self.no_track is None else self.no_track))
        return np.where(secondary, SECONDARY - wide, wide)

    def _noise(self, given: Mapping[str, Array]) -> Array | None:
        """(N,) bool, which spacepoints are noise; None where nothing says it."""
        if self.noise == "no-track" and "track_id" in given and self.no_track is not None:
            return np.asarray(given["track_id"] == self.no_track)
        if self.noise != "momentum" or not {"px", "py"} <= given.keys():
            return None
        momentum = in_gev(np.hypot(given["px"], given["py"]), self.energy_unit)
        if num_unknown := int((~np.isfinite(momentum)).sum()):
            raise DataError(
                f"px or py is not finite for {num_unknown} spacepoints, so nothing says which are noise",
                remedy="repair them in the input, give a noise tag, or set noise to none",
            )
        return np.asarray(momentum < self.noise_below_pt)

    def _particles(self, columns: Columns) -> dict[str, Array]:
        """Particle quantity -> (P,), in cm and GeV."""
        particles = self._prefixed(columns, "particle_", exclude=LABEL_DTYPES)
        for name in particles:
            if name in LENGTHS:
                particles[name] = in_centimetres(np.asarray(particles[name]), self.length_unit)
            elif name in ENERGIES:
                particles[name] = in_gev(np.asarray(particles[name]), self.energy_unit)
        if "track_id" in particles:
            particles["track_id"] = self._ids(np.asarray(particles["track_id"]))
        ids = particles.get("track_id")
        if ids is not None and ids.dtype.kind == "f":
            ids = particles["track_id"] = exact(ids, np.int64, "the track_id of a particle")
        if ids is not None and len(np.unique(ids)) != len(ids):
            raise DataError(
                "two particles have one track_id, so hits cannot be assigned", remedy="repair the table of particles"
            )
        return particles

    def _column(self, quantity: str) -> str:
        return self.columns_of.get(quantity, quantity)

    def _prefixed(
        self, columns: Columns, prefix: str, exclude: Mapping[str, Any] | tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """Quantities that start with `prefix`, without it; `exclude` names columns that only look like one."""
        mapped = {quantity: name for quantity, name in self.columns_of.items() if quantity.startswith(prefix)}
        taken = {*exclude, *self.columns_of.values()}
        names = {**{name: name for name in columns if name.startswith(prefix) and name not in taken}, **mapped}
        return {
            key.removeprefix(prefix): columns[name]
            for key, name in names.items()
            if name in columns and key not in exclude
        }

    def _get(self, columns: Columns, quantity: str) -> Array | None:
        values = columns.get(self._column(quantity))
        if values is None:
            return None
        array = np.atleast_1d(np.asarray(values))
        if array.ndim != 1 or (array.size and array.dtype.kind not in "biuf"):
            raise DataError(
                f"{self._column(quantity)!r} is {array.dtype} of shape {array.shape}, not a list of numbers"
            )
        return array

    def _require(self, columns: Columns, quantity: str) -> Array:
        values = self._get(columns, quantity)
        if values is None:
            raise DataError(
                f"no column {self._column(quantity)!r} (found: {', '.join(sorted(columns)) or 'none'})",
                remedy=f"choose the detector that wrote this file, {self.name!r} needs that column",
            )
        return values
