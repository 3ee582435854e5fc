"""A detector at a glance: where its spacepoints lie, in which order they are read, what they are asked to predict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fm4npp.event import Event
from fm4npp.geometry import Geometry
from fm4npp.plotting.colours import PALETTE
from fm4npp.plotting.display import frame
from fm4npp.plotting.panels import View, views_of
from fm4npp.plotting.style import INK, draw, new_figure

Array = NDArray[Any]

MOST_SHOWN = 20_000
"""Spacepoints of the coverage."""
QUERIES = 4
"""Spacepoints whose targets are drawn."""
PALE = "#c4c4c4"


class Scan(NamedTuple):
    """How one event is read.

    Attributes:
        event: with spacepoints.
        order: (N,) the serializer's.
        targets: (N, m) places among the spacepoints that an objective asks each for, below 0 or N where there is none;
            None for an objective without such.
        told: names of serializer and objective.
    """

    event: Event
    order: Array
    targets: Array | None
    told: tuple[str, str]


def draw_coverage(
    events: Sequence[Event], geometry: Geometry, scan: Scan | None, output: str | Path, title: str
) -> Path:
    """Draw where spacepoints lie, and for one event the order of reading and some spacepoints' targets.

    Args:
        events: of the detector.
        geometry: the detector's, whose layers are drawn.
        scan: of one of them; None to leave it out.
        output: file to write; its suffix .png, .pdf or .svg decides the format.
        title: of the picture.

    Returns:
        The path of the file.

    Raises:
        FM4NPPError: if matplotlib is not installed or the file cannot be written.
        ConfigurationError: if the format is unknown.
    """
    positions = np.concatenate([np.empty((0, 3)), *(event.positions for event in events)])
    shown = positions[np.random.default_rng(0).permutation(len(positions))[:MOST_SHOWN]]
    views = views_of(Event(positions=shown, features=np.empty((len(shown), 0)), feature_names=()), geometry)
    outside = int((~geometry.contains(positions)).sum())
    heading = f"{len(positions):,} spacepoints of {len(events)} events, {outside:,} of them outside the bounds"
    rows = 1 if scan is None else 2 + (scan.targets is not None)

    def figure(matplotlib: Any) -> Any:
        drawn = new_figure(matplotlib, 9.6, 4.4 * rows)
        drawn.get_layout_engine().set(w_pad=0.15)  # else the label at the left is cut
        drawn.suptitle(title, size=13, color=INK)
        panels = drawn.subplots(rows, 2, squeeze=False)
        for axes, view in zip(panels[0], views, strict=True):
            frame(axes, view, empty=not len(shown))
            axes.scatter(*view.points.T, s=1.5, color=[PALETTE[0]], alpha=0.4, linewidths=0, zorder=2)
        panels[0][0].set_title(heading, color=INK, loc="left")
        if scan is not None:
            _scan(matplotlib, panels[1:], scan, views_of(scan.event, geometry))
        return drawn

    return draw(output, figure)


def _scan(matplotlib: Any, panels: Any, scan: Scan, views: tuple[View, View]) -> None:
    count = len(scan.event)
    for axes, view in zip(panels[0], views, strict=True):
        frame(axes, view)
        path = view.points[scan.order]
        axes.plot(*path.T, color=PALE, linewidth=0.5, zorder=2)
        dots = axes.scatter(*path.T, s=9, c=np.arange(count), cmap="viridis", linewidths=0, zorder=3)
    panels[0][0].set_title(f"event {scan.event.event_id} as {scan.told[0]} reads it", color=INK, loc="left")
    panels[0][0].figure.colorbar(dots, ax=panels[0][1], label="place in the sequence")
    if scan.targets is None:
        return
    for axes, view in zip(panels[1], views, strict=True):
        frame(axes, view)
        axes.scatter(*view.points.T, s=5, color=PALE, linewidths=0, zorder=2)
        for number, query in enumerate(_queries(scan.targets, count)):
            own = scan.targets[query]
            own = own[(own >= 0) & (own < count)]
            colour = PALETTE[number]
            lines = np.stack([np.broadcast_to(view.points[query], (len(own), 2)), view.points[own]], axis=1)
            axes.add_collection(matplotlib.collections.LineCollection(lines, colors=[colour], linewidths=0.5))
            axes.scatter(*view.points[own].T, s=10, color=[colour], linewidths=0, zorder=3)
            axes.scatter(*view.points[query], s=90, color=[colour], marker="*", edgecolors="black", zorder=4)
    heading = f"what {scan.told[1]} asks of {QUERIES} spacepoints (stars)"
    panels[1][0].set_title(heading, color=INK, loc="left")


def _queries(targets: Array, count: int) -> Array:
    """Spacepoints with targets, spread over the event."""
    asked = np.flatnonzero(((targets >= 0) & (targets < count)).any(axis=1))
    return asked[np.linspace(0, len(asked) - 1, min(QUERIES, len(asked))).astype(int)] if len(asked) else asked
