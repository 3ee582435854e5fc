"""What a frozen model makes of events, kept on disk: computed once, read by every head that is trained on it.

The hidden states of an events file lie in a folder that is named after the file and its content. It says what they are
of: the backbone's weights, the events, detector, serializer, how they are stored. What is of anything else is refused,
not replaced: at the paper's sizes such a folder holds up to a terabyte, so removing it is the user's decision.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import socket
import uuid
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from fm4npp.data.cache import REMEDY, _map, _publish, _read_manifest, _remove_leftovers, _starts, _write_header
from fm4npp.data.dataset import EventDataset
from fm4npp.errors import ConfigurationError, DataError, FM4NPPError
from fm4npp.event import Event
from fm4npp.files import sha256, write_json
from fm4npp.readers.events_parquet import MANIFEST, read_summary

Array = NDArray[Any]
Kind = Literal["raw", "mixed"]
"""Every block's output, or their mean alone, which takes 3 / (L + 2) of the disk."""
Type = Literal["float32", "float16", "bfloat16"]
FORMAT = 1
TABLES = ("offsets", "checksums")
"""Arrays beside those of the tokens: (events + 1,) where each event starts; (events, 4), the CRC-32 of its parts."""
HEADER = 128
"""Bytes at the beginning of an array's file that say its type and shape."""
MAX_OPEN = 64
"""Files whose arrays stay mapped into memory; each takes four file handles, of which a process has often 1,024."""
STORED_TYPES: Mapping[str, type[np.generic]] = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}


