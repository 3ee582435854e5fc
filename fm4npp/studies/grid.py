"""The cells of a grid of runs, their states, and which of them are asked for."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fm4npp.errors import ConfigurationError
from fm4npp.inspection.runs import LOCK, RUN, is_locked, read_run
from fm4npp.registry import suggest

Axes = Mapping[str, Sequence[Any]]
REPORT_NAME = "report.json"
"""In the folder of a cell: written last, it is the mark of a finished one."""
INDEX = "cell"
"""What selects a cell by its number, as array jobs do."""


@dataclass(frozen=True)
class Cell:
    """One run of a grid.

    Attributes:
        number: from 0, in the order of the grid.
        name: of its folder.
        values: axis -> value.
        folder: of the run.
    """

    number: int
    name: str
    values: Mapping[str, Any]
    folder: Path

    @property
    def report(self) -> Path:
        """What a finished cell leaves."""
        return self.folder / REPORT_NAME

    @property
    def is_held(self) -> bool:
        """Whether a process is at work on it."""
        return is_locked(self.folder / LOCK)

    def state(self) -> str:
        """Of a cell that is not finished: new, running, stopped, failed, killed, or trained but not judged yet."""
        if not (self.folder / RUN).is_file():
            return "new"
        status = read_run(self.folder).status
        return "trained" if status == "finished" else status


def cells(axes: Axes, runs: Path, *, labelled: bool) -> list[Cell]:
    """Every combination of the axes' values, the last axis fastest.

    Args:
        axes: name -> values.
        runs: folder of the cells' folders.
        labelled: whether names hold the axes, as in "width64-seed0", or their values alone.
    """
    found = []
    for number, values in enumerate(itertools.product(*axes.values())):
        pairs = dict(zip(axes, values, strict=True))
        name = "-".join(f"{axis}{value}" if labelled else str(value) for axis, value in pairs.items())
        found.append(Cell(number, name, pairs, runs / name))
    return found


def selected(grid: Sequence[Cell], axes: Axes, only: str | None) -> list[Cell]:
    """The cells that are asked for.

    Args:
        grid: all of them.
        axes: name -> values.
        only: such as "variant=lora,seed=0", or "cell=7"; None for all.

    Raises:
        ConfigurationError: naming the axis or the value that the grid does not have.
    """
    wanted = dict(_pair(part, axes) for part in only.split(",")) if only else {}
    found = [cell for cell in grid if all(_value(cell, axis) == value for axis, value in wanted.items())]
    if not found:
        raise ConfigurationError(f"--only {only}: there are {len(grid)} cells, from 0")
    return found


def _pair(part: str, axes: Axes) -> tuple[str, str]:
    axis, equals, value = (text.strip() for text in part.partition("="))
    if not equals or axis not in (*axes, INDEX):
        raise ConfigurationError(f"--only {part}: write axis=value; {suggest(axis, (*axes, INDEX))}")
    if axis != INDEX and value not in map(str, axes[axis]):
        raise ConfigurationError(f"--only {part}: the grid has {axis} {', '.join(map(str, axes[axis]))}")
    return axis, value


def _value(cell: Cell, axis: str) -> str:
    return str(cell.number if axis == INDEX else cell.values[axis])
