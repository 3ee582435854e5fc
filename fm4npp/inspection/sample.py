"""The first events of a file, with the columns that a choice by names found, as far as they belong together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from fm4npp.errors import DataError
from fm4npp.event import Array
from fm4npp.inspection.names import Choice
from fm4npp.readers import Columns, Reader, Table

EVENTS = 1000
"""Events in a sample, at most."""
SPACEPOINTS = 500_000
"""Spacepoints after which no further event is taken."""
PROBED = 50
"""Events that columns are tried on."""
AXES = ("x", "y", "z")
QUANTITIES = (*AXES, "energy", "track_id", "particle_class", "is_noise", "pdg", "px", "py", "layer")
"""What readers of a fixed schema call quantities."""


@dataclass
class Sample:
    """The first events.

    Attributes:
        choice: columns that can be read and belong together.
        dropped: column -> why it is not among them.
        events: number of events.
        values: quantity of spacepoints -> (N,) of all events end to end; of those in the choice.
        first: columns of the first events, as the reader gives them.
    """

    choice: Choice
    dropped: dict[str, str] = field(default_factory=dict)
    events: int = 0
    values: dict[str, Array] = field(default_factory=dict)
    first: list[Columns] = field(default_factory=list)

    @property
    def positions(self) -> Array:
        """(N, 3) float64 in the file's unit."""
        return np.stack([self.values[axis].astype(np.float64) for axis in AXES], axis=1)


def canonical(reader: Reader, path: Path) -> Choice | None:
    """The quantities that a reader of a fixed schema gives; None if there are no positions among them.

    Raises:
        DataError: if the file cannot be read.
    """
    events = list(islice(reader.read(path, (), QUANTITIES), PROBED))
    found = [name for name in QUANTITIES if any(name in columns for columns in events)]
    return Choice("", {name: name for name in found}, {}, False) if set(AXES) <= set(found) else None


def sample(reader: Reader, path: Path, choice: Choice) -> Sample:
    """Read the first events.

    Args:
        reader: of the file's format.
        path: the file.
        choice: wanted columns.

    Raises:
        DataError: if the positions cannot be read, or there are none but zeros.
    """
    kept, dropped = _readable(reader, path, choice.columns_of)
    result = Sample(choice._replace(columns_of=kept), dropped)
    parts: dict[str, list[Array]] = {name: [] for name in kept if _of_spacepoints(name)}
    for columns in _read(reader, path, kept):
        result.events += 1
        result.first.append(columns)
        for name, arrays in parts.items():
            arrays.append(np.atleast_1d(np.asarray(columns[kept[name]])))
        if sum(map(len, parts["x"])) >= SPACEPOINTS:
            break
    result.values = {name: np.concatenate(arrays) for name, arrays in parts.items() if arrays}
    if not result.values or not np.nan_to_num(result.positions, nan=0.0, posinf=0.0, neginf=0.0).any():
        what = "all positions are zero" if result.values and len(result.positions) else "no spacepoint"
        names = ", ".join(choice.columns_of[axis] for axis in AXES)
        raise DataError(f"{what} in {names} of the first {result.events} events", file=path)
    return result


def _read(reader: Reader, path: Path, columns_of: dict[str, str]) -> Iterator[Columns]:
    required = [columns_of[axis] for axis in AXES]
    optional = [name for quantity, name in columns_of.items() if quantity not in AXES]
    return islice(reader.read(path, required, optional), EVENTS)


def _of_spacepoints(quantity: str) -> bool:
    return not quantity.startswith(("particle_", "event_"))


def _readable(reader: Reader, path: Path, wanted: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Quantity -> column, of the wanted ones that can be read beside the positions; and column -> why not."""
    positions = {axis: wanted[axis] for axis in AXES}
    others = {quantity: name for quantity, name in wanted.items() if quantity not in AXES}
    if not _problem(reader, path, {**positions, **others}, others):
        return {**positions, **others}, {}
    kept, dropped = dict(positions), {}
    list(islice(_read(reader, path, positions), 1))
    for quantity, name in others.items():
        if problem := _problem(reader, path, {**positions, quantity: name}, [quantity]):
            dropped[name] = problem
        else:
            kept[quantity] = name
    if "particle_track_id" not in kept:
        kept = {quantity: name for quantity, name in kept.items() if not quantity.startswith("particle_")}
    return kept, dropped


def _problem(reader: Reader, path: Path, columns_of: dict[str, str], looked_at: Sequence[str] | dict[str, str]) -> str:
    """What is wrong with some quantities in the first events; "" if nothing is."""
    try:
        for columns in islice(_read(reader, path, columns_of), PROBED):
            for quantity in looked_at:
                if problem := _wrong(columns, columns_of, quantity):
                    return problem
    except DataError as error:
        return error.problem
    return ""


def _wrong(columns: Columns, columns_of: dict[str, str], quantity: str) -> str:
    name = columns_of[quantity]
    if name not in columns:
        return "not in every event"
    values = np.atleast_1d(np.asarray(columns[name]))
    if values.ndim != 1 or values.dtype.kind not in "biuf":
        return "no numbers"
    count = len(np.atleast_1d(np.asarray(columns[columns_of["x"]])))
    if _of_spacepoints(quantity) and len(values) != count:
        return f"{len(values)} values for {count} positions"
    if quantity == "event_id" and not (np.isfinite(values) & (values == np.rint(values))).all():
        return "no whole numbers"
    return ""


def with_table(choice: Choice, tables: Sequence[Table]) -> Choice:
    """The same columns with the name of their table before them, which tells those of several tables apart."""
    if len(tables) < 2:
        return choice
    return choice._replace(columns_of={key: f"{choice.table}/{name}" for key, name in choice.columns_of.items()})
