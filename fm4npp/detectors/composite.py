"""Several subsystems that measure the same event, as one detector."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import field_serializer, field_validator

from fm4npp.detectors.base import Array, Column, Columns, Detector, Feature
from fm4npp.detectors.mapped import OTHER_SUBSYSTEM, MappedDetector
from fm4npp.detectors.response import Response
from fm4npp.errors import DataError
from fm4npp.event import Event
from fm4npp.geometry import Geometry


class CompositeDetector(Detector):
    """Subsystems read from the same columns; each spacepoint carries the id of the one that measured it.

    Usable without code as a YAML file of type `composite`, see examples/detectors/aleph_tracker.yaml.

    Attributes:
        parts: the subsystems, inside out; each claims its spacepoints by its `layer_range`, and what none claims is
            left out. A specification gives each by its name or as `{"type": name, ...}`; their names differ.
    """

    registered_name: ClassVar[str] = "composite"

    parts: tuple[MappedDetector, ...]

    @field_validator("parts", mode="before")
    @classmethod
    def _build_parts(cls, parts: Any) -> Any:
        from fm4npp.detectors import build  # the registry finds this class, so it cannot be imported before

        if not isinstance(parts, list | tuple):
            return parts
        return tuple(part if isinstance(part, Detector) else build(part) for part in parts)

    @field_validator("parts")
    @classmethod
    def _check_names(cls, parts: tuple[MappedDetector, ...]) -> tuple[MappedDetector, ...]:
        names = [part.name for part in parts]
        if not names:
            raise ValueError("needs parts")
        if len(set(names)) < len(names):
            raise ValueError(f"names a subsystem twice: {', '.join(names)}; give each part its own name")
        systems = {part.geometry.system for part in parts} | {part.geometry.causal_axis for part in parts}
        if len(systems) > 2:  # one name and one axis
            raise ValueError("the parts must have one system of coordinates and one outward axis")
        return parts

    @field_serializer("parts")
    def _part_specs(self, parts: Iterable[Detector]) -> list[dict[str, Any]]:
        return [part.spec() for part in parts]

    def reading(self, reader: str) -> Self:
        """See `Detector.reading`."""
        return self.model_copy(update={"parts": tuple(part.reading(reader) for part in self.parts)})

    @property
    def geometry(self) -> Geometry:
        """One system around all parts: the union of their bounds, a group boundary between neighbours."""
        geometries = sorted(
            (part.geometry for part in self.parts), key=lambda geometry: geometry.low[geometry.causal_axis]
        )
        between = [
            (inner.layers[-1] + outer.layers[0]) / 2
            for inner, outer in itertools.pairwise(geometries)
            if inner.layers and outer.layers
        ]
        boundaries = {boundary for geometry in geometries for boundary in geometry.group_boundaries} | set(between)
        return Geometry(
            system=geometries[0].system,
            causal_axis=geometries[0].causal_axis,
            low=tuple(np.min([geometry.low for geometry in geometries], axis=0).tolist()),
            high=tuple(np.max([geometry.high for geometry in geometries], axis=0).tolist()),
            group_boundaries=tuple(sorted(boundaries)),
            layers=tuple(sorted({layer for geometry in geometries for layer in geometry.layers})),
        )

    @property
    def columns(self) -> tuple[Column, ...]:
        """The union of the parts' columns; required where any part requires it."""
        required = {column.name for part in self.parts for column in part.columns if column.required}
        names = dict.fromkeys(column.name for part in self.parts for column in part.columns)
        return tuple(Column(name, name in required) for name in names)

    @property
    def features(self) -> dict[str, Feature]:
        """The union of the parts' features by name."""
        return {name: feature for part in self.parts for name, feature in part.features.items()}

    @property
    def subsystems(self) -> tuple[str, ...]:
        """The parts' names."""
        return tuple(part.name for part in self.parts)

    @property
    def subsystem_features(self) -> dict[str, tuple[str, ...]]:
        """Each part's own features."""
        return {part.name: tuple(part.features) for part in self.parts}

    @property
    def responses(self) -> dict[str, tuple[Geometry, Response]]:
        """Each part's own layers and response."""
        return {name: response for part in self.parts for name, response in part.responses.items()}

    def event(self, columns: Columns) -> Event:
        """See `Detector.event`; a spacepoint that no part claims is left out, and one that several claim an error."""
        claims = np.stack([part.selection(columns) for part in self.parts]).sum(axis=0)
        if (wrong := claims > 1).any():
            raise DataError(
                f"{int(wrong.sum())} spacepoints belong to several of {', '.join(self.subsystems)}",
                remedy="give each part its own layer_range",
            )
        events = [part.event(columns) for part in self.parts]
        names = tuple(self.features)
        first = events[0]
        merged = Event(
            positions=np.concatenate([event.positions for event in events]),
            features=np.concatenate([_features(event, names) for event in events]),
            feature_names=names,
            labels={name: np.concatenate([event.labels[name] for event in events]) for name in first.labels},
            particles=first.particles,
            scalars=first.scalars,
            detector_ids=np.repeat(np.arange(len(events)), [len(event) for event in events]),
            subsystems=self.subsystems,
            detector=self.name,
            event_id=first.event_id,
            left_out=_left_out(events) | self._unclaimed(columns, claims == 0),
        )
        return merged.take(np.argsort(np.concatenate([event.places for event in events])))

    def _unclaimed(self, columns: Columns, unclaimed: Array) -> dict[str, Array]:
        """Reason -> places of the spacepoints of no part: nothing is wrong with one that has a layer."""
        layers = [columns[part.columns_of.get("layer", "layer")] for part in self.parts if part.layer_range]
        known = np.all([np.isfinite(np.asarray(layer, np.float64)) for layer in layers], axis=0) & unclaimed
        reasons = {OTHER_SUBSYSTEM: np.flatnonzero(known), "layer is not finite": np.flatnonzero(unclaimed & ~known)}
        return {reason: places for reason, places in reasons.items() if len(places)}


def _features(event: Event, names: tuple[str, ...]) -> Array:
    """(N, F) of all subsystems' features, 0 for those that this one does not measure."""
    columns = [event.feature(name) if name in event.feature_names else np.zeros(len(event)) for name in names]
    return np.stack(columns, axis=1) if columns else np.empty((len(event), 0))


def _left_out(events: Iterable[Event]) -> dict[str, Array]:
    """What is wrong with spacepoints of any part; that they are of another part is not."""
    places: dict[str, list[Array]] = {}
    for event in events:
        for reason, values in event.left_out.items():
            if reason != OTHER_SUBSYSTEM:
                places.setdefault(reason, []).append(values)
    return {reason: np.sort(np.concatenate(values)) for reason, values in places.items()}
