"""Simulated tracks in the silicon of sPHENIX: one .npz an event, in a folder or a tar archive."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, ClassVar

import numpy as np

from fm4npp.errors import DataError
from fm4npp.readers import npz, tar_stream
from fm4npp.readers.base import WHOLE, Columns, Reader
from fm4npp.readers.checks import check_required, decoding
from fm4npp.readers.npz import Array

SLOTS = 5
LAYER_OF_SLOT = np.array([0, 1, 2, 3, 5])
"""sPHENIX layer number of the slots MVTX L0, L1, L2, INTT inner, INTT outer. Each INTT barrel is two half-layers
(3 and 4, 5 and 6) that the file does not tell apart: the inner number stands for both."""
SHAPES = {"track_vector": (3 * SLOTS,), "momentums": (3,), "origin_vertices": (3,), "ptypes": (), "energy": ()}
"""Array -> its shape after the axis of tracks."""
HIT_COLUMNS = ("x", "y", "z", "track_id", "layer", "pdg", "px", "py", "pz")
SMALL = 1 << 20
"""Bytes that no event file has."""
FILES = 1000
"""Files of a folder in a part."""
MAX_DIGITS = 18
"""Digits of a number that fits into 64 bits."""


class SPHENIXSiliconNpz(Reader):
    """sPHENIX MVTX and INTT tracks with truth and a heavy-flavour trigger label, simulated p+p.

    A path is a tar archive (also .gz, .bz2, .xz; read as a stream, nothing is unpacked), a folder of `.npz`
    files, read in the order of their names, or one such file. Spacepoints go track by track, inside out, in cm;
    the slot value (0, 0, 0) means that the layer has no hit. `track_id` is the track's row, `event_id` the number
    in the file's name (the place in the archive if it has none), `source` that name, given for folders and archives,
    `event_trigger` is 0 or 1. Momenta in GeV/c and PDG codes are given for every spacepoint, and once more for
    every particle with vertex (cm) and energy (GeV).
    """

    registered_name: ClassVar[str] = "sphenix-silicon-npz"

    def recognises(self, path: Path) -> bool:
        """See `Reader.recognises`; a damaged .npz is recognised by its name, an archive by its first file."""
        first: Path | IO[bytes] | None = path
        name = path.name
        if path.is_dir():
            first = next(iter(_event_files(path)), None)
            name = first.name if first else ""
        elif path.suffix != ".npz":
            name, first = _first_member(path)
        if first is None:
            return False
        found = npz.names(first)
        return bool(re.fullmatch(r"event\d+\.npz", name)) if found is None else found >= {*SHAPES, "trigger"}

    def parts(self, path: Path) -> Sequence[str]:
        """See `Reader.parts`: a part of a folder is named by its first file; an archive is one part."""
        return [file.name for file in _event_files(path)[::FILES]] or (WHOLE,) if path.is_dir() else (WHOLE,)

    def read(self, path: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
        """See `Reader.read`. All columns are given."""
        return self._events(path, _payloads(path), required)

    def read_part(self, path: Path, part: str, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
        """See `Reader.read_part`."""
        if part == WHOLE:
            return self.read(path, required, optional)
        files = _event_files(path)
        first = next((place for place, file in enumerate(files) if file.name == part), None)
        if first is None:
            raise DataError(f"no file {part!r}", file=path, remedy="the folder has changed, start again")
        return self._events(path, _contents(path, files[first : first + FILES], first), required)

    def _events(
        self, path: Path, payloads: Iterable[tuple[int, str, bytes]], required: Sequence[str]
    ) -> Iterator[Columns]:
        check_required(required, HIT_COLUMNS, path)
        is_empty = True
        for place, name, payload in payloads:
            is_empty = False
            event = {**_columns(payload, path, name), "event_id": _event_id(name, place, path)}
            if path.suffix != ".npz" or path.is_dir():
                event["source"] = name
            yield event
        if is_empty:
            raise DataError("holds no .npz file", file=path, remedy="give the archive or folder of event files")


def _event_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.npz") if _is_event(path.name))


def _is_event(name: str) -> bool:
    """Whether a file is an event; hidden files are what some systems add to archives on their own."""
    return name.endswith(".npz") and not name.rpartition("/")[2].startswith(".")


def _event_id(name: str, place: int, path: Path) -> int:
    digits = re.search(r"(\d+)\.npz$", name)
    if digits and len(digits[1].lstrip("0")) > MAX_DIGITS:
        raise DataError("the number in its name is too long", file=path, event=name, remedy="rename it")
    return int(digits[1]) if digits else place


def _payloads(path: Path) -> Iterator[tuple[int, str, bytes]]:
    """Place, name and bytes of every event file at `path`, in order."""
    if path.is_dir() or path.suffix == ".npz":
        yield from _contents(path, _event_files(path) if path.is_dir() else [path], 0)
        return
    place = 0
    for tar, member in tar_stream.members(path):
        if _is_event(member.name):
            with decoding(path, event=member.name):
                payload = tar_stream.content(tar, member)
            yield place, member.name, payload
            place += 1


def _contents(path: Path, files: Sequence[Path], first: int) -> Iterator[tuple[int, str, bytes]]:
    """Place, name and bytes of some files of a folder."""
    for place, file in enumerate(files, first):
        with decoding(path, event=file.name, remedy="make it readable"):
            payload = file.read_bytes()
        yield place, file.name, payload


def _first_member(path: Path) -> tuple[str, IO[bytes] | None]:
    """Name and content of the first file of a tar archive; None if that is no event or `path` no archive."""
    try:
        for tar, member in tar_stream.members(path):
            found = _is_event(member.name) and member.size < SMALL
            return Path(member.name).name, io.BytesIO(tar_stream.content(tar, member)) if found else None
    except Exception:  # damaged archives raise whatever the damage leads to
        pass
    return "", None


def _columns(payload: bytes, path: Path, name: str) -> Columns:
    """One event file to columns, without `event_id`."""
    with npz.open_archive(io.BytesIO(payload), path, name) as archive:
        arrays = {key: npz.load(archive, key, path, name) for key in (*SHAPES, "trigger")}
    for key, array in arrays.items():
        if array.dtype.kind not in "biuf":
            raise DataError(f"{key!r} holds {array.dtype}, not numbers", file=path, event=name)
    count = arrays["track_vector"].shape[0] if arrays["track_vector"].ndim else 1
    for key, shape in SHAPES.items():
        if count == 0 and not arrays[key].size:  # files without tracks hold some arrays as (0,)
            arrays[key] = arrays[key].reshape(0, *shape)
        if arrays[key].shape != (count, *shape):
            problem = f"{key!r} has shape {arrays[key].shape}, not {(count, *shape)}"
            raise DataError(problem, file=path, event=name, remedy="its arrays do not belong together")
    if arrays["trigger"].shape:
        raise DataError(f"'trigger' has shape {arrays['trigger'].shape}, not one number", file=path, event=name)
    return {**_hits(arrays), **_particles(arrays), "event_trigger": arrays["trigger"].item()}


def _hits(arrays: dict[str, Array]) -> Columns:
    slots = arrays["track_vector"].reshape(-1, 3)
    place = np.flatnonzero(slots.any(axis=1))  # NaN counts as something
    track, slot = np.divmod(place, SLOTS)
    x, y, z = slots.take(place, axis=0).T
    px, py, pz = arrays["momentums"].take(track, axis=0).T
    layer = LAYER_OF_SLOT[slot]
    pdg = arrays["ptypes"].take(track)
    return {"x": x, "y": y, "z": z, "track_id": track, "layer": layer, "pdg": pdg, "px": px, "py": py, "pz": pz}


def _particles(arrays: dict[str, Array]) -> Columns:
    momenta = zip(("px", "py", "pz"), arrays["momentums"].T, strict=True)
    vertices = zip(("vx", "vy", "vz"), arrays["origin_vertices"].T, strict=True)
    columns = {"track_id": np.arange(len(arrays["ptypes"])), "pdg": arrays["ptypes"], "energy": arrays["energy"]}
    return {f"particle_{name}": values for name, values in {**columns, **dict(momenta), **dict(vertices)}.items()}
