"""Writing ROOT trees with one list an event, the counterpart of the reader of ROOT trees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import awkward as ak
import numpy as np
import uproot


class RootTreeWriter:
    """A TTree with scalar branches, and jagged ones that share the counter `nhits`.

    Args:
        path: file to create.
        tree: name of the tree.
        metadata: stored beside it as strings.
    """

    def __init__(self, path: Path, tree: str, metadata: Mapping[str, str]) -> None:
        self._path, self._name, self._metadata = path, tree, dict(metadata)
        self._tree: Any = None

    def __enter__(self) -> Self:
        self._file = uproot.recreate(self._path)
        for key, value in self._metadata.items():
            self._file[key] = value
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def extend(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Append events.

        Args:
            columns: branch -> one number, or one (N,) array, for every event. Strings are left out.
        """
        jagged = {name: ak.Array(list(values)) for name, values in columns.items() if isinstance(values[0], np.ndarray)}
        scalars = {name: np.asarray(values) for name, values in columns.items() if isinstance(values[0], int | float)}
        data = {**scalars, "hits": ak.zip(jagged)} if jagged else scalars
        if self._tree is None:
            types = {name: ak.type(ak.Array(values)).content for name, values in data.items()}
            self._tree = self._file.mktree(self._name, types, field_name=lambda outer, inner: inner)
        self._tree.extend(data)
