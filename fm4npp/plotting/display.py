"""One event in two projections, truth beside prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fm4npp.errors import ConfigurationError, DataError, FM4NPPError
from fm4npp.event import Event
from fm4npp.files import atomic_path
from fm4npp.geometry import Geometry
from fm4npp.plotting.colours import GREY, colours_of_tracks, double_majority

Array = NDArray[Any]

# Without these the file would hold the time at which it was written.
_METADATA: dict[str, dict[str, Any]] = {".png": {}, ".pdf": {"CreationDate": None}, ".svg": {"Date": None}}
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.edgecolor": "#606060",
    "axes.linewidth": 0.7,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "svg.hashsalt": "fm4npp",
}
_INK = "#202020"
_PANEL_HEIGHT = 4.6  # inches


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
        limits: half of the width and half of the height of the view, in cm.
        rings: layers are circles (x-y) rather than lines.
    """

    labels: tuple[str, str]
    points: Array
    limits: tuple[float, float]
    rings: bool


def draw_event(
    event: Event,
    predictions: Array | None = None,
    *,
    output: str | Path,
    title: str | None = None,
    geometry: Geometry | None = None,
) -> Path:
    """Draw an event: x-y and r-z, truth beside prediction.

    Tracks are told apart by colour; spacepoints of no track are grey, noise is drawn as crosses. A predicted track has
    the colour of the true track with which it shares more than half of the spacepoints of both (double majority);
    without such a partner its spacepoints are open circles. r carries the sign of y, so that tracks stay apart.

    Args:
        event: with the label `track_id` if truth is to be drawn.
        predictions: (N,) int predicted tracks, below 0 where unassigned.
        output: file to write; its suffix .png, .pdf or .svg decides the format. The same event gives the same bytes.
        title: instead of the detector's name and the event's number.
        geometry: the detector's, to draw its layers; a Cartesian one gives z-y in the place of r-z.

    Returns:
        The path of the file.

    Raises:
        FM4NPPError: if matplotlib is not installed or the file cannot be written.
        ConfigurationError: if the format is unknown.
        DataError: if the predictions do not fit the event.
    """
    output = Path(output)
    if output.suffix.lower() not in _METADATA:
        raise ConfigurationError(f"{output}: no picture format {output.suffix!r}; choose {', '.join(_METADATA)}")
    matplotlib = _matplotlib()
    panels, views = _panels(event, predictions), _views(event, geometry)
    with matplotlib.rc_context(), atomic_path(output) as temporary:
        matplotlib.rcdefaults()  # whatever the user has set, a display looks the same
        matplotlib.rcParams.update(_STYLE)
        figure = _figure(event, panels, views, geometry, title)
        figure.savefig(temporary, metadata=_METADATA[output.suffix.lower()], format=output.suffix[1:].lower())
    return output


def _matplotlib() -> Any:
    try:
        import matplotlib
        import matplotlib.backends.backend_agg
        import matplotlib.figure
    except ImportError as error:
        raise FM4NPPError(
            f"event displays need matplotlib, which cannot be imported ({error}); pip install fm4npp[plot]"
        ) from error
    return matplotlib


def _panels(event: Event, predictions: Array | None) -> list[Panel]:
    count, truth = len(event), event.labels.get("track_id")
    spacepoints = _counted(count, "spacepoint")
    solid = np.zeros(count, dtype=bool)
    panels = []
    colours = np.tile(GREY * 0.5, (count, 1))
    if truth is not None:
        colours = colours_of_tracks(truth, event.positions)
        panels.append(Panel(f"Truth: {spacepoints}, {_counted(_distinct(truth), 'track')}", colours, solid))
    if predictions is None:
        return panels or [Panel(f"{spacepoints}, no truth", colours, solid)]
    predicted = _checked(event, predictions)
    if truth is None:
        heading = f"Prediction: {spacepoints}, {_counted(_distinct(predicted), 'track')}"
        return [Panel(heading, colours_of_tracks(predicted, event.positions), solid)]
    return [*panels, _compared(predicted, truth, colours)]


def _compared(predicted: Array, truth: Array, true_colours: Array) -> Panel:
    """The prediction in the colours of the true tracks."""
    partner = double_majority(predicted, truth)
    colour = {track: true_colours[np.flatnonzero(truth == track)[0]] for track in partner.values()}
    colours = np.tile(GREY, (len(truth), 1))
    for mine, true in partner.items():
        colours[predicted == mine] = colour[true]
    alone = (predicted >= 0) & ~np.isin(predicted, list(partner))
    colours[alone] = 0.0
    found = f"{len(partner)} of {_distinct(truth)} matched"
    return Panel(f"Prediction: {_counted(_distinct(predicted), 'track')}, {found}", colours, alone)


def _checked(event: Event, predictions: Array) -> Array:
    predicted = np.asarray(predictions)
    if predicted.shape != (len(event),) or not (np.issubdtype(predicted.dtype, np.integer) or predicted.size == 0):
        raise DataError(
            f"predictions of shape {predicted.shape} and type {predicted.dtype} for {len(event)} spacepoints",
            event=event.event_id,
            remedy="give one whole number for each spacepoint",
        )
    return predicted.astype(np.int64)


