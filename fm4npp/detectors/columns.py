"""Pure functions on the columns of events: one number of many, many events in one, faults, and particle tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm4npp.errors import DataError
from fm4npp.event import Event

Array = NDArray[Any]
TRUTH = ("pdg", "px", "py")
"""Truth of a spacepoint's particle, from which labels are derived when a file does not hold the labels themselves."""


def one_value(value: Any, what: str) -> Any:
    """A quantity of the whole event as a number, where a file gives a number, or the same one for every spacepoint.

    Raises:
        DataError: if it differs within the event, or the event has none.
    """
    if np.ndim(value) == 0:
        return value
    values = np.unique(value)
    if len(values) != 1:
        raise DataError(f"{len(values)} values of {what} in one event, which needs one")
    return values[0].item()


def constant_within(values: Array, offsets: Array) -> bool:
    """Whether (sum N,) values are the same within each event, and no event is without."""
    sizes = np.diff(offsets)
    return bool((sizes > 0).all()) and np.array_equal(np.repeat(values[offsets[:-1]], sizes), values)


def apart(whole: Event, offsets: Array, event_ids: Array, scalars: Mapping[str, Array]) -> Iterator[Event]:
    """The events of an event that was made of many, end to end.

    Args:
        whole: all of them; `left_out` holds places among the spacepoints of all.
        offsets: (B + 1,), where each started before any were left out.
        event_ids: (B,).
        scalars: name -> (B,).
    """
    columns = {name: values.tolist() for name, values in scalars.items()}
    own: list[dict[str, Any]] = [
        {"event_id": event_id, "scalars": MappingProxyType({name: values[i] for name, values in columns.items()})}
        for i, event_id in enumerate(event_ids.tolist())
    ]
    missing = np.zeros(len(offsets), np.int64)
    for reason, places in whole.left_out.items():
        owner = np.searchsorted(offsets, places, side="right") - 1
        missing[1:] += np.bincount(owner, minlength=len(event_ids))
        for index in np.unique(owner).tolist():
            local = places[owner == index] - offsets[index]
            local.setflags(write=False)
            own[index].setdefault("left_out", {})[reason] = local
    nothing: Mapping[str, Array] = MappingProxyType({})
    for values in own:
        values["left_out"] = MappingProxyType(values["left_out"]) if "left_out" in values else nothing
    return whole.split(offsets - np.cumsum(missing), own)


def outside(values: Array, low: int, high: int) -> Array:
    """(N,) to (N,) bool: what does not lie between two bounds, themselves included."""
    return np.asarray(~((values >= low) & (values <= high)))


def first_reasons(faults: Mapping[str, Array]) -> tuple[dict[str, Array], Array]:
    """Each spacepoint's first fault.

    Args:
        faults: reason -> (N,) bool.

    Returns:
        Reason -> (M,) places, of the reasons that occur, and (N,) bool, what has none.
    """
    places = {}
    kept = ~np.zeros_like(next(iter(faults.values())))
    for reason, fault in faults.items():
        if fault.any() and len(found := np.flatnonzero(fault & kept)):
            places[reason] = found
            kept[found] = False
    return places, kept


def of_particles(track_id: Array, particles: Mapping[str, Array]) -> tuple[dict[str, Array], Array]:
    """The truth of every spacepoint's particle, looked up by `track_id` in the table of particles.

    Args:
        track_id: (N,).
        particles: `track_id` and quantities, (P,) each.

    Returns:
        Quantity of `TRUTH` -> (N,), 0 where the particle is not listed, and (N,) bool, whether it is not.
    """
    wanted = [name for name in TRUTH if name in particles]
    if "track_id" not in particles or not wanted:
        return {}, np.zeros(len(track_id), dtype=bool)
    ids = np.asarray(particles["track_id"])
    order = np.argsort(ids, kind="stable")
    row = np.searchsorted(ids, track_id, sorter=order)
    listed = row < len(ids)
    row = np.append(order, -1)[np.minimum(row, len(ids))]
    listed[listed] = ids[row[listed]] == track_id[listed]
    truth = {}
    for name in wanted:
        values = np.asarray(particles[name])
        truth[name] = np.zeros(len(track_id), values.dtype)
        truth[name][listed] = values[row[listed]]
    return truth, ~listed
