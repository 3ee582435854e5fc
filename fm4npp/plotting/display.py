"""One event in two projections, truth beside prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm4npp.event import Event
from fm4npp.geometry import Geometry
from fm4npp.plotting.colours import GREY
from fm4npp.plotting.panels import Panel, View, panels_of, views_of
from fm4npp.plotting.style import INK, draw, new_figure

Array = NDArray[Any]

_PANEL = 4.8  # inches: the height of a panel in one row, its width in two columns


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
    panels, views = panels_of(event, predictions), views_of(event, geometry)

    def figure(matplotlib: Any) -> Any:
        drawn = _figure(matplotlib, event, panels, views)
        drawn.suptitle(title or f"{event.detector or 'event display'}, event {event.event_id}", size=13, color=INK)
        return drawn

    return draw(output, figure)


def _figure(matplotlib: Any, event: Event, panels: list[Panel], views: tuple[View, View]) -> Any:
    """Two projections in a row, or below each other in a column for truth and a column for prediction."""
    aspects = [min(max(view.aspect, 1 / 3), 3.0) for view in views]
    columns = len(panels) == 2
    if columns:  # both projections have the same width
        heights = [1 / aspect for aspect in aspects]
        inches, ratios = (2 * _PANEL + 1.4, sum(heights) * _PANEL + 1.6), {"height_ratios": heights}
    else:
        inches, ratios = (sum(aspects) * _PANEL + 1.4, _PANEL + 1.2), {"width_ratios": aspects}
    figure = new_figure(matplotlib, *inches)
    axes = figure.subplots(len(panels), 2, squeeze=False, **ratios)
    for row, panel in zip(axes.T if columns else axes, panels, strict=True):
        for ax, view in zip(row, views, strict=True):
            frame(ax, view, empty=not len(event))
            _scatter(ax, event, panel, view)
        row[0].set_title(panel.heading, color=INK, loc="left")
    if handles := _legend(matplotlib, event, panels):
        # The source is the legend's title: beside it, one would be drawn over the other.
        legend = figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
        legend.set_title(event.source, prop={"size": 7})
        legend.get_title().set_color("#909090")
    else:
        figure.supxlabel(event.source, fontsize=7, color="#909090")
    return figure


def frame(axes: Any, view: View, empty: bool = False) -> None:
    """Axes and layers of one projection."""
    axes.set_aspect("equal")
    axes.set(xlim=view.limits[0], ylim=view.limits[1])
    axes.set_xlabel(view.labels[0], color=INK)
    axes.set_ylabel(view.labels[1], color=INK)
    style = {"color": "#c8c8c8", "linewidth": 0.35, "zorder": 1}
    angle = np.linspace(-np.pi, np.pi, 361)
    for radius in view.layers:
        if view.rings:
            axes.plot(radius * np.cos(angle), radius * np.sin(angle), **style)
        else:
            axes.axhline(radius, **style)
            axes.axhline(-radius, **style)
    if empty:
        axes.text(0.5, 0.5, "no spacepoints", transform=axes.transAxes, ha="center", va="center", color="#606060")


def _scatter(axes: Any, event: Event, panel: Panel, view: View) -> None:
    """The spacepoints of one panel in one projection; smaller in a busy event."""
    noise = event.labels.get("is_noise", np.zeros(len(event), dtype=bool))
    size = float(np.clip(5000 / max(len(event), 1), 1.5, 22.0))
    dots, rings = ~noise & ~panel.hollow, ~noise & panel.hollow
    for chosen, style in (
        (dots, {"marker": "o", "s": size, "linewidths": 0, "c": panel.colours[dots]}),
        (rings, {"marker": "o", "s": 1.6 * size, "linewidths": 0.6, "facecolors": "none", "edgecolors": "black"}),
        (noise, {"marker": "x", "s": max(1.4 * size, 5.0), "linewidths": 0.6, "c": panel.colours[noise]}),
    ):
        if chosen.any():
            axes.scatter(*view.points[chosen].T, zorder=2, **style)


def _legend(matplotlib: Any, event: Event, panels: list[Panel]) -> list[Any]:
    """A handle for every kind of spacepoint that occurs."""

    def mark(label: str, **style: Any) -> Any:
        look = {"linestyle": "none", "marker": "o", "color": INK, "markersize": 5, **style}
        return matplotlib.lines.Line2D([], [], label=label, **look)

    colours = np.concatenate([panel.colours for panel in panels])
    hollow = np.concatenate([panel.hollow for panel in panels])
    kinds = [
        ((np.ptp(colours, axis=1) > 0).any(), mark("one colour a track", color="#3f90da")),
        ((colours == GREY).all(axis=1).any(), mark("in no track", color=tuple(GREY))),
        (hollow.any(), mark("predicted track without a true partner", markerfacecolor="none")),
        (np.any(event.labels.get("is_noise", False)), mark("noise (truth)", marker="x")),
    ]
    return [handle for occurs, handle in kinds if occurs]
