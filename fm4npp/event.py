"""One collision, in physical units: the value that detectors make and everything else reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm4npp.errors import DataError

Array = NDArray[Any]

PARTICLE_CLASSES = ("other", "pion", "kaon", "proton", "electron")
"""Names of the five classes of the label `particle_class` (TPCpp-10M; paper appendix A.3)."""
_CLASS_OF_PDG = {211: 1, 321: 2, 2212: 3, 11: 4}

LABEL_DTYPES: Mapping[str, Any] = {"track_id": np.int64, "particle_class": np.int64, "is_noise": np.bool_}
"""Labels with a fixed meaning; a `track_id` below 0 means that the spacepoint belongs to no known track."""


def particle_class(pdg: Array) -> Array:
    """PDG codes (N,) to the index (N,) int64 of their class in `PARTICLE_CLASSES`, the sign ignored.

    Raises:
        DataError: if a code is no integer.
    """
    codes = np.abs(exact(pdg, np.int64, "pdg"))
    classes = np.zeros(codes.shape, dtype=np.int64)
    for code, index in _CLASS_OF_PDG.items():
        classes[codes == code] = index
    return classes


def exact(values: Any, dtype: Any, what: str, event: object | None = None) -> Array:
    """Some values in another type, if none of them changes; a copy, unless nobody can write to them.

    Args:
        values: (N,) numbers.
        dtype: the wanted type; None keeps theirs, in this machine's byte order.
        what: what they are, for the message.
        event: where they are, for the message.

    Raises:
        DataError: if they are not (N,) numbers, or one does not fit (a fraction or NaN in an integer, say).
    """
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "biuf":
        raise DataError(f"{what} is {array.dtype} of shape {array.shape}, not a list of numbers", event=event)
    target = array.dtype.newbyteorder("=") if dtype is None else np.dtype(dtype)
    if _is_sealed(array, target):
        return array
    if np.can_cast(array.dtype, target):
        return np.array(array, dtype=target)
    with np.errstate(invalid="ignore", over="ignore"):
        converted: Array = np.array(array, dtype=target)
    same = (converted == array) | ((converted != converted) & (array != array))  # NaN differs from itself
    if not same.all():
        place = int(np.flatnonzero(~same)[0])
        raise DataError(f"{what} cannot be {converted.dtype}: {array[place]} (entry {place})", event=event)
    return converted


def _is_sealed(array: Array, dtype: Any) -> bool:
    """Whether an array is of this type and nobody can write to its memory, so that it need not be copied."""
    return array.dtype == dtype and array.base is None and not array.flags.writeable


def _seal(array: Array) -> Array:
    array.setflags(write=False)
    return array


def _table(values: Any, width: int, dtypes: tuple[Any, ...], what: str, event: object) -> Array:
    """(N, width) of one of the types, else of the first; nothing at all is no rows, and (N,) one column."""
    array = np.asarray(values)
    dtype = array.dtype.newbyteorder("=") if array.dtype.newbyteorder("=") in dtypes else np.dtype(dtypes[0])
    if array.ndim == 2 and array.shape[1] == width and _is_sealed(array, dtype):
        return array
    if array.size == 0 and array.ndim == 1:
        array = array.reshape(0, width)
    if array.ndim == width == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] != width or (array.size and array.dtype.kind not in "biuf"):
        raise DataError(f"{what} are {array.dtype} of shape {array.shape}, not (N, {width}) numbers", event=event)
    with np.errstate(over="ignore"):
        converted: Array = np.array(array, dtype=dtype, order="C")
    return converted


@dataclass(frozen=True, eq=False)
class Event:
    """The spacepoints of one collision. Arrays are read-only.

    Attributes:
        positions: (N, 3) in cm, finite; float64 if the source was, else float32.
        features: (N, F) float32, finite, in the file's units; columns named by `feature_names`.
        feature_names: F names.
        labels: name -> (N,) truth of every spacepoint; `LABEL_DTYPES` lists the names with a fixed meaning.
        particles: name -> (P,) truth of every particle (`track_id`, `pdg`, `px`, `py`, `pz` in GeV/c, ...).
        scalars: name -> number that belongs to the whole event (`trigger`, ...).
        detector_ids: (N,) int16, which of `subsystems` measured each spacepoint.
        subsystems: names of the subsystems.
        detector: name of the detector.
        event_id: identifier in the file it came from; not unique across files.
        source: what made the event (file, or generator with version and seed).
        left_out: reason -> (M,) int64, places in the source's event of spacepoints that are not in this one.

    Raises:
        DataError: if lengths disagree, a position or feature is not finite, or a detector id is out of range.
    """

    positions: Array
    features: Array
    feature_names: tuple[str, ...] = ()
    labels: Mapping[str, Array] = field(default_factory=dict)
    particles: Mapping[str, Array] = field(default_factory=dict)
    scalars: Mapping[str, float] = field(default_factory=dict)
    detector_ids: Array | None = None
    subsystems: tuple[str, ...] = ()
    detector: str = ""
    event_id: int = 0
    source: str = ""
    left_out: Mapping[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        positions = _table(self.positions, 3, (np.float32, np.float64), "positions", self.event_id)
        count = len(positions)
        none = not self.feature_names and np.size(self.features) == 0
        features = np.empty((count, 0)) if none else self.features
        ids = np.zeros(count, np.int16) if self.detector_ids is None else self.detector_ids
        values: dict[str, Any] = {
            "positions": positions,
            "features": _table(features, len(self.feature_names), (np.float32,), "features", self.event_id),
            "feature_names": tuple(self.feature_names),
            "labels": self._arrays(self.labels),
            "particles": self._arrays(self.particles, {}),
            "scalars": MappingProxyType(dict(self.scalars)),
            "left_out": self._arrays(self.left_out, dict.fromkeys(self.left_out, np.int64)),
            "detector_ids": exact(ids, np.int16, "detector_ids", self.event_id),
            "subsystems": tuple(self.subsystems) or ((self.detector,) if self.detector else ()),
        }
        for name, value in values.items():
            object.__setattr__(self, name, _seal(value) if isinstance(value, np.ndarray) else value)
        self._check()

    def _arrays(self, arrays: Mapping[str, Any], dtypes: Mapping[str, Any] = LABEL_DTYPES) -> Mapping[str, Array]:
        return MappingProxyType(
            {name: _seal(exact(values, dtypes.get(name), name, self.event_id)) for name, values in arrays.items()}
        )

    def _check(self) -> None:
        count = len(self.positions)
        for what, values in {"features": self.features, "detector_ids": self.ids, **self.labels}.items():
            if len(values) != count:
                raise DataError(f"{len(values)} values of {what} for {count} spacepoints", event=self.event_id)
        if len(set(self.feature_names)) != len(self.feature_names):
            raise DataError(f"two features of one name: {', '.join(self.feature_names)}", event=self.event_id)
        if len({len(values) for values in self.particles.values()}) > 1:
            raise DataError("particle columns of different lengths", event=self.event_id)
        for what, values in (("position", self.positions), ("feature", self.features)):
            bad = ~np.isfinite(values)
            if bad.any():
                hit = int(np.flatnonzero(bad.any(axis=1))[0])
                raise DataError(
                    f"{int(bad.any(axis=1).sum())} spacepoints with a {what} that is not finite (first: hit {hit})",
                    event=self.event_id,
                    remedy="remove or repair them in the input",
                )
        if count and not 0 <= self.ids.min() <= self.ids.max() < (len(self.subsystems) or np.inf):
            raise DataError("detector_ids outside the list of subsystems", event=self.event_id)

    def __len__(self) -> int:
        return len(self.positions)

    def __reduce__(self) -> tuple[Any, ...]:
        # Mapping proxies cannot be pickled, and the worker processes of a data loader send events as pickles.
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        plain: dict[str, Any] = {
            name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()
        }
        return partial(Event, **plain), ()

    @property
    def ids(self) -> Array:
        """(N,) int16: `detector_ids`, which the constructor fills when it is not given."""
        assert self.detector_ids is not None
        return self.detector_ids

    def split(self, offsets: Array, others: Iterable[Mapping[str, Any]]) -> Iterator[Event]:
        """The events that this one is made of, end to end; nothing is copied, and nothing checked again.

        Args:
            offsets: (B + 1,) increasing, where each of them starts; the last is the number of spacepoints.
            others: for each of them what it has of its own beside spacepoints: `event_id`, `source`, `scalars`,
                `particles` and `left_out` (checked and read-only). What is not given is this event's.

        Yields:
            B events.
        """
        shared = {name: getattr(self, name) for name in ("feature_names", "subsystems", "detector")}
        rest = {name: getattr(self, name) for name in ("event_id", "source", "scalars", "particles", "left_out")}
        for (start, stop), own in zip(pairwise(offsets.tolist()), others, strict=True):
            yield _unchecked(
                **shared,
                **{**rest, **own},
                positions=self.positions[start:stop],
                features=self.features[start:stop],
                labels=MappingProxyType({name: values[start:stop] for name, values in self.labels.items()}),
                detector_ids=self.ids[start:stop],
            )

    def with_source(self, source: str) -> Event:
        """The same event, of another source."""
        return _unchecked(**{item.name: getattr(self, item.name) for item in fields(self)} | {"source": source})

    @property
    def num_read(self) -> int:
        """Spacepoints of the source's event, those that were left out included."""
        return len(self) + sum(map(len, self.left_out.values()))

    @property
    def places(self) -> Array:
        """(N,) int64: each spacepoint's place in the source's event, unless `take` has reordered them."""
        return np.delete(np.arange(self.num_read), [place for values in self.left_out.values() for place in values])

    def feature(self, name: str) -> Array:
        """(N,) float32: one feature by name.

        Raises:
            DataError: if the event has no such feature.
        """
        if name not in self.feature_names:
            raise DataError(
                f"has no feature {name!r} (it has: {', '.join(self.feature_names) or 'none'})", event=self.event_id
            )
        values: Array = self.features[:, self.feature_names.index(name)]
        return values

    def take(self, index: Array) -> Event:
        """The event with spacepoints selected or reordered by (M,) int or (N,) bool; particles, `left_out` stay."""
        return replace(
            self,
            positions=_seal(self.positions[index]),
            features=_seal(self.features[index]),
            labels={name: _seal(values[index]) for name, values in self.labels.items()},
            detector_ids=_seal(self.ids[index]),
        )


def _unchecked(**values: Any) -> Event:
    """An event of values that a constructor has checked already, arrays read-only."""
    event = object.__new__(Event)
    event.__dict__.update(values)
    return event
