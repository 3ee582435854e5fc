"""k-next-nearest-neighbour prediction: where the k nearest spacepoints further out are (paper section 4.1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from fm4npp.errors import ConfigurationError, DataError, NotFittedError
from fm4npp.geometry import Geometry
from fm4npp.objectives.base import Array, Objective, Spacepoints
from fm4npp.objectives.losses import masked_mean_squared_error
from fm4npp.objectives.moments import Moments
from fm4npp.objectives.neighbours import next_nearest
from fm4npp.objectives.neighbours_blocked import wrap

if TYPE_CHECKING:
    from torch import Tensor

Table = tuple[tuple[float, ...], ...]


class KNextNearest(Objective):
    """Predict the k nearest spacepoints among those further out, by increasing distance (k-NNN, paper section 4.1).

    Further out means later in `Geometry.causal_rank`; distance is Euclidean in normalised coordinates. The
    defaults are those of the released checkpoints.

    Attributes:
        k: neighbours of each spacepoint.
        frame: given as `targets`: whether a neighbour is predicted by its `absolute` normalised coordinates, or by
            its `offset` from the spacepoint, standardised per slot and coordinate.
        energy: predict log(1 + energy) of each neighbour too, standardised per slot; needs a feature `energy`.
        periodic: measure distances and offsets the shorter way round the geometry's periodic axes. The paper does
            not: phi = -pi and phi = pi are far apart.
        mean: (k, c), subtracted from what is predicted; c is 3, or 4 with energy. None until `fit`.
        std: (k, c), divided by.
    """

    model_config = ConfigDict(serialize_by_alias=True)
    registered_name: ClassVar[str] = "k-nnn"

    k: Annotated[int, Field(ge=1)] = 30
    frame: Literal["absolute", "offset"] = Field("absolute", alias="targets")
    energy: bool = False
    periodic: bool = False
    mean: Table | None = None
    std: Table | None = None

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

    @property
    def _numbers(self) -> int:
        return 4 if self.energy else 3

    @property
    def output_size(self) -> int:
        """Three numbers for each of k neighbours, or four with energy."""
        return self.k * self._numbers

    @property
    def fitted(self) -> bool:
        """Whether there is a scale, or none is needed: absolute targets without energy are not scaled."""
        return self.mean is not None or (self.frame == "absolute" and not self.energy)

    def fit(self, events: Iterable[Spacepoints], geometry: Geometry) -> KNextNearest:
        """The same objective with the mean and standard deviation of what it predicts; itself if it scales nothing.

        Raises:
            ConfigurationError: if energy is wanted and an event has none.
            DataError: if no spacepoint of the events has a neighbour.
        """
        if self.frame == "absolute" and not self.energy:
            return self
        moments = Moments((self.k, self._numbers))
        for coordinates, features in events:
            moments.add(*self._neighbours(coordinates, geometry, features))
        if not moments.count.any():
            raise DataError("k-nnn cannot be fitted: no spacepoint has a neighbour", remedy="fit on more events")
        mean, std = moments.mean_and_std()
        if self.frame == "absolute":
            mean[:, :3], std[:, :3] = 0, 1
        return self.replace(mean=mean.tolist(), std=std.tolist())

    def targets(self, coordinates: Array, geometry: Geometry, features: Mapping[str, Array]) -> dict[str, Array]:
        """See `Objective.targets`.

        Returns:
            neighbours: (N, k, c) float32, by increasing distance, 0 where there is none.
            valid: (N, k) bool, whether there is one.

        Raises:
            NotFittedError: if a scale is needed and there is none.
            ConfigurationError: if energy is wanted and the event has none.
            DataError: if a coordinate is not finite or an energy is not above -1.
        """
        if not self.fitted:
            raise NotFittedError(
                "k-nnn with targets='offset' or energy needs its scale; call processor.fit(events) or load a "
                "processor that was fitted"
            )
        values, valid = self._neighbours(coordinates, geometry, features)
        if self.mean is not None:
            values = (values - np.asarray(self.mean)) / np.asarray(self.std)
            values[~valid] = 0
        return {"neighbours": values.astype(np.float32), "valid": valid}

    def loss(self, predictions: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Mean squared error over all numbers of all neighbours that exist, as in the released code.

        The paper sums the three coordinates and averages over k alone, which is three times as much.
        """
        neighbours = targets["neighbours"]
        return masked_mean_squared_error(predictions.view(neighbours.shape), neighbours, targets["valid"])

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
        if not self.fitted:
            raise NotFittedError("k-nnn has no scale; load the processor that its predictions were made with")
        values = np.asarray(predictions, dtype=np.float64).reshape(-1, self.k, self._numbers)
        if self.mean is not None:
            values = values * np.asarray(self.std) + np.asarray(self.mean)
        origin = np.asarray(coordinates, dtype=np.float64).reshape(-1, 1, 3)
        places: Array = values[:, :, :3] + (origin if self.frame == "offset" else 0)
        return places

    def _neighbours(self, coordinates: Array, geometry: Geometry, features: Mapping[str, Array]) -> tuple[Array, Array]:
        """(N, k, c) float64 not yet scaled, 0 where there is no neighbour, and (N, k) bool."""
        points = np.asarray(coordinates, dtype=np.float32).astype(np.float64).reshape(-1, 3)
        periodic = geometry.periodic if self.periodic else (False, False, False)
        index, valid = next_nearest(points, geometry.causal_rank(points), self.k, periodic)
        values = points.take(index, axis=0)
        if self.frame == "offset":
            values -= points[:, None]
            for axis in np.flatnonzero(periodic):
                values[:, :, axis] = wrap(values[:, :, axis])
        if self.energy:
            values = np.concatenate([values, log_energy(features).take(index)[:, :, None]], axis=2)
        values[~valid] = 0
        return values, valid


def log_energy(features: Mapping[str, Any]) -> Array:
    """The feature `energy` to (N,) float64 log(1 + energy), of the number that the file gives.

    Raises:
        ConfigurationError: if there is no such feature.
        DataError: if an energy is not above -1.
    """
    if "energy" not in features:
        raise ConfigurationError(
            "k-nnn with energy=True needs the feature 'energy'; this detector measures: "
            f"{', '.join(sorted(features)) or 'nothing but positions'}; set energy to false"
        )
    energy = np.asarray(features["energy"], dtype=np.float64)
    if not (energy > -1).all():
        raise DataError("an energy is not above -1, so log(1 + energy) does not exist", remedy="set energy to false")
    logarithm: Array = np.log1p(energy)
    return logarithm
