"""larnd-sim: simulated liquid-argon TPCs with pixels, as reconstructed hits and events in HDF5 tables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np

from fm4npp.errors import DataError
from fm4npp.readers.base import Columns, Reader, Table
from fm4npp.readers.checks import NEW_COPY, check_required, decoding
from fm4npp.readers.hdf5 import Heaps, described, events_of, fields, is_hdf5, opened, ranges, rows, selected, target
from fm4npp.readers.npz import Array

HITS = {"px": "f", "py": "f", "ts": "iu", "q": "f", "event_ref": "O"}
EVENTS = {"evid": "iu", "hit_ref": "O", "track_ref": "O", "nhit": "iu", "ts_start": "iu"}
TRACKS = {"track_id": "iu", "hit_ref": "O", "event_ref": "O", "nhit": "iu"}
"""Table -> its fields that are needed, and the kinds of type that they may have."""
COLUMNS = ("x", "y", "z", "energy", "time", "track_id")
NUMBERS = ("q", "q_raw", "ts_start", "ts_end", "ntracks", "n_ext_trigs", "unix_ts")
"""Fields of `events` that are given as `event_<name>` where the file has them."""
OTHER_LAYOUTS = {
    "segments": "true energy deposits of edep-sim, in other units than reconstructed hits",
    "packets": "raw packets of the pixel chips",
}
"""Data set -> what a file of the same simulation holds that this reader does not read."""
STEP_EVENTS = 1000
"""Events of a part."""
LARGEST_TIME = 2**53
"""Ticks that a float64 holds exactly."""


class LArNDSimHDF5(Reader):
    """Event files of larnd-sim (DUNE/larnd-sim) and of the pixel TPCs it simulates: tables hits, events and tracks.

    x and y are the pixel's px and py [mm], energy the charge q as the ADC gives it [mV above pedestal], time the
    hit's ts [ticks]. z = (ts - ts_start of the event) * z_scale [mm], with the attribute `z_scale` of `tracks`, which
    must be its `vd` [mm/us] times its `clock_period` [us]; it is the drift distance from the event's first hit, not
    from the anode. track_id is that of the reconstructed track which claims the hit, -1 for none: there is no truth
    in these files. Event and hit tables are joined by HDF5 region references, which are resolved and must agree.
    Units are those of the program that writes the files (larpix-v2-testing-scripts, event-display/to_evd_file.py);
    px, py and the tracks' lengths agree in them. Checked on a file of the simulation.
    """

    registered_name: ClassVar[str] = "larndsim-hdf5"

    def recognises(self, path: Path) -> bool:
        """See `Reader.recognises`: by its tables; a damaged file by "larndsim" or "evd" in its name."""
        if not path.is_file() or not is_hdf5(path):
            return False
        found = fields(path)
        if found is None:
            return re.search(r"(^|[_-])(larndsim|evd)([_.-]|$)", path.name) is not None
        layout = found.get("hits", frozenset()) >= HITS.keys() and "hit_ref" in found.get("events", ())
        return layout or "packet_type" in found.get("packets", ()) or "dE" in found.get("segments", ())

    def read(self, path: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
        """See `Reader.read`. All columns are given."""
        for part in self.parts(path):
            yield from self.read_part(path, part, required, optional)

    def parts(self, path: Path) -> Sequence[str]:
        """See `Reader.parts`: ranges of events.

        Raises:
            DataError: if some hits belong to no event.
        """
        with opened(path) as file:
            tables = _Tables(file, path)
            num_claimed, num_hits = int(tables.events.fields("nhit")[:].sum()), len(tables.hits)
            if num_claimed != num_hits:
                problem = f"the events claim {num_claimed} hits in all, but there are {num_hits}"
                raise DataError(problem, file=path, remedy=NEW_COPY)
            return ranges("", len(tables.events), STEP_EVENTS)

    def read_part(self, path: Path, part: str, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
        """See `Reader.read_part`."""
        _, start, stop = events_of(part, path)
        with opened(path) as file:
            tables = _Tables(file, path)
            check_required(required, [*COLUMNS, *tables.numbers, "event_id"], path)
            for index, row in enumerate(tables.events[start:stop], start):
                try:
                    with decoding(path, "it", event=index):
                        columns = tables.event(index, row)
                except DataError as error:
                    raise error.at(file=path, event=index) from error
                yield columns

    def describe(self, path: Path) -> Sequence[Table]:
        """See `Reader.describe`."""
        return described(path)


class _Tables:
    """The three tables of a file."""

    def __init__(self, file: h5py.File, path: Path) -> None:
        if "hits" not in file:
            _refuse_other_layouts(file, path)
        self.heaps = Heaps(path)
        self.hits = _table(file, "hits", HITS, path)
        self.events = _table(file, "events", EVENTS, path)
        self.tracks = _table(file, "tracks", TRACKS, path)
        self.targets = {name: target(file[name]) for name in ("hits", "events", "tracks")}
        self.z_scale = _z_scale(self.tracks.attrs, path)
        types = {name: self.events.dtype[name] for name in NUMBERS if name in self.events.dtype.names}
        self.numbers = {f"event_{name}": name for name, dtype in types.items() if dtype.kind in "iuf"}

    def event(self, index: int, event: Any) -> Columns:
        """One event's columns, from its row of `events`, after its references and counts are found to agree."""
        self._check_references(self.events, slice(index, index + 1), "hit_ref", "track_ref")
        places = self._places(event, "events", index)
        hits = np.concatenate([self._hits(run, index) for run in _runs(places)])
        start = int(event["ts_start"])
        if not max(abs(start), int(np.abs(hits["ts"].astype(np.float64)).max(initial=0))) < LARGEST_TIME:
            raise DataError("a time is too large to be one", remedy=NEW_COPY)
        return {
            "x": hits["px"],
            "y": hits["py"],
            "z": (hits["ts"].astype(np.float64) - start) * self.z_scale,
            "energy": hits["q"],
            "time": hits["ts"],
            "track_id": self._track_ids(event, places, index),
            **{name: event[field].item() for name, field in self.numbers.items()},
            "event_id": int(event["evid"]),
        }

    def _places(self, row: Any, table: str, number: int) -> Array:
        """(N,) int64: the hits of one row of `events` or `tracks`."""
        what = f"hit_ref of row {number} of {table!r}"
        places = selected(row["hit_ref"], self.targets["hits"], what)
        if len(places) != row["nhit"]:
            raise DataError(f"{what} refers to {len(places)} hits, but nhit is {row['nhit']}", remedy=NEW_COPY)
        return places

    def _check_references(self, table: h5py.Dataset, run: slice, *fields: str) -> None:
        for field in fields:
            self.heaps.check_references(table, run.start, run.stop, field)

    def _hits(self, run: slice, index: int) -> Array:
        """(N,) neighbouring rows of `hits`, all of this event."""
        resolved = self.heaps.check_references(self.hits, run.start, run.stop, "event_ref")
        hits: Array = self.hits.fields(list(HITS))[run]
        for row in resolved:
            self._check_event(hits["event_ref"][row - run.start], "hits", index)
        return hits

    def _check_event(self, reference: h5py.RegionReference, table: str, index: int) -> None:
        owner = selected(reference, self.targets["events"], f"an event_ref of {table!r}")
        if len(owner) != 1 or owner[0] != index:
            named = owner.tolist()[:3]
            raise DataError(f"an event_ref of {table!r} names the events {named} instead", remedy=NEW_COPY)

    def _track_ids(self, event: Any, places: Array, index: int) -> Array:
        """(N,) int64: the id of the track that claims each hit of an event, -1 for none."""
        ids = np.full(len(places), -1, dtype=np.int64)
        names = set()
        for number, track in self._tracks(selected(event["track_ref"], self.targets["tracks"], "its track_ref")):
            self._check_event(track["event_ref"], "tracks", index)
            claimed, name = self._places(track, "tracks", number), int(track["track_id"])
            mine = np.isin(places, claimed)
            if mine.sum() != len(claimed) or (ids[mine] != -1).any():
                raise DataError(f"track {number} claims hits of another event or track", remedy=NEW_COPY)
            if name < 0 or name in names:
                raise DataError(f"track {number} has the id {name}, of another track or none", remedy=NEW_COPY)
            ids[mine] = name
            names.add(name)
        return ids

    def _tracks(self, numbers: Array) -> Iterator[tuple[int, Any]]:
        """The rows of `tracks` with some numbers."""
        for run in _runs(numbers):
            self._check_references(self.tracks, run, "hit_ref", "event_ref")
            yield from enumerate(self.tracks[run], run.start)


