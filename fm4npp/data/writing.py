"""Events into events files (Parquet)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fm4npp import __version__
from fm4npp.data.accounting import Accounting
from fm4npp.detectors import Detector
from fm4npp.errors import DataError
from fm4npp.event import Event
from fm4npp.files import atomic_path
from fm4npp.readers import events_schema
from fm4npp.readers.events_parquet import SUMMARY_KEY

ROWS_PER_GROUP = 500
"""Events in a row group of an events file, at most: a few megabytes."""
SPACEPOINTS_PER_GROUP = 1_000_000
"""No further event is added to a row group with so many: some 100 megabytes while it is written."""


class ContentHash:
    """A hash of what record batches hold, whatever the batches, the compression and the version of the format are."""

    def __init__(self) -> None:
        self._columns: dict[str, Any] = {}

    def update(self, batch: pa.RecordBatch) -> None:
        """Take in the next rows."""
        for field, column in zip(batch.schema, batch.columns, strict=True):
            if pa.types.is_list(field.type):
                self._add(f"{field.name} sizes", pc.list_value_length(column))
                column = column.values
            self._add(field.name, column)

    def _add(self, name: str, values: pa.Array) -> None:
        new = hashlib.sha256(str(values.type).encode())
        if pa.types.is_string(values.type):
            content: Any = b"".join(json.dumps(value).encode() for value in values.to_pylist())
        else:
            content = np.ascontiguousarray(values.to_numpy(zero_copy_only=False)).data
        self._columns.setdefault(name, new).update(content)

    def hexdigest(self) -> str:
        """64 hexadecimal digits (SHA-256)."""
        total = hashlib.sha256()
        for name, hashed in sorted(self._columns.items()):
            total.update(name.encode() + b"\0" + hashed.digest())
        return total.hexdigest()


class EventWriter:
    """Writes an events file (Parquet) under a temporary name, and renames it when the block ends without an error.

    All events must have the columns of the first one. The file's metadata gets a summary: numbers of events and
    spacepoints, the accounting, smallest and largest values of every column, and a hash of the content.

    Args:
        path: final name.
        accounting: what was read and left out on the way here; by default, what the events themselves say.
        detector: of the events; its specification is kept in the file, so that one that is not registered (a YAML file)
            is known to whoever reads the events.
    """

    def __init__(
        self, path: str | Path, accounting: Accounting | None = None, detector: Detector | None = None
    ) -> None:
        self.path = Path(path)
        self._specification = {} if detector is None else {events_schema.SPECIFICATION: detector.spec()}
        self.num_events = self.num_spacepoints = 0
        self.summary: dict[str, Any] = {}
        self._own = Accounting()
        self._accounting = self._own if accounting is None else accounting
        self._stack = ExitStack()
        self._events: list[Event] = []
        self._pending = 0
        self._metadata: dict[str, Any] = {}
        self._ranges: dict[str, list[float]] = {}
        self._hash = ContentHash()
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        self._temporary = self._stack.enter_context(atomic_path(self.path))
        return self

    def write(self, event: Event) -> None:
        """Append one event.

        Raises:
            DataError: if its columns differ from the first event's.
        """
        if self._writer is None:
            self._open(event)
        try:
            events_schema.check_kind(event, self._metadata)
        except DataError as error:
            raise error.at(file=event.source or None) from error
        self._events.append(event)
        if self._accounting is self._own:
            self._own.use(event)
        self.num_events += 1
        self.num_spacepoints += len(event)
        self._pending += len(event)
        if len(self._events) >= ROWS_PER_GROUP or self._pending >= SPACEPOINTS_PER_GROUP:
            self._flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None and self._writer is None:
                raise DataError("no events to write", file=self.path, remedy="check the input")
            if error is None:
                self._flush()
                self._summarise()
            if self._writer is not None:
                self._writer.close()
        except BaseException as failure:
            if not self._stack.__exit__(type(failure), failure, failure.__traceback__):
                raise
        else:
            self._stack.__exit__(kind, error, traceback)

    def _open(self, event: Event) -> None:
        self._metadata = {**events_schema.metadata_of(event, __version__), **self._specification}
        self._schema = events_schema.schema(self._metadata, event)
        self._writer = pq.ParquetWriter(
            self._temporary, self._schema, write_page_checksum=True, **_encoding(self._schema)
        )

    def _flush(self) -> None:
        if not self._events or self._writer is None:
            return
        batch = events_schema.record_batch(self._events, self._schema, self._metadata)
        self._writer.write_batch(batch)
        self._hash.update(batch)
        for field, column in zip(batch.schema, batch.columns, strict=True):
            self._widen(field.name, column.values if pa.types.is_list(field.type) else column)
        self._events.clear()
        self._pending = 0

    def _widen(self, name: str, values: pa.Array) -> None:
        if len(values) and not pa.types.is_string(values.type):
            array = values.to_numpy(zero_copy_only=False)
            low, high = self._ranges.get(name, [np.inf, -np.inf])
            self._ranges[name] = [min(low, array.min().item()), max(high, array.max().item())]

    def _summarise(self) -> None:
        assert self._writer is not None
        self.summary = {
            "events": self.num_events,
            "spacepoints": self.num_spacepoints,
            "accounting": self._accounting.as_dict(),
            "ranges": {name: values for name, values in self._ranges.items() if np.isfinite(values).all()},
            "content": self._hash.hexdigest(),
        }
        self._writer.add_key_value_metadata({SUMMARY_KEY: json.dumps(self.summary, ensure_ascii=False).encode()})


def _encoding(schema: pa.Schema) -> dict[str, Any]:
    """How columns are stored: measurements hardly shrink, so quickly; labels have few values, so by a dictionary."""
    compression, few_values = {}, []
    for field in schema:
        is_list = pa.types.is_list(field.type)
        name = f"{field.name}.list.element" if is_list else field.name
        measured = is_list and pa.types.is_floating(field.type.value_type)
        compression[name] = "lz4" if measured else "zstd"
        if (is_list and pa.types.is_integer(field.type.value_type)) or pa.types.is_string(field.type):
            few_values.append(name)
    return {"compression": compression, "use_dictionary": few_values}


def write_events(events: Iterable[Event], path: str | Path, detector: Detector | None = None) -> int:
    """Write an events file (Parquet); returns the number of events.

    Args:
        events: of one detector.
        path: of the file.
        detector: that they are of, which the file then describes; not needed for a registered one.

    Raises:
        DataError: if there is no event, or their columns differ; nothing is left under `path` then.
    """
    with EventWriter(path, detector=detector) as writer:
        for event in events:
            writer.write(event)
    return writer.num_events
