"""What a stream reads in one go, and who reads what."""

from __future__ import annotations

import glob
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow.dataset as pds
from datasets.distributed import split_dataset_by_node

from fm4npp.data.reading import Source
from fm4npp.detectors import Detector
from fm4npp.errors import DataError
from fm4npp.event import Event
from fm4npp.readers import events_parquet, events_schema
from fm4npp.readers.checks import decoding

logging.getLogger("datasets.packaged_modules.parquet.parquet").setLevel(logging.CRITICAL)  # the error itself says it


@dataclass(frozen=True)
class Shard:
    """What is read in one go: an events file, or a part of a file of another format.

    Attributes:
        path: file, folder or URL.
        part: of the path.
        detector: None for an events file.
    """

    path: str | Path
    part: str
    detector: Detector | None = None

    @property
    def detector_name(self) -> str:
        """Name of the detector of its events."""
        if self.detector is not None:
            return self.detector.name
        return str(events_parquet.read_metadata(self.path)["detector"])

    def outcomes(self, step: int, offset: int, done: int) -> Iterator[Event | DataError]:
        """Every `step`-th event from `offset` on, without the first `done` of these; or what keeps it from being read.

        Raises:
            DataError: if reading cannot go on.
        """
        if self.detector is None:
            return _stored(self.path, step, offset, done)
        source = Source.of(self.path, self.detector)
        return islice(source.outcomes(self.part), offset + done * step, None, step)


def _stored(path: str | Path, step: int, offset: int, done: int) -> Iterator[Event | DataError]:
    metadata = events_parquet.read_metadata(path)
    lists, scalars = events_schema.columns_of(metadata)
    with decoding(path, "the Parquet file"):
        tables = open_streaming(path, [*lists, *scalars])
        if step > 1:
            tables = split_dataset_by_node(tables, rank=offset, world_size=step)
        for table in tables.iter(batch_size=events_parquet.ROWS):
            skipped = min(done, len(table))
            done -= skipped
            for batch in table.slice(skipped).combine_chunks().to_batches():
                events_parquet.check_batch(batch, lists, path)
                yield from events_schema.events(batch, metadata, path)


def open_streaming(path: str | Path, columns: Sequence[str]) -> Any:
    """One events file as a `datasets.IterableDataset` of Arrow tables.

    One file each: `datasets` would cast all files to the column types of the first one, and could not say which file
    is damaged.
    """
    name = str(path) if events_parquet.is_url(path) else glob.escape(str(path))
    opened = datasets.load_dataset(
        "parquet",
        data_files=name,
        split="train",
        streaming=True,
        columns=list(columns),
        fragment_scan_options=pds.ParquetFragmentScanOptions(page_checksum_verification=True),
    )
    return opened.with_format("arrow")


def shards_of(path: str | Path, detector: Detector | None) -> list[Shard]:
    """What a path is read in.

    Args:
        path: events file, folder of them or URL; with a detector, also a file of any registered format.
        detector: what its columns mean; None for events files.

    Raises:
        DataError: if it is no events file and there is no detector, or if it is of another detector.
    """
    if detector is not None:
        source = Source.of(path, detector)
        return [Shard(source.path if source.detector else part, part, source.detector) for part in source.parts]
    if not events_parquet.is_url(path) and Path(path).is_file() and Path(path).suffix != ".parquet":
        remedy = "convert it first with `fm4npp convert`, or stream it as it is by naming its detector"
        raise DataError("is no events file", file=path, remedy=remedy)
    return [Shard(file, str(file)) for file in events_parquet.files(path)]


def divided(num_shards: int, share: int, num_shares: int) -> list[tuple[int, int, int]]:
    """The shards of one of several shares, so that each event is in exactly one.

    Whole shards are dealt out in rounds; those of a last, incomplete round are divided by events.

    Args:
        num_shards: of everything.
        share: index of the share.
        num_shares: how many there are.

    Returns:
        (shard, step, offset): of this shard, every `step`-th event from `offset` on.
    """
    rest = num_shards % num_shares
    whole = num_shards - rest
    found = [(shard, 1, 0) for shard in range(share, whole, num_shares)]
    if rest:
        shared = share % rest
        found.append((whole + shared, len(range(shared, num_shares, rest)), share // rest))
    return found