def _runs(places: Array) -> list[slice]:
    """Increasing places as ranges of neighbours; one empty range of none."""
    runs = np.split(places, np.flatnonzero(np.diff(places) != 1) + 1)
    return [slice(int(run[0]), int(run[-1]) + 1) if len(run) else slice(0, 0) for run in runs]


def _table(file: h5py.File, name: str, wanted: Mapping[str, str], path: Path) -> h5py.Dataset:
    """A table of the file that has the wanted fields, each of one of the wanted kinds of type."""
    table = rows(file, name, path)
    names = table.dtype.names or ()
    check_required(wanted, names, path)
    for field, kinds in wanted.items():
        dtype = table.dtype[field]
        is_reference = h5py.check_ref_dtype(dtype) is h5py.RegionReference
        if dtype.kind not in kinds or dtype.shape or is_reference != (kinds == "O"):
            raise DataError(f"the field {field!r} of {name!r} has the type {dtype}", file=path, remedy=NEW_COPY)
    return table


def _z_scale(attributes: Mapping[str, Any], path: Path) -> float:
    """Millimetres that charge drifts in a tick.

    Raises:
        DataError: if the file does not say it, or contradicts itself.
    """
    with decoding(path, "an attribute of 'tracks'"):
        scale, velocity, period = (float(attributes.get(name, np.nan)) for name in ("z_scale", "vd", "clock_period"))
    if not (0 < scale < np.inf and np.isclose(scale, velocity * period, rtol=1e-6)):
        raise DataError(
            f"the attributes of 'tracks' give no drift scale: z_scale {scale}, vd {velocity}, clock_period {period}",
            file=path,
            remedy="z needs z_scale = vd * clock_period, in mm a tick",
        )
    return scale


def _refuse_other_layouts(file: h5py.File, path: Path) -> None:
    for name, what in OTHER_LAYOUTS.items():
        if name in file:
            raise DataError(
                f"holds {name!r}, {what}, and no table 'hits'",
                file=path,
                remedy="give the event file that larpix-v2-testing-scripts' to_evd_file.py makes of the packets",
            )
