"""Pictures of studies: scores against labels, losses and probes against size, data and training length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm4npp.plotting.colours import PALETTE
from fm4npp.plotting.style import INK, draw, new_figure

Array = NDArray[Any]
Values = Mapping[str, Any]

FADED = "#b4b4b4"
MARKERS = "osD^vP"
BEYOND = 10.0
"""How far a fit is continued, dashed; `power_law.FAR`."""
COLUMNS = 3
"""Of probes."""


def draw_data_efficiency(found: Values, output: str | Path) -> Path:
    """Score against labels: a line a variant through the means, a bar of one standard deviation, a dot a seed.

    Args:
        found: what `study.json` of the study holds.
        output: file to write; its suffix .png, .pdf or .svg decides the format.

    Returns:
        The path of the file.

    Raises:
        FM4NPPError: if matplotlib is not installed or the file cannot be written.
        ConfigurationError: if the format is unknown.
    """
    score, labels = found["score"], found["axes"]["labels"]

    def figure(matplotlib: Any) -> Any:
        drawn = new_figure(matplotlib, 6.4, 3.9)
        axes = drawn.subplots()
        variants = found["axes"]["variant"]
        for index, variant in enumerate(variants):
            _variant(axes, found, variant, index, 1.025 ** (index - (len(variants) - 1) / 2))
        _logarithmic(matplotlib, axes, labels)
        axes.set_xlabel("labelled events", color=INK)
        lower = "" if score["sign"] > 0 else " (lower is better)"
        axes.set_ylabel(f"{score['metric']}{lower}", color=INK)
        missing = f", {len(found['missing'])} cells missing" if found["missing"] else ""
        axes.set_title(f"{score['entry']}, {len(found['axes']['seed'])} seeds{missing}", color=INK, loc="left")
        drawn.legend(loc="outside right upper", frameon=False)
        return drawn

    return draw(output, figure)


def _variant(axes: Any, found: Values, variant: str, index: int, shift: float) -> None:
    """One line; shifted a little sideways, so that bars do not hide each other."""
    score = found["score"]
    colour = PALETTE[index % len(PALETTE)]
    means = [
        (row["labels"], value["mean"], value["sd"] or 0.0)
        for row in found["summary"]
        if row["variant"] == variant and (value := row["metrics"][score["entry"]][score["metric"]])["mean"] is not None
    ]
    if not means:
        return
    x, mean, sd = np.array(means, dtype=float).T
    look = {"color": colour, "marker": MARKERS[index % len(MARKERS)], "markersize": 4.5, "linewidth": 1.5}
    axes.errorbar(x * shift, mean, yerr=sd, label=variant, capsize=2.5, elinewidth=1, zorder=3, **look)
    dots = [
        (row["labels"] * shift, row["metrics"][score["entry"]][score["metric"]]["value"])
        for row in found["cells"]
        if row["variant"] == variant and row["metrics"][score["entry"]][score["metric"]]["value"] is not None
    ]
    axes.scatter(*np.array(dots).T, s=7, color=[colour], alpha=0.5, linewidths=0, zorder=2)


def _logarithmic(matplotlib: Any, axes: Any, values: Sequence[int]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(values, [f"{value:,}" for value in values])
    axes.xaxis.set_minor_locator(matplotlib.ticker.NullLocator())
    axes.set_xlim(min(values) / 1.25, max(values) * 1.25)
    _grid(axes)


def _grid(axes: Any) -> None:
    axes.grid(color="#e8e8e8", linewidth=0.6)
    axes.set_axisbelow(True)


def draw_scaling(found: Values, output: str | Path) -> Path:
    """Validation loss against each axis, logarithmic, with the fit: dashed where no run is.

    Dark circles are the runs of the fit, pale ones all others; the dotted line is the floor.

    Args:
        found: what `study.json` of the study holds, with at least one fit.
        output: file to write; its suffix .png, .pdf or .svg decides the format.

    Returns:
        The path of the file.

    Raises:
        FM4NPPError: if matplotlib is not installed or the file cannot be written.
        ConfigurationError: if the format is unknown.
    """
    fits = found["fits"]
    columns = 2 if len(fits) in (2, 4) else min(len(fits), COLUMNS)

    def figure(matplotlib: Any) -> Any:
        rows = -(-len(fits) // columns)
        drawn = new_figure(matplotlib, 4.2 * columns, 3.5 * rows)
        panels = drawn.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        for axes, fit in zip(panels, fits, strict=False):
            _fit(matplotlib, axes, found, fit)
        for axes in panels[len(fits) :]:
            axes.set_visible(False)
        for axes in panels[::columns]:
            axes.set_ylabel("validation loss", color=INK)
        return drawn

    return draw(output, figure)


def _fit(matplotlib: Any, axes: Any, found: Values, fit: Values) -> None:
    rest = [row for row in found["cells"] if row["name"] not in fit["cells"] and row["validation_loss"] is not None]
    losses = [row["validation_loss"] for row in rest]
    positive = min([*fit["losses"], *losses]) > 0
    axes.plot([row[fit["quantity"]] for row in rest], losses, "o", color=FADED, markersize=3, alpha=0.7)
    axes.plot(fit["x"], fit["losses"], "o", color=PALETTE[0], markersize=4.5, markerfacecolor="white", zorder=3)
    if fit["b"] is not None:
        low, high = fit["range"]
        for (first, last), style in (((low, high), "-"), ((high, BEYOND * high), "--")):
            x = np.geomspace(first, last, 60)
            axes.plot(x, fit["floor"] + fit["a"] * x ** -fit["b"], style, color=PALETTE[1], linewidth=1.3)
        if fit["floor"] > 0:
            axes.axhline(fit["floor"], color=FADED, linewidth=1, linestyle=":", zorder=0)
    axes.set_xscale("log")
    if positive:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    axes.set_xlabel(fit["label"], color=INK)
    axes.set_title(_equation(fit), color=INK, loc="left", fontsize=8.5)
    _grid(axes)


def _equation(fit: Values) -> str:
    """Exponent with its interval, what it stands on, and whether there is more to say."""
    if fit["b"] is None:
        return "no power law: the loss does not fall"
    interval = fit["intervals"]["b"]
    between = "" if interval is None else f" [{interval[0]:.2g}, {interval[1]:.2g}]"
    floor = f"floor {fit['floor']:.3g}" if fit["form"].startswith("floor") else "no floor fitted"
    caution = "; see cautions" if fit["warnings"] else ""
    return f"b = {fit['b']:.2g}{between}, {floor}\n{fit['num_points']} points, {fit['num_cells']} runs{caution}"


def draw_probes(found: Values, output: str | Path) -> Path:
    """What probes read from the frozen features, against the spacepoints trained on; a colour a size or data set.

    Args:
        found: what `study.json` of a scaling study with probes holds.
        output: file to write; its suffix .png, .pdf or .svg decides the format.

    Returns:
        The path of the file.

    Raises:
        FM4NPPError: if matplotlib is not installed or the file cannot be written.
        ConfigurationError: if the format is unknown.
    """
    names = list(dict.fromkeys(_probe(one) for row in found["cells"] for one in row["probes"]))
    axes_of = [axis for axis in found["axes"] if axis not in ("steps", "seed")]
    groups = list(dict.fromkeys(_group(row, axes_of) for row in found["cells"]))

    def figure(matplotlib: Any) -> Any:
        rows = -(-len(names) // COLUMNS)
        drawn = new_figure(matplotlib, 3.6 * min(len(names), COLUMNS) + 1.6, 3.0 * rows)
        panels = drawn.subplots(rows, min(len(names), COLUMNS), squeeze=False).ravel()
        for axes, name in zip(panels, names, strict=False):
            for index, group in enumerate(groups):
                _probed(axes, [row for row in found["cells"] if _group(row, axes_of) == group], name, group, index)
            axes.set_xscale("log")
            axes.set_xlabel("spacepoints trained on", color=INK)
            axes.set_title("\n".join(name), color=INK, loc="left", fontsize=8.5)
            _grid(axes)
        for axes in panels[len(names) :]:
            axes.set_visible(False)
        drawn.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
        return drawn

    return draw(output, figure)


def _probe(one: Values) -> tuple[str, str]:
    return f"{one['task']}, {one['probe']}", one["measure"]


def _group(row: Values, axes: Sequence[str]) -> str:
    return ", ".join(f"{axis} {row['cell'][axis]:,}" for axis in axes) or "all runs"


def _probed(axes: Any, rows: Sequence[Values], name: tuple[str, str], label: str, index: int) -> None:
    """The runs of one group: a dot each, and a line through the means over seeds."""
    dots: dict[int, list[tuple[float, float]]] = {}
    for row in rows:
        for one in row["probes"]:
            if _probe(one) == name:
                dots.setdefault(row["steps"], []).append((row["tokens"], one["value"]))
    colour = PALETTE[index % len(PALETTE)]
    look = {"color": colour, "marker": MARKERS[index % len(MARKERS)], "markersize": 4, "linewidth": 1.2}
    means = [np.mean(dots[steps], axis=0) for steps in sorted(dots)]
    axes.plot(*(np.array(means).T if means else ([], [])), label=label, **look)
    everything = [dot for own in dots.values() for dot in own]
    axes.scatter(*(np.array(everything).T if everything else ([], [])), s=7, color=[colour], alpha=0.5, linewidths=0)
