"""TPCpp-10M, the public simulated data set of the sPHENIX TPC: .npz shards with flat arrays and event sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

import numpy as np

from fm4npp.errors import DataError
from fm4npp.readers import nested_zip, npz
from fm4npp.readers.base import WHOLE, Block, Table
from fm4npp.readers.blocks import BlockReader, blocks, by_column
from fm4npp.readers.checks import NEW_COPY, check_required
from fm4npp.readers.tpcpp_files import LABELS, Shards, find_shards, is_shard

POINTS = ("energy", "x", "y", "z")
"""Columns of `data` in a spacepoints file: summed ADC, then cm (arXiv 2509.05792)."""


class TPCppNpz(BlockReader):
    """TPCpp-10M shards: `spacepoints*.npz` with `data` (rows of energy, x, y, z) and `size` (rows of each event).

    A path is one spacepoints file, a folder of them, or the published zip archive, which is not unpacked; shards are
    read in the order of their numbers. An archive with several splits is followed by the wanted one, as if it were a
    folder: `TPCpp-10M.zip/labeled/train`. Labels come from the files beside a shard (`track_ids`, `pid_labels`,
    `noise_tags`, same suffix) and are given as stored; classes are 0 other, 1 pion, 2 kaon, 3 proton, 4 electron.
    `event_id` counts the events of a shard, `source` is the shard's name, given for folders and archives.
    Checked on files written to the documented layout of the release (Zenodo 10.5281/zenodo.16970029).
    """

    registered_name: ClassVar[str] = "tpcpp-npz"

    def recognises(self, path: Path) -> bool:
        """See `Reader.recognises`; a damaged archive is recognised by its name."""
        place, _ = nested_zip.split(path)
        if place.is_dir():
            return any(place.glob("spacepoints*.npz"))
        if place.suffix == ".zip":
            members = nested_zip.names(place) or ()
            only_arrays = all(name.endswith(".npy") for name in members)  # the last shard of an archive that is cut off
            return any(map(is_shard, members)) or (only_arrays and "tpcpp" in place.name.lower())
        if path.suffix != ".npz":
            return False
        found = npz.names(path)
        return path.name.startswith("spacepoints") if found is None else found == {"data", "size"}

    def parts(self, path: Path) -> Sequence[str]:
        """See `Reader.parts`: the shards."""
        return _one_split(path).names if _holds_several(path) else (WHOLE,)

    def read_blocks(self, path: Path, part: str, required: Sequence[str], optional: Sequence[str]) -> Iterator[Block]:
        """See `Reader.read_blocks`. Labels are read if they are asked for; a shard is never held in memory."""
        shards = _one_split(path)
        labels = _labels(shards, {*required, *optional})
        check_required(required, [*POINTS, *labels], path)
        return _blocks(shards, part or shards.names[0], labels, source=part)

    def describe(self, path: Path) -> Sequence[Table]:
        """See `Reader.describe`: the first shard and its labels, of every split."""
        tables = []
        for shards in find_shards(path).splits():
            files = {shards.names[0]: ""} | {shards.label(shards.names[0], label): label for label in LABELS}
            for name in filter(shards.holds, files):
                with ExitStack() as stack:
                    table = _Table(shards, name, stack)
                columns = [files[name]] if files[name] else POINTS
                tables.append(Table(name, table.num_rows, dict.fromkeys(columns, str(table.data.dtype))))
        return tables


def _one_split(path: Path) -> Shards:
    shards = find_shards(path)
    splits = shards.splits()
    if len(splits) > 1:
        places = [(shards.root / split.names[0]).parent for split in splits]
        found = ", ".join(str(place.relative_to(shards.root)) for place in places)
        raise DataError(f"one split is needed (found: {found})", file=path, remedy=f"give the path of one: {places[0]}")
    return shards


def _holds_several(path: Path) -> bool:
    """Whether a path can hold several shards: a folder, or an archive or a folder in one."""
    place, inside = nested_zip.split(path)
    return place.is_dir() or (place.suffix == ".zip" and not inside.endswith(".npz"))


def _labels(shards: Shards, wanted: set[str]) -> list[str]:
    """The wanted labels that all shards have; one that only some have is an error."""
    found = []
    for label in (name for name in LABELS if name in wanted):
        absent = [name for name in shards.names if not (is_shard(name) and shards.holds(shards.label(name, label)))]
        if absent and len(absent) < len(shards.names):
            raise DataError(
                f"no {Path(shards.label(absent[0], label)).name} beside it, though other shards have one",
                file=shards.root / absent[0],
                remedy="complete the download",
            )
        if not absent:
            found.append(label)
    return found


class _Table:
    """One file of a shard: `size`, and `data` as a stream."""

    def __init__(self, shards: Shards, name: str, stack: ExitStack) -> None:
        self.path = shards.root / name
        archive = stack.enter_context(shards.open(name, stack))
        sizes = npz.load(archive, "size", self.path)
        self.data = stack.enter_context(npz.Member(archive, "data", self.path))
        self.num_rows = self.data.shape[0] if self.data.shape else 0
        if sizes.ndim != 1 or sizes.dtype.kind not in "iu" or (sizes < 0).any():
            raise DataError("`size` is not a list of numbers of spacepoints", file=self.path)
        total = sum(sizes.tolist())
        if total != self.num_rows:
            problem = f"`size` adds up to {total} but `data` has {self.num_rows} rows"
            raise DataError(problem, file=self.path, remedy=NEW_COPY)
        self.sizes = sizes.astype(np.int64)


def _blocks(shards: Shards, name: str, labels: Sequence[str], source: str) -> Iterator[Block]:
    with ExitStack() as stack:
        points = _Table(shards, name, stack)
        _check_points(points)
        tables = {label: _Table(shards, shards.label(name, label), stack) for label in labels}
        for label, table in tables.items():
            _check_label(label, table, points)
        for start, stop in blocks(points.sizes):
            sizes = points.sizes[start:stop]
            num_rows = int(sizes.sum())
            columns = by_column(POINTS, points.data.rows(num_rows))
            columns |= {label: table.data.rows(num_rows) for label, table in tables.items()}
            yield Block(columns, sizes, np.arange(start, stop), source)
        for table in (points, *tables.values()):
            table.data.end()


def _check_points(points: _Table) -> None:
    data = points.data
    if data.shape[1:] != (len(POINTS),) or data.dtype.kind != "f" or data.dtype.itemsize > 8:
        raise DataError(
            f"`data` is {data.dtype} of shape {data.shape}, not rows of energy, x, y, z",
            file=points.path,
            remedy="give the path of a spacepoints file",
        )


def _check_label(label: str, table: _Table, points: _Table) -> None:
    remedy = "the two files do not belong together"
    name = points.path.name
    if table.data.shape != (points.num_rows,):
        problem = f"`data` has shape {table.data.shape} but {name} has {points.num_rows} spacepoints"
        raise DataError(problem, file=table.path, remedy=remedy)
    if not np.array_equal(table.sizes, points.sizes):
        raise DataError(f"`size` differs from that of {name}", file=table.path, remedy=remedy)
    if table.data.dtype.kind not in "biu":
        raise DataError(f"{label} is stored as {table.data.dtype}, not as integers", file=table.path)
