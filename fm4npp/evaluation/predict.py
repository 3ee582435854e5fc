"""Predictions of a model's heads for a stream of events, in the file's own order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fm4npp.data import ROWS_PER_GROUP
from fm4npp.errors import ConfigurationError, DataError, first_line
from fm4npp.event import Event
from fm4npp.files import atomic_path
from fm4npp.modeling import FM4NPPModel
from fm4npp.processing import FM4NPPProcessor
from fm4npp.readers.events_schema import left_out
from fm4npp.readers.root_output import RootTreeWriter
from fm4npp.truth import is_of_event

Predictions = dict[str, dict[str, NDArray[Any]]]
"""Of one event: head -> prediction -> (N, ...), in the order of the file's spacepoints; (1, ...) of the whole event."""


def predict_events(
    model: FM4NPPModel, processor: FM4NPPProcessor, events: Iterable[Event], *, tokens_per_batch: int = 16384
) -> Iterator[tuple[Event, Predictions]]:
    """Run every head of a model on events.

    Args:
        model: with at least one head.
        processor: of the same checkpoint.
        events: of the model's detectors.
        tokens_per_batch: spacepoints run at once, at most; a longer event runs alone.

    Yields:
        Each event with its predictions, in the order of the input.

    Raises:
        DataError: if an event cannot be read by the model.
    """
    for group, batch in processor.batches(events, tokens_per_batch):
        predictions = model.predict(batch.to(model.device))
        restored = {name: processor.restore(values, batch) for name, values in predictions.items()}
        for index, event in enumerate(group):
            yield event, {name: values[index] for name, values in restored.items()}


def flat(predictions: Predictions) -> dict[str, Any]:
    """Head and prediction names joined: `tracks_track_id` -> (N,); columns of (N, C) are numbered, `..._0`, `..._1`.

    What an event has one of is a number.
    """
    columns: dict[str, Any] = {}
    for head, values in predictions.items():
        for name, array in values.items():
            column = f"{head}_{name}".replace("-", "_").replace(".", "_")
            parts = {column: array} if array.ndim == 1 else {f"{column}_{i}": row for i, row in enumerate(array.T)}
            columns |= {part: row[0].item() for part, row in parts.items()} if is_of_event(name) else parts
    return columns


def write_predictions(
    predictions: Iterable[tuple[Event, Predictions]],
    path: str | Path,
    *,
    metadata: Mapping[str, str],
    progress: Callable[[int], None] = lambda num_events: None,
) -> int:
    """Write predictions to .parquet or .root: one row an event, one number a spacepoint in every prediction's list.

    The column `left_out` lists the places of spacepoints that the input file has and that nothing was predicted for.

    Args:
        predictions: what `predict_events` gives.
        path: ends in .parquet or .root; written under a temporary name and renamed.
        metadata: where they come from; stored in the file.
        progress: called with the number of events after each one.

    Returns:
        The number of events.

    Raises:
        ConfigurationError: for another ending.
        DataError: if there is no event.
    """
    path = Path(path)
    if path.suffix not in (".parquet", ".root"):
        raise ConfigurationError(f"{path}: predictions are written to .parquet or .root")
    count = 0
    with atomic_path(path) as temporary, ExitStack() as stack:
        writer: Any = None
        for rows in _groups(predictions):
            columns = {name: [row[name] for row in rows] for name in rows[0]}
            if path.suffix == ".root":
                writer = writer or stack.enter_context(RootTreeWriter(temporary, "predictions", metadata, ["left_out"]))
                writer.extend(columns)
            else:
                table = pa.table({name: _arrow(values) for name, values in columns.items()})
                schema = table.schema.with_metadata({f"fm4npp.{key}": value for key, value in metadata.items()})
                writer = writer or stack.enter_context(pq.ParquetWriter(temporary, schema, compression="zstd"))
                writer.write_table(table.cast(schema))
            count += len(rows)
            progress(count)
        if writer is None:
            raise DataError("no events to predict")
    return count


def _groups(predictions: Iterable[tuple[Event, Predictions]]) -> Iterator[list[dict[str, Any]]]:
    iterator = iter(predictions)
    while group := list(islice(iterator, ROWS_PER_GROUP)):
        yield [
            {"event_id": event.event_id, "source": event.source, "left_out": left_out(event), **flat(found)}
            for event, found in group
        ]


def _arrow(values: list[Any]) -> pa.Array:
    if not isinstance(values[0], np.ndarray):
        return pa.array(values)
    offsets = np.concatenate([[0], np.cumsum([len(value) for value in values])])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(np.concatenate(values)))


def read_track_ids(path: str | Path, event_index: int) -> NDArray[np.int64]:
    """The predicted track of every spacepoint of one event, from a predictions file (Parquet).

    Args:
        path: what `write_predictions` wrote.
        event_index: row.

    Raises:
        DataError: if the file holds no predicted tracks, or no such event.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"is not a predictions file ({first_line(error)})", file=path) from error
    names = [name for name in table.column_names if name.endswith("_track_id")]
    if not names:
        raise DataError("holds no predicted tracks", file=path, remedy="predict with a track-finding head")
    if not 0 <= event_index < table.num_rows:
        raise DataError(f"has {table.num_rows} events, none with index {event_index}", file=path)
    tracks: NDArray[np.int64] = table.column(names[0])[event_index].values.to_numpy(zero_copy_only=False)
    return tracks
