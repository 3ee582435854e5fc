"""Counts, ranges and labels of events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fm4npp.event import PARTICLE_CLASSES, Array, Event
from fm4npp.geometry import Geometry
from fm4npp.inspection.distributions import Distributions


@dataclass
class Statistics:
    """What a stream of events holds; its size does not grow with their number.

    Attributes:
        geometry: to count spacepoints outside its bounds; None to leave that out.
        measured: subsystem -> names of the features it measures. An event has 0 for those that a subsystem does not
            measure, which is no value of theirs; subsystems that are not listed measure all.
        events: number of events.
        empty_events: of these, events without a spacepoint.
        spacepoints: number of spacepoints.
        largest_event: spacepoints of the largest event.
        outside: spacepoints outside the bounds.
        spacepoints_of: subsystem -> spacepoints.
        ranges: quantity -> smallest and largest value; positions in cm, features in the file's unit.
        labels: names of the labels.
        particles: names of the particles' quantities.
        labelled_events: events with track ids.
        tracks: number of tracks in them.
        most_tracks: tracks of the event with the most.
        classes: (5,) spacepoints of each of `PARTICLE_CLASSES`.
        noise: spacepoints tagged as noise.
        tagged: spacepoints with a noise tag.
        distributions: of what can be counted or measured.
    """

    geometry: Geometry | None = None
    measured: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    events: int = 0
    empty_events: int = 0
    spacepoints: int = 0
    largest_event: int = 0
    outside: int = 0
    spacepoints_of: Counter[str] = field(default_factory=Counter)
    ranges: dict[str, list[float]] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    particles: tuple[str, ...] = ()
    labelled_events: int = 0
    tracks: int = 0
    most_tracks: int = 0
    classes: Array = field(default_factory=lambda: np.zeros(len(PARTICLE_CLASSES), dtype=np.int64))
    noise: int = 0
    tagged: int = 0
    distributions: Distributions = field(default_factory=Distributions)

    def add(self, event: Event) -> None:
        """Take in the next event."""
        self.events += 1
        self.empty_events += not len(event)
        self.spacepoints += len(event)
        self.largest_event = max(self.largest_event, len(event))
        if self.geometry is not None:
            self.outside += int(np.count_nonzero(~self.geometry.contains(event.positions)))
        counts = np.bincount(event.ids, minlength=len(event.subsystems))
        self.spacepoints_of.update(dict(zip(event.subsystems, counts.tolist(), strict=False)))
        self._widen(dict(zip("xyz", event.positions.T, strict=True)))
        features = {name: self._values(event, name) for name in event.feature_names}
        self._widen(features)
        self._add_labels(event)
        self.distributions.add(event, features)

    def _values(self, event: Event, feature: str) -> Array:
        """Of a feature, for the spacepoints whose subsystem measures it."""
        measuring = [feature in self.measured.get(name, event.feature_names) for name in event.subsystems]
        values = event.feature(feature)
        return values if all(measuring) else values[np.array(measuring)[event.ids]]

    def _widen(self, columns: dict[str, Array]) -> None:
        for name, values in columns.items():
            if len(values):
                low, high = self.ranges.get(name, [np.inf, -np.inf])
                self.ranges[name] = [min(low, float(values.min())), max(high, float(values.max()))]

    def _add_labels(self, event: Event) -> None:
        self.labels = tuple(event.labels) or self.labels
        self.particles = tuple(event.particles) or self.particles
        if "track_id" in event.labels:
            ids = event.labels["track_id"]
            tracks = len(np.unique(ids[ids >= 0]))
            self.labelled_events += 1
            self.tracks += tracks
            self.most_tracks = max(self.most_tracks, tracks)
        if "particle_class" in event.labels:
            known = event.labels["particle_class"]
            known = known[(known >= 0) & (known < len(self.classes))]
            self.classes = self.classes + np.bincount(known, minlength=len(self.classes))
        if "is_noise" in event.labels:
            self.noise += int(event.labels["is_noise"].sum())
            self.tagged += len(event)

    @property
    def share_outside(self) -> float:
        """Of the spacepoints; 0 if there are none, or no bounds."""
        return self.outside / self.spacepoints if self.spacepoints else 0.0

    def as_dict(self) -> dict[str, Any]:
        """A JSON object; what the events do not have is left out."""
        summary: dict[str, Any] = {
            "events": self.events,
            "empty_events": self.empty_events,
            "spacepoints": self.spacepoints,
            "spacepoints_per_event": {"mean": self.spacepoints / self.events, "max": self.largest_event}
            if self.events
            else {},
            "spacepoints_of": dict(self.spacepoints_of),
            "ranges": {name: list(values) for name, values in self.ranges.items()},
        }
        if self.geometry is not None:
            summary["share_outside_bounds"] = self.share_outside
        if self.labelled_events:
            summary["tracks_per_event"] = {"mean": self.tracks / self.labelled_events, "max": self.most_tracks}
        if self.classes.any():
            summary["particle_classes"] = dict(zip(PARTICLE_CLASSES, self.classes.tolist(), strict=True))
        if self.tagged:
            summary["noise_share"] = self.noise / self.tagged
        return {**summary, **self.distributions.as_dict()}
