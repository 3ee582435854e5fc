"""PYTHIA's event records as tables of particles."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm4npp.errors import ConfigurationError
from fm4npp.simulation.particles import Particles

Array = NDArray[Any]

MIN_C_TAU = 1.0
"""cm: particles that live longer than this on average are tracked until they decay."""
_NEUTRINOS = (12, 14, 16)
_DECAY_PRODUCT = 91  # statuses from here on: made in a decay
_MM = 0.1  # cm
_INTEGERS = ("id", "status", "mother1", "daughter1")


def library(name: str) -> Any:
    """A package of the extra, imported."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigurationError(f'the package {name} is not installed: pip install "fm4npp[simulation]"') from error


def particles_of(batch: Any, data: Any, spots: Array) -> Particles:
    """What is seen or tracked of a batch of PYTHIA's event records.

    Args:
        batch: of `Pythia.nextBatch`; None for no events.
        data: PYTHIA's table of particles.
        spots: (count, 3) place of each collision, cm.
    """
    if batch is None:
        empty = np.zeros(0, np.int64)
        return Particles(empty, empty, empty, np.zeros(0), np.zeros((0, 3)), np.zeros((0, 3)), empty, np.zeros(0))
    record, event, start = _flattened(batch)
    pdg, status, mother, daughter = (_column(record, name, np.int64) for name in _INTEGERS)
    codes, places = np.unique(pdg, return_inverse=True)
    table = [_properties(code, data) for code in codes.tolist()]
    charge, mass, c_tau = (np.array(column)[places] for column in zip(*table, strict=True))
    product = np.abs(status) >= _DECAY_PRODUCT
    decayed = (status < 0) & (c_tau > MIN_C_TAU) & (c_tau < np.inf) & product[start + daughter]
    kept = np.flatnonzero(decayed | ((status > 0) & ~np.isin(np.abs(pdg), _NEUTRINOS)))
    made_by = np.where(product, start + mother, -1)
    momentum = _vectors(record.content("p"), kept)
    return Particles(
        event=event[kept],
        pdg=pdg[kept],
        charge=charge[kept],
        mass=mass[kept],
        momentum=momentum,
        vertex=spots[event[kept]] + _decay_lengths(record, made_by, kept),
        parent=_tracked_ancestors(made_by, decayed, kept),
        flight=_flights(record, momentum, decayed, kept),
    )


def _flattened(batch: Any) -> tuple[Any, Array, Array]:
    """The record of all particles, the event (N,) of each one and the row (N,) where its event starts."""
    events = batch.layout.content("prt")
    offsets = np.asarray(events.offsets.data)
    event = np.repeat(np.arange(len(events)), np.diff(offsets))
    return events.content, event, offsets[event]


def _column(record: Any, name: str, kind: Any = np.float64) -> Array:
    return np.asarray(record.content(name).data).astype(kind, copy=False)


def _vectors(record: Any, rows: Array) -> Array:
    """(P, 3) x, y and z of some rows of a record of four-vectors."""
    return np.stack([_column(record, name)[rows] for name in ("px", "py", "pz")], axis=1)


def _flights(record: Any, momentum: Array, decayed: Array, kept: Array) -> Array:
    """(P,) length of path in cm until the decay, of the kept: c tau |p| / m; inf for those that did not."""
    flight = np.full(len(kept), np.inf)
    ends = decayed[kept]
    rows = kept[ends]
    boost = np.sqrt((momentum[ends] ** 2).sum(axis=1)) / _column(record, "m")[rows]
    flight[ends] = boost * _column(record, "tau")[rows] * _MM
    return flight


def _decay_lengths(record: Any, made_by: Array, rows: Array) -> Array:
    """(R, 3) from the collision to where particles are made, cm: what their ancestors flew before they decayed.

    It is what PYTHIA has as `vProd`, which `nextBatch` of 8.317 gives to the wrong particles: its index falls back by
    one entry with each event.

    Args:
        record: of all particles.
        made_by: (N,) row of the mother of decay products, -1 for other particles.
        rows: (R,).
    """
    lengths, row = np.zeros((len(rows), 3)), made_by[rows]
    while (on := np.flatnonzero(row >= 0)).size:
        mother = row[on]
        proper = _column(record, "tau")[mother] / _column(record, "m")[mother] * _MM
        lengths[on] += _vectors(record.content("p"), mother) * proper[:, None]
        row[on] = made_by[mother]
    return lengths


def _tracked_ancestors(made_by: Array, tracked: Array, kept: Array) -> Array:
    """The nearest ancestor that is tracked, counted among the kept.

    Args:
        made_by: (N,) row of the mother of decay products, -1 for other particles.
        tracked: (N,) bool.
        kept: (P,) rows that are kept, the tracked ones among them.

    Returns:
        (P,) int64, -1 for none.
    """
    ancestor = made_by[kept]
    while (on := (ancestor >= 0) & ~tracked[ancestor]).any():
        ancestor[on] = made_by[ancestor[on]]
    number = np.full(len(made_by) + 1, -1, np.int64)  # the last one is nobody: the ancestor -1
    number[kept] = np.arange(len(kept))
    result: Array = number[ancestor]
    return result


_TABLE: dict[int, tuple[int, float, float]] = {}


def _properties(code: int, data: Any) -> tuple[int, float, float]:
    """Charge (units of the positron's), mass (GeV/c^2) and mean c tau (cm, 0 if not known) of a PDG code."""
    if code not in _TABLE:
        _TABLE[code] = _published(code) or (round(data.charge(code)), data.m0(code), data.tau0(code) * _MM)
    return _TABLE[code]


def _published(code: int) -> tuple[int, float, float] | None:
    """The same, from the tables of the Particle Data Group; None for what they do not have."""
    package = library("particle")
    try:
        found = package.Particle.from_pdgid(code)
    except (package.ParticleNotFound, package.InvalidParticle):
        return None
    if found.mass is None or found.charge is None:
        return None
    return round(found.charge), found.mass / 1000, (found.ctau or 0.0) * _MM
