"""TPCpp-10M, the public simulated data set of the sPHENIX TPC: .npz shards with flat arrays and event sizes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

import numpy as np

from fm4npp.errors import DataError
from fm4npp.event import PARTICLE_CLASSES
from fm4npp.readers import npz
from fm4npp.readers.base import Columns, Reader
from fm4npp.readers.checks import NEW_COPY, check_required
from fm4npp.readers.npz import Array

POINTS = ("energy", "x", "y", "z")
"""Columns of `data` in a spacepoints file: summed ADC, then cm (arXiv 2509.05792)."""
LABELS = {"track_id": "track_ids", "particle_class": "pid_labels", "is_noise": "noise_tags"}
"""Label -> what stands for "spacepoints" in the name of the file that holds it."""


class TPCppNpz(Reader):
    """TPCpp-10M shards: `spacepoints*.npz` with `data` (rows of energy, x, y, z) and `size` (rows of each event).

    A path is one spacepoints file, or a folder of them, read in the order of their numbers. Labels come from
    the files beside it (`track_ids`, `pid_labels`, `noise_tags`, same suffix). Class indices are given as
    stored: 0 other, 1 pion, 2 kaon, 3 proton, 4 electron. `event_id` counts the events of all shards.
    Checked on files written to the documented layout of the release (Zenodo 10.5281/zenodo.16970029).
    """

    registered_name: ClassVar[str] = "tpcpp-npz"

    def recognises(self, path: Path) -> bool:
        """See `Reader.recognises`; a damaged archive is recognised by its name."""
        if path.is_dir():
            return bool(shards(path))
        if path.suffix != ".npz":
            return False
        found = npz.names(path)
        return path.name.startswith("spacepoints") if found is None else found == {"data", "size"}

    def read(self, path: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
        """See `Reader.read`. Labels are read if they are asked for; a shard is never held in memory."""
        paths = shards(path) if path.is_dir() else [path]
        labels = _labels(paths, {*required, *optional})
        check_required(required, [*POINTS, *labels], path)
        event_id = 0
        for shard in paths:
            for columns in _events(shard, {name: label_path(shard, name) for name in labels}):
                yield {**columns, "event_id": event_id}
                event_id += 1


def shards(folder: Path) -> list[Path]:
    """The spacepoints files of a folder, ordered by number; one without a number comes first."""

    def key(path: Path) -> tuple[int, str]:
        number = re.search(r"\d+$", path.stem)
        return (int(number[0]) if number else -1, path.name)

    return sorted(folder.glob("spacepoints*.npz"), key=key)


def label_path(shard: Path, label: str) -> Path:
    """Where the label of a spacepoints file would be."""
    return shard.with_name(shard.name.replace("spacepoints", LABELS[label], 1))


def _labels(paths: Sequence[Path], wanted: set[str]) -> list[str]:
    """The wanted labels that all shards have; one that only some have is an error."""
    found = []
    for label in (name for name in LABELS if name in wanted):
        absent = [path for path in paths if not (label_path(path, label).is_file() and "spacepoints" in path.name)]
        if absent and len(absent) < len(paths):
            raise DataError(
                f"no {label_path(absent[0], label).name} beside it, though other shards of the folder have one",
                file=absent[0],
                remedy="complete the download",
            )
        if not absent:
            found.append(label)
    return found


class _Table:
    """One file of a shard: `size`, and `data` as a stream."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path
        archive = stack.enter_context(npz.open_archive(path, path))
        self.sizes = npz.load(archive, "size", path)
        self.data = stack.enter_context(npz.Member(archive, "data", path))
        if self.sizes.ndim != 1 or self.sizes.dtype.kind not in "iu" or (self.sizes < 0).any():
            raise DataError("`size` is not a list of numbers of spacepoints", file=path)
        self.num_rows = self.data.shape[0] if self.data.shape else 0
        if (total := int(self.sizes.sum(dtype=np.int64))) != self.num_rows:
            raise DataError(
                f"`size` adds up to {total} but `data` has {self.num_rows} rows", file=path, remedy=NEW_COPY
            )


def _events(shard: Path, labels: Mapping[str, Path]) -> Iterator[Columns]:
    with ExitStack() as stack:
        points = _Table(shard, stack)
        if points.data.shape[1:] != (len(POINTS),) or points.data.dtype.kind != "f":
            raise DataError(
                f"`data` is {points.data.dtype} of shape {points.data.shape}, not rows of energy, x, y, z",
                file=shard,
                remedy="give the path of a spacepoints file",
            )
        tables = {name: _Table(path, stack) for name, path in labels.items()}
        for table in tables.values():
            _check_same_events(points, table)
        for index, count in enumerate(points.sizes.tolist()):
            rows = points.data.rows(count).astype(np.float32, copy=False)
            columns: Columns = dict(zip(POINTS, rows.T, strict=True))
            for name, table in tables.items():
                columns[name] = _checked(name, table.data.rows(count), table.path, index)
            yield columns
        for table in (points, *tables.values()):
            table.data.end()


def _check_same_events(points: _Table, labels: _Table) -> None:
    remedy = "the two files do not belong together"
    name = points.path.name
    if labels.data.shape != (points.num_rows,):
        problem = f"`data` has shape {labels.data.shape} but {name} has {points.num_rows} spacepoints"
        raise DataError(problem, file=labels.path, remedy=remedy)
    if not np.array_equal(labels.sizes, points.sizes):
        raise DataError(f"`size` differs from that of {name}", file=labels.path, remedy=remedy)


def _checked(label: str, values: Array, file: Path, event: int) -> Array:
    """One event's label in its own type, if its values are what the layout allows."""
    if values.dtype.kind not in "biu":
        raise DataError(f"{label} is stored as {values.dtype}, not as integers", file=file, event=event)
    limit = {"particle_class": len(PARTICLE_CLASSES), "is_noise": 2}.get(label)
    if limit is not None and len(values) and not 0 <= values.min() <= values.max() < limit:
        raise DataError(
            f"{label} reaches from {values.min()} to {values.max()}, not from 0 to {limit - 1}",
            file=file,
            event=event,
            remedy="this is not the label file of TPCpp-10M",
        )
    return values.astype(np.bool_ if label == "is_noise" else np.int64)
