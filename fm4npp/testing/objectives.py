"""The contract of objectives, checked on small made-up events; for those of this project and of plug-ins alike."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from fm4npp.errors import NotFittedError
from fm4npp.geometry import Geometry
from fm4npp.objectives.base import Objective
from fm4npp.registry import explain

Array = NDArray[Any]
Targets = dict[str, Array]
Perfect = Callable[[Mapping[str, Tensor]], Tensor]

GEOMETRIES = (
    Geometry(low=(-2, -np.pi, 30), high=(2, np.pi, 75), group_boundaries=(40, 57)),
    Geometry(system="cartesian", low=(-10, -10, -10), high=(10, 10, 10), periodic=(False,) * 3, causal_axis=0),
)
SIZES = (60, 1, 0, 2, 40)
"""Spacepoints of the events."""


class Spacepoints(NamedTuple):
    """An event as an objective sees it."""

    coordinates: Array
    features: dict[str, Array]

    def take(self, index: Array) -> Spacepoints:
        """Its spacepoints in another order."""
        return Spacepoints(self.coordinates[index], {name: values[index] for name, values in self.features.items()})


def make_events() -> list[Spacepoints]:
    """Events of `SIZES` random spacepoints, some out of bounds, all with an energy."""
    random = np.random.default_rng(0)
    return [
        Spacepoints(
            random.uniform(-0.1, 1.1, (size, 3)).astype(np.float32),
            {"energy": random.exponential(200, size).astype(np.float32)},
        )
        for size in SIZES
    ]


def check_objective(cls: type[Objective], *, perfect: Perfect | None = None, **fields: Any) -> None:
    """Check that an objective class keeps the contract of `fm4npp.objectives.Objective`.

    Args:
        cls: the class; it is built as `cls(**fields)`.
        perfect: packed targets to the (T, output_size) predictions whose loss is 0. By default the one
            floating-point target that has `output_size` numbers for a spacepoint.
        fields: configuration, needed where the class has fields without a default.

    Raises:
        AssertionError: with what is wrong and what to do about it.
    """
    objective = _build(cls, fields)
    for geometry in GEOMETRIES:
        fitted = _fit(objective, geometry)
        targets = [_check_targets(fitted, event, geometry) for event in make_events()]
        if not objective.uses_order:
            for event, expected in zip(make_events(), targets, strict=True):
                _check_permutation(fitted, event, expected, geometry)
        packed = _pack(cls, targets)
        _check_loss(fitted, packed)
        _check_perfect(fitted, packed, perfect)
        for alone in targets:
            _check_loss(fitted, _pack(cls, [alone]))
        empty = _loss(fitted, torch.zeros(0, fitted.output_size), _pack(cls, [targets[SIZES.index(0)]]))
        _require(empty.item() == 0, cls, "the loss of no spacepoints is not 0; divide by a count of at least 1")
        for event, expected in zip(make_events(), targets, strict=True):
            _check_indices(fitted, event, expected, geometry)


def _require(condition: bool, cls: type, message: str) -> None:
    if not condition:
        raise AssertionError(f"{cls.__name__}: {message}")


def _build(cls: type[Objective], fields: dict[str, Any]) -> Objective:
    _require(bool(cls.registered_name), cls, "set the class variable registered_name")
    _require(bool(cls.model_config.get("frozen")), cls, "must stay frozen; fit returns a new objective")
    try:
        objective = cls(**fields)
    except ValidationError as error:
        raise AssertionError(
            f"{cls.__name__}: cannot be built ({explain(error)}); give the fields without a default to the check, as "
            f"check_objective({cls.__name__}, field=value)"
        ) from error
    _check_json(objective)
    return objective


def _check_json(objective: Objective) -> None:
    fields = json.loads(json.dumps(objective.spec(), allow_nan=False))
    name = fields.pop("type")
    _require(name == objective.registered_name, type(objective), f"its spec is of type {name!r}")
    _require(type(objective)(**fields) == objective, type(objective), "does not survive JSON; use plain field types")


def _fit(objective: Objective, geometry: Geometry) -> Objective:
    cls, before = type(objective), objective.spec()
    if not objective.fitted:
        try:
            objective.targets(*_arguments(make_events()[0], geometry))
        except NotFittedError:
            pass
        else:
            raise AssertionError(f"{cls.__name__}: makes targets although it is not fitted; raise NotFittedError")
    fitted = objective.fit(iter(make_events()), geometry)
    _require(isinstance(fitted, cls), cls, f"fit returns {type(fitted).__name__}; return an objective of this class")
    _require(fitted.fitted, cls, "is not fitted after fit")
    _require(objective.spec() == before, cls, "changes in fit; return a new objective")
    _require(fitted.output_size > 0, cls, f"output_size is {fitted.output_size}")
    _check_json(fitted)
    return fitted


def _arguments(event: Spacepoints, geometry: Geometry) -> tuple[Array, Geometry, dict[str, Array]]:
    return event.coordinates, geometry, event.features


def _check_targets(objective: Objective, event: Spacepoints, geometry: Geometry) -> Targets:
    cls, size = type(objective), len(event.coordinates)
    given = event.take(np.arange(size))
    targets = objective.targets(*_arguments(given, geometry))
    _require(bool(targets), cls, "targets returns nothing; return name -> array")
    _require(np.array_equal(given.coordinates, event.coordinates), cls, "changes the coordinates it is given")
    for name, values in targets.items():
        _require(len(values) == size, cls, f"{len(values)} targets {name!r} for {size} spacepoints")
        finite = values.dtype.kind != "f" or bool(np.isfinite(values).all())
        _require(finite, cls, f"a target {name!r} of {size} spacepoints is not finite; mask what does not exist")
    return targets


def _check_permutation(objective: Objective, event: Spacepoints, expected: Targets, geometry: Geometry) -> None:
    shuffle = np.random.default_rng(1).permutation(len(event.coordinates))
    shuffled = objective.targets(*_arguments(event.take(shuffle), geometry))
    for name, values in expected.items():
        _require(
            np.array_equal(shuffled[name], values[shuffle]),
            type(objective),
            f"the targets {name!r} of a spacepoint depend on the order of the input; use geometry.causal_rank, or let "
            "the property uses_order be true if that is meant",
        )


def _check_indices(objective: Objective, event: Spacepoints, expected: Targets, geometry: Geometry) -> None:
    cls, size = type(objective), len(event.coordinates)
    indices = objective.indices(event.coordinates, geometry)
    if indices is None:
        return
    fitting = indices.ndim == 2 and len(indices) == size and indices.dtype.kind in "iu"
    _require(fitting, cls, f"indices of {size} spacepoints are {indices.dtype} of shape {indices.shape}, not (N, m)")
    again = objective.targets(*_arguments(event, geometry), indices=indices)
    same = all(np.array_equal(again[name], values) for name, values in expected.items())
    _require(same, cls, "the targets from stored indices differ from those without")


def _pack(cls: type, targets: list[Targets]) -> dict[str, Tensor]:
    packed = {}
    for name, values in targets[0].items():
        arrays = [event[name] for event in targets]
        kinds = {(array.shape[1:], array.dtype) for array in arrays}
        _require(len(kinds) == 1, cls, f"the targets {name!r} differ in shape or type between events: {kinds}")
        packed[name] = torch.from_numpy(np.concatenate([np.empty((0, *values.shape[1:]), values.dtype), *arrays]))
    return packed


def _num_rows(packed: Mapping[str, Tensor]) -> int:
    return len(next(iter(packed.values())))


def _loss(objective: Objective, predictions: Tensor, packed: Mapping[str, Tensor]) -> Tensor:
    loss = objective.loss(predictions, packed)
    _require(loss.shape == (), type(objective), f"the loss has shape {tuple(loss.shape)}; return a scalar")
    rows = _num_rows(packed)
    _require(bool(loss.isfinite()), type(objective), f"the loss of {rows} spacepoints is {loss.item()}")
    return loss


def _check_loss(objective: Objective, packed: Mapping[str, Tensor]) -> None:
    cls, rows = type(objective), _num_rows(packed)
    random = torch.Generator().manual_seed(0)
    predictions = torch.randn(rows, objective.output_size, generator=random, requires_grad=True)
    loss = _loss(objective, predictions, packed)
    _require(loss.item() >= 0, cls, f"the loss is negative: {loss.item()}")
    _require(loss.requires_grad, cls, "the loss has no gradient; multiply a sum of predictions by 0 if there is none")
    torch.autograd.backward(loss)
    gradient = predictions.grad
    finite = gradient is not None and bool(gradient.isfinite().all())
    _require(finite, cls, f"the gradient of the loss of {rows} spacepoints is not finite")
    half = _loss(objective, predictions.detach().bfloat16(), packed)
    _require(half.dtype == torch.float32, cls, f"the loss of bfloat16 predictions is {half.dtype}; sum in float32")
    order = torch.randperm(rows, generator=random)
    other = _loss(objective, predictions.detach()[order], {name: values[order] for name, values in packed.items()})
    same = torch.allclose(other, loss.detach(), rtol=1e-4, atol=1e-6)
    _require(same, cls, "the loss depends on the order of the rows")


def _check_perfect(objective: Objective, packed: Mapping[str, Tensor], perfect: Perfect | None) -> None:
    if perfect is None:
        size = objective.output_size
        fitting = [v for v in packed.values() if v.is_floating_point() and math.prod(v.shape[1:]) == size]
        _require(
            len(fitting) == 1,
            type(objective),
            "which prediction is perfect cannot be told from its targets; give check_objective a function `perfect`",
        )
        predictions = fitting[0].reshape(-1, size)
    else:
        predictions = perfect(packed)
    loss = _loss(objective, predictions.float(), packed).item()
    _require(loss == 0, type(objective), f"the loss of the perfect prediction is {loss}, not 0")
