"""Coordinate check as a picture: how activations and their changes grow with the width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fm4npp.plotting.colours import PALETTE
from fm4npp.plotting.style import INK, draw, new_figure

Record = Mapping[str, Any]
TITLES = {"standard": "standard parameterization", "mup": "maximal update (μP)"}
QUANTITIES = {"size": "size of the activations", "change": "change since initialisation"}


def draw_coordinates(records: Sequence[Record], output: str | Path, *, factor: float = 2.0, note: str = "") -> Path:
    """Draw how much each layer's activations, and their changes, grow with the width.

    One column for each parameterization; a line is a layer, relative to its value at the smallest width: thick after
    the last step, thin after the steps before. What stays inside the grey band keeps within the factor.

    Args:
        records: `parameterization`, `width`, `step`, `layer`, `size` and `change` of each measurement.
        output: file to write; its suffix .png, .pdf or .svg decides the format.
        factor: half height of the band.
        note: printed below.

    Returns:
        The path of the file.

    Raises:
        FM4NPPError: if matplotlib is not installed or the file cannot be written.
        ConfigurationError: if the format is unknown.
    """

    def figure(matplotlib: Any) -> Any:
        drawn = _figure(matplotlib, records, factor)
        drawn.supxlabel(note, fontsize=8, color="#606060")
        return drawn

    return draw(output, figure)


def relative_to_narrowest(records: Sequence[Record], key: str) -> dict[tuple[str, int], list[tuple[int, float]]]:
    """Layer and step -> width and value relative to the smallest width's, of the values that are not zero.

    Args:
        records: of one parameterization.
        key: `size` or `change`.
    """
    narrowest = min(record["width"] for record in records)
    reference = {(r["layer"], r["step"]): r[key] for r in records if r["width"] == narrowest and r[key] > 0}
    found: dict[tuple[str, int], list[tuple[int, float]]] = {}
    for record in sorted(records, key=lambda record: int(record["width"])):
        place = (record["layer"], record["step"])
        if place in reference:
            found.setdefault(place, []).append((record["width"], record[key] / reference[place]))
    return found


def _figure(matplotlib: Any, records: Sequence[Record], factor: float) -> Any:
    names = list(dict.fromkeys(record["parameterization"] for record in records))
    layers = list(dict.fromkeys(record["layer"] for record in records))
    colours = dict(zip(layers, PALETTE, strict=False))
    figure = new_figure(matplotlib, 4.4 * len(names) + 2.2, 7.6)
    axes = figure.subplots(2, len(names), squeeze=False, sharex=True, sharey="row")
    for row, (key, label) in zip(axes, QUANTITIES.items(), strict=True):
        for ax, name in zip(row, names, strict=True):
            own = [record for record in records if record["parameterization"] == name]
            _lines(ax, relative_to_narrowest(own, key), colours)
            _frame(ax, sorted({record["width"] for record in own}), factor)
        row[0].set_ylabel(f"{label},\nrelative to the smallest width", color=INK)
    for ax, name in zip(axes[0], names, strict=True):
        ax.set_title(TITLES.get(name, name), color=INK, loc="left")
    for ax in axes[-1]:
        ax.set_xlabel("width", color=INK)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    return figure


def _lines(axes: Any, values: Mapping[tuple[str, int], list[tuple[int, float]]], colours: Mapping[str, Any]) -> None:
    last = max(step for _, step in values)
    for (layer, step), points in values.items():
        if step == 0:
            continue
        style = {"linewidth": 1.8, "marker": "o", "markersize": 3, "label": layer} if step == last else {}
        axes.plot(*zip(*points, strict=True), **{"linewidth": 0.5, "alpha": 0.5 if not style else 1.0, **style},
                  color=colours[layer], zorder=3 if style else 2)  # fmt: skip


def _frame(axes: Any, widths: Sequence[int], factor: float) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xticks(widths, [str(width) for width in widths])
    axes.axhspan(1 / factor, factor, color="#ededed", zorder=0)
    axes.axhline(1, color="#a0a0a0", linewidth=0.6, zorder=1)
