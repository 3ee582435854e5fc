"""Events as one Arrow batch, which goes from process to process several times faster than they do one by one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import pyarrow as pa

from fm4npp import __version__
from fm4npp.errors import DataError
from fm4npp.event import Event
from fm4npp.readers import events_schema


def packed(events: Sequence[Event]) -> pa.RecordBatch:
    """The rows that an events file would have.

    Args:
        events: at least one, of one kind.

    Raises:
        DataError: if a value does not fit exactly into the type that its column has in the first event.
    """
    metadata = events_schema.metadata_of(events[0], __version__)
    for event in events:
        events_schema.check_kind(event, metadata)
    return events_schema.record_batch(events, events_schema.schema(metadata, events[0]), metadata)


def unpacked(batch: pa.RecordBatch) -> Iterator[Event]:
    """The inverse of `packed`."""
    metadata = json.loads(batch.schema.metadata[events_schema.KEY])
    for outcome in events_schema.events(batch, metadata, "events of another process"):
        if isinstance(outcome, DataError):
            raise outcome
        yield outcome
