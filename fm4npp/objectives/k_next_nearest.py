"""k-next-nearest-neighbour prediction: where the k nearest spacepoints further out are (paper section 4.1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from fm4npp.errors import DataError, NotFittedError
from fm4npp.geometry import Geometry
from fm4npp.objectives.base import Array, Objective, Spacepoints
from fm4npp.objectives.difficulty import (
    NUM_BINS,
    Rescale,
    bin_weight,
    check_difficulty_bins,
    event_difficulty,
    fit_difficulty_bins,
    spacepoint_weights,
)
from fm4npp.objectives.energies import log_energy
from fm4npp.objectives.losses import event_weighted_mean_squared_error, masked_mean_squared_error
from fm4npp.objectives.moments import Moments
from fm4npp.objectives.neighbours import Periodic, compact, exists, next_nearest, wrap

if TYPE_CHECKING:
    from torch import Tensor

Table = tuple[tuple[float, ...], ...]


class KNextNearest(Objective):
    """Predict the k nearest spacepoints among those further out, by increasing distance (k-NNN, paper section 4.1).

    Further out means later in `Geometry.causal_rank`. The defaults are those of the released checkpoints.

    Attributes:
        k: neighbours of each spacepoint.
        among: which spacepoints these are the nearest of: those further `outward`, or, for detectors in which
            particles fly in no one direction, those that are `unseen`, later in the serializer's order, so that a
            causal backbone cannot copy any.
        frame: given as `targets`: whether a neighbour is predicted by its `absolute` normalised coordinates, or by
            its `offset` from the spacepoint, standardised per slot and coordinate.
        energy: predict log(1 + energy) of each neighbour too, standardised per slot; needs a feature `energy`.
        metric: nearest by Euclidean distance in `normalised` coordinates, as in the paper, or in `cartesian` ones, in
            cm. What is predicted is normalised coordinates either way.
        periodic: measure distances and offsets the shorter way round the geometry's periodic axes. The paper does
            not: phi = -pi and phi = pi are far apart. Cartesian distances know of no seam; offsets then still do.
        rescale: the loss is the mean over events, each multiplied by the weight of its bin of `difficulty`, the mean
            distance of its neighbours (paper appendix B.7), or of 1 over that, `inverse`. With `none` it is the mean
            over all numbers.
        difficulty_bins: of equally many events, at most.
        mean: (k, c), subtracted from what is predicted; c is 3, or 4 with energy. None until `fit`.
        std: (k, c), divided by.
        difficulty_edges: between the bins, in the unit of the metric. None until `fit`.
        difficulty_weights: of the bins, 1 in the mean over the events that were fitted to.
    """

    model_config = ConfigDict(serialize_by_alias=True)
    registered_name: ClassVar[str] = "k-nnn"

    k: Annotated[int, Field(ge=1)] = 30
    among: Literal["outward", "unseen"] = "outward"
    frame: Literal["absolute", "offset"] = Field("absolute", alias="targets")
    energy: bool = False
    metric: Literal["normalised", "cartesian"] = "normalised"
    periodic: bool = False
    rescale: Rescale = "none"
    difficulty_bins: Annotated[int, Field(ge=1)] = NUM_BINS
    mean: Table | None = None
    std: Table | None = None
    difficulty_edges: tuple[float, ...] | None = None
    difficulty_weights: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _check_scale(self) -> KNextNearest:
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together")
        for name, table in (("mean", self.mean), ("std", self.std)):
            if table is not None and [len(row) for row in table] != [self._numbers] * self.k:
                raise ValueError(f"{name}: {self.k} rows of {self._numbers} numbers are needed")
        if any(number <= 0 for row in self.std or () for number in row):
            raise ValueError("std: must be positive")
        if self.frame == "absolute" and (
            any(row[:3] != (0, 0, 0) for row in self.mean or ()) or any(row[:3] != (1, 1, 1) for row in self.std or ())
        ):
            raise ValueError("mean and std: absolute coordinates are not scaled; fit again after changing targets")
        return self

    @model_validator(mode="after")
    def _check_difficulty(self) -> KNextNearest:
        edges, weights = self.difficulty_edges, self.difficulty_weights
        if (edges is None) != (weights is None):
            raise ValueError("difficulty_edges and difficulty_weights belong together")
        if edges is not None and weights is not None:
            check_difficulty_bins(self.rescale, self.difficulty_bins, edges, weights)
        return self

    @property
    def _numbers(self) -> int:
        return 4 if self.energy else 3

    @property
    def _scales(self) -> bool:
        """Whether what is predicted is scaled: absolute targets without energy are not."""
        return self.frame == "offset" or self.energy

    @property
    def predicted_features(self) -> tuple[str, ...]:
        """The energy, if it is predicted."""
        return ("energy",) if self.energy else ()

    @property
    def output_size(self) -> int:
        """Three numbers for each of k neighbours, or four with energy."""
        return self.k * self._numbers

    @property
    def uses_order(self) -> bool:
        """With `unseen`."""
        return self.among == "unseen"

    @property
    def fitted(self) -> bool:
        """Whether all constants that are needed are there; absolute targets without energy or rescale need none."""
        scaled = self.mean is not None or not self._scales
        return scaled and (self.difficulty_weights is not None or self.rescale == "none")

    def fit(self, events: Iterable[Spacepoints], geometry: Geometry) -> KNextNearest:
        """The same objective with the constants of its scale and its bins of difficulty; itself if it has neither.

        Raises:
            ConfigurationError: if energy is wanted and an event has none.
            DataError: if no spacepoint of the events has a neighbour.
        """
        if not self._scales and self.rescale == "none":
            return self
        moments, difficulties = Moments((self.k, self._numbers)), []
        for coordinates, features in events:
            points = _single(coordinates)
            index = self._nearest(points, geometry)
            if self._scales:
                moments.add(*self._neighbours(points, index, geometry, features))
            if self.rescale != "none":
                difficulties.append(self._difficulty(points, index, geometry))
        return self.replace(**self._fitted_scale(moments), **self._fitted_bins(difficulties))

    def indices(self, coordinates: Array, geometry: Geometry) -> Array:
        """See `Objective.indices`.

        Returns:
            (N, k) uint16, or uint32 beyond 65,536 spacepoints: the neighbours by increasing distance; a spacepoint's
            own index where it has none.

        Raises:
            DataError: if a coordinate is not finite.
        """
        return compact(self._nearest(_single(coordinates), geometry))

    def targets(
        self, coordinates: Array, geometry: Geometry, features: Mapping[str, Array], indices: Array | None = None
    ) -> dict[str, Array]:
        """See `Objective.targets`.

        Returns:
            neighbours: (N, k, c) float32, by increasing distance, 0 where there is none.
            valid: (N, k) bool, whether there is one.
            share, weight: (N,) float32 with `rescale`, see `spacepoint_weights`.

        Raises:
            NotFittedError: if a constant is needed and there is none.
            ConfigurationError: if energy is wanted and the event has none.
            DataError: if a coordinate is not finite, an energy is not above -1, or the indices are of another event.
        """
        if not self.fitted:
            raise NotFittedError(
                "k-nnn with targets='offset', energy or rescale needs constants; call processor.fit(events) or load "
                "a processor that was fitted"
            )
        points = _single(coordinates)
        index = self._nearest(points, geometry) if indices is None else self._checked(indices, len(points))
        values, valid = self._neighbours(points, index, geometry, features)
        if self.mean is not None:
            values = (values - np.asarray(self.mean)) / np.asarray(self.std)
            _clear(values, valid)
        targets = {"neighbours": values.astype(np.float32, copy=False), "valid": valid}
        if self.difficulty_edges is not None and self.difficulty_weights is not None:
            difficulty = self._difficulty(points, index, geometry)
            weight = bin_weight(difficulty, self.difficulty_edges, self.difficulty_weights)
            targets |= spacepoint_weights(index, weight)
        return targets

    def count(self, targets: Mapping[str, Tensor]) -> float:
        """See `Objective.count`: neighbours that exist; with `rescale`, events that have any."""
        return float(targets["valid"].sum() if self.rescale == "none" else targets["share"].sum().round())

    def loss(self, predictions: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Mean squared error over all numbers of all neighbours that exist, as in the released code.

        The paper sums the three coordinates and averages over k alone, which is three times as much. With `rescale`
        it is the mean over spacepoints, then over events, each multiplied by its weight, as in the paper.
        """
        neighbours, valid = targets["neighbours"], targets["valid"]
        predictions = predictions.view(neighbours.shape)
        if self.rescale == "none":
            return masked_mean_squared_error(predictions, neighbours, valid)
        weight, share = targets["weight"], targets["share"]
        return event_weighted_mean_squared_error(predictions, neighbours, valid, weight, share)

    def predicted_coordinates(self, predictions: Array, coordinates: Array) -> Array:
        """Where the predicted neighbours are.

        Args:
            predictions: (N, output_size).
            coordinates: (N, 3), normalised, of the spacepoints they were predicted for.

        Returns:
            (N, k, 3) float64, normalised. A periodic offset may lead outside [0, 1].

        Raises:
            NotFittedError: if a scale is needed and there is none.
        """
        if self._scales and self.mean is None:
            raise NotFittedError("k-nnn has no scale; load the processor that its predictions were made with")
        values = np.asarray(predictions, dtype=np.float64).reshape(-1, self.k, self._numbers)
        if self.mean is not None:
            values = values * np.asarray(self.std) + np.asarray(self.mean)
        origin = np.asarray(coordinates, dtype=np.float64).reshape(-1, 1, 3)
        places: Array = values[:, :, :3] + (origin if self.frame == "offset" else 0)
        return places

    def _fitted_scale(self, moments: Moments) -> dict[str, Any]:
        if not self._scales:
            return {}
        if not moments.count.any():
            raise DataError("k-nnn cannot be fitted: no spacepoint has a neighbour", remedy="fit on more events")
        mean, std = moments.mean_and_std()
        if self.frame == "absolute":
            mean[:, :3], std[:, :3] = 0, 1
        return {"mean": mean.tolist(), "std": std.tolist()}

    def _fitted_bins(self, difficulties: list[float]) -> dict[str, Any]:
        if self.rescale == "none":
            return {}
        edges, weights = fit_difficulty_bins(difficulties, self.difficulty_bins, self.rescale)
        return {"difficulty_edges": edges.tolist(), "difficulty_weights": weights.tolist()}

    def _neighbours(
        self, points: Array, index: Array, geometry: Geometry, features: Mapping[str, Array]
    ) -> tuple[Array, Array]:
        """(N, k, c) not yet scaled, 0 where there is no neighbour, float32 if they stay as they are; (N, k) bool."""
        if self._scales:
            points = points.astype(np.float64)
        values, valid = points.take(index, axis=0), exists(index)
        if self.frame == "offset":
            values -= points[:, None]
            for axis in np.flatnonzero(geometry.periodic) if self.periodic else ():
                values[:, :, axis] = wrap(values[:, :, axis])
        if self.energy:
            values = np.concatenate([values, log_energy(features).take(index)[:, :, None]], axis=2)
        _clear(values, valid)
        return values, valid

    def _nearest(self, points: Array, geometry: Geometry) -> Array:
        """(N, 3) float32 normalised coordinates to the (N, k) int64 indices of `next_nearest`."""
        places, periodic = self._places(points, geometry)
        if self.among == "unseen":
            return next_nearest(places, np.arange(len(points)), self.k, periodic)
        outward = _radii(points, geometry) if self.metric == "cartesian" else None
        return next_nearest(places, geometry.causal_rank(points), self.k, periodic, outward=outward)

    def _places(self, points: Array, geometry: Geometry) -> tuple[Array, Periodic]:
        """(N, 3) in the coordinates of the metric, and the axes along which it goes the shorter way round."""
        if self.metric == "normalised":
            return points, geometry.periodic if self.periodic else (False, False, False)
        with np.errstate(over="ignore", invalid="ignore"):
            return geometry.positions(points), (False, False, False)

    def _difficulty(self, points: Array, index: Array, geometry: Geometry) -> float:
        places, periodic = self._places(points, geometry)
        return event_difficulty(places, index, periodic)

    def _checked(self, indices: Array, num_points: int) -> Array:
        """Stored indices, if they can be those of an event of this size."""
        index = np.asarray(indices)
        if index.dtype.kind not in "iu" or index.shape != (num_points, self.k):
            raise DataError(
                f"neighbours of shape {index.shape} and type {index.dtype} are not those of {num_points} spacepoints",
                remedy=f"compute them again with k = {self.k}",
            )
        if index.size and not 0 <= int(index.min()) <= int(index.max()) < num_points:
            raise DataError("neighbours outside the event", remedy="compute them again")
        return index.astype(np.int64, copy=False)


def _single(coordinates: Array) -> Array:
    return np.asarray(coordinates, dtype=np.float32).reshape(-1, 3)


def _clear(values: Array, valid: Array) -> None:
    """Set contiguous (N, k, c) values to 0 where (N, k) is false."""
    values.reshape(-1, values.shape[2])[np.flatnonzero(~valid)] = 0


def _radii(points: Array, geometry: Geometry) -> Array | None:
    """What bounds distances in cm from below, for `next_nearest`: r where that is the way out, as |r - r'| <= d.

    None where it is another axis (it then is one of the positions, if Cartesian), or r is rounded below 0.
    """
    axis = geometry.causal_axis
    if geometry.axes[axis] != "r":
        return None
    radii: Array = points[:, axis] * np.float64(geometry.high[axis] - geometry.low[axis]) + geometry.low[axis]
    return radii if (radii >= 0).all() else None
