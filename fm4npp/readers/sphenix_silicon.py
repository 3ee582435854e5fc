"""Simulated tracks in the silicon of sPHENIX: one .npz an event, in a folder or a tar archive."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

from fm4npp.errors import DataError
from fm4npp.readers import npz
from fm4npp.readers.base import Columns, Reader
from fm4npp.readers.checks import NEW_COPY, check_required, decoding
from fm4npp.readers.npz import Array

SLOTS = 5
LAYER_OF_SLOT = np.array([0, 1, 2, 3, 5])
"""sPHENIX layer number of the slots MVTX L0, L1, L2, INTT inner, INTT outer. Each INTT barrel is two half-layers
(3 and 4, 5 and 6) that the file does not tell apart: the inner number stands for both."""
SHAPES = {"track_vector": (3 * SLOTS,), "momentums": (3,), "origin_vertices": (3,), "ptypes": (), "energy": ()}
"""Array -> its shape after the axis of tracks."""
HIT_COLUMNS = ("x", "y", "z", "track_id", "layer", "pdg", "px", "py", "pz")
DECOMPRESS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"BZh": bz2.open,
}
"""First bytes of a compressed archive -> what opens it."""
BLOCK = 1 << 20


class SPHENIXSiliconNpz(Reader):
    """sPHENIX MVTX and INTT tracks with truth and a heavy-flavour trigger label, simulated p+p.

    A path is a tar archive (also .gz, .bz2, .xz; read as a stream, nothing is unpacked), a folder of `.npz`
    files, read in the order of their names, or one such file. Spacepoints go track by track, inside out, in cm;
    the slot value (0, 0, 0) means that the layer has no hit. `track_id` is the track's row, `event_id` the number
    in the file's name (the place in the archive if it has none), `event_trigger` is 0 or 1. Momenta in GeV/c and
    PDG codes are given for every spacepoint, and once more for every particle with vertex (cm) and energy (GeV).
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

    def read(self, path: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
        """See `Reader.read`. All columns are given."""
        check_required(required, HIT_COLUMNS, path)
        index = -1
        for index, (name, payload) in enumerate(_payloads(path)):
            digits = re.search(r"\d+$", Path(name).stem)
            yield {**_columns(payload, path, name), "event_id": int(digits[0]) if digits else index}
        if index < 0:
            raise DataError("holds no .npz file", file=path, remedy="give the archive or folder of event files")


def _event_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.npz") if _is_event(path.name))


def _is_event(name: str) -> bool:
    """Whether a file is an event; hidden files are what some systems add to archives on their own."""
    return name.endswith(".npz") and not Path(name).name.startswith(".")


def _payloads(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every event file at `path`, in order."""
    if path.is_dir() or path.suffix == ".npz":
        for file in _event_files(path) if path.is_dir() else [path]:
            with decoding(path, event=file.name, remedy="make it readable"):
                payload = file.read_bytes()
            yield file.name, payload
        return
    for tar, member in _members(path):
        if _is_event(member.name):
            with decoding(path, event=member.name):
                payload = _content(tar, member)
            yield member.name, payload


def _first_member(path: Path) -> tuple[str, IO[bytes] | None]:
    """Name and content of the first file of a tar archive; None if that is no event or `path` no archive."""
    try:
        for tar, member in _members(path):
            found = _is_event(member.name) and member.size < BLOCK
            return Path(member.name).name, io.BytesIO(_content(tar, member)) if found else None
    except Exception:  # damaged archives raise whatever the damage leads to
        pass
    return "", None


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file is not None else b""


class _Tape:
    """The bytes of an archive, read forward; remembers the last ones, because `tarfile` reads ahead."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._tail, self._position = stream, b"", 0

    def read(self, size: int) -> bytes:
        block = self._stream.read(size)
        self._tail = (self._tail + block)[-4 * tarfile.RECORDSIZE :]
        self._position += len(block)
        return block

    def ends_at(self, offset: int) -> bool:
        """Whether nothing but the end mark of a tar archive, two blocks of zeros or more, follows from `offset`."""
        rest = self._tail[offset - self._position + len(self._tail) :]
        mark = 0
        while rest and not rest.strip(b"\0"):
            mark += len(rest)
            rest = self._stream.read(BLOCK)
        return not rest and mark >= 2 * tarfile.BLOCKSIZE


@contextmanager
def _decompressed(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as raw:
        magic = raw.read(6)
        raw.seek(0)
        opener = next((opener for first, opener in DECOMPRESS.items() if magic.startswith(first)), None)
        with raw if opener is None else opener(raw) as stream:
            yield stream


def _members(path: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The regular files of a tar archive, read as a stream.

    Raises:
        DataError: if it is no tar archive, or a damaged one. `tarfile` takes a damaged header for the end of the
            archive, and one that is cut off as well; therefore the end is checked here.
    """
    with decoding(path, "the archive"), _decompressed(path) as stream:
        tape = _Tape(stream)
        with tarfile.open(fileobj=tape, mode="r|") as tar:  # type: ignore[call-overload]
            while (member := tar.next()) is not None:
                tar.members.clear()
                if member.isfile():
                    yield tar, member
            if not tape.ends_at(tar.offset):
                raise DataError("the archive ends early or is damaged", file=path, remedy=NEW_COPY)


def _columns(payload: bytes, path: Path, name: str) -> Columns:
    """One event file to columns, without `event_id`."""
    with npz.open_archive(io.BytesIO(payload), path, name) as archive:
        arrays = {key: npz.load(archive, key, path, name) for key in (*SHAPES, "trigger")}
    count = len(np.atleast_1d(arrays["track_vector"]))
    for key, shape in SHAPES.items():
        if count == arrays[key].size == 0:  # files without tracks hold some arrays as (0,)
            arrays[key] = arrays[key].reshape(0, *shape)
        if arrays[key].shape != (count, *shape):
            problem = f"{key!r} has shape {arrays[key].shape}, not {(count, *shape)}"
            raise DataError(problem, file=path, event=name, remedy="its arrays do not belong together")
    if arrays["trigger"].shape:
        raise DataError(f"'trigger' has shape {arrays['trigger'].shape}, not one number", file=path, event=name)
    return {**_hits(arrays), **_particles(arrays), "event_trigger": arrays["trigger"].item()}


def _hits(arrays: dict[str, Array]) -> Columns:
    positions = arrays["track_vector"].reshape(-1, SLOTS, 3)
    track, slot = np.nonzero((positions != 0).any(axis=2))
    x, y, z = positions[track, slot].T
    px, py, pz = arrays["momentums"][track].T
    layer = LAYER_OF_SLOT[slot]
    pdg = arrays["ptypes"][track]
    return {"x": x, "y": y, "z": z, "track_id": track, "layer": layer, "pdg": pdg, "px": px, "py": py, "pz": pz}


def _particles(arrays: dict[str, Array]) -> Columns:
    momenta = zip(("px", "py", "pz"), arrays["momentums"].T, strict=True)
    vertices = zip(("vx", "vy", "vz"), arrays["origin_vertices"].T, strict=True)
    columns = {"track_id": np.arange(len(arrays["ptypes"])), "pdg": arrays["ptypes"], "energy": arrays["energy"]}
    return {f"particle_{name}": values for name, values in {**columns, **dict(momenta), **dict(vertices)}.items()}
