"""How events become the columns of our events file (Parquet), and columns events."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fm4npp.errors import DataError
from fm4npp.event import Event, exact
from fm4npp.readers.base import Columns
from fm4npp.readers.checks import listing

Array = NDArray[Any]
Metadata = dict[str, Any]

KEY = b"fm4npp"
"""Key of the schema metadata that describes the events, as JSON."""
FORMAT = 2
"""1 had no column `left_out` and positions in single precision only."""
AXES = ("x", "y", "z")
NAMES = ("subsystems", "features", "labels", "particles", "scalars")
"""Entries of the metadata that are lists of names."""
LEFT_OUT = "left_out"
EARLIER = "left out when the events file was made"
"""Why a spacepoint is missing from an event of an events file; the summary of the file says more."""


SPECIFICATION = "detector_specification"
"""Key of the metadata with the specification of the detector, where the writer knew it."""


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
        **{name: list(values) for name, values in zip(NAMES, _kind(event), strict=True)},
        "units": dict.fromkeys(AXES, "cm") | dict(units or {}),
        "version": version,
    }


def _kind(event: Event) -> tuple[Sequence[str], ...]:
    """What all events of a file have in common, in the order of `NAMES`."""
    mappings = (event.labels, event.particles, event.scalars)
    return (list(event.subsystems), list(event.feature_names), *(sorted(mapping) for mapping in mappings))


def columns_of(metadata: Metadata) -> tuple[list[str], list[str]]:
    """The list columns and the scalar columns of a file, in its order.

    Raises:
        DataError: if two quantities would share one column.
    """
    particles = [f"particle_{name}" for name in metadata["particles"]]
    lists = [*AXES, *metadata["features"], "detector_id", *metadata["labels"], *particles, LEFT_OUT]
    scalars = ["event_id", "source", "detector", *(f"event_{name}" for name in metadata["scalars"])]
    names = lists + scalars
    if twice := {name for name in names if names.count(name) > 1}:
        raise DataError(f"two quantities would share the column {listing(twice)}", remedy="rename one of them")
    return lists, scalars


def schema(metadata: Metadata, event: Event) -> pa.Schema:
    """The Arrow schema of a file, with the metadata.

    Args:
        metadata: of `metadata_of`.
        event: any event of the file; it decides the number types of positions, particles, scalars, and of labels
            that have no fixed meaning.
    """
    lists, scalars = columns_of(metadata)
    get = _getters(metadata)
    element = {name: pa.field("element", _arrow_type(name, get[name](event)), nullable=False) for name in lists}
    fields = [pa.field(name, pa.list_(element[name]), nullable=False) for name in lists]
    fields += [pa.field(name, _arrow_type(name, get[name](event)), nullable=False) for name in scalars]
    return pa.schema(fields, metadata={KEY: json.dumps(metadata, ensure_ascii=False).encode()})


def check_kind(event: Event, metadata: Metadata) -> None:
    """Refuse an event that does not belong into a file.

    Raises:
        DataError: if it has other features, labels, particles, scalars or subsystems than the file.
    """
    for name, values in zip(NAMES, _kind(event), strict=True):
        if values != metadata[name]:
            problem = f"its {name} are {listing(values)}, those of the events before are {listing(metadata[name])}"
            raise DataError(problem, event=event.event_id, remedy="write events of different kinds to different files")


def record_batch(events: Sequence[Event], schema: pa.Schema, metadata: Metadata) -> pa.RecordBatch:
    """Events, at least one, to the rows of a file.

    Raises:
        DataError: if a value does not fit exactly into the type of its column.
    """
    get = _getters(metadata)
    tables = _tables(events, metadata)
    columns = [
        _lists(tables[field.name], events, field)
        if field.name in tables
        else _column([get[field.name](event) for event in events], field, events)
        for field in schema
    ]
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
        left_out={EARLIER: columns[LEFT_OUT]} if len(columns[LEFT_OUT]) else {},
    )


def events(batch: pa.RecordBatch, metadata: Metadata, path: str | Path) -> Iterator[Event | DataError]:
    """The events of rows of a file, or what keeps one of them from being what was written.

    Args:
        batch: rows, without nulls.
        metadata: of the file.
        path: the file, for messages.
    """
    lists, scalars = columns_of(metadata)
    flat = {name: values_and_offsets(batch[name]) for name in lists}
    single = {name: batch[name].to_pylist() for name in scalars}
    try:
        yield from _all_at_once(flat, single, metadata)
    except DataError:  # of one of them; to know of which, they are made one by one
        for row in range(batch.num_rows):
            columns: Columns = {name: values[ends[row] : ends[row + 1]] for name, (values, ends) in flat.items()}
            try:
                yield event({**columns, **{name: values[row] for name, values in single.items()}}, metadata)
            except DataError as error:
                yield error.at(file=path, event=single["event_id"][row])


def _all_at_once(
    flat: Mapping[str, tuple[Array, Array]], single: Mapping[str, list[Any]], metadata: Metadata
) -> Iterator[Event]:
    """See `events`; a DataError, before the first event, if one of them is not as it should be."""
    particles = {name: flat[f"particle_{name}"] for name in metadata["particles"]}
    per_spacepoint = [*AXES, *metadata["features"], "detector_id", *metadata["labels"]]
    offsets = _common([flat[name][1] for name in per_spacepoint])
    ends = _common([ends for _, ends in particles.values()]) if particles else offsets
    first, last = int(offsets[0]), int(offsets[-1])
    names = {name: flat[name][0][first:last] for name in per_spacepoint}
    whole = event(
        {
            **names,
            **{f"particle_{name}": values for name, (values, _) in particles.items()},
            **{name: values[0] if values else 0 for name, values in single.items()},
            LEFT_OUT: (),
        },
        metadata,
    )
    if len(set(single["detector"])) > 1:
        raise DataError("events of several detectors")
    missing, places = flat[LEFT_OUT]
    missing = exact(missing, np.int64, EARLIER)
    missing.setflags(write=False)
    nothing: Mapping[str, Array] = MappingProxyType({})
    own = [
        {
            "event_id": single["event_id"][row],
            "source": single["source"][row],
            "scalars": MappingProxyType({name: single[f"event_{name}"][row] for name in metadata["scalars"]}),
            "particles": MappingProxyType({name: v[ends[row] : ends[row + 1]] for name, v in whole.particles.items()}),
            "left_out": MappingProxyType({EARLIER: missing[places[row] : places[row + 1]]})
            if places[row] < places[row + 1]
            else nothing,
        }
        for row in range(len(single["event_id"]))
    ]
    return whole.split(offsets - first, own)


def _common(offsets: Sequence[Array]) -> Array:
    """The offsets that columns share."""
    if not all(np.array_equal(other, offsets[0]) for other in offsets[1:]):
        raise DataError("columns of different lengths")
    return offsets[0]


def values_and_offsets(column: pa.Array) -> tuple[Array, Array]:
    """A list column to the values of all rows end to end, and (rows + 1,) where each row starts."""
    return column.values.to_numpy(zero_copy_only=False), column.offsets.to_numpy()


def _getters(metadata: Metadata) -> dict[str, Callable[[Event], Any]]:
    """Column -> what gives its values of an event."""

    def axis(index: int) -> Callable[[Event], Any]:
        return lambda event: event.positions[:, index]

    def feature(index: int) -> Callable[[Event], Any]:
        return lambda event: event.features[:, index]

    def item(attribute: str, name: str) -> Callable[[Event], Any]:
        return lambda event: getattr(event, attribute)[name]

    return {
        **{name: axis(index) for index, name in enumerate(AXES)},
        **{name: feature(index) for index, name in enumerate(metadata["features"])},
        "detector_id": lambda event: event.ids,
        **{name: item("labels", name) for name in metadata["labels"]},
        **{f"particle_{name}": item("particles", name) for name in metadata["particles"]},
        LEFT_OUT: left_out,
        "event_id": lambda event: event.event_id,
        "source": lambda event: event.source,
        "detector": lambda event: event.detector,
        **{f"event_{name}": item("scalars", name) for name in metadata["scalars"]},
    }


def left_out(event: Event) -> Array:
    """(M,) int32: the places in the source's event of the spacepoints that the event lacks, increasing."""
    places = list(event.left_out.values())
    return np.sort(np.concatenate(places)).astype(np.int32) if places else np.empty(0, np.int32)


