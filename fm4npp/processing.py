"""Events to batches and predictions back to the file's order: everything around the model that is fitted or scaled."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fm4npp import __version__
from fm4npp.batch import EventBatch, PreparedEvent, collate, in_batches
from fm4npp.checkpoint import check_files, resolve, write_manifest
from fm4npp.configuration import CONFIG_NAME, FM4NPPConfig
from fm4npp.detectors import Detector
from fm4npp.errors import ConfigurationError, DataError
from fm4npp.event import Event
from fm4npp.files import write_json
from fm4npp.geometry import Geometry
from fm4npp.original import is_alias, released_config
from fm4npp.serializers import Serializer
from fm4npp.truth import as_label, is_of_event, truth

Array = NDArray[Any]

INDEX_FIELDS: Mapping[str, tuple[str, ...]] = {
    "k-nnn": ("type", "k", "among", "metric", "periodic"),
    "continuation": ("type", "steps", "nearest"),
}
"""Objective -> the fields that its `indices` depend on; all, the fitted scale included, of one that is not listed."""


def settle_ties(order: Array, coordinates: Array, features: Array) -> Array:
    """Order coincident spacepoints by their features, so that the sequence does not depend on the order of the file.

    Args:
        order: (N,), a serializer's.
        coordinates: (N, 3).
        features: (N, F).

    Returns:
        (N,), the same permutation but among neighbours in the sequence with equal coordinates.
    """
    sequence = coordinates[order]
    starts = np.ones(len(order), dtype=bool)
    starts[1:] = (sequence[1:] != sequence[:-1]).any(axis=1)
    if starts.all() or not features.shape[1]:
        return order
    return order[np.lexsort((*features[order].T, starts.cumsum()))]


class FM4NPPProcessor:
    """Detectors, serializers and objective of a model, with their fitted constants.

    Args:
        config: the configuration shared with the model.
    """

    def __init__(self, config: FM4NPPConfig) -> None:
        self.config = config
        self._slots = {name: slot for slot, name in enumerate(config.subsystems)}
        self._geometries = {detector.name: detector.geometry for detector in config.detectors}

    @classmethod
    def from_pretrained(
        cls,
        path_or_name: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> FM4NPPProcessor:
        """The processor of a checkpoint: a folder, the id of a Hub repository, or "fm4npp-m3" to "fm4npp-m6".

        The serializer of the last has no bin edges, which are in none of the authors' checkpoints: `fit` it, or convert
        the checkpoint together with the authors' edges, `fm4npp convert-checkpoint --bin-edges`.

        Raises:
            CheckpointError: if it cannot be found or read.
        """
        download: dict[str, Any] = {
            "revision": revision,
            "cache_dir": cache_dir,
            "token": token,
            "local_files_only": local_files_only,
        }
        if is_alias(path_or_name):
            return cls(released_config(path_or_name, **download))
        folder = resolve(path_or_name, marker=CONFIG_NAME, **download)
        config = FM4NPPConfig.load(folder)
        check_files(folder, {CONFIG_NAME})
        return cls(config)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json`, the same file that the model writes, unless it is there.

        Raises:
            ConfigurationError: if the folder holds the configuration of another model, which this would break.
        """
        path = Path(folder) / CONFIG_NAME
        if path.exists() and FM4NPPConfig.load(folder) != self.config:
            raise ConfigurationError(f"{path}: belongs to another model; save into another folder")
        if not path.exists():
            write_json(path, self.config.json_object())
            write_manifest(path.parent, [path])

    def fit(self, events: Iterable[Event], *, objective: bool = True) -> FM4NPPProcessor:
        """A processor whose serializers and objective are fitted to events; constants it already has are replaced.

        Args:
            events: of the configured detectors; at least one spacepoint of each.
            objective: whether the objective is fitted, too.

        Raises:
            DataError: if an event is of another detector, or a detector has no spacepoints to be fitted to.
        """
        found: dict[str, list[tuple[Array, dict[str, Array]]]] = {d.name: [] for d in self.config.detectors}
        for event in events:
            detector = self._detector(event)
            coordinates = self._coordinates(event, self._geometries[detector.name])
            found[detector.name].append((coordinates, _columns(event)))
        serializers = dict(self.config.serializers)
        for detector in self.config.detectors:
            if not any(len(coordinates) for coordinates, _ in found[detector.name]):
                raise DataError(f"no spacepoints of detector {detector.name!r} to fit to")
            points = [coordinates for coordinates, _ in found[detector.name]]
            serializers[detector.name] = serializers[detector.name].fit(points, detector.geometry)
        fitted = self._fitted_objectives(found, serializers) if objective else {}
        return FM4NPPProcessor(self.config.updated(serializers=serializers, **fitted))

    def _fitted_objectives(
        self, found: dict[str, list[tuple[Array, dict[str, Array]]]], serializers: Mapping[str, Serializer]
    ) -> dict[str, Any]:
        """The fields of the configuration that hold the objective's constants."""
        own, objective = self.config.objectives, self.config.objective
        sharing = [one for one in self.config.detectors if one.name not in own] or self.config.detectors
        largest = max(sharing, key=lambda detector: len(found[detector.name]))
        if objective.uses_order:
            found = {
                name: [_in_order(pair, serializers[name], self._geometries[name]) for pair in pairs]
                for name, pairs in found.items()
            }
        everything = [pair for detector in sharing for pair in found[detector.name]]
        return {
            "objective": objective.fit(everything, largest.geometry),
            "objectives": {name: one.fit(found[name], self._geometries[name]) for name, one in own.items()},
        }

    def prepare(
        self,
        event: Event,
        *,
        targets: bool = True,
        labels: Iterable[str] | None = None,
        order: Array | None = None,
        indices: Array | None = None,
        hidden: Mapping[str, Array] | None = None,
    ) -> PreparedEvent:
        """One event to the arrays that the model reads.

        Args:
            event: of one of the configured detectors.
            targets: whether to compute the objective's targets.
            labels: the kinds of truth to take along, see `fm4npp.truth.truth`; by default the spacepoints' own labels.
            order: (N,) of `indices`, if it was computed before.
            indices: (N, m) of `indices`, if they were computed before.
            hidden: name -> (N, ...), the model's hidden states in that order, if they were computed before.

        Raises:
            NotFittedError: if the serializer or the objective needs a fit.
            DataError: if the event is of another detector, or lies on the beam axis, where eta is infinite, or the
                hidden states are of another event, or it lacks a label.
        """
        detector = self._detector(event)
        geometry = self._geometries[detector.name]
        coordinates = self._coordinates(event, geometry)
        order = self._order(event, coordinates) if order is None else order.astype(np.int64)
        if any(len(values) != len(event) for values in (hidden or {}).values()):
            raise DataError("hidden states of another number of spacepoints", event=event.event_id)
        coordinates, event = coordinates[order], event.take(order)
        return PreparedEvent(
            coordinates=coordinates,
            features=self._features(event, detector),
            detector_ids=self._detector_ids(event),
            order=order,
            targets=self._targets(event, coordinates, geometry, indices) if targets else {},
            labels={name: as_label(truth(event, name)) for name in (event.labels if labels is None else labels)},
            hidden=hidden or {},
        )

    def indices(self, event: Event) -> tuple[Array, Array | None]:
        """The costly part of `prepare`, which needs no fitted scale and can be kept.

        Returns:
            order: (N,) int64, index of each token among the event's spacepoints.
            indices: (N, m), what `Objective.indices` gives in that order; None if it gives nothing.
        """
        name = self._detector(event).name
        geometry = self._geometries[name]
        coordinates = self._coordinates(event, geometry)
        order = self._order(event, coordinates)
        return order, self.config.objective_of(name).indices(coordinates[order], geometry)

    def index_key(self, detector: str) -> dict[str, Any]:
        """All that `indices` depends on besides the event, as JSON: other values, other indices.

        Args:
            detector: name of the event's detector.
        """
        objective = self.config.objective_of(detector).spec()
        return {
            "geometry": self._geometries[self.config.detector(detector).name].model_dump(mode="json"),
            "serializer": self.config.serializers[detector].spec(),
            "objective": {name: objective[name] for name in INDEX_FIELDS.get(objective["type"], objective)},
            "version": __version__,
        }

    def __call__(self, events: Sequence[Event], *, targets: bool = True) -> EventBatch:
        """Events to one packed batch; see `prepare`."""
        if not len(events):
            raise DataError("no events to make a batch of")
        return collate([self.prepare(event, targets=targets) for event in events])

    def batches(
        self, events: Iterable[Event], tokens_per_batch: int, *, targets: bool = False
    ) -> Iterator[tuple[list[Event], EventBatch]]:
        """A stream of events to packed batches, one after the other.

        Args:
            events: of the configured detectors.
            tokens_per_batch: spacepoints of a batch, at most; a longer event is a batch of its own.
            targets: whether to compute the objective's targets.

        Yields:
            The events of each batch, and the batch.

        Raises:
            DataError: naming file and event, if an event cannot be read by the model.
        """
        for group in in_batches(events, tokens_per_batch):
            yield group, collate([self._prepare(event, targets) for event in group])

    def restore(self, values: Tensor | Mapping[str, Tensor], batch: EventBatch) -> list[Any]:
        """Predictions of a batch to one array an event, in the order of the file's spacepoints.

        Args:
            values: (T, ...) in the order of the batch, or a mapping of such; (B, ...) where a name begins with
                `event.`.
            batch: the batch they were predicted for.

        Returns:
            For every event its (N, ...) array, or a mapping name -> array; (1, ...) of what an event has one of.
        """
        if isinstance(values, Mapping):
            restored = {
                name: list(item.detach().cpu().numpy()[:, None]) if is_of_event(name) else self.restore(item, batch)
                for name, item in values.items()
            }
            return [{name: restored[name][i] for name in values} for i in range(batch.num_events)]
        array = values.detach().cpu().numpy()
        order, offsets = batch.order.cpu().numpy(), batch.offsets.cpu().numpy()
        out = []
        for start, stop in pairwise(offsets.tolist()):
            event = np.empty_like(array[start:stop])
            event[order[start:stop]] = array[start:stop]
            out.append(event)
        return out

    def _prepare(self, event: Event, targets: bool) -> PreparedEvent:
        try:
            return self.prepare(event, targets=targets)
        except DataError as error:
            raise error.at(file=event.source or None, event=event.event_id) from error

    def _detector(self, event: Event) -> Detector:
        if event.detector:
            return self.config.detector(event.detector)
        if len(self.config.detectors) == 1:
            return self.config.detectors[0]
        raise DataError("does not say which detector it is of", event=event.event_id)

    def _coordinates(self, event: Event, geometry: Geometry) -> Array:
        coordinates = geometry.coordinates(event.positions)
        bad = ~np.isfinite(coordinates).all(axis=1)
        if bad.any():
            raise DataError(
                f"{int(bad.sum())} spacepoints on the beam axis (r = 0), where eta is infinite",
                event=event.event_id,
                remedy="remove them from the input",
            )
        return coordinates

    def _order(self, event: Event, coordinates: Array) -> Array:
        detector = self._detector(event).name
        order = self.config.serializers[detector].order(coordinates, self._geometries[detector])
        return settle_ties(order, coordinates, event.features)

    def _targets(
        self, event: Event, coordinates: Array, geometry: Geometry, indices: Array | None
    ) -> Mapping[str, Array]:
        known = {} if indices is None else {"indices": indices}
        objective = self.config.objective_of(self._detector(event).name)
        return objective.targets(coordinates, geometry, _columns(event), **known)

    def _features(self, event: Event, detector: Detector) -> Array:
        names = self.config.feature_names
        features = np.zeros((len(event), len(names)), dtype=np.float32)
        for name, feature in detector.features.items():
            features[:, names.index(name)] = feature.scaled(event.feature(name))
        if not np.isfinite(features).all():
            raise DataError("a scaled feature is not finite: a logarithm of a value <= -1?", event=event.event_id)
        return features

    def _detector_ids(self, event: Event) -> Array:
        unknown = [name for name in event.subsystems if name not in self._slots]
        if unknown:
            raise DataError(f"has spacepoints of {', '.join(unknown)}, unknown to this model", event=event.event_id)
        slots = np.array([self._slots[name] for name in event.subsystems] or [0], dtype=np.int64)
        return slots[event.ids]


def _in_order(
    pair: tuple[Array, dict[str, Array]], serializer: Serializer, geometry: Geometry
) -> tuple[Array, dict[str, Array]]:
    """Coordinates and features of an event in the serializer's order."""
    coordinates, features = pair
    order = serializer.order(coordinates, geometry)
    return coordinates[order], {name: values[order] for name, values in features.items()}


def _columns(event: Event) -> dict[str, Array]:
    return {name: event.feature(name) for name in event.feature_names}
