"""The pictures of an evaluation's report, as bytes that a page can hold."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm4npp.event import Event
from fm4npp.geometry import Geometry
from fm4npp.plotting.colours import PALETTE
from fm4npp.plotting.display import draw_event
from fm4npp.plotting.style import INK, draw, new_figure

Array = NDArray[Any]
Values = Mapping[str, Any]

AXES = {"pt": "true pT (GeV/c)", "eta": "true pseudorapidity", "multiplicity": "true tracks of the event"}
LOGARITHMIC = ("pt", "multiplicity")
NAMED_CLASSES = 12
"""Confusions of more classes are drawn without their numbers."""
FADED = "#c8c8c8"


def event_picture(event: Event, predicted: Array, title: str, geometry: Geometry | None = None) -> bytes:
    """PNG of an event, truth beside prediction; see `draw_event`."""
    return _bytes(".png", lambda path: draw_event(event, predicted, output=path, title=title, geometry=geometry))


def efficiency_picture(quantity: str, bins: Sequence[Values]) -> bytes:
    """SVG of efficiency in bins of a quantity.

    Args:
        quantity: "pt", "eta" or "multiplicity".
        bins: fields of `EfficiencyBin`; open ones, below the first and above the last edge, have no place and are
            left out.
    """
    closed = [row for row in bins if row["low"] is not None and row["high"] is not None and row["true"]]

    def figure(matplotlib: Any) -> Any:
        drawn = new_figure(matplotlib, 4.2, 2.9)
        axes = drawn.subplots()
        _rates(axes, closed)
        _limits(axes)
        if quantity in LOGARITHMIC and closed:
            axes.set_xscale("log")
            edges = sorted({row[name] for row in closed for name in ("low", "high")})
            axes.set_xticks(edges, [f"{edge:g}" for edge in edges])
            axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
        axes.set_xlabel(AXES.get(quantity, quantity), color=INK)
        axes.set_ylabel("efficiency", color=INK)
        return drawn

    return _svg(figure)


def _rates(axes: Any, bins: Sequence[Values]) -> None:
    """Points at the middle of bins, bars as wide as these and as high as the intervals."""
    low, high, rate = (np.array([row[name] for row in bins], dtype=float) for name in ("low", "high", "efficiency"))
    bounds = np.array([row["interval"] for row in bins], dtype=float).reshape(-1, 2)
    middle = np.sqrt(low * high) if len(bins) and low.min() > 0 and high[-1] > 4 * low[0] else (low + high) / 2
    # An exact interval holds its rate but for rounding.
    errors = np.maximum([rate - bounds[:, 0], bounds[:, 1] - rate], 0.0)
    style = {"fmt": "o", "ms": 4, "lw": 1, "color": PALETTE[0]}
    axes.errorbar(middle, rate, xerr=[middle - low, high - middle], yerr=errors, **style)


def confusion_picture(confusion: Sequence[Sequence[int]], names: Sequence[str]) -> bytes:
    """SVG of a confusion matrix, each row as shares of its true class; the numbers are of spacepoints.

    Args:
        confusion: C rows of C numbers, a row a true class.
        names: of the C classes.
    """
    counts = np.array(confusion, dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)

    def figure(matplotlib: Any) -> Any:
        side = 1.6 + 0.55 * min(len(counts), 12)
        drawn = new_figure(matplotlib, max(side, 2.6) + 0.4, max(side, 2.6))
        axes = drawn.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        ticks = range(len(counts))
        axes.set_xticks(ticks, names, rotation=40, ha="right", parse_math=False)
        axes.set_yticks(ticks, names, parse_math=False)
        for row, column in np.ndindex(counts.shape) if len(counts) <= NAMED_CLASSES else ():
            shade = "white" if shares[row, column] > 0.6 else INK
            text = f"{shares[row, column]:.2f}\n{counts[row, column]:,.0f}"
            axes.text(column, row, text, ha="center", va="center", size=6.5, color=shade)
        axes.set_xlabel("predicted", color=INK)
        axes.set_ylabel("true", color=INK)
        return drawn

    return _svg(figure)


def reliability_picture(bins: Sequence[Values]) -> bytes:
    """SVG of accuracy against the probability of the most probable class; fields of `ReliabilityBin`."""
    filled = [row for row in bins if row["num_hits"]]

    def figure(matplotlib: Any) -> Any:
        drawn = new_figure(matplotlib, 3.4, 3.2)
        axes = drawn.subplots()
        axes.plot([0, 1], [0, 1], color=FADED, lw=1)
        mean, rate = (np.array([row[name] for row in filled], dtype=float) for name in ("mean_probability", "accuracy"))
        bounds = np.array([row["interval"] for row in filled], dtype=float).reshape(-1, 2)
        errors = np.maximum([rate - bounds[:, 0], bounds[:, 1] - rate], 0.0)
        axes.errorbar(mean, rate, yerr=errors, fmt="o", ms=4, lw=1, color=PALETTE[0])
        axes.set(xlim=(0, 1.02))
        _limits(axes)
        axes.set_xlabel("mean probability of the likeliest class", color=INK)
        axes.set_ylabel("accuracy", color=INK)
        return drawn

    return _svg(figure)


def roc_picture(curves: Sequence[Sequence[Sequence[float]]], names: Sequence[str], areas: Sequence[Any]) -> bytes:
    """SVG of ROC curves, a class against the rest.

    Args:
        curves: points, false and true positive rate, of every class; none where it is not defined.
        names: of the classes.
        areas: below the curves, None where not defined.
    """

    def figure(matplotlib: Any) -> Any:
        drawn = new_figure(matplotlib, 3.4, 3.2)
        axes = drawn.subplots()
        axes.plot([0, 1], [0, 1], color=FADED, lw=1)
        for index, (curve, name, area) in enumerate(zip(curves, names, areas, strict=True)):
            if len(curve):
                colour = PALETTE[index % len(PALETTE)]
                axes.plot(*np.array(curve).T, color=colour, lw=1.3, label=f"{_plain(name)} ({area:.3f})")
        axes.set(xlim=(-0.02, 1.02))
        _limits(axes)
        axes.set_xlabel("false positive rate", color=INK)
        axes.set_ylabel("true positive rate", color=INK)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize=7, title="class (area)", title_fontsize=7, loc="lower right")
        return drawn

    return _svg(figure)


def histogram_picture(values: Sequence[float], label: str) -> bytes:
    """SVG of how many events have which value, from the smallest, or 0, to 1.

    Args:
        values: at most 1.
        label: of the axis.
    """

    def figure(matplotlib: Any) -> Any:
        drawn = new_figure(matplotlib, 4.2, 2.9)
        axes = drawn.subplots()
        edges = np.linspace(min([0.0, *values]), 1.0, 26)
        axes.hist(values, bins=edges, color=[*PALETTE[0]], edgecolor="white", linewidth=0.4)
        axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True))
        axes.set_xlabel(label, color=INK)
        axes.set_ylabel("events", color=INK)
        return drawn

    return _svg(figure)


def _limits(axes: Any) -> None:
    axes.set(ylim=(-0.02, 1.04))
    axes.grid(color="#ececec", linewidth=0.6)
    axes.set_axisbelow(True)


def _plain(text: str) -> str:
    """Text in which matplotlib finds no formula."""
    return text.replace("$", r"\$")


def _svg(figure: Callable[[Any], Any]) -> bytes:
    return _bytes(".svg", lambda path: draw(path, figure))


def _bytes(suffix: str, drawing: Callable[[Path], Any]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"picture{suffix}"
        drawing(path)
        return path.read_bytes()
