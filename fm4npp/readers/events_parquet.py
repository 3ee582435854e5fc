"""The toolkit's own events file: Parquet, one row an event, one flat list column a quantity."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fm4npp.errors import DataError
from fm4npp.event import Event, exact
from fm4npp.readers.base import Columns, Reader
from fm4npp.readers.checks import check_required, decoding, listing

Metadata = dict[str, Any]

KEY = b"fm4npp"
"""Key of the schema metadata that describes the events, as JSON."""
FORMAT = 1
AXES = ("x", "y", "z")
NAMES = ("subsystems", "features", "labels", "particles", "scalars")
"""Entries of the metadata that are lists of names."""
ROWS = 256
"""Events decoded at a time."""


class EventsParquet(Reader):
    """Events as `fm4npp convert` and `fm4npp simulate` write them.

    Columns: `x y z` and features (float32), `detector_id` (int16), labels, `particle_<name>`, all flat lists;
    `event_id`, `source`, `detector`, `event_<name>`, one value an event. The schema metadata says which is which.
    """

    registered_name: ClassVar[str] = "events-parquet"

    def recognises(self, path: Path) -> bool:
        """See `Reader.recognises`; a damaged .parquet is taken for ours, so that reading says what is wrong."""
        if not path.is_file() or path.suffix != ".parquet":
            return False
        try:
            return KEY in (pq.read_schema(path).metadata or {})
        except Exception:  # damaged files raise whatever the damage leads to
            return True

    def read(self, path: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
        """See `Reader.read`. All columns are given, plus `source` and `detector`."""
        lists, scalars = columns_of(read_metadata(path))
        check_required(required, lists, path)
        with decoding(path, "the Parquet file"), pq.ParquetFile(path, page_checksum_verification=True) as file:
            check_required([*lists, *scalars], file.schema_arrow.names, path)
            for batch in file.iter_batches(batch_size=ROWS, columns=[*lists, *scalars], use_threads=False):
                yield from rows(batch, lists, scalars, path)


def read_metadata(path: str | Path) -> Metadata:
    """What an events file says of itself: format, detector, names of its columns by kind, units, version.

    Raises:
        DataError: if the file is damaged, is some other Parquet file, or of a format this version does not know.
    """
    with decoding(path, "the Parquet file"):
        text = (pq.read_schema(path).metadata or {}).get(KEY)
    if text is None:
        remedy = "make an events file from it with `fm4npp convert`"
        raise DataError("a Parquet file without the fm4npp metadata, so not an events file", file=path, remedy=remedy)
    with decoding(path, "the fm4npp metadata"):
        metadata: Metadata = json.loads(text)
        if (number := metadata["format"]) != FORMAT:
            problem = f"an events file of format {number}, this version reads format {FORMAT}"
            raise DataError(problem, file=path, remedy="use the version of fm4npp that wrote it, or a later one")
        if not all(isinstance(name, str) for key in NAMES for name in metadata[key]):
            raise DataError("the fm4npp metadata lists columns that are no names", file=path)
    return metadata


def metadata_of(event: Event, version: str, units: Mapping[str, str] | None = None) -> Metadata:
    """The metadata of a file whose events are like this one.

    Args:
        event: any event of the file.
        version: version of the program that writes it.
        units: column -> unit, where known beyond the positions.
    """
    return {
        "format": FORMAT,
        "detector": event.detector,
        "subsystems": list(event.subsystems),
        "features": list(event.feature_names),
        "labels": sorted(event.labels),
        "particles": sorted(event.particles),
        "scalars": sorted(event.scalars),
        "units": dict.fromkeys(AXES, "cm") | dict(units or {}),
        "version": version,
    }


def columns_of(metadata: Metadata) -> tuple[list[str], list[str]]:
    """The list columns and the scalar columns of a file, in its order.

    Raises:
        DataError: if two quantities would share one column.
    """
    particles = [f"particle_{name}" for name in metadata["particles"]]
    lists = [*AXES, *metadata["features"], "detector_id", *metadata["labels"], *particles]
    scalars = ["event_id", "source", "detector", *(f"event_{name}" for name in metadata["scalars"])]
    names = lists + scalars
    if twice := {name for name in names if names.count(name) > 1}:
        raise DataError(f"two quantities would share the column {listing(twice)}", remedy="rename one of them")
    return lists, scalars


def schema(metadata: Metadata, event: Event) -> pa.Schema:
    """The Arrow schema of a file, with the metadata.

    Args:
        metadata: of `metadata_of`.
        event: any event of the file; it decides the number types of particles, of scalars and of labels that have
            no fixed meaning.
    """
    lists, scalars = columns_of(metadata)
    values = record(event, metadata)
    fields = [pa.field(name, pa.list_(_arrow_type(name, values[name]))) for name in lists]
    fields += [pa.field(name, _arrow_type(name, values[name])) for name in scalars]
    return pa.schema(fields, metadata={KEY: json.dumps(metadata, ensure_ascii=False).encode()})


def record(event: Event, metadata: Metadata) -> Columns:
    """One row of a file: list column -> array, scalar column -> value. The inverse of `event`.

    Raises:
        DataError: if the event has other features, labels, particles, scalars or subsystems than the file.
    """
    own = metadata_of(event, metadata["version"])
    if different := [key for key in NAMES if own[key] != metadata[key]]:
        key = different[0]
        problem = f"its {key} are {listing(own[key])}, those of the events before are {listing(metadata[key])}"
        raise DataError(problem, event=event.event_id, remedy="write events of different kinds to different files")
    return {
        **dict(zip(AXES, event.positions.T, strict=True)),
        **dict(zip(event.feature_names, event.features.T, strict=True)),
        "detector_id": event.ids,
        **event.labels,
        **{f"particle_{name}": values for name, values in event.particles.items()},
        "event_id": event.event_id,
        "source": event.source,
        "detector": event.detector,
        **{f"event_{name}": value for name, value in event.scalars.items()},
    }


def record_batch(records: Sequence[Columns], schema: pa.Schema) -> pa.RecordBatch:
    """Rows made by `record` to one Arrow batch.

    Raises:
        DataError: if a value does not fit exactly into the type of its column.
    """
    columns = [_column([row[field.name] for row in records], field, records) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def event(columns: Columns, metadata: Metadata) -> Event:
    """The columns of one event, as the reader gives them, to the event that was written.

    Raises:
        DataError: as of `Event`.
    """
    sizes = {name: len(columns[name]) for name in (*AXES, *metadata["features"])}
    if len(set(sizes.values())) > 1:
        raise DataError(f"columns of different lengths: {sizes}", event=columns["event_id"])
    features = [columns[name] for name in metadata["features"]]
    return Event(
        positions=np.stack([columns[axis] for axis in AXES], axis=1),
        features=np.stack(features, axis=1) if features else np.empty((sizes["x"], 0)),
        feature_names=tuple(metadata["features"]),
        labels={name: columns[name] for name in metadata["labels"]},
        particles={name: columns[f"particle_{name}"] for name in metadata["particles"]},
        scalars={name: columns[f"event_{name}"] for name in metadata["scalars"]},
        detector_ids=columns["detector_id"],
        subsystems=tuple(metadata["subsystems"]),
        detector=columns["detector"],
        event_id=columns["event_id"],
        source=columns["source"],
    )


def _arrow_type(name: str, value: Any) -> pa.DataType:
    if isinstance(value, str):
        return pa.string()
    dtype = np.asarray(value).dtype
    if dtype.kind not in "biuf":
        raise DataError(f"{name!r} holds {dtype}, which an events file cannot", remedy="give it as numbers")
    return pa.from_numpy_dtype(dtype.newbyteorder("="))


def _column(values: Sequence[Any], field: pa.Field, records: Sequence[Columns]) -> pa.Array:
    """One column of a batch."""
    if pa.types.is_string(field.type):
        return pa.array(values, field.type)
    is_list = pa.types.is_list(field.type)
    kind = field.type.value_type if is_list else field.type
    dtype = np.dtype(kind.to_pandas_dtype())
    arrays = [
        exact(value if is_list else [value], dtype, field.name, row["event_id"])
        for value, row in zip(values, records, strict=True)
    ]
    flat = pa.array(np.concatenate([np.empty(0, dtype), *arrays]), kind)
    if not is_list:
        return flat
    offsets = np.concatenate([[0], np.cumsum([len(array) for array in arrays])]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, flat)


def rows(batch: pa.RecordBatch, lists: Sequence[str], scalars: Sequence[str], path: Path) -> Iterator[Columns]:
    """The events of a batch; list columns are views of its buffers."""
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        numbers = pa.types.is_list(column.type) and pa.types.is_primitive(column.type.value_type)
        if column.null_count or (name in lists and (not numbers or column.values.null_count)):
            raise DataError(f"the column {name!r} ({column.type}) has nulls, or is no list of numbers", file=path)
    flat = {name: batch[name].values.to_numpy(zero_copy_only=False) for name in lists}
    ends = {name: batch[name].offsets.to_numpy() for name in lists}
    single = {name: batch[name].to_pylist() for name in scalars}
    for row in range(batch.num_rows):
        event: Columns = {name: flat[name][ends[name][row] : ends[name][row + 1]] for name in lists}
        event |= {name: single[name][row] for name in scalars}
        yield event
