"""TrackML: one event as a set of CSV files, hits, truth, particles and cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from fm4npp.errors import DataError
from fm4npp.readers import acts_csv, csv_tables
from fm4npp.readers.base import Columns
from fm4npp.readers.checks import listing
from fm4npp.readers.csv_tables import Array, CSVFile, CSVReader, EventFiles, EventFolder

KEY = "hit_id"
"""What joins hits, truth and cells."""
CELLS = ("num_cells", "charge")


class TrackMLCSV(CSVReader):
    """TrackML events: `event<digits>-hits.csv`, and where they are there `-truth`, `-particles` and `-cells`.

    A path is a folder of events, a zip archive of them, or one hits file; each file may be compressed. Columns: those
    of the hits file by their names (x, y, z in mm as float64, volume_id, layer_id, module_id, hit_id), those of the
    truth file (weight, tx, ..., tpz), `track_id` (the `particle_id` of either, exact to 64 bits), `particle_<name>`
    from the table of particles, and from the cells if asked for: `num_cells`, and `charge`, the sum of their values in
    the order of the file. Hits and truth must have the same hit_ids, each once. The schema is that of the data set
    (zenodo.org/records/4730157, LAL/trackml-library). A hits file with other names gives its columns by those.
    """

    registered_name: ClassVar[str] = "trackml-csv"

    def recognises(self, path: Path) -> bool:
        """See `Reader.recognises`; by the names of files, unless a header is that of the ACTS dialect."""
        header = csv_tables.hits_header(path)
        return header is not None and not acts_csv.is_dialect(header)

    def event(self, folder: EventFolder, event: EventFiles, wanted: list[str]) -> Columns:
        """See `CSVReader.event`."""
        return _event(folder, event, wanted)


def _event(folder: EventFolder, event: EventFiles, wanted: list[str]) -> Columns:
    """One event's columns, of those wanted that its files have."""
    hits = folder.table(event, "hits")
    columns = _renamed(hits, wanted, [KEY])
    keys = columns.get(KEY)
    if keys is not None and len(np.unique(keys)) != len(keys):
        raise DataError("a hit_id twice", file=hits.file, event=hits.event, remedy="repair the table of hits")
    rest = [name for name in wanted if name not in columns]
    if rest and "truth" in event.names:
        columns |= _truth(hits, keys, folder.table(event, "truth"), rest)
    if set(rest) & set(CELLS) and "cells" in event.names:
        columns |= _cells(hits, keys, folder.table(event, "cells"))
    if "particles" in event.names:
        columns |= csv_tables.particles(folder, event, "particles", _ids)
    return columns


def _renamed(table: CSVFile, wanted: Sequence[str], also: Sequence[str] = ()) -> Columns:
    """The wanted columns that a table has; `track_id` is its `particle_id` if it has no column of that name."""
    names = {name: name for name in (*also, *wanted) if name in table.header}
    if "track_id" in wanted and "track_id" not in names and "particle_id" in table.header:
        names["track_id"] = "particle_id"
    columns = table.columns(names.values())
    return {name: columns[own] for name, own in names.items()}


def _truth(hits: CSVFile, keys: Array | None, truth: CSVFile, wanted: Sequence[str]) -> Columns:
    """Columns of the truth file in the order of the hits."""
    columns = _renamed(truth, wanted)
    if "track_id" in wanted and "track_id" not in columns:
        _ids(truth)  # which it always has, so its header is damaged
    if not columns:
        return {}
    places = _places(hits, keys, truth)
    return {name: values[places] for name, values in columns.items()}


def _places(hits: CSVFile, keys: Array | None, truth: CSVFile) -> Array:
    """(N,) row of the truth file of every hit.

    Raises:
        DataError: unless both files have the same hit_ids, each once.
    """
    own = _key(truth)
    if keys is None:
        raise _unjoined(hits, truth)
    if np.array_equal(keys, own):
        return np.arange(len(keys))
    order = np.argsort(own, kind="stable")
    if not np.array_equal(own[order], np.sort(keys)):
        missing, surplus = len(np.setdiff1d(keys, own)), len(own) - len(np.intersect1d(keys, own))
        problem = f"{missing} hits without truth, and {surplus} rows of truth without a hit or of one that is taken"
        raise DataError(problem, file=truth.file, event=truth.event, remedy="the two files do not belong together")
    return order[np.searchsorted(own[order], keys)]


def _cells(hits: CSVFile, keys: Array | None, cells: CSVFile) -> Columns:
    """Number of cells and sum of their values for every hit, 0 where there is no cell."""
    if keys is None:
        raise _unjoined(hits, cells)
    own = _key(cells)
    order = np.argsort(keys, kind="stable")
    place = np.searchsorted(keys[order], own)
    known = place < len(keys)
    known[known] = keys[order[place[known]]] == own[known]
    if not known.all():
        problem = f"{int((~known).sum())} cells of hits that the hits file lacks"
        raise DataError(problem, file=cells.file, event=cells.event, remedy="the two files do not belong together")
    rows, count = order[place], len(keys)
    columns: Columns = {"num_cells": np.bincount(rows, minlength=count)}
    if "value" in cells.header:
        columns["charge"] = np.bincount(rows, cells.columns(["value"])["value"], minlength=count)
    return columns


def _key(table: CSVFile) -> Array:
    return _required(table, KEY)


def _ids(table: CSVFile) -> Array:
    return _required(table, "particle_id")


def _required(table: CSVFile, name: str) -> Array:
    if name not in table.header:
        problem = f"no column {name!r} (found: {listing(table.header)})"
        raise DataError(problem, file=table.file, event=table.event, remedy="rename the column that holds it")
    return table.columns([name])[name]


def _unjoined(hits: CSVFile, other: CSVFile) -> DataError:
    problem = f"no column {KEY!r} that {other.file.name} could be joined by"
    return DataError(problem, file=hits.file, event=hits.event, remedy=f"move {other.file.name} away, or add it")
