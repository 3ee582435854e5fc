"""Not written yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from fm4npp.readers.base import Columns, Reader


class ACTSCSV(Reader):
    """Not written yet."""

    registered_name: ClassVar[str] = "acts-csv"

    def recognises(self, path: Path) -> bool:
        """Not yet."""
        return False

    def read(self, path: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
        """Not yet."""
        raise NotImplementedError
