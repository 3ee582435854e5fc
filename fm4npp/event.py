"""One collision, in physical units: the value that detectors make and everything else reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm4npp.errors import DataError

Array = NDArray[Any]

PARTICLE_CLASSES = ("other", "pion", "kaon", "proton", "electron")
"""Names of the five classes of the label `particle_class` (TPCpp-10M; paper appendix A.3)."""
_CLASS_OF_PDG = {211: 1, 321: 2, 2212: 3, 11: 4}

LABEL_DTYPES: Mapping[str, Any] = {"track_id": np.int64, "particle_class": np.int64, "is_noise": np.bool_}
"""Labels with a fixed meaning; a `track_id` below 0 means that the spacepoint belongs to no known track."""


def particle_class(pdg: Array) -> Array:
    """PDG codes (N,) to the index (N,) int64 of their class in `PARTICLE_CLASSES`, the sign ignored."""
    codes = np.abs(np.asarray(pdg, dtype=np.int64))
    classes = np.zeros(codes.shape, dtype=np.int64)
    for code, index in _CLASS_OF_PDG.items():
        classes[codes == code] = index
    return classes


def _frozen(values: Any, dtype: Any = None) -> Array:
    array: Array = np.array(values, dtype=dtype, order="C")
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False)
class Event:
    """The spacepoints of one collision. Arrays are read-only.

    Attributes:
        positions: (N, 3) float32, in cm, finite.
        features: (N, F) float32, finite, in the file's units; columns named by `feature_names`.
        feature_names: F names.
        labels: name -> (N,) truth of every spacepoint; `LABEL_DTYPES` lists the names with a fixed meaning.
        particles: name -> (P,) truth of every particle (`track_id`, `pdg`, `px`, `py`, `pz` in GeV/c, ...).
        scalars: name -> number that belongs to the whole event (`trigger`, ...).
        detector_ids: (N,) int16, which of `subsystems` measured each spacepoint.
        subsystems: names of the subsystems.
        detector: name of the detector.
        event_id: identifier in the file it came from; not unique across files.
        source: what made the event (file, or generator with version and seed).

    Raises:
        DataError: if lengths disagree, a position or feature is not finite, or a detector id is out of range.
    """

    positions: Array
    features: Array
    feature_names: tuple[str, ...] = ()
    labels: Mapping[str, Array] = field(default_factory=dict)
    particles: Mapping[str, Array] = field(default_factory=dict)
    scalars: Mapping[str, float] = field(default_factory=dict)
    detector_ids: Array | None = None
    subsystems: tuple[str, ...] = ()
    detector: str = ""
    event_id: int = 0
    source: str = ""

    def __post_init__(self) -> None:
        positions = _frozen(self.positions, np.float32).reshape(-1, 3)
        count = len(positions)
        features = _frozen(self.features, np.float32).reshape(count, len(self.feature_names))
        ids = np.zeros(count) if self.detector_ids is None else self.detector_ids
        labels = {name: _frozen(values, LABEL_DTYPES.get(name)) for name, values in self.labels.items()}
        particles = {name: _frozen(values) for name, values in self.particles.items()}
        values: dict[str, Any] = {
            "positions": positions,
            "features": features,
            "feature_names": tuple(self.feature_names),
            "labels": MappingProxyType(labels),
            "particles": MappingProxyType(particles),
            "scalars": MappingProxyType(dict(self.scalars)),
            "detector_ids": _frozen(ids, np.int16),
            "subsystems": tuple(self.subsystems) or ((self.detector,) if self.detector else ()),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self._check()

    def _check(self) -> None:
        count = len(self.positions)
        for what, values in {"detector_ids": self.ids, **self.labels}.items():
            if len(values) != count:
                raise DataError(f"{len(values)} values of {what} for {count} spacepoints", event=self.event_id)
        if len({len(values) for values in self.particles.values()}) > 1:
            raise DataError("particle columns of different lengths", event=self.event_id)
        for what, values in (("position", self.positions), ("feature", self.features)):
            bad = ~np.isfinite(values)
            if bad.any():
                hit = int(np.flatnonzero(bad.any(axis=1))[0])
                raise DataError(
                    f"{int(bad.any(axis=1).sum())} spacepoints with a {what} that is not finite (first: hit {hit})",
                    event=self.event_id,
                    remedy="remove or repair them in the input",
                )
        if count and self.subsystems and not 0 <= self.ids.min() <= self.ids.max() < len(self.subsystems):
            raise DataError("detector_ids outside the list of subsystems", event=self.event_id)

    def __len__(self) -> int:
        return len(self.positions)

    @property
    def ids(self) -> Array:
        """(N,) int16: `detector_ids`, which the constructor fills when it is not given."""
        assert self.detector_ids is not None
        return self.detector_ids

    def feature(self, name: str) -> Array:
        """(N,) float32: one feature by name.

        Raises:
            DataError: if the event has no such feature.
        """
        if name not in self.feature_names:
            raise DataError(
                f"has no feature {name!r} (it has: {', '.join(self.feature_names) or 'none'})", event=self.event_id
            )
        values: Array = self.features[:, self.feature_names.index(name)]
        return values

    def take(self, index: Array) -> Event:
        """The event with its spacepoints selected or reordered by `index` (M,) int or (N,) bool; particles stay."""
        return replace(
            self,
            positions=self.positions[index],
            features=self.features[index],
            labels={name: values[index] for name, values in self.labels.items()},
            detector_ids=self.ids[index],
        )
