"""The contract of detectors, checked on a small made-up event; for detectors of this project and of plug-ins alike."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from fm4npp import detectors
from fm4npp.detectors.base import Columns, Detector
from fm4npp.detectors.composite import CompositeDetector
from fm4npp.detectors.mapped import OTHER_SUBSYSTEM, MappedDetector
from fm4npp.detectors.units import from_centimetres
from fm4npp.errors import DataError
from fm4npp.event import Event
from fm4npp.registry import explain

Array = NDArray[Any]

NUM_SPACEPOINTS = 40
"""Of every subsystem in the made-up event."""
TOLERANCE = 1e-5
"""Relative to the largest position: coordinates are float32, and sinh(eta) enlarges their rounding."""


def check_detector(detector: type[Detector] | Detector, columns: Columns | None = None, **fields: Any) -> None:
    """Check that a detector keeps the contract of `fm4npp.detectors.Detector`.

    Args:
        detector: an instance, or a class, which is built as `cls(**fields)`.
        columns: one event of at least two spacepoints, as a reader would give it; needed unless the detector is a
            `MappedDetector` or a `CompositeDetector`, whose columns can be made up.
        fields: needed where a class has fields without a default.

    Raises:
        AssertionError: with what is wrong and what to do about it.
    """
    detector = detector if isinstance(detector, Detector) else _build(detector, fields)
    _check_specification(detector)
    _check_description(detector)
    _check_geometry(detector)
    columns = dict(made_columns(detector) if columns is None else columns)
    names = _spacepoint_columns(detector, columns)
    _check_event(detector, columns)
    _check_order(detector, columns, names)
    _check_small_events(detector, columns, names)
    _check_features(detector, detector.event(columns))
    _check_refusals(detector, columns, names)


def made_columns(detector: Detector, seed: int = 0) -> dict[str, Any]:
    """One random event of a mapped or composite detector, in the columns and units of its files.

    Raises:
        AssertionError: for any other detector, whose columns only its author can make.
    """
    if not isinstance(detector, MappedDetector | CompositeDetector):
        call = f"check_detector({type(detector).__name__}, columns={{...}})"
        raise AssertionError(f"{type(detector).__name__}: its columns cannot be made up; give one event, as {call}")
    parts = detector.parts if isinstance(detector, CompositeDetector) else (detector,)
    random = np.random.default_rng(seed)
    events = [_made_columns(part, random) for part in parts]
    mixed = random.permutation(NUM_SPACEPOINTS * len(parts))
    columns = {}
    for name, required in detector.columns:
        if required or any(name in event for event in events):
            columns[name] = np.concatenate([event.get(name, np.zeros(NUM_SPACEPOINTS)) for event in events])[mixed]
    return {**columns, "event_id": 7}


def _made_columns(part: MappedDetector, random: np.random.Generator) -> dict[str, Array]:
    count = NUM_SPACEPOINTS
    positions = from_centimetres(part.geometry.positions(random.uniform(0.02, 0.98, (count, 3))), part.length_unit)
    positions += np.asarray(part.origin)
    first, last = part.layer_range or (0, 9)
    values: dict[str, Array] = dict(zip(("x", "y", "z"), positions.T, strict=True))
    if part.position == "r-phi-z":
        phi = np.arctan2(positions[:, 1], positions[:, 0])
        radius = np.hypot(positions[:, 0], positions[:, 1])
        values |= {"r": radius, "phi": np.rad2deg(phi) if part.angle_unit == "deg" else phi}
    values |= {name: np.abs(feature.restored(random.normal(size=count))) for name, feature in part.features.items()}
    values |= {
        "layer": random.integers(first, last + 1, count),
        "track_id": random.integers(0, 5, count),
        "particle_class": random.integers(0, 5, count),
        "is_noise": random.random(count) < 0.2,
        "pdg": random.choice([211, -211, 321, 2212, 11, 13], count),
        "px": random.normal(size=count),
        "py": random.normal(size=count),
    }
    return {part.columns_of.get(name, name): array for name, array in values.items()}


def _require(condition: bool, detector: object, message: str) -> None:
    if not condition:
        name = detector.__name__ if isinstance(detector, type) else type(detector).__name__
        raise AssertionError(f"{name}: {message}")


def _build(cls: type[Detector], fields: Mapping[str, Any]) -> Detector:
    try:
        return cls(**fields)
    except ValidationError as error:
        raise AssertionError(
            f"{cls.__name__}: it cannot be made ({explain(error)}); give the fields without a default to the check, as "
            f"check_detector({cls.__name__}, field=value)"
        ) from error


def _check_specification(detector: Detector) -> None:
    spec = detector.spec()
    try:
        fields = json.loads(json.dumps(spec, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{type(detector).__name__}: its spec is no JSON ({error}); use plain fields") from error
    name = fields.pop("type")
    _require(bool(name), detector, "set the class variable registered_name")
    registered = name in detectors.names() and detectors.get(name) is type(detector)
    again = detectors.build({"type": name, **fields}) if registered else _build(type(detector), fields)
    _require(again == detector, detector, "its spec does not build an equal detector; let fields hold all that it is")


def _check_description(detector: Detector) -> None:
    _require(bool(detector.name), detector, "has no name; set registered_name, or give the field name")
    names = [column.name for column in detector.columns]
    _require(len(set(names)) == len(names), detector, f"asks for a column twice: {', '.join(sorted(names))}")
    _require(any(column.required for column in detector.columns), detector, "requires no column; ask for positions")
    subsystems = detector.subsystems
    _require(bool(subsystems), detector, "has no subsystem; name at least itself")
    _require(len(set(subsystems)) == len(subsystems), detector, f"names a subsystem twice: {', '.join(subsystems)}")
    measured = detector.subsystem_features
    _require(set(measured) == set(subsystems), detector, "subsystem_features must have the subsystems as its keys")
    given = {feature for features in measured.values() for feature in features}
    _require(given == set(detector.features), detector, "subsystem_features must share out exactly its features")
    for name, (geometry, _) in detector.responses.items():
        low, high = geometry.low[geometry.causal_axis], geometry.high[geometry.causal_axis]
        _require(name in subsystems, detector, f"has a response of {name!r}, which is no subsystem")
        _require(bool(geometry.layers), detector, f"has a response of {name!r} without layers; give their radii")
        inside = all(low <= layer <= high for layer in geometry.layers)
        _require(inside, detector, f"has layers of {name!r} outside its bounds {low} to {high}; widen the bounds")


def _check_geometry(detector: Detector) -> None:
    geometry = detector.geometry
    inside = np.random.default_rng(0).uniform(0.01, 0.99, (200, 3))
    positions = geometry.positions(inside)
    coordinates = geometry.coordinates(positions)
    _require(bool(np.isfinite(coordinates).all()), detector, "its geometry gives coordinates that are not finite")
    message = "its geometry does not map coordinates to positions and back; check the bounds"
    _require(np.allclose(coordinates, inside, rtol=0, atol=1e-5), detector, message)
    error = np.abs(geometry.positions(coordinates) - positions).max()
    _require(bool(error <= TOLERANCE * np.abs(positions).max()), detector, message)


def _spacepoint_columns(detector: Detector, columns: Columns) -> list[str]:
    """The columns of the event that have a value for every spacepoint."""
    for column in detector.columns:
        if column.required:
            _require(column.name in columns, detector, f"requires {column.name!r}, which the event to check lacks")
    names = [column.name for column in detector.columns if column.name in columns]
    sizes = {len(columns[name]) for name in names}
    _require(len(sizes) == 1 and min(sizes) > 1, detector, "the event to check needs columns of one length, 2 or more")
    return names


def _check_event(detector: Detector, columns: Columns) -> None:
    before = {name: np.array(values) for name, values in columns.items()}
    event = detector.event(columns)
    changed = [name for name, values in columns.items() if not np.array_equal(before[name], values)]
    _require(not changed, detector, f"event changes the columns that it is given: {', '.join(changed)}; copy first")
    _require(len(event) > 0, detector, "keeps no spacepoint of the event to check")
    _require(event.event_id == columns.get("event_id", 0), detector, "drops event_id; hand it on to the Event")
    _check_kind(detector, event)
    coordinates = detector.geometry.coordinates(event.positions)
    _require(bool(np.isfinite(coordinates).all()), detector, "a spacepoint has coordinates that are not finite")


def _check_kind(detector: Detector, event: Event) -> None:
    """What all events of a detector have in common, the empty one included."""
    expected = {
        "detector": detector.name,
        "subsystems": detector.subsystems,
        "feature_names": tuple(detector.features),
    }
    for name, value in expected.items():
        found = getattr(event, name)
        _require(found == value, detector, f"an event of {len(event)} spacepoints has {name} = {found}, not {value}")


def _at(columns: Columns, names: list[str], index: Any) -> dict[str, Any]:
    """The event with some of its spacepoints only, or in another order."""
    return {name: np.asarray(values)[index] if name in names else values for name, values in columns.items()}


def _same(first: Event, second: Event) -> bool:
    if first.labels.keys() != second.labels.keys():
        return False
    arrays = [(first.positions, second.positions), (first.features, second.features), (first.ids, second.ids)]
    arrays += [(values, second.labels[name]) for name, values in first.labels.items()]
    return all(np.array_equal(a, b) for a, b in arrays)


def _check_order(detector: Detector, columns: Columns, names: list[str]) -> None:
    event = detector.event(columns)
    turned = detector.event(_at(columns, names, slice(None, None, -1)))
    message = "a file turned around does not give the event turned around; keep the file's order of spacepoints"
    _require(_same(turned, event.take(np.arange(len(event))[::-1])), detector, message)


def _check_small_events(detector: Detector, columns: Columns, names: list[str]) -> None:
    labels = detector.event(columns).labels.keys()
    for count in (0, 1):
        try:
            event = detector.event(_at(columns, names, slice(count)))
        except Exception as error:
            raise AssertionError(
                f"{type(detector).__name__}: an event of {count} spacepoints is normal but fails ({error!r})"
            ) from error
        _require(len(event) <= count, detector, f"makes {len(event)} spacepoints of {count}")
        _check_kind(detector, event)
        _require(event.labels.keys() == labels, detector, f"an event of {count} spacepoints has other labels")


def _check_features(detector: Detector, event: Event) -> None:
    for name, feature in detector.features.items():
        values = event.feature(name).astype(np.float64)
        scaled = feature.scaled(values)
        _require(bool(np.isfinite(scaled).all()), detector, f"the scaled feature {name!r} is not finite")
        size = TOLERANCE * max(np.abs(values).max(), feature.std)
        message = f"the feature {name!r} does not survive scaling and back; check its mean, std and log"
        _require(bool(np.abs(feature.restored(scaled) - values).max() <= 10 * size), detector, message)


def _check_refusals(detector: Detector, columns: Columns, names: list[str]) -> None:
    for column in detector.columns:
        if column.required:
            without = {name: values for name, values in columns.items() if name != column.name}
            _check_refusal(detector, without, f"without the required column {column.name!r}", column.name)
    for name in names:
        shorter = {**columns, name: np.asarray(columns[name])[:-1]}
        _check_refusal(detector, shorter, f"whose column {name!r} is shorter than the others")
    required = [column.name for column in detector.columns if column.required]
    for name in required:
        values = np.array(columns[name])
        if values.dtype.kind == "f":
            values[:] = np.nan  # of all: in a combination only some spacepoints have the feature
            _check_fault(detector, {**columns, name: values}, name)


def _check_fault(detector: Detector, columns: Columns, name: str) -> None:
    """A spacepoint with NaN is refused, or left out and said to be."""
    try:
        event = detector.event(columns)
    except DataError:
        return
    except Exception as error:
        raise AssertionError(
            f"{type(detector).__name__}: an event with NaN in {name!r} fails with {error!r}; raise a DataError"
        ) from error
    missing = [places for reason, places in event.left_out.items() if reason != OTHER_SUBSYSTEM]
    said = any(len(places) for places in missing)
    what = f"accepts an event with NaN in the required column {name!r}"
    _require(said, detector, f"{what}; raise a DataError, or leave the spacepoint out and say so in left_out")


def _check_refusal(detector: Detector, columns: Columns, what: str, word: str = "") -> None:
    try:
        detector.event(columns)
    except DataError as error:
        _require(word in str(error), detector, f"refuses an event {what} without naming it ({error})")
        _require("\n" not in str(error), detector, f"refuses an event {what} in more than one line")
        return
    except Exception as error:
        raise AssertionError(
            f"{type(detector).__name__}: an event {what} fails with {error!r}; raise a DataError"
        ) from error
    _require(False, detector, f"accepts an event {what}; raise a DataError")
