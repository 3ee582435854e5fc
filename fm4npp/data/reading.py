"""Events from files of any registered format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from fm4npp import detectors, readers
from fm4npp.data.accounting import MAX_REJECTED, Accounting
from fm4npp.detectors import Detector
from fm4npp.errors import DataError, PluginError
from fm4npp.event import Event
from fm4npp.readers import Reader, events_parquet, events_schema
from fm4npp.readers.base import Columns
from fm4npp.readers.events_parquet import EventsParquet, is_url


def choose_reader(path: str | Path, name: str = "auto") -> Reader:
    """The reader for a path.

    Args:
        path: file or folder, or the URL of an events file.
        name: a registered reader, or "auto" to recognise the format. A reader of one layout goes before one that reads
            all that a container format holds.

    Raises:
        DataError: if the path does not exist, or no format, or more than one, fits.
    """
    if is_url(path):
        return EventsParquet()
    path = Path(path)
    place = existing(path)
    if name != "auto":
        return readers.build({"type": name})
    found = [reader for reader in _readers() if reader.recognises(place)]
    found = [reader for reader in found if not reader.generic] or found
    if len(found) != 1:
        formats = " and ".join(reader.registered_name for reader in found)
        raise DataError(
            f"looks like {formats}" if found else "is of no known format",
            file=path,
            remedy=f"name it with --reader: {', '.join(readers.names())}",
        )
    return found[0]


def _readers() -> Iterator[Reader]:
    """All readers that can be loaded: a broken plug-in must not keep the others from reading."""
    for name in readers.names():
        try:
            yield readers.build({"type": name})
        except PluginError:
            continue


def existing(path: Path) -> Path:
    """The file or folder of a path, which may go on inside an archive, as `TPCpp-10M.zip/labeled/test` does.

    Raises:
        DataError: if there is no such file or folder.
    """
    place = next((place for place in (path, *path.parents) if place.exists()), None)
    if place is None or (place != path and not place.is_file()):
        raise DataError("no such file or folder", file=path)
    return place


@dataclass(frozen=True)
class Source:
    """A path, the reader of its format, and the detector that says what its columns mean.

    Attributes:
        path: file or folder, or the URL of an events file.
        reader: of its format.
        detector: as it reads this format; None for an events file, which says so itself.
    """

    path: str | Path
    reader: Reader
    detector: Detector | None

    @classmethod
    def of(cls, path: str | Path, detector: str | Path | Detector | None = None, *, reader: str = "auto") -> Source:
        """Recognise a path; arguments and errors as of `read_events`."""
        chosen = choose_reader(path, reader)
        path = path if is_url(path) else Path(path)
        wanted = detector if detector is None or isinstance(detector, Detector) else detectors.load(detector)
        if isinstance(chosen, EventsParquet):
            if wanted is not None and wanted.name != (held := events_parquet.read_metadata(path)["detector"]):
                raise DataError(f"holds events of {held!r}, not of {wanted.name!r}", file=path)
            return cls(path, chosen, None)
        if wanted is None:
            raise DataError("which detector wrote it?", file=path, remedy=f"name it: {', '.join(detectors.names())}")
        return cls(path, chosen, wanted.reading(chosen.registered_name))

    @property
    def parts(self) -> Sequence[str]:
        """See `Reader.parts`."""
        return self.reader.parts(self.path)  # type: ignore[arg-type]

    def sampled(self, count: int) -> list[Columns]:
        """The columns of the first events, up to one that cannot be read; nothing of an events file."""
        found: list[Columns] = []
        if self.detector is None:
            return found
        try:
            for columns in islice(self.reader.read(Path(self.path), *_names(self.detector)), count):
                found.append(columns)
        except DataError:
            pass
        return found

    def outcomes(self, part: str | None = None) -> Iterator[Event | DataError]:
        """The events of the path or of one of its parts, or what keeps one of them from being read exactly.

        Raises:
            DataError: if reading cannot go on.
        """
        if self.detector is None:
            yield from self._stored(part)
            return
        for name in self.parts if part is None else (part,):
            yield from self._converted(self.detector, Path(self.path), name)

    def _converted(self, detector: Detector, path: Path, part: str) -> Iterator[Event | DataError]:
        required, optional = _names(detector)
        blocks = self.reader.read_blocks(path, part, required, optional)
        if blocks is not None:
            for block in blocks:
                offsets = np.concatenate([[0], np.cumsum(block.sizes)])
                source = block.source or path.name
                for outcome in detector.events(block.columns, offsets, block.event_ids, source):
                    yield _placed(outcome, path, source)
            return
        for columns in self.reader.read_part(path, part, required, optional):
            source = str(columns.pop("source", path.name))
            try:
                yield detector.event(columns).with_source(source)
            except DataError as error:
                yield _placed(error.at(event=columns["event_id"]), path, source)

    def _stored(self, part: str | None) -> Iterator[Event | DataError]:
        for name in self.parts if part is None else (part,):
            metadata = events_parquet.read_metadata(name)
            for batch in events_parquet.batches(name):
                yield from events_schema.events(batch, metadata, name)


def _names(detector: Detector) -> tuple[list[str], list[str]]:
    """The columns that a detector requires, and those it takes where a file has them."""
    columns = detector.columns
    return [c.name for c in columns if c.required], [c.name for c in columns if not c.required]


def read_events(
    path: str | Path,
    detector: str | Path | Detector | None = None,
    *,
    reader: str = "auto",
    accounting: Accounting | None = None,
    max_rejected: float = MAX_REJECTED,
) -> Iterator[Event]:
    """The events of a file, in its order.

    Args:
        path: file or folder of any registered format; or the URL of an events file, `hf://datasets/...`.
        detector: what its columns mean: a registered name, a YAML file, or a detector. An events file (Parquet)
            says so itself.
        reader: a registered format, in place of recognising it.
        accounting: counts what was read and what was left out, and why.
        max_rejected: share of events, and of spacepoints, that may be left out because something is wrong with them.

    Yields:
        Events in cm, their spacepoints in the order of the file.

    Raises:
        DataError: naming the file and the event, if the file cannot be read exactly, or more than `max_rejected` of
            it is rejected.
    """
    source = Source.of(path, detector, reader=reader)
    counted = Accounting() if accounting is None else accounting
    try:
        yield from counted.screen(source.outcomes(), max_rejected)
    except DataError as error:
        raise error.at(file=path) from error


def _placed(outcome: Event | DataError, path: Path, source: str) -> Event | DataError:
    """An error with its file."""
    if isinstance(outcome, DataError):
        return outcome.at(file=path if source == path.name else path / source)
    return outcome
