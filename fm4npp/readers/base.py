"""The reader interface: a path to the columns of one event after the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

Columns = dict[str, Any]
"""One event: column -> (N,) NumPy array; `particle_*` -> (P,) array; `event_*` -> number, `event_id` always."""


class Reader(ABC):
    """One file format."""

    registered_name: ClassVar[str] = ""

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
