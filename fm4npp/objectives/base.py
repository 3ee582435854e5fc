"""The objective interface: targets of an event, and the loss of predictions against them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from fm4npp.geometry import Geometry
from fm4npp.registry import Component

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[Any]
Spacepoints = tuple[Array, Mapping[str, Array]]
"""An event as an objective sees it: (N, 3) normalised coordinates, and feature name -> (N,) in the file's units."""


class Objective(Component, ABC):
    """A self-supervised task on the spacepoints of one event."""

    @property
    @abstractmethod
    def output_size(self) -> int:
        """Numbers the model predicts for a spacepoint."""

    @abstractmethod
    def targets(
        self, coordinates: Array, geometry: Geometry, features: Mapping[str, Array], indices: Array | None = None
    ) -> dict[str, Array]:
        """What the model should predict for one event.

        Args:
            coordinates: (N, 3) float32, normalised, in the serializer's order.
            geometry: where outwards is.
            features: name -> (N,) in the file's units, in the same order.
            indices: of `indices` for the same arguments, which are then not computed again. Only what returns any is
                given any.

        Returns:
            name -> (N, ...), in the same order. An objective that looks at geometry alone gives every spacepoint
            the same targets whatever the order.
        """

    @abstractmethod
    def loss(self, predictions: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        """Scalar loss of (T, output_size) predictions against packed targets; 0 at the perfect prediction.

        Spacepoints without any target contribute nothing; a batch of only such gives 0, with a gradient of 0.
        """

    def count(self, targets: Mapping[str, Tensor]) -> float:
        """How many things `loss` is the mean over, so that batches can be averaged as if they were one.

        Args:
            targets: packed; by default every one of the T spacepoints counts.
        """
        return float(len(next(iter(targets.values()))))

    def indices(self, coordinates: Array, geometry: Geometry) -> Array | None:
        """The part of `targets` that is costly and worth storing with an event: which spacepoints they are made of.

        It depends on the geometry and the configuration, and not on features or on what `fit` finds.

        Args:
            coordinates: see `targets`.
            geometry: where outwards is.

        Returns:
            (N, m) integers, places among the given spacepoints; None if there is nothing worth storing.
        """
        return None

    @property
    def predicted_features(self) -> tuple[str, ...]:
        """Features that targets are made of; a detector that lacks one can be read, but not pretrained on."""
        return ()

    @property
    def uses_order(self) -> bool:
        """Whether a spacepoint's targets are meant to depend on the serializer's order."""
        return False

    @property
    def fitted(self) -> bool:
        """Whether `targets` can be called; true for objectives with nothing to fit."""
        return True

    def fit(self, events: Iterable[Spacepoints], geometry: Geometry) -> Objective:
        """An objective with its constants fitted to data; itself if it has none."""
        return self