def _tables(events: Sequence[Event], metadata: Metadata) -> dict[str, Array]:
    """The columns of positions and features, all events end to end: fewer and larger copies than one by one."""
    dtypes = {event.positions.dtype for event in events}
    tables = {}
    if len(dtypes) == 1:
        tables = dict(zip(AXES, np.concatenate([event.positions for event in events]).T.copy(), strict=True))
    features = np.concatenate([event.features for event in events]).T.copy()
    return {**tables, **dict(zip(metadata["features"], features, strict=True))}


def _lists(values: Array, events: Sequence[Event], field: pa.Field) -> pa.Array:
    """(sum N,) values, in the type of the column or exactly convertible to it, to one list an event."""
    dtype = np.dtype(field.type.value_type.to_pandas_dtype())
    flat = values if values.dtype == dtype else exact(values, dtype, field.name)
    return pa.ListArray.from_arrays(
        _offsets([len(event) for event in events]), pa.array(flat, field.type.value_type), type=field.type
    )


def _offsets(sizes: Sequence[int]) -> Array:
    offsets = np.zeros(len(sizes) + 1, np.int32)
    np.cumsum(sizes, out=offsets[1:])
    return offsets


def _arrow_type(name: str, value: Any) -> pa.DataType:
    if isinstance(value, str):
        return pa.string()
    dtype = np.asarray(value).dtype
    if dtype.kind not in "biuf":
        raise DataError(f"{name!r} holds {dtype}, which an events file cannot", remedy="give it as numbers")
    return pa.from_numpy_dtype(dtype.newbyteorder("="))


def _column(values: Sequence[Any], field: pa.Field, events: Sequence[Event]) -> pa.Array:
    """One column of a batch: (N,) arrays or numbers, one an event."""
    if pa.types.is_string(field.type):
        return pa.array(values, field.type)
    is_list = pa.types.is_list(field.type)
    kind = field.type.value_type if is_list else field.type
    dtype = np.dtype(kind.to_pandas_dtype())
    arrays = values if is_list else [np.atleast_1d(value) for value in values]
    if any(array.dtype != dtype for array in arrays):
        arrays = [exact(array, dtype, field.name, event.event_id) for array, event in zip(arrays, events, strict=True)]
    flat = pa.array(np.concatenate(arrays), kind)
    if not is_list:
        return flat
    return pa.ListArray.from_arrays(_offsets([len(array) for array in arrays]), flat, type=field.type)
