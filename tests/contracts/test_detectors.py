from typing import ClassVar

import numpy as np
import pytest

from fm4npp import detectors
from fm4npp.detectors.base import Column, Feature
from fm4npp.detectors.composite import CompositeDetector
from fm4npp.detectors.cylindrical import CylindricalDetector
from fm4npp.detectors.response import Response
from fm4npp.detectors.sphenix_mvtx import SPHENIXMVTX
from fm4npp.geometry import Geometry
from fm4npp.testing.detectors import check_detector, made_columns

REQUIRED_FIELDS = {
    "composite": {"parts": ["sphenix-mvtx", "sphenix-intt"]},
    "cylindrical": {"name": "mine", "radius": (1.0, 10.0)},
    "spherical": {"name": "mine", "distance": (90.0, 250.0), "layers": (100.0, 150.0, 200.0)},
    "cartesian": {"name": "mine", "low": (-10.0, -20.0, 0.0), "high": (10.0, 20.0, 50.0)},
}
"""Fields of detectors that have some without a default."""
COLUMNS = {}
"""One event for each detector that is neither cylindrical nor composite."""


@pytest.mark.parametrize("name", detectors.names())
def test_registered_detectors_keep_the_contract(name):
    check_detector(detectors.get(name), COLUMNS.get(name), **REQUIRED_FIELDS.get(name, {}))


@pytest.mark.parametrize(
    "fields",
    [
        {"length_unit": "mm", "columns_of": {"x": "tx", "track_id": "particle_id", "energy": "eDep"}},
        {"measured": {"energy": Feature(mean=3.0, std=2.0, log=True), "time": Feature(std=100.0)}},
        {"layer_range": (3, 6), "columns_of": {"layer": "layer_id"}},
        {"no_track": 0, "eta": (-4.0, 4.0), "radius": (0.5, 200.0)},
    ],
)
def test_cylindrical_detectors_of_other_fields_keep_it_too(fields):
    check_detector(CylindricalDetector, **{"name": "mine", "radius": (1.0, 10.0), **fields})


def test_an_instance_or_given_columns_will_do():
    check_detector(SPHENIXMVTX())
    columns = made_columns(SPHENIXMVTX(), seed=5)
    check_detector(SPHENIXMVTX, {**columns, "particle_pdg": np.array([211]), "event_trigger": 1})


class Mine(CylindricalDetector):
    registered_name: ClassVar[str] = "mine"
    radius: tuple[float, float] = (1.0, 10.0)
    layers: tuple[float, ...] = (2.0, 4.0)
    measured: dict[str, Feature] = {"energy": Feature(std=5.0)}  # noqa: RUF012


class Sorts(Mine):
    def event(self, columns):
        event = super().event(columns)
        return event.take(np.argsort(event.positions[:, 0]))


class ForgivesMissing(Mine):
    def event(self, columns):
        return super().event({"energy": np.zeros(len(columns["x"])), **columns} if "x" in columns else columns)


class ForgivesLengths(Mine):
    def event(self, columns):
        names = [column.name for column in self.columns if column.name in columns]
        count = min((len(columns[name]) for name in names), default=0)
        return super().event({name: v[:count] if name in names else v for name, v in columns.items()})


class ForgivesNaN(Mine):
    def event(self, columns):
        return super().event({name: np.nan_to_num(values) for name, values in columns.items()})


class FailsWhenEmpty(Mine):
    def event(self, columns):
        columns["x"].max()
        return super().event(columns)


class ChangesColumns(Mine):
    def event(self, columns):
        columns["energy"] *= 2
        return super().event(columns)


class LosesTheId(Mine):
    def event(self, columns):
        return super().event({**columns, "event_id": 0})


class OtherFeatures(Mine):
    @property
    def features(self):
        return {"time": Feature()}


class ColumnTwice(Mine):
    @property
    def columns(self):
        return (*super().columns, Column("x"))


class LayersOutside(Mine):
    layers: tuple[float, ...] = (2.0, 40.0)
    response: Response | None = Response()


class StrangeResponse(Mine):
    @property
    def responses(self):
        return {"other": (self.geometry, Response())}


class NotItself(Mine):
    def spec(self):
        return {**super().spec(), "radius": [2.0, 10.0]}


class NotJSON(Mine):
    def spec(self):
        return {**super().spec(), "radius": {1.0, 10.0}}


class RaisesOtherErrors(Mine):
    def event(self, columns):
        return super().event(columns) if "z" in columns else columns["z"]


class LopsidedGeometry(Geometry):
    def coordinates(self, positions):
        return super().coordinates(positions) * np.float32(0.5)


class Lopsided(Mine):
    @property
    def geometry(self):
        return LopsidedGeometry(**super().geometry.model_dump())


class BadScale(Feature):
    def restored(self, values):
        return np.asarray(values) * self.std + 1


class BadFeature(Mine):
    @property
    def features(self):
        return {"energy": BadScale(std=5.0)}


class Nameless(Mine):
    registered_name: ClassVar[str] = ""


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (Sorts, "order"),
        (ForgivesMissing, "without the required column 'energy'"),
        (ForgivesLengths, "shorter"),
        (ForgivesNaN, "NaN"),
        (FailsWhenEmpty, "0 spacepoints"),
        (ChangesColumns, "copy first"),
        (LosesTheId, "event_id"),
        (OtherFeatures, "feature"),
        (ColumnTwice, "twice"),
        (LayersOutside, "outside its bounds"),
        (StrangeResponse, "no subsystem"),
        (NotItself, "equal detector"),
        (NotJSON, "no JSON"),
        (RaisesOtherErrors, "raise a DataError"),
        (Lopsided, "and back"),
        (BadFeature, "survive scaling"),
        (Nameless, "registered_name"),
    ],
)
def test_a_broken_detector_is_told_what_is_wrong(cls, words):
    check_detector(Mine)
    with pytest.raises(AssertionError, match=words) as error:
        check_detector(cls)
    assert cls.__name__ in str(error.value)


class Twice(CompositeDetector):
    registered_name: ClassVar[str] = "twice"
    parts: tuple[CylindricalDetector, ...] = (SPHENIXMVTX(), SPHENIXMVTX())


def test_overlapping_subsystems_and_fields_that_are_missing():
    with pytest.raises(AssertionError, match="radius"):
        check_detector(CylindricalDetector)
    with pytest.raises(AssertionError, match="names a subsystem twice"):
        check_detector(Twice)
