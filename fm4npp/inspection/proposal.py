"""A detector to start from, as a YAML file with comments: names and a sample of events say what can be guessed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from fm4npp import detectors
from fm4npp.data import Accounting, choose_reader
from fm4npp.detectors import Detector
from fm4npp.errors import DataError
from fm4npp.inspection.fields import NAME, footer_of, lines_of
from fm4npp.inspection.names import choices
from fm4npp.inspection.sample import AXES, Sample, canonical, sample, with_table
from fm4npp.inspection.yaml_text import Line, text
from fm4npp.readers import Reader
from fm4npp.readers.checks import listing
from fm4npp.readers.events_parquet import EventsParquet

GROUPS = (("particle_",), ("px", "py"), ("pdg",), ("is_noise",), ("particle_class",), ("layer",), ("track_id",))
"""Starts of quantities that a detector can do without, in the order in which they are left out if they cause errors."""


class Proposal(NamedTuple):
    """A detector to start from.

    Attributes:
        yaml: for `fm4npp.detectors.load`, with comments.
        spec: the same, for `fm4npp.detectors.build`.
        accounting: what became of the events of the sample when it was read with this detector.
    """

    yaml: str
    spec: dict[str, Any]
    accounting: Accounting


def propose(path: Path, reader_name: str = "auto", name: str = NAME) -> Proposal:
    """A detector for a file of any known format.

    Args:
        path: file or folder.
        reader_name: a registered format, in place of recognising it.
        name: of the detector.

    Raises:
        DataError: if the file cannot be read, or nothing in it looks like positions; the columns are listed then.
    """
    reader = choose_reader(path, reader_name)
    if isinstance(reader, EventsParquet):
        raise DataError("an events file, which needs no detector any more", file=path)
    taken = _sampled(reader, path)
    kept, notes = dict(taken.choice.columns_of), dict(taken.dropped)
    lines = lines_of(taken, kept)
    accounting, error = _tried(lines, taken)
    if error:
        kept, reasons = _without_faults(taken, kept)
        notes |= reasons
        lines = lines_of(taken, kept)
        accounting, error = _tried(lines, taken)
    if error:
        raise error.at(file=path)
    lines = [line._replace(value=name) if line.key == "name" and not line.depth else line for line in lines]
    written = text([*_header(path, reader, taken, accounting), *lines, *footer_of(taken, notes)])
    spec = yaml.safe_load(written)
    detectors.build(spec)
    return Proposal(written, spec, accounting)


def _sampled(reader: Reader, path: Path) -> Sample:
    """The sample of the most likely columns that can be read."""
    problem: DataError | None = None
    if not reader.generic and (choice := canonical(reader, path)):
        return sample(reader, path, choice)
    tables = list(reader.describe(path))
    for choice in choices(tables):
        for named in dict.fromkeys((False, True)):
            try:
                return sample(reader, path, with_table(choice, tables) if named else choice)
            except DataError as error:
                problem = problem or error
    if problem:
        raise problem.at(file=path)
    found = listing(dict.fromkeys(chain.from_iterable(table.columns for table in tables)))
    raise DataError(
        f"nothing in it looks like positions x, y, z of spacepoints (columns: {found})",
        file=path,
        remedy="for momenta of reconstructed objects write a detector of `type: objects` by hand",
    )


def _without_faults(taken: Sample, kept: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The columns without the group that makes events fail, or without all if it takes that; column -> why."""
    groups = [[name for name in kept if name.startswith(start) and name not in AXES] for start in GROUPS]
    groups = [group for group in groups if group]
    for group in [*groups, list(chain.from_iterable(groups))]:
        fewer = {quantity: name for quantity, name in kept.items() if quantity not in group}
        if _tried(lines_of(taken, fewer), taken)[1] is None:
            _, error = _tried(lines_of(taken, kept), taken)
            return fewer, dict.fromkeys((kept[name] for name in group), error.problem if error else "")
    return kept, {}


def _tried(lines: Sequence[Line], taken: Sample) -> tuple[Accounting, DataError | None]:
    """What becomes of the sample's events, and the error if none can be read."""
    detector: Detector = detectors.build(yaml.safe_load(text(lines)))
    accounting, first = Accounting(), None
    for columns in taken.first:
        try:
            accounting.use(detector.event(columns))
        except DataError as error:
            first = first or error
            accounting.reject(error)
    return accounting, first if accounting.rejected_events else None


def _header(path: Path, reader: Reader, taken: Sample, accounting: Accounting) -> list[Line]:
    table = f", table {taken.choice.table}" if taken.choice.table not in ("", path.name) else ""
    rejected = accounting.spacepoints_read - accounting.spacepoints_used
    return [
        Line(comment=f"A detector to start from, proposed by: fm4npp inspect {path.name} --propose"),
        Line(
            comment=f"Seen: {taken.events} events, {accounting.spacepoints_read} spacepoints "
            f"({rejected} of them would be rejected); format {reader.registered_name}{table}"
        ),
        Line(comment='Check what is called a guess, above all units and which id means "no track".'),
        Line(comment=f"Use: fm4npp convert {path.name} --detector THIS_FILE.yaml --output events.parquet"),
    ]
