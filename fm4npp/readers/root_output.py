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
        apart: jagged columns with another length than the others, each with a counter of its own.
    """

    def __init__(self, path: Path, tree: str, metadata: Mapping[str, str], apart: Sequence[str] = ()) -> None:
        self._apart = apart
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
        jagged = {name: _ragged(values) for name, values in columns.items() if isinstance(values[0], np.ndarray)}
        scalars = {name: np.asarray(values) for name, values in columns.items() if isinstance(values[0], int | float)}
        data = {**scalars, **{name: jagged.pop(name) for name in self._apart if name in jagged}}
        data |= {"hits": ak.zip(jagged)} if jagged else {}
        if self._tree is None:
            types = {name: ak.type(ak.Array(values)).content for name, values in data.items()}
            self._tree = self._file.mktree(self._name, types, field_name=lambda outer, inner: inner)
        self._tree.extend(data)


def _ragged(values: Sequence[Any]) -> Any:
    """(N,) arrays, one an event, to one jagged array of their type, empty ones included."""
    return ak.unflatten(np.concatenate(values), [len(array) for array in values])
