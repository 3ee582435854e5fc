"""Where a particle goes and where it came from, guessed by straightest links: targets that reach along a track."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from pydantic import Field, model_validator

from fm4npp.errors import DataError, NotFittedError
from fm4npp.geometry import Geometry
from fm4npp.links import ends, follow, straightest_links
from fm4npp.objectives.base import Array, Objective, Spacepoints
from fm4npp.objectives.energies import log_energy
from fm4npp.objectives.losses import masked_mean_squared_error
from fm4npp.objectives.moments import Moments
from fm4npp.objectives.neighbours import compact, exists, next_nearest, wrap

if TYPE_CHECKING:
    from torch import Tensor

Table = tuple[tuple[float, ...], ...]
ENDS = 2
"""The outermost and the innermost spacepoint of the way."""


class Continuation(Objective):
    """Predict the way through each spacepoint, outward and inward, and what lies next to it.

    The way is guessed from positions, see `fm4npp.links`: the objective needs no labels. Predicting the spacepoints
    some steps further out takes direction and curvature, remembering those further in takes what was read of the same
    particle, and mean energies take an average along the way. The ends of the way are the same places for all its
    spacepoints, so that they tell it from others. Numbers are standardised by constants that `fit` finds.

    Attributes:
        steps: how many links further, outward and inward.
        nearest: of the k-NNN objective, see `KNextNearest`, as many neighbours; 0 for none.
        energy: predict log(1 + energy) too: along the way its mean so far, at its ends that of all steps, of a
            neighbour its own; needs a feature `energy`.
        mean: (slots, c), subtracted from what is predicted; c is 3, or 4 with energy. None until `fit`.
        std: (slots, c), divided by.
    """

    registered_name: ClassVar[str] = "continuation"

    steps: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1, 2, 3, 4, 6, 8, 12, 16)
    nearest: Annotated[int, Field(ge=0)] = 10
    energy: bool = False
    mean: Table | None = None
    std: Table | None = None

    @model_validator(mode="after")
    def _check(self) -> Continuation:
        if list(self.steps) != sorted(set(self.steps)):
            raise ValueError("steps: must increase")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together")
        for name, table in (("mean", self.mean), ("std", self.std)):
            if table is not None and [len(row) for row in table] != [self._numbers] * self._slots:
                raise ValueError(f"{name}: {self._slots} rows of {self._numbers} numbers are needed")
        if any(number <= 0 for row in self.std or () for number in row):
            raise ValueError("std: must be positive")
        return self

    @property
    def _numbers(self) -> int:
        return 4 if self.energy else 3

    @property
    def _along(self) -> int:
        """Slots of the way: steps outward, then inward; the two ends and the neighbours follow."""
        return 2 * len(self.steps)

    @property
    def _slots(self) -> int:
        return self._along + ENDS + self.nearest

    @property
    def predicted_features(self) -> tuple[str, ...]:
        """The energy, if it is predicted."""
        return ("energy",) if self.energy else ()

    @property
    def output_size(self) -> int:
        """Three numbers for each slot, or four with energy."""
        return self._slots * self._numbers

    @property
    def fitted(self) -> bool:
        """Whether there is a scale."""
        return self.mean is not None

    def fit(self, events: Iterable[Spacepoints], geometry: Geometry) -> Continuation:
        """The same objective with its scale.

        Raises:
            ConfigurationError: if energy is wanted and an event has none.
            DataError: if the events hold no spacepoint.
        """
        moments = Moments((self._slots, self._numbers))
        for coordinates, features in events:
            points = _single(coordinates)
            moments.add(*self._values(points, self._index(points, geometry), geometry, features))
        if not moments.count.any():
            raise DataError("continuation cannot be fitted: there is no spacepoint", remedy="fit on more events")
        mean, std = moments.mean_and_std()
        return self.replace(mean=mean.tolist(), std=std.tolist())

    def indices(self, coordinates: Array, geometry: Geometry) -> Array:
        """See `Objective.indices`.

        Returns:
            (N, slots) uint16, or uint32 beyond 65,536 spacepoints; a spacepoint's own index where there is none.

        Raises:
            DataError: if a coordinate is not finite.
        """
        return compact(self._index(_single(coordinates), geometry))

    def targets(
        self, coordinates: Array, geometry: Geometry, features: Mapping[str, Array], indices: Array | None = None
    ) -> dict[str, Array]:
        """See `Objective.targets`.

        Returns:
            places: (N, slots, c) float32, 0 where there is none.
            valid: (N, slots) bool, whether there is one.

        Raises:
            NotFittedError: before `fit`.
            ConfigurationError: if energy is wanted and the event has none.
            DataError: if a coordinate is not finite, an energy is not above -1, or the indices are of another event.
        """
        if self.mean is None:
            raise NotFittedError(
                "continuation needs constants; call processor.fit(events) or load a processor that was fitted"
            )
        points = _single(coordinates)
        index = self._index(points, geometry) if indices is None else self._checked(indices, len(points))
        values, valid = self._values(points, index, geometry, features)
        values = (values - np.asarray(self.mean)) / np.asarray(self.std)
        return {"places": np.where(valid[:, :, None], values, 0).astype(np.float32), "valid": valid}

    def count(self, targets: Mapping[str, Tensor]) -> float:
        """See `Objective.count`: places that exist."""
        return float(targets["valid"].sum())

    def loss(self, predictions: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Mean squared error over all numbers of all places that exist."""
        return masked_mean_squared_error(predictions.view(targets["places"].shape), targets["places"], targets["valid"])

    def _index(self, points: Array, geometry: Geometry) -> Array:
        """(N, 3) float32 normalised coordinates to (N, slots) int64 spacepoints."""
        if not np.isfinite(points).all():
            raise DataError("a coordinate is not finite", remedy="remove such spacepoints from the input")
        # In this order the links cannot depend on the event's, even where two candidates are equally good.
        order = geometry.causal_order(points)
        ordered = points[order]
        outer, inner = straightest_links(geometry.positions(ordered), geometry.outward(ordered))
        found = np.concatenate(
            [follow(outer, self.steps), follow(inner, self.steps), np.stack([ends(outer), ends(inner)], axis=1)], axis=1
        )
        index = np.empty_like(found)
        index[order] = order[found]
        if not self.nearest:
            return index
        neighbours = next_nearest(points, geometry.causal_rank(points), self.nearest, geometry.periodic)
        return np.concatenate([index, neighbours], axis=1)

    def _values(
        self, points: Array, index: Array, geometry: Geometry, features: Mapping[str, Array]
    ) -> tuple[Array, Array]:
        """(N, slots, c) float64 not yet scaled, 0 where there is no place; (N, slots) bool, whether there is one."""
        here = points.astype(np.float64)
        values, valid = here.take(index, axis=0), exists(index)
        at_ends = slice(self._along, self._along + ENDS)
        valid[:, at_ends] = True
        offsets = values - here[:, None]
        for axis in np.flatnonzero(geometry.periodic):
            offsets[:, :, axis] = wrap(offsets[:, :, axis])
        offsets[:, at_ends] = values[:, at_ends]
        if self.energy:
            offsets = np.concatenate([offsets, self._energies(log_energy(features), index, valid)[:, :, None]], axis=2)
        offsets[~valid] = 0
        return offsets, valid

    def _energies(self, energy: Array, index: Array, valid: Array) -> Array:
        """(N, slots): the mean so far along each way, that of all steps at both ends, and the neighbours' own."""
        found = np.where(valid, energy.take(index), 0.0)
        way, on = found[:, : self._along], valid[:, : self._along]
        means = [
            np.cumsum(part, axis=1) / np.maximum(np.cumsum(counted, axis=1), 1)
            for part, counted in zip(np.split(way, 2, axis=1), np.split(on, 2, axis=1), strict=True)
        ]
        mean = np.where(on.any(axis=1), way.sum(axis=1) / np.maximum(on.sum(axis=1), 1), energy)
        return np.concatenate([*means, np.repeat(mean[:, None], ENDS, axis=1), found[:, self._along + ENDS :]], axis=1)

    def _checked(self, indices: Array, num_points: int) -> Array:
        """Stored indices, if they can be those of an event of this size."""
        index = np.asarray(indices)
        if index.dtype.kind not in "iu" or index.shape != (num_points, self._slots):
            raise DataError(
                f"places of shape {index.shape} and type {index.dtype} are not those of {num_points} spacepoints",
                remedy="compute them again with these steps",
            )
        if index.size and not 0 <= int(index.min()) <= int(index.max()) < num_points:
            raise DataError("places outside the event", remedy="compute them again")
        return index.astype(np.int64, copy=False)


def _single(coordinates: Array) -> Array:
    return np.asarray(coordinates, dtype=np.float32).reshape(-1, 3)
