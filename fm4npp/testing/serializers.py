"""The contract of serializers, checked on small made-up events; for those of this project and of plug-ins alike."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from fm4npp.errors import NotFittedError
from fm4npp.geometry import Geometry
from fm4npp.registry import explain
from fm4npp.serializers.base import Serializer

Array = NDArray[Any]

GEOMETRIES = (
    Geometry(low=(-2, -np.pi, 30), high=(2, np.pi, 75), group_boundaries=(40, 57)),
    Geometry(system="cartesian", low=(-10, -10, -10), high=(10, 10, 10), periodic=(False,) * 3, causal_axis=0),
)
"""A cylindrical tracker with three groups of layers, and a box that particles cross along its first axis."""


def make_coordinates() -> list[Array]:
    """(N, 3) float32 of several events: none, one, two and many spacepoints, ties, duplicates, points out of bounds."""
    random = np.random.default_rng(0)
    spread = random.uniform(-0.1, 1.1, (150, 3))
    grid = random.integers(0, 5, (120, 3)) / 4
    events = [np.empty((0, 3)), spread[:1], spread[:2], np.repeat(spread[:1], 3, axis=0), spread, grid]
    return [event.astype(np.float32) for event in events]


def check_serializer(cls: type[Serializer], **fields: Any) -> None:
    """Check that a serializer class keeps the contract of `fm4npp.serializers.Serializer`.

    Args:
        cls: the class; it is built as `cls(**fields)`.
        fields: configuration, needed where the class has fields without a default.

    Raises:
        AssertionError: with what is wrong and what to do about it.
    """
    serializer = _build(cls, fields)
    for geometry in GEOMETRIES:
        fitted = _fit(serializer, geometry)
        restored = _restored(fitted)
        for coordinates in make_coordinates():
            _check_order(fitted, coordinates, geometry)
            same = np.array_equal(restored.order(coordinates, geometry), fitted.order(coordinates, geometry))
            _require(same, cls, "orders otherwise after saving and loading; keep all fitted state in fields")


def _require(condition: bool, cls: type, message: str) -> None:
    if not condition:
        raise AssertionError(f"{cls.__name__}: {message}")


def _build(cls: type[Serializer], fields: dict[str, Any]) -> Serializer:
    _require(bool(cls.registered_name), cls, "set the class variable registered_name")
    _require(bool(cls.model_config.get("frozen")), cls, "must stay frozen; fit returns a new serializer")
    try:
        serializer = cls(**fields)
    except ValidationError as error:
        raise AssertionError(
            f"{cls.__name__}: cannot be built ({explain(error)}); give the fields without a default to the check, as "
            f"check_serializer({cls.__name__}, field=value)"
        ) from error
    _restored(serializer)
    return serializer


def _restored(serializer: Serializer) -> Serializer:
    fields = json.loads(json.dumps(serializer.spec(), allow_nan=False))
    name = fields.pop("type")
    _require(name == serializer.registered_name, type(serializer), f"its spec is of type {name!r}")
    restored = type(serializer)(**fields)
    _require(restored == serializer, type(serializer), "does not survive JSON; use plain field types")
    return restored


def _fit(serializer: Serializer, geometry: Geometry) -> Serializer:
    cls, before = type(serializer), serializer.spec()
    if not serializer.fitted:
        try:
            serializer.order(make_coordinates()[-1], geometry)
        except NotFittedError:
            pass
        else:
            raise AssertionError(f"{cls.__name__}: orders although it is not fitted; raise NotFittedError")
    fitted = serializer.fit(iter(make_coordinates()), geometry)
    _require(isinstance(fitted, cls), cls, f"fit returns {type(fitted).__name__}; return a serializer of this class")
    _require(fitted.fitted, cls, "is not fitted after fit")
    _require(serializer.spec() == before, cls, "changes in fit; return a new serializer")
    return fitted


def _check_order(serializer: Serializer, coordinates: Array, geometry: Geometry) -> None:
    cls, given = type(serializer), coordinates.copy()
    event = f"an event of {len(given)} spacepoints"
    order = serializer.order(given, geometry)
    _require(np.array_equal(given, coordinates), cls, f"changes the coordinates of {event}")
    _require(
        order.dtype == np.int64 and np.array_equal(np.sort(order), np.arange(len(given))),
        cls,
        f"order is no int64 permutation for {event}",
    )
    _require(np.array_equal(serializer.order(given, geometry), order), cls, f"orders {event} otherwise a second time")
    shuffle = np.random.default_rng(1).permutation(len(given))
    shuffled = given[shuffle]
    _require(
        np.array_equal(shuffled[serializer.order(shuffled, geometry)], given[order]),
        cls,
        f"the sequence of {event} depends on the order of the input; break ties by geometry.causal_order",
    )
