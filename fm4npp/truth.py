"""What heads learn and are judged by, named by whose it is: a spacepoint's, its particle's, or the event's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np

from fm4npp.errors import DataError
from fm4npp.event import Array, Event

PARTICLE, EVENT = "particle.", "event."
"""`particle.pt` is a number of the particle that left a spacepoint, `event.trigger` one of the event."""

DERIVED: Mapping[str, tuple[Callable[..., Array], tuple[str, ...]]] = {
    "pt": (np.hypot, ("px", "py")),
    "log_pt": (lambda px, py: np.log(np.hypot(px, py)), ("px", "py")),
    "p": (lambda px, py, pz: np.hypot(np.hypot(px, py), pz), ("px", "py", "pz")),
    "eta": (lambda px, py, pz: np.arcsinh(pz / np.hypot(px, py)), ("px", "py", "pz")),
    "phi": (lambda px, py: np.arctan2(py, px), ("px", "py")),
}
"""Quantities of a particle that its momentum gives: transverse momentum and its natural logarithm, momentum (GeV/c),
pseudorapidity, azimuth (rad)."""


def is_of_event(name: str) -> bool:
    """Whether a name is of something that an event has one of, not every spacepoint."""
    return name.startswith(EVENT)


def truth(event: Event, name: str) -> Array:
    """One kind of truth of an event.

    Args:
        event: with labels, particles or scalars.
        name: of a label; `particle.` and a column of `Event.particles` or one of `DERIVED`; or `event.` and the name of
            a scalar.

    Returns:
        Of a label (N,), as it is. Of a particle's quantity (N,) float64: that of the particle with the spacepoint's
        `track_id`, NaN where there is none, or where it is not finite. Of a scalar (1,) float64.

    Raises:
        DataError: if the event has no such truth.
    """
    if missing([name], event.labels, event.particles, event.scalars):
        raise DataError(
            f"has no label {name!r}",
            file=event.source or None,
            event=event.event_id,
            remedy="convert the file together with its labels",
        )
    if name.startswith(EVENT):
        return np.array([event.scalars[name.removeprefix(EVENT)]], dtype=np.float64)
    if name.startswith(PARTICLE):
        return _of_owner(event, particle_quantity(event.particles, name.removeprefix(PARTICLE)))
    return event.labels[name]


def particle_quantity(particles: Mapping[str, Array], name: str) -> Array:
    """(P,) float64: a column of a table of particles, or what its momenta give; NaN where that is not finite."""
    if name in particles:
        values = np.array(particles[name], dtype=np.float64)
    else:
        function, columns = DERIVED[name]
        with np.errstate(divide="ignore", invalid="ignore"):
            values = function(*(np.asarray(particles[column], dtype=np.float64) for column in columns))
    values[~np.isfinite(values)] = np.nan
    return values


def missing(
    names: Iterable[str], labels: Collection[str], particles: Collection[str], scalars: Collection[str]
) -> list[str]:
    """Which kinds of truth cannot be had of events with such labels, columns of particles, and scalars."""

    def has(name: str) -> bool:
        if name.startswith(EVENT):
            return name.removeprefix(EVENT) in scalars
        if not name.startswith(PARTICLE):
            return name in labels
        quantity = name.removeprefix(PARTICLE)
        columns = (quantity,) if quantity in particles else DERIVED.get(quantity, (None, (quantity,)))[1]
        return {"track_id", *columns} <= set(particles) and "track_id" in labels

    return sorted(name for name in set(names) if not has(name))


def as_label(values: Array) -> Array:
    """What a batch holds of it: labels as int64, quantities as float32."""
    dtype: Any = np.float32 if values.dtype.kind == "f" else np.int64
    return values.astype(dtype)


def _of_owner(event: Event, values: Array) -> Array:
    """(P,) of particles to (N,) of the spacepoints that they left."""
    known, index = np.unique(event.particles["track_id"], return_index=True)
    owner = event.labels["track_id"]
    found = np.full(len(owner), np.nan)
    if len(known):
        place = np.searchsorted(known, owner).clip(max=len(known) - 1)
        mine = (known[place] == owner) & (owner >= 0)
        found[mine] = values[index[place[mine]]]
    return found
