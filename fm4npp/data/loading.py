"""One call for sets of events, here or on the Hugging Face Hub, in memory's reach or not."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, overload

import datasets
import fsspec

from fm4npp import detectors
from fm4npp.data.accounting import MAX_REJECTED
from fm4npp.data.dataset import EventDataset
from fm4npp.data.mixture import Mixture, Stop
from fm4npp.data.stream import BUFFER, EventStream, check_rank
from fm4npp.detectors import Detector
from fm4npp.errors import ConfigurationError, DataError
from fm4npp.readers.checks import listing, one_line
from fm4npp.readers.events_parquet import is_url

Paths = str | Path | Sequence[str | Path]
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@overload
def load(
    paths: Paths,
    *,
    streaming: Literal[False] = False,
    detector: str | Path | Detector | None = None,
    revision: str | None = None,
    split: str | None = None,
) -> EventDataset: ...


@overload
def load(
    paths: Paths,
    *,
    streaming: Literal[True],
    detector: str | Path | Detector | None = None,
    revision: str | None = None,
    split: str | None = None,
    probabilities: Sequence[float] | None = None,
    stop: Stop = "first",
    seed: int | None = None,
    buffer: int = BUFFER,
    rank: int = 0,
    world_size: int = 1,
    max_rejected: float = MAX_REJECTED,
) -> EventStream | Mixture: ...


def load(
    paths: Paths,
    *,
    streaming: bool = False,
    detector: str | Path | Detector | None = None,
    revision: str | None = None,
    split: str | None = None,
    probabilities: Sequence[float] | None = None,
    stop: Stop = "first",
    seed: int | None = None,
    buffer: int = BUFFER,
    rank: int = 0,
    world_size: int = 1,
    max_rejected: float = MAX_REJECTED,
) -> EventDataset | EventStream | Mixture:
    """Events for training.

    Args:
        paths: one or more of: an events file, a folder of them, a pattern such as "run*/*.parquet", the id of a data
            set repository of the Hub, the URL of a file in one (`hf://datasets/...`, also a pattern). When streaming
            with a detector, also files of any registered format.
        streaming: False gives the events by index, and downloads what is on the Hub; True gives one after the other,
            in memory that does not grow with their number.
        detector: what wrote them; needed for files of other formats, a check for events files.
        revision: branch, tag or commit of the repositories.
        split: of the repositories; by default "train", or the only one.
        probabilities: when streaming, mix the `paths`, one number for each; see `Mixture`.
        stop: of a mixture: when its epoch ends.
        seed: when streaming, shuffle with this seed, see `EventStream`; None keeps the order.
        buffer: when streaming, events that are shuffled among each other.
        rank: when streaming, of this process.
        world_size: when streaming, number of processes; each gets its own events.
        max_rejected: when streaming, share of events, and of spacepoints, that may be rejected before reading stops.

    Returns:
        The events by index, or a stream of them. The first cannot leave out events: one that cannot be read is an
        error.

    Raises:
        DataError: if something is not there or holds no events.
        ConfigurationError: if the options do not go together.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    found = [resolve(path, revision=revision, split=split) for path in given]
    wanted = detector if detector is None or isinstance(detector, Detector) else detectors.load(detector)
    if not found:
        raise ConfigurationError("nothing to load; name at least one file, folder or repository")
    check_rank(rank, world_size)
    if not streaming:
        if probabilities is not None or seed is not None or world_size > 1:
            raise ConfigurationError("probabilities, seed, rank and world_size are of streams; add streaming=True")
        return _by_index([path for group in found for path in group], wanted)
    options: dict[str, Any] = {
        "detector": wanted,
        "seed": seed,
        "buffer": buffer,
        "rank": rank,
        "world_size": world_size,
        "max_rejected": max_rejected,
    }
    if probabilities is None:
        return EventStream([path for group in found for path in group], **options)
    streams = [EventStream(group, **options) for group in found]
    return Mixture(streams, probabilities, seed=seed or 0, stop=stop)


def _by_index(paths: Sequence[str | Path], detector: Detector | None) -> EventDataset:
    dataset = EventDataset(paths)
    if detector is not None and dataset.detectors != (detector.name,):
        raise DataError(f"events of {', '.join(dataset.detectors)}, not of {detector.name!r}", file=paths[0])
    return dataset


def resolve(path: str | Path, *, revision: str | None = None, split: str | None = None) -> list[str | Path]:
    """What a path, a pattern or the id of a repository stands for.

    Args:
        path: as of `load`.
        revision: of a repository.
        split: of a repository.

    Returns:
        Paths that exist, or URLs; those of a repository name the commit, so that all of them are of one.

    Raises:
        DataError: if there is nothing.
        ConfigurationError: if a revision or split is given for what is no repository.
    """
    here = not is_url(path) and Path(path).exists()
    if isinstance(path, str) and not here and REPOSITORY.fullmatch(path) and not path.endswith(".parquet"):
        return _repository(path, revision, split)
    if revision is not None or split is not None:
        raise ConfigurationError(f"{path}: a revision or split can be chosen of a repository of the Hub only")
    if here or (is_url(path) and not glob.has_magic(str(path))):
        return [path]
    matching = _matching(str(path))
    if not matching:
        raise DataError("no such file or folder, nor does anything match it as a pattern", file=path)
    return matching


def _matching(pattern: str) -> list[str | Path]:
    if not is_url(pattern):
        return [Path(found) for found in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207 (absolute patterns)
    try:
        system, path = fsspec.url_to_fs(pattern)
        return sorted(system.unstrip_protocol(file) for file in system.glob(path))
    except Exception as error:  # file systems raise what they like
        raise DataError(f"cannot be listed ({one_line(error)})", file=pattern, remedy=_REMEDY) from error


_REMEDY = "check the name and the revision, and that the Hub can be reached (a token for private repositories)"


def _repository(name: str, revision: str | None, split: str | None) -> list[str | Path]:
    """The URLs of the files of one split; nothing of the repository is executed."""
    try:
        builder = datasets.load_dataset_builder(name, revision=revision)
    except Exception as error:  # the Hub's client raises what it likes
        problem = f"neither a file or folder here nor a data set that the Hub gives ({one_line(error)})"
        raise DataError(problem, file=name, remedy=_REMEDY) from error
    files = builder.config.data_files or {}
    chosen = split or ("train" if "train" in files or len(files) != 1 else next(iter(files)))
    if chosen not in files:
        raise DataError(f"a repository without a split {chosen!r} (it has: {listing(files)})", file=name)
    urls = [str(file) for file in files[chosen]]
    if wrong := [url for url in urls if not (is_url(url) and url.endswith(".parquet"))]:
        remedy = "publish events files: `fm4npp convert`, then `fm4npp data push`"
        raise DataError(f"a repository of other files ({Path(wrong[0]).name})", file=name, remedy=remedy)
    return list(urls)
