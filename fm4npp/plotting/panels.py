"""What an event display shows, as values: spacepoints with colours, in projections. Pure NumPy."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fm4npp.errors import DataError
from fm4npp.event import Event
from fm4npp.geometry import Geometry
from fm4npp.plotting.colours import GREY, colours_of_tracks, double_majority

Array = NDArray[Any]
Interval = tuple[float, float]

_ZOOMED, _LITTLE = 0.6, 0.2
"""Half the side of a cube around an event, in units of its extent, and in units of the detector below which to zoom."""
_MARGIN = 1.04
_DARK = 0.5 * GREY


class Panel(NamedTuple):
    """One column of the display: how every spacepoint is drawn.

    Attributes:
        heading: what is shown, with counts.
        colours: (N, 3) red, green, blue.
        hollow: (N,) bool, drawn as an open circle.
    """

    heading: str
    colours: Array
    hollow: Array


class View(NamedTuple):
    """One projection.

    Attributes:
        labels: of the two axes.
        points: (N, 2) in cm.
        limits: of the two axes, in cm.
        layers: radii of layers, drawn as circles (`rings`) or as lines at plus and minus the radius.
        rings: see `layers`.
    """

    labels: tuple[str, str]
    points: Array
    limits: tuple[Interval, Interval]
    layers: tuple[float, ...]
    rings: bool

    @property
    def aspect(self) -> float:
        """Width over height."""
        (left, right), (bottom, top) = self.limits
        return (right - left) / (top - bottom)


def panels_of(event: Event, predictions: Array | None) -> list[Panel]:
    """Truth and prediction, as far as they are there; without either one panel of plain spacepoints.

    Raises:
        DataError: if the predictions do not fit the event.
    """
    truth = event.labels.get("track_id")
    predicted = None if predictions is None else _checked(event, predictions)
    spacepoints, solid = _counted(len(event), "spacepoint"), np.zeros(len(event), dtype=bool)
    if truth is None and predicted is None:
        return [Panel(f"{spacepoints}, no truth", np.tile(_DARK, (len(event), 1)), solid)]
    if truth is None or predicted is None:
        name, track = ("Truth", truth) if predicted is None else ("Prediction", predicted)
        assert track is not None
        return [Panel(f"{name}: {spacepoints}, {_tracks(track)}", colours_of_tracks(track, event.positions), solid)]
    colours = colours_of_tracks(truth, event.positions)
    return [Panel(f"Truth: {spacepoints}, {_tracks(truth)}", colours, solid), _compared(predicted, truth, colours)]


def _compared(predicted: Array, truth: Array, true_colours: Array) -> Panel:
    """The prediction in the colours of the true tracks."""
    partner = double_majority(predicted, truth)
    colours = np.tile(GREY, (len(truth), 1))
    for mine, true in partner.items():
        colours[predicted == mine] = true_colours[np.flatnonzero(truth == true)[0]]
    alone = (predicted >= 0) & ~np.isin(predicted, list(partner))
    colours[alone] = 0.0
    found = f"{len(partner)} of {_tracks(truth)} found"
    return Panel(f"Prediction: {_tracks(predicted)}, {found}", colours, alone)


def _checked(event: Event, predictions: Array) -> Array:
    predicted = np.asarray(predictions)
    if predicted.shape != (len(event),) or not (np.issubdtype(predicted.dtype, np.integer) or predicted.size == 0):
        raise DataError(
            f"predictions of shape {predicted.shape} and type {predicted.dtype} for {len(event)} spacepoints",
            event=event.event_id,
            remedy="give one whole number for each spacepoint",
        )
    return predicted.astype(np.int64)


def views_of(event: Event, geometry: Geometry | None) -> tuple[View, View]:
    """x-y and r-z with layers around the beam line, or x-y and z-y of a Cartesian detector."""
    x, y, z = event.positions.T.astype(np.float64)
    if geometry is not None and geometry.system == "cartesian":
        in_x, in_y, in_z = _frame(event.positions.astype(np.float64), geometry)
        return (
            View(("x (cm)", "y (cm)"), np.stack([x, y], axis=1), (in_x, in_y), (), False),
            View(("z (cm)", "y (cm)"), np.stack([z, y], axis=1), (in_z, in_y), (), False),
        )
    signed = np.hypot(x, y) * np.where(y < 0, -1.0, 1.0)
    radius = _MARGIN * max(geometry.high[2] if geometry else 0.0, float(np.abs(signed).max(initial=0.0))) or 1.0
    length = max(_MARGIN * float(np.abs(z).max(initial=0.0)), radius)
    layers = geometry.layers if geometry and geometry.system == "cylindrical" else ()
    across = (-radius, radius)
    return (
        View(("x (cm)", "y (cm)"), np.stack([x, y], axis=1), (across, across), layers, True),
        View(("z (cm)", "r sign(y) (cm)"), np.stack([z, signed], axis=1), ((-length, length), across), layers, False),
    )


def _frame(positions: Array, geometry: Geometry) -> list[tuple[float, float]]:
    """What to show of x, y and z: the detector, or a cube around the event where that fills little of the detector."""
    low, high = np.array(geometry.low), np.array(geometry.high)
    if len(positions):
        first, last = positions.min(axis=0), positions.max(axis=0)
        reach, middle = _ZOOMED * (last - first).max(), (first + last) / 2
        if 0 < reach < _LITTLE * (high - low).min():
            return [(centre - reach, centre + reach) for centre in middle.tolist()]
        low, high = np.minimum(low, first), np.maximum(high, last)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def _tracks(track: Array) -> str:
    return _counted(len(np.unique(track[track >= 0])), "track")


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
