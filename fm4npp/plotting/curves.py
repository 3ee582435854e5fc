"""Losses and learning rates of runs as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fm4npp.errors import DataError
from fm4npp.plotting.colours import PALETTE
from fm4npp.plotting.style import INK, draw, new_figure

Array = NDArray[Any]
Points = Sequence[tuple[int, float]]

LINES = ("-", "--", ":")
"""Of the first twelve runs, one for each colour, of the next twelve, and so on."""
WINDOWS = 20
"""The running mean of a training loss is over one in so many of its records."""
SHOWN = 2000
"""Points of a raw loss that are drawn, at most; of more, the means of neighbours."""
LOGARITHMIC = 4.0
"""Ratio of the largest to the smallest loss from which the axis is logarithmic."""


class Curve(NamedTuple):
    """What is drawn of a run.

    Attributes:
        name: in the legend.
        loss: what the losses measure; each has a column of its own.
        training: steps and losses.
        validation: steps and losses.
        learning_rate: steps and rates.
    """

    name: str
    loss: str
    training: Points = ()
    validation: Points = ()
    learning_rate: Points = ()


def draw_curves(curves: Sequence[Curve], output: str | Path) -> Path:
    """Draw losses against steps, one colour a run, and the learning rates below.

    A thin pale line is the training loss as logged, a thick one its running mean, a line with circles the validation
    loss. Losses of different kinds have columns of their own.

    Args:
        curves: of the runs; those without a loss are left out.
        output: file to write; its suffix .png, .pdf or .svg decides the format. The same curves give the same bytes.

    Returns:
        The path of the file.

    Raises:
        FM4NPPError: if matplotlib is not installed or the file cannot be written.
        ConfigurationError: if the format is unknown.
        DataError: if no run has a loss.
    """
    drawn = [curve for curve in curves if curve.training or curve.validation]
    if not drawn:
        raise DataError("no run has logged a loss yet, so there is nothing to draw", file=output)
    return draw(output, lambda matplotlib: _figure(matplotlib, drawn))


def running_mean(values: Array, window: int) -> Array:
    """Mean over a window around each value; it grows at the start, where a loss falls, and is cut off at the end.

    Args:
        values: (N,).
        window: values on either side; with the value itself 2 * window + 1 in all.

    Returns:
        (N,).
    """
    index = np.arange(len(values))
    before = np.minimum(index, window)
    after = np.minimum(before, index[::-1])
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    means: Array = (sums[index + after + 1] - sums[index - before]) / (before + after + 1)
    return means


def thinned(points: Points, limit: int = SHOWN) -> Array:
    """Steps and values as (N, 2) float64, N at most `limit`: means of as many neighbours as that takes."""
    values = np.array(points, dtype=np.float64).reshape(-1, 2)
    size = -(-len(values) // limit) if len(values) else 1
    whole = len(values) // size * size
    return values[:whole].reshape(-1, size, 2).mean(axis=1) if size > 1 else values


def is_logarithmic(curves: Sequence[Curve]) -> bool:
    """Whether a logarithmic axis shows the losses better."""
    values = np.array([value for curve in curves for points in curve[2:4] for _, value in points])
    return bool(len(values) and values.min() > 0 and values.max() > LOGARITHMIC * values.min())


def _figure(matplotlib: Any, curves: Sequence[Curve]) -> Any:
    kinds = list(dict.fromkeys(curve.loss for curve in curves))
    figure = new_figure(matplotlib, 5.6 * len(kinds) + 2.2, 6.2)
    axes = figure.subplots(2, len(kinds), squeeze=False, sharex="col", height_ratios=(3.2, 1))
    styles = [
        {"color": PALETTE[index % len(PALETTE)], "linestyle": LINES[index // len(PALETTE) % len(LINES)]}
        for index in range(len(curves))
    ]
    for kind, (losses, rates) in zip(kinds, axes.T, strict=True):
        own = [(curve, style) for curve, style in zip(curves, styles, strict=True) if curve.loss == kind]
        for curve, style in own:
            _draw(losses, rates, curve, style)
        _frame(matplotlib, losses, rates, kind, is_logarithmic([curve for curve, _ in own]))
    _legend(matplotlib, figure, curves, styles)
    return figure


def _draw(losses: Any, rates: Any, curve: Curve, style: dict[str, Any]) -> None:
    if curve.training:
        raw = thinned(curve.training)
        alone = "o" if len(raw) == 1 else ""
        losses.plot(*raw.T, color=style["color"], linewidth=0.6, alpha=0.35, marker=alone, zorder=1)
        losses.plot(raw[:, 0], running_mean(raw[:, 1], len(raw) // (2 * WINDOWS)), **style, linewidth=1.8, zorder=2)
    if curve.validation:
        place = np.array(curve.validation, dtype=np.float64).T
        look = {"marker": "o", "markersize": 4, "markerfacecolor": "white", "linewidth": 0.9}
        losses.plot(*place, **style, **look, markevery=max(1, place.shape[1] // 25), zorder=3)
    if curve.learning_rate:
        rates.plot(*thinned(curve.learning_rate).T, **style, linewidth=1.2)


def _frame(matplotlib: Any, losses: Any, rates: Any, kind: str, logarithmic: bool) -> None:
    losses.set_title(kind, color=INK, loc="left")
    losses.set_ylabel("loss", color=INK)
    rates.set_ylabel("learning rate", color=INK)
    rates.set_xlabel("step", color=INK)
    rates.set_ylim(bottom=0)
    rates.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    if logarithmic:
        losses.set_yscale("log")
        losses.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        losses.yaxis.set_major_formatter("{x:g}")
        losses.yaxis.set_minor_formatter("")
    for ax in (losses, rates):
        ax.grid(color="#e4e4e4", linewidth=0.5, zorder=0)
        ax.set_axisbelow(True)


def _legend(matplotlib: Any, figure: Any, curves: Sequence[Curve], styles: Sequence[dict[str, Any]]) -> None:
    def line(label: str, **style: Any) -> Any:
        return matplotlib.lines.Line2D([], [], label=label, **style)

    runs = [line(curve.name, **style, linewidth=1.8) for curve, style in zip(curves, styles, strict=True)]
    grey = {"color": "#606060"}
    kinds = [
        line("training, as logged", **grey, linewidth=0.6, alpha=0.5),
        line("training, running mean", **grey, linewidth=1.8),
        line("validation", **grey, linewidth=0.9, marker="o", markersize=4, markerfacecolor="white"),
    ]
    figure.legend(handles=[*runs, *kinds], loc="outside right upper", frameon=False, ncols=1 + len(runs) // 30)
