"""The order of the tokens and the neighbours, kept on disk: computed once, read by every later epoch and run.

What is kept of an events file lies in a folder whose name is a hash of everything it depends on: the content of the
file, geometry, serializer, objective. Other ingredients have another name, so nothing out of date is ever read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import uuid
import zlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from fm4npp.data.dataset import EventDataset
from fm4npp.errors import DataError, FM4NPPError
from fm4npp.event import Event
from fm4npp.files import write_json
from fm4npp.readers.events_parquet import MANIFEST, read_summary

Array = NDArray[Any]
FORMAT = 1
FILES = ("order", "indices", "checksums")
"""Arrays of a folder: (T,) and (T, m), of all events end to end, and (events, 2), the CRC-32 of each event's part."""
REMEDY = "remove the folder; it is computed again"


class Indexer(Protocol):
    """What computes order and indices: `FM4NPPProcessor`."""

    def index_key(self, detector: str) -> dict[str, Any]:
        """All that `indices` depends on besides the event, as JSON."""

    def indices(self, event: Event) -> tuple[Array, Array | None]:
        """The order (N,) of an event's tokens, and its neighbours (N, m)."""


class IndexCache:
    """Order and neighbours of the events of a dataset, one folder for each of its files.

    Calling it with the index of an event gives the keyword arguments `order` and `indices` of
    `FM4NPPProcessor.prepare`; it is what `loader` takes as `stored`.

    Args:
        dataset: the events.
        processor: what computes order and neighbours.
        folder: where the folders are, or will be.
    """

    def __init__(self, dataset: EventDataset, processor: Indexer, folder: str | Path) -> None:
        self.dataset, self.folder = dataset, Path(folder)
        self._processor = processor
        self._keys = [_key(dataset, part, processor) for part in range(len(dataset.paths))]
        self._open = lru_cache(maxsize=None)(self._opened)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_open"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._open = lru_cache(maxsize=None)(self._opened)

    def path(self, part: int) -> Path:
        """The folder of one of the dataset's files."""
        return self.folder / hashlib.sha256(json.dumps(self._keys[part], sort_keys=True).encode()).hexdigest()

    @property
    def missing(self) -> list[int]:
        """Which of the dataset's files have no folder yet."""
        return [part for part in range(len(self._keys)) if not self.path(part).exists()]

    def build(self, progress: Callable[[int], None] = lambda done: None) -> None:
        """Compute what is missing; several processes may do so at once, and one that is stopped leaves nothing in use.

        Args:
            progress: called with the number of events after each file.

        Raises:
            FM4NPPError: if it cannot be written.
            DataError: if an event cannot be read or ordered.
        """
        done = 0
        for part in self.missing:
            path = self.path(part)
            if path.exists():  # by now: another process, or the same file twice
                continue
            _remove_leftovers(path)
            temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
            try:
                temporary.mkdir(parents=True)
                self._write(part, temporary)
                _publish(temporary, path)
            except OSError as error:
                reason = error.strerror or str(error)
                raise FM4NPPError(f"{self.folder}: cannot be written ({reason}); nothing was changed") from error
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            done += self.dataset.starts[part + 1] - self.dataset.starts[part]
            progress(done)

    def __call__(self, index: int) -> Mapping[str, Array]:
        """The keyword arguments of `prepare` for one event.

        Raises:
            DataError: if what is stored is damaged.
        """
        part = self.dataset.part(index)
        arrays, starts = self._open(part)
        row = index - self.dataset.starts[part]
        found: dict[str, Array] = {}
        for name in FILES[:2]:
            if name not in arrays:
                continue
            found[name] = np.array(arrays[name][starts[row] : starts[row + 1]])
            if zlib.crc32(found[name].data) != arrays["checksums"][row, FILES.index(name)]:
                raise DataError(f"the stored {name} of event {row} is damaged", file=self.path(part), remedy=REMEDY)
        return found

    def _write(self, part: int, folder: Path) -> None:
        starts, first = _starts(self.dataset, part), self.dataset.starts[part]
        dtype = np.uint16 if np.diff(starts).max(initial=0) <= np.iinfo(np.uint16).max else np.uint32
        checksums = np.zeros((len(starts) - 1, 2), np.uint32)
        with ExitStack() as stack:
            files: dict[str, BinaryIO] = {}
            for row in range(len(starts) - 1):
                for column, (name, values) in enumerate(_computed(self.dataset[first + row], self._processor).items()):
                    if name not in files:
                        files[name] = stack.enter_context((folder / f"{name}.npy").open("wb"))
                        _write_header(files[name], (int(starts[-1]), *values.shape[1:]), dtype)
                    content = np.ascontiguousarray(values, dtype).tobytes()
                    files[name].write(content)
                    checksums[row, column] = zlib.crc32(content)
        np.save(folder / "checksums.npy", checksums)
        write_json(folder / MANIFEST, {"key": self._keys[part], "arrays": _description(folder)})

    def _opened(self, part: int) -> tuple[dict[str, Array], Array]:
        """The arrays of a folder, memory-mapped, after a check; (events + 1,) where each event starts."""
        path = self.path(part)
        if not path.is_dir():
            raise DataError("no stored order and neighbours of this file", file=path, remedy="call build() first")
        manifest = _read_manifest(path)
        if manifest.get("key") != self._keys[part]:
            raise DataError("holds something else than its name says", file=path, remedy=REMEDY)
        if manifest.get("arrays") != _description(path):
            raise DataError("its files are not those that the manifest lists", file=path, remedy=REMEDY)
        starts = _starts(self.dataset, part)
        arrays = {name: _map(path / file) for name in FILES if (path / (file := f"{name}.npy")).exists()}
        lengths = {"order": int(starts[-1]), "indices": int(starts[-1]), "checksums": len(starts) - 1}
        if "checksums" not in arrays or any(len(a) != lengths[name] for name, a in arrays.items()):
            raise DataError("arrays do not belong to this file", file=path, remedy=REMEDY)
        return arrays, starts


