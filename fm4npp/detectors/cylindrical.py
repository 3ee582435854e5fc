"""A cylindrical tracker as data: bounds, layers, columns and labels are fields, so a leaf class only fills them in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from fm4npp.detectors.base import (
    CENTIMETRES,
    Array,
    Column,
    Columns,
    Detector,
    Feature,
    LengthUnit,
    Response,
)
from fm4npp.errors import DataError
from fm4npp.event import LABEL_DTYPES, Event, particle_class
from fm4npp.geometry import Geometry

TRUTH = ("pdg", "px", "py")
"""Per-spacepoint truth from which labels are derived when a file does not hold the labels themselves."""


class CylindricalDetector(Detector):
    """A tracker around the beam, described by its fields alone; usable as a YAML file of type `cylindrical`.

    Attributes:
        eta: pseudorapidity mapped to [0, 1].
        radius: radii in cm mapped to [0, 1].
        layers: nominal radii of the layers, in cm.
        group_boundaries: radii between groups of layers, in cm.
        measured: features of a spacepoint and how they are scaled.
        columns_of: quantity (x, y, z, a feature, a label, pdg, px, py, layer) -> its column in the file, where
            the names differ.
        length_unit: unit of x, y and z in the file.
        layer_range: keep the spacepoints whose column `layer` lies in this closed range; None keeps all.
        no_track: value of `track_id` that means "belongs to no track" in the file, if there is one.
        noise_below_pt: a spacepoint is noise if its particle's transverse momentum is below this, in GeV/c, when
            the file gives momenta and no noise tag. 0.06 is what the released labels use (the paper says momentum).
        response: constants of the fast simulation.
    """

    registered_name: ClassVar[str] = "cylindrical"

    eta: tuple[float, float] = (-2.0, 2.0)
    radius: tuple[float, float]
    layers: tuple[float, ...] = ()
    group_boundaries: tuple[float, ...] = ()
    measured: dict[str, Feature] = Field(default_factory=dict)
    columns_of: dict[str, str] = Field(default_factory=dict)
    length_unit: LengthUnit = "cm"
    layer_range: tuple[int, int] | None = None
    no_track: int | None = None
    noise_below_pt: float = 0.06
    response: Response | None = None

    @property
    def geometry(self) -> Geometry:
        """(eta, phi, r) between the detector's bounds, phi periodic, outward along r."""
        return Geometry(
            low=(self.eta[0], -np.pi, self.radius[0]),
            high=(self.eta[1], np.pi, self.radius[1]),
            group_boundaries=self.group_boundaries,
            layers=self.layers,
        )

    @property
    def columns(self) -> tuple[Column, ...]:
        """Positions and features are required, labels and truth are taken where the file has them."""
        required = ("x", "y", "z", *self.measured, *(("layer",) if self.layer_range else ()))
        optional = tuple(name for name in (*LABEL_DTYPES, *TRUTH, "layer") if name not in required)
        return tuple(Column(self._column(name)) for name in required) + tuple(
            Column(self._column(name), required=False) for name in optional
        )

    @property
    def features(self) -> dict[str, Feature]:
        """The field `measured`."""
        return self.measured

    @property
    def responses(self) -> dict[str, tuple[Geometry, Response]]:
        """The detector's own layers, if it has a response."""
        return {self.name: (self.geometry, self.response)} if self.response and self.layers else {}

    def selection(self, columns: Columns) -> Array:
        """Columns of a file to (N,) bool: the spacepoints that this detector measured."""
        if self.layer_range is None:
            return np.ones(len(self._require(columns, "x")), dtype=bool)
        layer = self._require(columns, "layer")
        return (layer >= self.layer_range[0]) & (layer <= self.layer_range[1])

    def event(self, columns: Columns) -> Event:
        """See `Detector.event`."""
        values = self._values(columns)
        features = [values[name] for name in self.measured]
        event = Event(
            positions=np.stack([values[axis] for axis in ("x", "y", "z")], axis=1) * CENTIMETRES[self.length_unit],
            features=np.stack(features, axis=1) if features else np.empty((len(values["x"]), 0)),
            feature_names=tuple(self.measured),
            labels=self._labels(values),
            particles=_prefixed(columns, "particle_", exclude=LABEL_DTYPES),
            scalars={k: v for k, v in _prefixed(columns, "event_").items() if k != "id"},
            detector=self.name,
            event_id=int(columns.get("event_id", 0)),
        )
        return event.take(self.selection(columns)) if self.layer_range else event

    def _values(self, columns: Columns) -> dict[str, Array]:
        """Quantity -> (N,) as in the file, of everything that an event is made from."""
        required = ("x", "y", "z", *self.measured, *(("layer",) if self.layer_range else ()))
        values = {name: self._require(columns, name) for name in required}
        truth = {name: self._get(columns, name) for name in (*LABEL_DTYPES, *TRUTH, "layer")}
        values |= {name: array for name, array in truth.items() if array is not None}
        count = len(values["x"])
        for name, array in values.items():
            if len(array) != count:
                raise DataError(
                    f"{len(array)} values in {self._column(name)!r} for {count} positions",
                    remedy="the file's columns do not belong together",
                )
        return values

    def _labels(self, values: Mapping[str, Array]) -> dict[str, Array]:
        """Quantity -> (N,) as in the file, to the labels that it gives, stored or derived."""
        given = dict(values)
        if "particle_class" not in given and "pdg" in given:
            given["particle_class"] = particle_class(given["pdg"])
        if "is_noise" not in given and "px" in given and "py" in given:
            momentum = np.hypot(given["px"], given["py"])
            if num_unknown := int((~np.isfinite(momentum)).sum()):
                raise DataError(
                    f"px or py is not finite for {num_unknown} spacepoints, so nothing says which are noise",
                    remedy="repair them in the input, or give a noise tag",
                )
            given["is_noise"] = momentum < self.noise_below_pt
        if "track_id" in given and self.no_track is not None:
            given["track_id"] = np.where(given["track_id"] == self.no_track, -1, given["track_id"])
        return {name: given[name] for name in (*LABEL_DTYPES, "layer") if name in given}

    def _column(self, quantity: str) -> str:
        return self.columns_of.get(quantity, quantity)

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


def _prefixed(columns: Columns, prefix: str, exclude: Mapping[str, Any] | tuple[str, ...] = ()) -> dict[str, Any]:
    """The columns whose name starts with `prefix`, without it; `exclude` names columns that only look like one."""
    return {k.removeprefix(prefix): v for k, v in columns.items() if k.startswith(prefix) and k not in exclude}
