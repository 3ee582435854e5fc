"""The reader interface: a path to the columns of one event after the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

Columns = dict[str, Any]
"""One event: column -> (N,) NumPy array; `particle_*` -> (P,) array; `event_*` -> number, `event_id` always; `source`
-> the file it came from, where a path holds several."""

WHOLE = ""
"""The only part of a path that is not divided."""


class Block(NamedTuple):
    """Many events end to end, of a format whose only columns are those of spacepoints.

    Attributes:
        columns: column -> (sum N,) array.
        sizes: (B,) int64, spacepoints of each event.
        event_ids: (B,) int64.
        source: the file that they came from; "" for the path itself.
    """

    columns: Columns
    sizes: NDArray[np.int64]
    event_ids: NDArray[np.int64]
    source: str = ""


def events_of(block: Block) -> Iterator[Columns]:
    """The columns of each event of a block."""
    start = 0
    for size, event_id in zip(block.sizes.tolist(), block.event_ids.tolist(), strict=True):
        event: Columns = {name: values[start : start + size] for name, values in block.columns.items()}
        yield {**event, "event_id": event_id, **({"source": block.source} if block.source else {})}
        start += size


class Table(NamedTuple):
    """What a file holds under one name, for people: a tree, a data set, a kind of file.

    Attributes:
        name: its name in the file.
        rows: number of entries; None if it is not known without reading all.
        columns: name -> type, as the format calls it.
    """

    name: str
    rows: int | None
    columns: Mapping[str, str]


class Reader(ABC):
    """One file format."""

    registered_name: ClassVar[str] = ""
    generic: ClassVar[bool] = False
    """Whether it reads whatever a container format holds; a reader of one layout in that container comes first."""

    @abstractmethod
    def recognises(self, path: Path) -> bool:
        """Whether `path`, which exists, looks like this format: by name, and by content where names are shared."""

    @abstractmethod
    def read(self, path: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
        """The events of a file or folder, in its order, one at a time.

        Args:
            path: what `recognises` accepted.
            required: columns that must be there.
            optional: columns to give where the file has them. A format with few columns may give others too.

        Yields:
            One event's columns, in the order of its spacepoints in the file.

        Raises:
            DataError: naming the file and the event, if anything cannot be read exactly.
        """

    def parts(self, path: Path) -> Sequence[str]:
        """Names of the pieces of `path` that can be read on their own, in order; what one process works on at a time.

        They depend on the file alone. Read one after the other, they give what `read` gives.
        """
        return (WHOLE,)

    def read_part(self, path: Path, part: str, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
        """One of `parts`; otherwise as `read`."""
        return self.read(path, required, optional)

    def read_blocks(
        self, path: Path, part: str, required: Sequence[str], optional: Sequence[str]
    ) -> Iterator[Block] | None:
        """What `read_part` gives, many events at a time, for formats of millions of them; None if it is not offered."""
        return None

    def describe(self, path: Path) -> Sequence[Table]:
        """What a file holds, without reading its events; nothing where there is nothing to choose from.

        Raises:
            DataError: if it is damaged.
        """
        return ()