def cached(
    dataset: EventDataset,
    processor: Indexer,
    folder: str | Path,
    *,
    progress: Callable[[int], None] = lambda done: None,
) -> IndexCache:
    """Order and neighbours of a dataset from a folder; what the folder lacks is computed first.

    Args:
        dataset: the events.
        processor: fitted.
        folder: of the cache; it may serve any number of files, runs and configurations.
        progress: called with the number of events computed so far.

    Returns:
        What `loader` takes as `stored`.

    Raises:
        FM4NPPError: as of `IndexCache.build`.
    """
    cache = IndexCache(dataset, processor, folder)
    cache.build(progress)
    return cache


def _key(dataset: EventDataset, part: int, processor: Indexer) -> dict[str, Any]:
    """All that the content of a folder depends on."""
    content = read_summary(dataset.paths[part])["content"]
    return {"format": FORMAT, "content": content, **processor.index_key(dataset.detector(part))}


def _computed(event: Event, processor: Indexer) -> dict[str, Array]:
    try:
        order, indices = processor.indices(event)
    except DataError as error:
        raise error.at(file=event.source or None, event=event.event_id) from error
    return {"order": order} | ({} if indices is None else {"indices": indices})


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError("cannot be read", file=path / MANIFEST, remedy=REMEDY) from error
    return manifest if isinstance(manifest, dict) else {}


def _starts(dataset: EventDataset, part: int) -> Array:
    lengths = dataset.lengths[dataset.starts[part] : dataset.starts[part + 1]]
    return np.concatenate([[0], np.cumsum(lengths)])


def _write_header(file: BinaryIO, shape: tuple[int, ...], dtype: Any) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _map(path: Path) -> Array:
    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)
            shape, _, _ = np.lib.format.read_array_header_1_0(file)
        # Nothing cannot be mapped into memory.
        array: Array = np.load(path, mmap_mode=None if 0 in shape else "r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError("cannot be read", file=path, remedy=REMEDY) from error
    return array


def _description(folder: Path) -> dict[str, list[Any]]:
    """File -> its bytes and the hash of its first 128 bytes, which say type and shape."""
    found = {}
    for name in FILES:
        path = folder / f"{name}.npy"
        if path.is_file():
            with path.open("rb") as file:
                found[path.name] = [path.stat().st_size, hashlib.sha256(file.read(128)).hexdigest()]
    return found


def _publish(temporary: Path, path: Path) -> None:
    """Flush and rename; if another process was faster, its folder holds the same."""
    for file in temporary.iterdir():
        with file.open("rb+") as handle:
            os.fsync(handle.fileno())
    try:
        temporary.rename(path)
    except OSError:
        if not path.is_dir():
            raise


def _remove_leftovers(path: Path) -> None:
    """Remove what processes of this machine that no longer run have left of the same folder."""
    host = socket.gethostname()
    for folder in path.parent.glob(f".{path.name}.{host}.*"):
        process = int(folder.name.removeprefix(f".{path.name}.{host}.").split(".")[0])
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:  # it runs, and is somebody else's
            continue
