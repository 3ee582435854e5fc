"""Spacepoints in feature space, coloured by track."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm4npp.plotting.colours import PALETTE
from fm4npp.plotting.style import INK, draw, new_figure

Array = NDArray[Any]
MARKERS = "os^Dv"
"""Of the first twelve tracks, the next twelve, and so on."""


def draw_embeddings(spaces: Mapping[str, Mapping[str, Array]], tracks: Array, output: str | Path, title: str) -> Path:
    """Draw an event's spacepoints in feature space: a row for each space, a column for each method.

    Args:
        spaces: heading -> method -> (N, 2).
        tracks: (N,) track of each.
        output: file to write; its suffix .png, .pdf or .svg decides the format.
        title: above.

    Returns:
        The path of the file.

    Raises:
        FM4NPPError: if matplotlib is not installed or the file cannot be written.
        ConfigurationError: if the format is unknown.
    """
    return draw(output, lambda matplotlib: _figure(matplotlib, spaces, tracks, title))


def _figure(matplotlib: Any, spaces: Mapping[str, Mapping[str, Array]], tracks: Array, title: str) -> Any:
    methods = list(next(iter(spaces.values())))
    figure = new_figure(matplotlib, 3.6 * len(methods) + 0.6, 3.4 * len(spaces) + 0.6)
    axes = figure.subplots(len(spaces), len(methods), squeeze=False)
    for row, (heading, places) in zip(axes, spaces.items(), strict=True):
        row[0].set_ylabel(heading, color=INK)
        for ax, method in zip(row, methods, strict=True):
            _scatter(ax, places[method], tracks)
    for ax, method in zip(axes[0], methods, strict=True):
        ax.set_title(method, color=INK)
    figure.suptitle(f"{title}: {len(np.unique(tracks))} tracks, {len(tracks)} spacepoints", size=11, color=INK)
    return figure


def _scatter(axes: Any, places: Array, tracks: Array) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for number, track in enumerate(np.unique(tracks)):
        own = tracks == track
        marker = MARKERS[number // len(PALETTE) % len(MARKERS)]
        axes.scatter(*places[own].T, s=9, color=[PALETTE[number % len(PALETTE)]], marker=marker, linewidths=0)
