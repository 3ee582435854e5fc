"""Many events at a time, for formats that keep the spacepoints of all events end to end."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from fm4npp.readers.base import Block, Columns, Reader, events_of
from fm4npp.readers.npz import Array

ROWS = 1 << 16
"""Spacepoints that are held at a time."""


def blocks(sizes: Array) -> Iterator[tuple[int, int]]:
    """Ranges of events with at most `ROWS` spacepoints together, or of one event that has more.

    Args:
        sizes: (E,) number of spacepoints of every event.

    Yields:
        Index of the first event, and of the one after the last.
    """
    ends = np.cumsum(sizes, dtype=np.int64)
    stop = 0
    while stop < len(ends):
        start, before = stop, int(ends[stop - 1]) if stop else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + ROWS, side="right")))
        yield start, stop


def by_column(names: tuple[str, ...], rows: Array) -> Columns:
    """Rows (N, len(names)) to one (N,) array a name, each contiguous."""
    return dict(zip(names, np.ascontiguousarray(rows.T), strict=True))


class BlockReader(Reader):
    """A format of spacepoint columns alone, read many events at a time; a subclass gives `parts` and `read_blocks`."""

    def read(self, path: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
        """See `Reader.read`."""
        for part in self.parts(path):
            yield from self.read_part(path, part, required, optional)

    def read_part(self, path: Path, part: str, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
        """See `Reader.read_part`."""
        for block in self.read_blocks(path, part, required, optional):
            yield from events_of(block)

    @abstractmethod
    def read_blocks(self, path: Path, part: str, required: Sequence[str], optional: Sequence[str]) -> Iterator[Block]:
        """See `Reader.read_blocks`."""
