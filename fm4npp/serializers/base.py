"""The serializer interface: an event's coordinates to a permutation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

from numpy.typing import NDArray

from fm4npp.geometry import Geometry
from fm4npp.registry import Component

Array = NDArray[Any]


class Serializer(Component, ABC):
    """Orders the spacepoints of an event. Nothing mutates: fitting gives a new serializer."""

    @abstractmethod
    def order(self, coordinates: Array, geometry: Geometry) -> Array:
        """The sequence in which the backbone reads an event.

        Args:
            coordinates: (N, 3) float32, normalised by `geometry`.
            geometry: the detector's.

        Returns:
            (N,) int64 permutation: index of the first, second, ... spacepoint. The coordinates in this order do
            not depend on the order of the input.

        Raises:
            NotFittedError: if the serializer needs `fit` and has not been fitted.
        """

    @property
    def fitted(self) -> bool:
        """Whether `order` can be called; true for serializers with nothing to fit."""
        return True

    def fit(self, coordinates: Iterable[Array], geometry: Geometry) -> Serializer:
        """A serializer with its constants fitted to data; itself if it has none.

        Args:
            coordinates: (N, 3) of each event, normalised by `geometry`.
            geometry: the detector's.
        """
        return self
