"""Distributions as lines of text: numbers, and a histogram of block characters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fm4npp.cli.app import out

Summary = dict[str, Any]

SHOWN = ("distributions", "spacepoints_per_layer", "particle_classes", "spacepoints_per_event", "tracks_per_event")
"""Entries of a summary that are shown here."""
NAMES = {"particle_pt": "pT of particles, GeV/c", "particle_abs_eta": "|eta| of particles"}
HEADINGS = {"mean": "mean", "std": "std", "q05": "5 %", "q50": "50 %", "q95": "95 %"}
BLOCKS, ASCII = "▁▂▃▄▅▆▇█", ".:-=+*#@"
"""From few to many."""


def distributed(summary: Summary) -> list[str]:
    """What is distributed in a summary; nothing if there is nothing."""
    found = {name: of for name, of in summary.get("distributions", {}).items() if of["count"]}
    rows = [
        ["", *HEADINGS.values()],
        *([NAMES.get(name, name.replace("_", " ")), *_numbers(found[name])] for name in found),
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    ends = ["", *(_histogram(of) for of in found.values())]
    lines = [f"{_row(row, widths)}  {end}".rstrip() for row, end in zip(rows, ends, strict=True)] if found else []
    if layers := summary.get("spacepoints_per_layer"):
        lines.append(f"spacepoints per layer of an event, layers 0 to {len(layers) - 1}: {_layers(layers)}")
    if classes := summary.get("particle_classes"):
        total = sum(classes.values())
        lines.append("spacepoints of " + ", ".join(f"{name} {count / total:.2%}" for name, count in classes.items()))
    return lines


def _numbers(distribution: Summary) -> Iterator[str]:
    return (_short(distribution[name]) for name in HEADINGS)


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(
        [f"{cells[0]:<{widths[0]}}", *(f"{cell:>{width}}" for cell, width in zip(cells[1:], widths[1:], strict=True))]
    )


def _histogram(distribution: Summary) -> str:
    shown = distribution["histogram"]
    return f"{_short(shown['low'])} {bar(shown['counts'])} {_short(shown['high'])}"


def _layers(means: Sequence[float]) -> str:
    return f"{bar(means)}  {_short(min(means))} to {_short(max(means))}"


def bar(heights: Sequence[float], *, encoding: str | None = None) -> str:
    """One character for each height, blank for none.

    Args:
        heights: not negative.
        encoding: of the terminal; if not UTF, in ASCII. By default that of standard output.
    """
    steps = BLOCKS if (out.encoding if encoding is None else encoding).lower().startswith("utf") else ASCII
    most = max(heights, default=0)
    return "".join(steps[min(int(height / most * len(steps)), len(steps) - 1)] if height else " " for height in heights)


def _short(value: float) -> str:
    return f"{value:.4g}"
