from typing import ClassVar

import numpy as np
import pytest
from pydantic import PrivateAttr

from fm4npp import serializers
from fm4npp.serializers.radial import Radial
from fm4npp.testing import check_serializer


@pytest.mark.parametrize("name", serializers.names())
def test_registered_serializers_keep_the_contract(name):
    check_serializer(serializers.get(name))


class InputOrder(Radial):
    def order(self, coordinates, geometry):
        return np.arange(len(coordinates))


class UnstableTies(Radial):
    def order(self, coordinates, geometry):
        return np.argsort(coordinates[:, geometry.causal_axis], kind="stable")


class DropsOutOfBounds(Radial):
    def order(self, coordinates, geometry):
        order = super().order(coordinates, geometry)
        return order[(np.abs(coordinates[order] - 0.5) <= 0.5).all(axis=1)]


class ChangesItsInput(Radial):
    def order(self, coordinates, geometry):
        np.clip(coordinates, 0, 1, out=coordinates)
        return super().order(coordinates, geometry)


class FailsWhenEmpty(Radial):
    def order(self, coordinates, geometry):
        coordinates.max()
        return super().order(coordinates, geometry)


class OrdersUnfitted(Radial):
    scale: float | None = None

    @property
    def fitted(self):
        return self.scale is not None


class Unnamed(Radial):
    registered_name = ""


class Needs(Radial):
    scale: float


class HiddenState(Radial):
    _reverse: bool = PrivateAttr(default=False)

    def fit(self, coordinates, geometry):
        fitted = self.replace()
        fitted._reverse = True
        return fitted

    def order(self, coordinates, geometry):
        order = super().order(coordinates, geometry)
        return order[::-1] if self._reverse else order


class StateOfItsClass(Radial):
    fits: ClassVar[list] = []

    def fit(self, coordinates, geometry):
        self.fits.append(self.replace())
        return self.fits[-1]

    def order(self, coordinates, geometry):
        order = super().order(coordinates, geometry)
        return order[::-1] if any(self is fit for fit in self.fits) else order


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (InputOrder, "depends on the order of the input"),
        (UnstableTies, "depends on the order of the input"),
        (DropsOutOfBounds, "no int64 permutation"),
        (ChangesItsInput, "changes the coordinates"),
        (OrdersUnfitted, "although it is not fitted"),
        (Unnamed, "registered_name"),
        (Needs, "scale: Field required"),
        (HiddenState, "does not survive JSON"),
        (StateOfItsClass, "after saving and loading"),
    ],
)
def test_the_check_finds(cls, message):
    with pytest.raises(AssertionError, match=message):
        check_serializer(cls)


def test_the_check_meets_empty_events():
    with pytest.raises(ValueError, match="zero-size"):
        check_serializer(FailsWhenEmpty)


def test_the_check_passes_fields_on():
    check_serializer(Needs, scale=2.0)