def _views(event: Event, geometry: Geometry | None) -> tuple[View, View]:
    """x-y, and r-z (or y-z); limits are the same for truth and prediction and symmetric around the beam line."""
    x, y, z = event.positions.T.astype(np.float64)
    cartesian = geometry is not None and geometry.system == "cartesian"
    across = y if cartesian else np.hypot(x, y) * np.where(y < 0, -1.0, 1.0)
    known = 0.0 if geometry is None or cartesian else geometry.high[2]
    radius = 1.04 * max(known, *(float(np.abs(a).max(initial=0.0)) for a in (x, y, across))) or 1.0
    length = 1.04 * float(np.abs(z).max(initial=0.0)) or radius
    name = "y (cm)" if cartesian else "r sign(y) (cm)"
    return (
        View(("x (cm)", "y (cm)"), np.stack([x, y], axis=1), (radius, radius), not cartesian),
        View(("z (cm)", name), np.stack([z, across], axis=1), (max(length, radius), radius), False),
    )


def _figure(
    event: Event, panels: list[Panel], views: tuple[View, View], geometry: Geometry | None, title: str | None
) -> Any:
    matplotlib = _matplotlib()
    wide = min(views[1].limits[0] / views[1].limits[1], 3.0)
    beside = len(panels) == 2
    columns, rows = (2, 2) if beside else (2, 1)
    widths = [wide, wide] if beside else [1.0, wide]
    size = (_PANEL_HEIGHT * sum(widths) + 1.6, _PANEL_HEIGHT * rows + 1.5)
    figure = matplotlib.figure.Figure(figsize=size, dpi=150, layout="constrained")
    matplotlib.backends.backend_agg.FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, width_ratios=widths)
    for i, panel in enumerate(panels):
        for j, view in enumerate(views):
            _draw(axes[j, i] if beside else axes[i, j], event, panel, view, geometry)
        axes[0, i].set_title(panel.heading, color=_INK)
    figure.suptitle(title or f"{event.detector or 'event display'}, event {event.event_id}", fontsize=13, color=_INK)
    figure.supxlabel(event.source, fontsize=7, color="#909090", x=0.995, ha="right")
    if handles := _legend(event, panels):
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return figure


def _draw(axes: Any, event: Event, panel: Panel, view: View, geometry: Geometry | None) -> None:
    """One panel in one projection."""
    axes.set_aspect("equal")
    axes.set_xlim(-view.limits[0], view.limits[0])
    axes.set_ylim(-view.limits[1], view.limits[1])
    axes.set_xlabel(view.labels[0], color=_INK)
    axes.set_ylabel(view.labels[1], color=_INK)
    if geometry is not None and geometry.system == "cylindrical":
        _draw_layers(axes, view, geometry.layers)
    if not len(event):
        axes.text(0.5, 0.5, "no spacepoints", transform=axes.transAxes, ha="center", va="center", color="#606060")
    noise = event.labels.get("is_noise", np.zeros(len(event), dtype=bool))
    size = float(np.clip(5000 / max(len(event), 1), 1.5, 22.0))
    for chosen, style in (
        (~noise & ~panel.hollow, {"marker": "o", "s": size, "linewidths": 0}),
        (~noise & panel.hollow, {"marker": "o", "s": 1.6 * size, "linewidths": 0.6, "facecolors": "none"}),
        (noise, {"marker": "x", "s": 1.4 * size, "linewidths": 0.6}),
    ):
        if chosen.any():
            colour = "edgecolors" if "facecolors" in style else "c"
            axes.scatter(*view.points[chosen].T, **style, **{colour: panel.colours[chosen]}, zorder=2)


def _draw_layers(axes: Any, view: View, layers: tuple[float, ...]) -> None:
    style = {"color": "#c8c8c8", "linewidth": 0.35, "zorder": 1}
    if not view.rings:
        for radius in layers:
            axes.axhline(radius, **style)
            axes.axhline(-radius, **style)
        return
    angle = np.linspace(-np.pi, np.pi, 361)
    for radius in layers:
        axes.plot(radius * np.cos(angle), radius * np.sin(angle), **style)


def _legend(event: Event, panels: list[Panel]) -> list[Any]:
    """A handle for every kind of spacepoint that occurs."""
    _matplotlib()
    from matplotlib.lines import Line2D

    def mark(label: str, **style: Any) -> Any:
        return Line2D([], [], linestyle="none", **{"marker": "o", "color": _INK, "markersize": 5, **style}, label=label)

    colours = np.concatenate([panel.colours for panel in panels])
    alone = np.concatenate([panel.hollow for panel in panels])
    kinds = [
        ("track_id" in event.labels and len(event), mark("one colour a track", color="#3f90da")),
        ((colours == GREY).all(axis=1).any(), mark("in no track", color=tuple(GREY))),
        (alone.any(), mark("predicted track without a true partner", markerfacecolor="none")),
        (np.any(event.labels.get("is_noise", False)), mark("noise (truth)", marker="x")),
    ]
    return [handle for occurs, handle in kinds if occurs]


def _distinct(track: Array) -> int:
    """How many tracks; ids below 0 are none."""
    return len(np.unique(track[track >= 0]))


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
