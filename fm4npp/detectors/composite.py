"""Several subsystems that measure the same event, as one detector."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
from pydantic import field_serializer, field_validator

from fm4npp.detectors.base import Column, Columns, Detector, Feature, Response
from fm4npp.detectors.cylindrical import CylindricalDetector
from fm4npp.errors import DataError
from fm4npp.event import Event
from fm4npp.geometry import Geometry


class CompositeDetector(Detector):
    """Cylindrical subsystems read from the same columns; each spacepoint carries the id of the one that measured it.

    Attributes:
        parts: the subsystems, inside out; each claims its spacepoints by its `layer_range`. A specification gives
            each by its name or as `{"type": name, ...}`.
    """

    parts: tuple[CylindricalDetector, ...]

    @field_validator("parts", mode="before")
    @classmethod
    def _build_parts(cls, parts: Any) -> Any:
        from fm4npp.detectors import build  # the registry finds this class, so it cannot be imported before

        if not isinstance(parts, list | tuple):
            return parts
        return tuple(part if isinstance(part, Detector) else build(part) for part in parts)

    @field_serializer("parts")
    def _part_specs(self, parts: Iterable[Detector]) -> list[dict[str, Any]]:
        return [part.spec() for part in parts]

    @property
    def geometry(self) -> Geometry:
        """One system around all parts: the union of their bounds, a group boundary between neighbours."""
        geometries = sorted((part.geometry for part in self.parts), key=lambda geometry: geometry.low[2])
        between = [
            (inner.layers[-1] + outer.layers[0]) / 2
            for inner, outer in itertools.pairwise(geometries)
            if inner.layers and outer.layers
        ]
        boundaries = {boundary for geometry in geometries for boundary in geometry.group_boundaries} | set(between)
        return Geometry(
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
        """See `Detector.event`; a spacepoint that no part, or more than one, claims is an error."""
        claims = np.stack([part.selection(columns) for part in self.parts])
        if (wrong := claims.sum(axis=0) != 1).any():
            raise DataError(
                f"{int(wrong.sum())} spacepoints belong to none or several of {', '.join(self.subsystems)}",
                remedy="check the column of layer numbers",
            )
        events = [part.event(columns) for part in self.parts]
        index = np.argsort(np.argsort(claims.argmax(axis=0), kind="stable"), kind="stable")
        names = tuple(self.features)
        features = np.concatenate(
            [
                np.stack([e.feature(n) if n in e.feature_names else np.zeros(len(e)) for n in names], axis=1)
                if names
                else np.empty((len(e), 0))
                for e in events
            ]
        )
        first = events[0]
        return Event(
            positions=np.concatenate([event.positions for event in events]),
            features=features,
            feature_names=names,
            labels={name: np.concatenate([event.labels[name] for event in events]) for name in first.labels},
            particles=first.particles,
            scalars=first.scalars,
            detector_ids=np.repeat(np.arange(len(events)), [len(event) for event in events]),
            subsystems=self.subsystems,
            detector=self.name,
            event_id=first.event_id,
        ).take(index)
