"""The detector interface: geometry, wanted columns, and columns to event."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fm4npp.detectors.response import Response
from fm4npp.errors import DataError
from fm4npp.event import Event
from fm4npp.geometry import Geometry
from fm4npp.registry import Component

Array = NDArray[Any]
Columns = Mapping[str, Any]
Positive = Annotated[float, Field(gt=0)]
LARGE = 1000.0
"""A value further from the mean than this, in standard deviations, is no measurement."""


class Column(NamedTuple):
    """A column that a detector asks a reader for, by the name it has in the file."""

    name: str
    required: bool = True


class Feature(BaseModel):
    """How one measured quantity enters the model: `(value - mean) / std`, of its logarithm if `log`, within `clip`.

    Attributes:
        mean: subtracted, in the file's unit (in log units if `log`).
        std: divided by.
        log: take log(1 + value) first; for quantities with a long tail. Values must exceed -1.
        clip: largest size of the scaled value; larger ones enter as this. None for no limit.
        unit: for people.
        low: smallest value that can be a measurement; None for no bound.
        high: largest such value.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    mean: float = 0.0
    std: Positive = 1.0
    log: bool = False
    clip: Positive | None = None
    unit: str = ""
    low: float | None = None
    high: float | None = None

    def plausible(self, values: Array) -> Array:
        """(N,) in the file's unit to (N,) bool: within `low` and `high`, and not `LARGE` deviations off the mean."""
        with np.errstate(all="ignore"):
            possible: Array = np.abs(self._standardised(values)) <= LARGE
        if self.low is not None:
            possible &= values >= self.low
        if self.high is not None:
            possible &= values <= self.high
        return possible

    def scaled(self, values: Array) -> Array:
        """(N,) in the file's unit to (N,) float32, of order one."""
        scaled = self._standardised(values)
        return scaled if self.clip is None else np.clip(scaled, -self.clip, self.clip)

    def _standardised(self, values: Array) -> Array:
        values = np.asarray(values, dtype=np.float64)
        scaled: Array = ((np.log1p(values) if self.log else values) - self.mean).astype(np.float32)
        return scaled / np.float32(self.std)

    def restored(self, values: Array) -> Array:
        """The inverse of `scaled`, float64; of what was clipped, the limit."""
        values = np.asarray(values, dtype=np.float64) * self.std + self.mean
        return np.expm1(values) if self.log else values


class Detector(Component, ABC):
    """One detector, or one combination of subsystems that measure the same event.

    Attributes:
        name: what events of this detector are labelled with; the registered name unless a YAML file gives another.
    """

    name: str = ""

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, data: Any) -> Any:
        return data if not isinstance(data, dict) or data.get("name") else {**data, "name": cls.registered_name}

    @property
    @abstractmethod
    def geometry(self) -> Geometry:
        """Coordinate system, bounds and outward axis."""

    @property
    @abstractmethod
    def columns(self) -> tuple[Column, ...]:
        """The columns of a file that `event` wants."""

    @abstractmethod
    def event(self, columns: Columns) -> Event:
        """One event's columns, as a reader gives them, to an event in cm.

        Args:
            columns: file column -> (N,) array; `particle_*` -> (P,) array; `event_*` -> number.

        Returns:
            The event, its spacepoints in the order of the file. Columns of other subsystems are left out.

        Raises:
            DataError: if a required column is absent, lengths differ, or a value is not finite and the event does
                not say in `left_out` that its spacepoint was left out.
        """

    def events(self, columns: Columns, offsets: Array, event_ids: Array, source: str) -> Iterator[Event | DataError]:
        """Many events end to end, as a format without any other columns gives them.

        Args:
            columns: file column -> (sum N,) array.
            offsets: (B + 1,), where each event starts.
            event_ids: (B,) int64.
            source: what all of them came from.

        Yields:
            For each of them what `event` returns or raises.
        """
        for event_id, (start, stop) in zip(event_ids.tolist(), pairwise(offsets.tolist()), strict=True):
            try:
                one = {**{name: values[start:stop] for name, values in columns.items()}, "event_id": event_id}
                yield self.event(one).with_source(source)
            except DataError as error:
                yield error.at(event=event_id)

    def reading(self, reader: str) -> Self:
        """The detector for files of one format, given by its reader's name; itself if that makes no difference."""
        return self

    @property
    def features(self) -> dict[str, Feature]:
        """The measured quantities of a spacepoint and their scales; none by default."""
        return {}

    @property
    def subsystems(self) -> tuple[str, ...]:
        """The names that an event's `detector_ids` index; the detector itself when it is not a combination."""
        return (self.name,)

    @property
    def subsystem_features(self) -> dict[str, tuple[str, ...]]:
        """Subsystem -> names of the features it measures."""
        return dict.fromkeys(self.subsystems, tuple(self.features))

    @property
    def responses(self) -> dict[str, tuple[Geometry, Response]]:
        """Subsystem -> layers and response for the fast simulation; empty if it cannot be simulated."""
        return {}