@dataclass(frozen=True)
class Layout:
    """How hidden states are stored.

    Attributes:
        kind: "raw", every block's output, or "mixed", their mean.
        dtype: "float32", exact; "float16" or "bfloat16", half as large and rounded.
        width: W of the backbone.
        num_blocks: L.
    """

    kind: Kind
    dtype: Type
    width: int
    num_blocks: int

    def __post_init__(self) -> None:
        if self.kind not in ("raw", "mixed"):
            raise ConfigurationError(f"hidden states of the kind {self.kind!r}; choose 'raw' or 'mixed'")
        if self.dtype not in STORED_TYPES:
            raise ConfigurationError(f"hidden states stored as {self.dtype!r}; choose {', '.join(STORED_TYPES)}")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Array -> the shape of what it holds of a token."""
        blocks = (self.num_blocks, self.width) if self.kind == "raw" else (self.width,)
        return {"order": (), "embedding": (self.width,), "blocks": blocks, "last": (self.width,)}

    @property
    def bytes_per_token(self) -> int:
        """Of all arrays: for raw outputs 4 + (L + 2) W, times 4 or 2."""
        return sum(self._type(name).itemsize * int(np.prod(shape)) for name, shape in self.shapes.items())

    def encode(self, name: str, values: Array) -> Array:
        """(N, ...) as it is stored.

        Raises:
            DataError: if a value is not finite, or too large for the type.
        """
        if name == "order":
            return np.ascontiguousarray(values, np.uint32)
        with np.errstate(over="ignore"):
            rounded = _to_bfloat16(values) if self.dtype == "bfloat16" else np.ascontiguousarray(values, self.dtype)
        if not np.isfinite(self.decode(name, rounded)).all():
            largest = np.abs(values).max()
            remedy = "store float32 or bfloat16" if np.isfinite(largest) else "the model cannot be used on this event"
            raise DataError(f"hidden states up to {largest:g}, which {self.dtype} does not hold", remedy=remedy)
        return rounded

    def decode(self, name: str, stored: Array) -> Array:
        """The inverse of `encode`: (N, ...) float32, and as it is what was stored in that type."""
        if name == "order" or self.dtype == "float32":
            return stored
        if self.dtype == "float16":
            return stored.astype(np.float32)
        wide = stored.astype(np.uint32)
        wide <<= 16  # bfloat16 is the first half of a float32
        return wide.view(np.float32)

    def _type(self, name: str) -> np.dtype[Any]:
        return np.dtype(np.uint32 if name == "order" else STORED_TYPES[self.dtype])


class FeatureStore:
    """Hidden states of the events of a dataset, one folder for each of its files.

    Calling it with the index of an event gives the keyword arguments `order` and `hidden` of `FM4NPPProcessor.prepare`;
    it is what `loader` takes as `stored`.

    Args:
        dataset: the events.
        folder: where the folders are, or will be.
        keys: for each of the dataset's files all that its hidden states depend on, as JSON.
        layout: how they are stored.

    Raises:
        ConfigurationError: if the folder holds hidden states of one of the files that are of something else.
        DataError: if what it holds is damaged.
    """

    def __init__(
        self, dataset: EventDataset, folder: str | Path, keys: Sequence[Mapping[str, Any]], layout: Layout
    ) -> None:
        self.dataset, self.folder, self.layout = dataset, Path(folder), layout
        contents = [read_summary(path)["content"] for path in dataset.paths]
        self.keys = [
            json.loads(json.dumps({"format": FORMAT, "data": content, **key, **asdict(layout)}))
            for content, key in zip(contents, keys, strict=True)
        ]
        self._open = lru_cache(maxsize=MAX_OPEN)(self._opened)
        for part in range(len(self.keys)):
            self._check(part)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_open"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open = lru_cache(maxsize=MAX_OPEN)(self._opened)

    def path(self, part: int) -> Path:
        """The folder of one of the dataset's files."""
        return self.folder / f"{Path(str(self.dataset.paths[part])).stem}-{self.keys[part]['data'][:12]}"

    @property
    def missing(self) -> list[int]:
        """Which of the dataset's files have no folder yet; of several with the same content the first."""
        first = {self.path(part): part for part in reversed(range(len(self.keys)))}
        return sorted(part for path, part in first.items() if not path.exists())

    @property
    def bytes_needed(self) -> int:
        """What the missing hidden states will take on disk, to a few kilobytes."""
        return sum(int(_starts(self.dataset, part)[-1]) for part in self.missing) * self.layout.bytes_per_token

    def check_space(self) -> None:
        """Find out whether the disk holds what is missing.

        Raises:
            ConfigurationError: if it does not.
        """
        needed, free = self.bytes_needed, _free_bytes(self.folder)
        if needed > free:
            raise ConfigurationError(
                f"{self.folder}: the hidden states need {needed / 1e9:.3g} GB and {free / 1e9:.3g} GB are free; name a "
                "folder on another disk, or store them mixed or as bfloat16"
            )

    def write(self, part: int, hidden: Iterable[tuple[Event, Mapping[str, Array]]], made_by: Mapping[str, Any]) -> None:
        """Write the hidden states of one file; a process that is killed meanwhile leaves nothing that is used.

        Args:
            part: which of the dataset's files.
            hidden: every event of the file with `order` (N,), `embedding`, `blocks` and `last` (N, ...) float32.
            made_by: goes into the manifest, informative.

        Raises:
            FM4NPPError: if it cannot be written.
            DataError: if a value is not finite.
        """
        path = self.path(part)
        _remove_leftovers(path)
        temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
        try:
            temporary.mkdir(parents=True)
            self._write_arrays(part, hidden, temporary)
            source = str(Path(str(self.dataset.paths[part])).absolute())
            manifest = {"key": self.keys[part], "file": source, "made_by": dict(made_by)}
            write_json(temporary / MANIFEST, {**manifest, "arrays": self._description(temporary)})
            _publish(temporary, path)
        except OSError as error:
            reason = error.strerror or str(error)
            raise FM4NPPError(f"{self.folder}: cannot be written ({reason}); nothing was changed") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def __call__(self, index: int) -> dict[str, Any]:
        """The keyword arguments of `prepare` for one event.

        Raises:
            DataError: if what is stored is damaged.
        """
        part = self.dataset.part(index)
        arrays, starts = self._open(part)
        row = index - self.dataset.starts[part]
        found: dict[str, Array] = {}
        for column, name in enumerate(self.layout.shapes):
            # A view of the file: it is copied once, when the batch is packed.
            stored = np.asarray(arrays[name][starts[row] : starts[row + 1]])
            if zlib.crc32(stored.data) != arrays["checksums"][row, column]:
                raise DataError(f"the stored {name} of event {row} is damaged", file=self.path(part), remedy=REMEDY)
            found[name] = self.layout.decode(name, stored)
        return {"order": found.pop("order"), "hidden": found}

    def _write_arrays(self, part: int, hidden: Iterable[tuple[Event, Mapping[str, Array]]], folder: Path) -> None:
        starts, names = _starts(self.dataset, part), tuple(self.layout.shapes)
        checksums = np.zeros((len(starts) - 1, len(names)), np.uint32)
        with ExitStack() as stack:
            files: dict[str, BinaryIO] = {}
            for name, shape in self.layout.shapes.items():
                files[name] = stack.enter_context((folder / f"{name}.npy").open("wb"))
                _write_header(files[name], (int(starts[-1]), *shape), self.layout._type(name))
            for row, (event, values) in enumerate(hidden):
                for column, (name, stored) in enumerate(self._encoded(event, values).items()):
                    files[name].write(stored.data)
                    checksums[row, column] = zlib.crc32(stored.data)
        np.save(folder / "offsets.npy", starts)
        np.save(folder / "checksums.npy", checksums)

    def _encoded(self, event: Event, values: Mapping[str, Array]) -> dict[str, Array]:
        try:
            return {name: self.layout.encode(name, values[name]) for name in self.layout.shapes}
        except DataError as error:
            raise error.at(file=event.source or None, event=event.event_id) from error

    def _check(self, part: int) -> None:
        """Refuse what is there already, if it is of something else."""
        path, key = self.path(part), self.keys[part]
        if path.exists():
            _refuse(path, _read_manifest(path).get("key"), key)
            return
        source = str(Path(str(self.dataset.paths[part])).absolute())
        stem = path.name.rpartition("-")[0]
        for other in sorted(self.folder.glob(f"{glob.escape(stem)}-*")):
            manifest = _read_manifest(other)
            if manifest.get("file") == source:
                _refuse(other, manifest.get("key"), key)

    def _opened(self, part: int) -> tuple[dict[str, Array], Array]:
        """The arrays of a folder, memory-mapped, after a check; (events + 1,) where each event starts."""
        path, starts = self.path(part), _starts(self.dataset, part)
        if not path.is_dir():
            raise DataError("no stored hidden states of this file", file=path, remedy="compute them first")
        manifest = _read_manifest(path)
        _refuse(path, manifest.get("key"), self.keys[part])
        if manifest.get("arrays") != self._description(path):
            raise DataError("its files are not those that the manifest lists", file=path, remedy=REMEDY)
        arrays = {name: _map(path / f"{name}.npy") for name in (*self.layout.shapes, *TABLES)}
        shapes = {name: (int(starts[-1]), *shape) for name, shape in self.layout.shapes.items()}
        shapes |= {"offsets": starts.shape, "checksums": (len(starts) - 1, len(self.layout.shapes))}
        wrong = [name for name, array in arrays.items() if array.shape != shapes[name]]
        if wrong or not np.array_equal(arrays["offsets"], starts):
            raise DataError("arrays do not belong to this file", file=path, remedy=REMEDY)
        return arrays, starts

    def _description(self, folder: Path) -> dict[str, Any]:
        """File -> its bytes and the hash of what says its type and shape, or of all of it where it is small."""
        found: dict[str, Any] = {}
        for name in (*self.layout.shapes, *TABLES):
            path = folder / f"{name}.npy"
            if path.is_file():
                found[path.name] = [path.stat().st_size, sha256(path) if name in TABLES else _header_hash(path)]
        return found


