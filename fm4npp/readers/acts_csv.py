"""ACTS: one event as a set of CSV files, in the dialect of its examples: simulated hits and particles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from fm4npp.errors import DataError
from fm4npp.readers import csv_tables
from fm4npp.readers.base import Columns
from fm4npp.readers.csv_tables import Array, CSVFile, CSVReader, EventFiles, EventFolder

QUANTITIES = {"x": "tx", "y": "ty", "z": "tz", "time": "tt"}
"""Quantity -> its column in a hits file."""
PARTICLE_FILES = ("particles", "particles_simulated", "particles_initial")
"""Kinds of file that hold the particles, the first one found; `addFatras` and `addGeant4` write the others."""
BARCODE = {
    "particle_id_pv": 12,
    "particle_id_sv": 12,
    "particle_id_part": 16,
    "particle_id_gen": 8,
    "particle_id_subpart": 16,
}
"""Parts of a particle's id and their bits, highest first (ActsFatras::Barcode, a 64-bit index of five levels)."""


class ACTSCSV(CSVReader):
    """Events as the ACTS examples and traccc write them: `event<digits>-hits.csv` with tx, ty, tz, and `-particles`.

    A path is a folder of events, a zip archive of them, or one hits file; each file may be compressed. The hits are
    simulated: x, y, z (tx, ty, tz, in mm) are TRUE positions, which `event_true_positions` = 1 says in every event.
    Measured positions exist only as local coordinates on surfaces (`-measurements`), which need the geometry to become
    points, so they are not read. Columns: x, y, z, time (ns), `track_id` (`particle_id`), any other column of the hits
    file by its name, and `particle_<name>`. Ids split into five columns, as later versions write them, are packed into
    the 64-bit barcode of the earlier ones. A particle_id of 0 is an id like others. Schema: ActsExamples
    CsvOutputData.hpp, and traccc io/csv.
    """

    registered_name: ClassVar[str] = "acts-csv"

    def recognises(self, path: Path) -> bool:
        """See `Reader.recognises`; by the header of a hits file."""
        header = csv_tables.hits_header(path)
        return header is not None and is_dialect(header)

    def event(self, folder: EventFolder, event: EventFiles, wanted: list[str]) -> Columns:
        """See `CSVReader.event`."""
        return _event(folder, event, wanted)


def is_dialect(header: Sequence[str]) -> bool:
    """Whether a hits file with this header is of ACTS: it has true positions and no measured ones."""
    return {"tx", "ty", "tz"} <= set(header) and "x" not in header


def _event(folder: EventFolder, event: EventFiles, wanted: list[str]) -> Columns:
    """One event's columns, of those wanted that its files have."""
    hits = folder.table(event, "hits")
    own = {name: name if name in hits.header else QUANTITIES.get(name, name) for name in wanted}
    own = {name: column for name, column in own.items() if column in hits.header}
    values = hits.columns(own.values())
    columns: Columns = {name: values[column] for name, column in own.items()}
    if "track_id" in wanted and "track_id" not in own and _has_ids(hits):
        columns["track_id"] = _ids(hits)
    for kind in PARTICLE_FILES:
        if kind in event.names:
            columns |= csv_tables.particles(folder, event, kind, _ids)
            break
    return {**columns, "event_true_positions": 1}


def _has_ids(table: CSVFile) -> bool:
    return "particle_id" in table.header or bool(set(BARCODE) & set(table.header))


def _ids(table: CSVFile) -> Array:
    """(N,) int64 ids of particles, as stored or packed from their parts.

    Raises:
        DataError: if there are none, or a part needs more bits than it has.
    """
    if "particle_id" in table.header:
        return table.columns(["particle_id"])["particle_id"]
    if missing := [name for name in BARCODE if name not in table.header]:
        problem = f"no particle ids: neither 'particle_id' nor {missing[0]!r}"
        raise DataError(problem, file=table.file, event=table.event, remedy="use a file of the ACTS examples")
    ids = np.zeros(1, dtype=np.int64)
    parts = table.columns(BARCODE)
    for index, (name, bits) in enumerate(BARCODE.items()):
        values = csv_tables.whole_numbers(parts[name], name, table.file, table.event)
        if ((values < 0) | (values >= 1 << (bits - (index == 0)))).any():  # the highest bit is the sign of an int64
            raise DataError(
                f"{name!r} reaches {int(np.abs(values).max())}, which does not fit into its {bits} bits of a 64-bit id",
                file=table.file,
                event=table.event,
                remedy="number the particles of every event anew, as `particle_id`",
            )
        ids = (ids << bits) | values
    return ids
