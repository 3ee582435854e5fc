"""Particles through a detector: from cylinder to cylinder, all of a block of events at once."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm4npp.errors import FM4NPPError
from fm4npp.simulation.born import Born
from fm4npp.simulation.crossings import Crossings
from fm4npp.simulation.decays import Children, released
from fm4npp.simulation.helix import advanced, helices, turn_to
from fm4npp.simulation.interactions import interact, matter_of
from fm4npp.simulation.layers import Surfaces
from fm4npp.simulation.particles import Particles, particles

Array = NDArray[Any]

MAX_PATH = 1000.0
"""cm: longest path of a charged particle. What curls longer in the field fills a place that it filled before."""
_FAR = 1e7
"""cm: longest path of a neutral one, beyond any detector."""
_MAX_STEPS = 100_000  # far more than any path has; reached only by a mistake


@dataclass(frozen=True)
class Transported:
    """Everything that flew.

    Attributes:
        particles: the generator's (first, at their own places) and all secondaries, as they were really produced.
        num_generated: how many of them are the generator's.
        born: (P,) bool; false for decay products whose parent never decayed within the detector.
        crossings: of the measuring layers.
    """

    particles: Particles
    num_generated: int
    born: Array
    crossings: Crossings


@dataclass(frozen=True)
class _Flight:
    """The A particles in flight, as two matrices, since rows of these are taken and joined at every step.

    Attributes:
        real: (A, 9) position in cm, momentum in GeV/c, charge, mass in GeV/c^2, path in cm before they end.
        whole: (A, 5) place in the table, event, PDG code, number of surfaces within, and whether they decay at the end.
    """

    real: Array
    whole: Array

    @classmethod
    def of(
        cls, index: Array, table: Particles, position: Array, momentum: Array, cell: Array, left: Array, decays: Array
    ) -> _Flight:
        return cls(
            np.column_stack([position, momentum, table.charge, table.mass, left]),
            np.column_stack([index, table.event, table.pdg, cell, decays]),
        )

    def __len__(self) -> int:
        return len(self.real)

    def take(self, kept: Array) -> _Flight:
        return _Flight(self.real[kept], self.whole[kept])

    position = property(lambda self: self.real[:, 0:3])
    momentum = property(lambda self: self.real[:, 3:6])
    charge = property(lambda self: self.real[:, 6])
    mass = property(lambda self: self.real[:, 7])
    left = property(lambda self: self.real[:, 8])
    index = property(lambda self: self.whole[:, 0])
    event = property(lambda self: self.whole[:, 1])
    pdg = property(lambda self: self.whole[:, 2])
    cell = property(lambda self: self.whole[:, 3])
    decays = property(lambda self: self.whole[:, 4])


def transport(given: Particles, surfaces: Surfaces, rng: np.random.Generator) -> Transported:
    """Fly particles through a detector until each has left, decayed, stopped or interacted.

    Between surfaces a particle is on an exact helix; each surface acts at its radius (`interactions`). Decay
    products appear where their parent got to.

    Args:
        given: the generator's particles; those with a parent wait for its decay.
        surfaces: of the detector.
        rng: source of randomness.

    Raises:
        FM4NPPError: if it does not come to an end, which would be a mistake in here.
    """
    flights = _Flights(given, surfaces, rng)
    flying = flights.start(np.flatnonzero(given.parent < 0))
    for _ in range(_MAX_STEPS):
        if not len(flying):
            return flights.finished()
        flying = flights.step(flying)
    raise FM4NPPError(f"simulation: {len(flying)} particles do not come to an end after {_MAX_STEPS} steps")


class _Flights:
    """What the steps add to: the table of particles and the crossings."""

    def __init__(self, given: Particles, surfaces: Surfaces, rng: np.random.Generator) -> None:
        self.given, self.surfaces, self.rng = given, surfaces, rng
        self.matter = matter_of(surfaces)
        self.radius = np.concatenate([surfaces.radius, [surfaces.outer_radius, np.nan]])  # the last is found by -1
        stops = np.flatnonzero(self.matter.neutral)
        cells = np.arange(len(surfaces.radius) + 1)
        self.inner = np.stack([np.append(-1, stops)[np.searchsorted(stops, cells)], cells - 1])
        self.outer = np.stack([np.append(stops, cells[-1])[np.searchsorted(stops, cells)], cells])
        self.children = Children(given.parent)
        self.momentum, self.vertex = given.momentum.copy(), given.vertex.copy()
        self.born = given.parent < 0
        self.count = len(given)
        self.tables: list[Particles] = []
        none = np.empty(0, np.int64)
        self.crossings = [(none, none, np.empty((0, 3)), np.empty((0, 3)), np.empty(0))]

    def start(self, index: Array) -> _Flight:
        """Particles of the generator that start now."""
        given, position = self.given.take(index), self.vertex[index]
        radius = np.hypot(position[:, 0], position[:, 1])
        within, upto = (np.searchsorted(self.surfaces.radius, radius, side) for side in ("left", "right"))
        cell = np.where(_outward(position, self.momentum[index]), upto, within)
        longest = _longest(given.charge)
        decays = np.isfinite(given.flight) & (given.flight <= longest)
        left = np.minimum(given.flight, longest)
        return _Flight.of(index, given, position, self.momentum[index], cell, left, decays)

    def step(self, flying: _Flight) -> _Flight:
        """All particles to their next surface, or their end; those that go on, and new ones."""
        surfaces = self.surfaces
        paths = helices(flying.position, flying.momentum, flying.charge, surfaces.field)
        charged = (flying.charge != 0).astype(np.int64)
        inner, outer = self.inner[charged, flying.cell], self.outer[charged, flying.cell]
        inward = turn_to(paths, self.radius[inner], outward=False)
        outward = turn_to(paths, self.radius[outer], outward=True)
        goes_in = (inward < outward) | np.isnan(outward)
        pz, z = flying.momentum[:, 2], flying.position[:, 2]
        with np.errstate(invalid="ignore", divide="ignore"):
            end = (surfaces.outer_half_length - np.sign(pz) * z) * paths.transverse / (np.abs(pz) * paths.radius)
        stretch = np.sqrt(1 + (pz / paths.transverse) ** 2) * paths.radius  # cm of path for an angle of 1
        crossing, last = np.fmin(inward, outward), flying.left / stretch
        turn = np.fmin(np.fmin(crossing, end), last)
        flying.position[:], flying.momentum[:] = advanced(flying.position, flying.momentum, paths, turn)
        path = turn * stretch
        flying.left[:] -= path
        surface = np.where(goes_in, inner, outer)
        crosses = (turn == crossing) & (surface < len(surfaces.radius))
        ends = np.flatnonzero(~crosses & (turn == last) & (flying.decays > 0))
        there = np.flatnonzero(crosses)
        flying.cell[:] = surface + ~goes_in
        going = self._cross(flying.take(there), surface[there], path[there])
        return _joined(going, self._decay(flying.take(ends))) if len(ends) else going

    def _cross(self, flying: _Flight, surface: Array, path: Array) -> _Flight:
        """Let particles that are at a surface be measured, and interact with it."""
        there = np.flatnonzero(np.abs(flying.position[:, 2]) <= self.surfaces.half_length[surface])
        met, surface, path = flying.take(there), surface[there], path[there]
        layer = self.surfaces.layer[surface]
        seen = np.flatnonzero((layer >= 0) & (met.charge != 0))
        room = path[seen] * (self.surfaces.extent / self.surfaces.depth)[surface[seen]]
        self.crossings.append((met.index[seen], layer[seen], met.position[seen], met.momentum[seen], room))
        outcome = interact(
            met.position, met.momentum, met.charge, met.mass, met.pdg, path, surface, self.matter, self.rng
        )
        flying.momentum[there], alive = outcome.momentum, np.ones(len(flying), bool)
        flying.cell[there] = _cell(met.position, outcome.momentum, surface)
        alive[there] = outcome.alive
        kept = flying if alive.all() else flying.take(alive)
        return _joined(kept, self._add(met, surface, outcome.born)) if len(outcome.born.index) else kept

    def _add(self, mothers: _Flight, surface: Array, born: Born) -> _Flight:
        """Secondaries into the table and into flight."""
        mother = born.index
        table = particles(
            mothers.event[mother], born.pdg, born.momentum, mothers.position[mother], mothers.index[mother]
        )
        self.tables.append(table)
        index = np.arange(self.count, self.count + len(table))
        self.count += len(table)
        cell = _cell(table.vertex, table.momentum, surface[mother])
        never = np.zeros(len(table), bool)
        return _Flight.of(index, table, table.vertex, table.momentum, cell, _longest(table.charge), never)

    def _decay(self, flying: _Flight) -> _Flight:
        """The products of particles that decay where they are."""
        child, place = self.children.of(flying.index)
        parent = flying.index[place]
        starts = released(self.given, parent, child, flying.position[place], flying.momentum[place])
        self.vertex[child], self.momentum[child] = starts
        self.born[child] = True
        return self.start(child)

    def finished(self) -> Transported:
        """All that flew."""
        first = replace(self.given, momentum=self.momentum, vertex=self.vertex)
        tables = [first, *self.tables]  # parents count over all of them already
        columns = (np.concatenate([getattr(table, field.name) for table in tables]) for field in fields(Particles))
        return Transported(
            particles=Particles(*columns),
            num_generated=len(first),
            born=np.concatenate([self.born, np.ones(self.count - len(first), bool)]),
            crossings=Crossings(*(np.concatenate(column) for column in zip(*self.crossings, strict=True))),
        )


def _joined(first: _Flight, second: _Flight) -> _Flight:
    return _Flight(np.concatenate([first.real, second.real]), np.concatenate([first.whole, second.whole]))


def _longest(charge: Array) -> Array:
    """(A,) cm of path at most."""
    return np.where(charge != 0, MAX_PATH, _FAR)


def _outward(position: Array, momentum: Array) -> Array:
    """(A,) bool, who flies away from the beam."""
    outward: Array = position[:, 0] * momentum[:, 0] + position[:, 1] * momentum[:, 1] > 0
    return outward


def _cell(position: Array, momentum: Array, surface: Array) -> Array:
    """(A,) number of surfaces within particles that start on a surface: one more for those that fly outwards."""
    cell: Array = surface + _outward(position, momentum)
    return cell