def _refuse(path: Path, stored: Any, wanted: Mapping[str, Any]) -> None:
    """Refuse hidden states that are of something else than what is wanted, saying what differs.

    Raises:
        ConfigurationError: if they are.
    """
    if not isinstance(stored, dict):
        raise DataError("its manifest does not say what the hidden states are of", file=path, remedy=REMEDY)
    different = [name for name in dict.fromkeys((*wanted, *stored)) if wanted.get(name) != stored.get(name)]
    if different:
        what = ", ".join(_difference(name, stored.get(name), wanted.get(name)) for name in different)
        raise ConfigurationError(
            f"{path}: hidden states of something else: {what}; name another folder, or remove this one"
        )


def _difference(name: str, stored: Any, wanted: Any) -> str:
    if isinstance(stored, str | int) and isinstance(wanted, str | int):
        return f"another {name} ({str(stored)[:12]}, now {str(wanted)[:12]})"
    return f"another {name}"


def _header_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.sha256(file.read(HEADER)).hexdigest()


def _to_bfloat16(values: Array) -> Array:
    """(N, ...) float32 to bfloat16, rounded to the nearest, as its bits in uint16."""
    rounded = torch.from_numpy(np.ascontiguousarray(values)).to(torch.bfloat16)
    bits: Array = rounded.view(torch.uint16).numpy()
    return bits


def _free_bytes(folder: Path) -> int:
    """Free space of the disk that a folder is on, or will be."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return shutil.disk_usage(existing).free
