"""What happens to particles that cross matter: everything between one free flight and the next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm4npp.simulation import secondaries
from fm4npp.simulation.born import Born, joined
from fm4npp.simulation.ionisation import StoppingTable, knock_on_threshold, lowest_kinetic, stopping_table
from fm4npp.simulation.layers import Surfaces
from fm4npp.simulation.particles import charges_and_masses
from fm4npp.simulation.scattering import deflected, highland, in_all
from fm4npp.simulation.stars import hadronic, is_hadron

Array = NDArray[Any]

MOST_ASKEW = 4.0
"""Longest transverse path through a surface in units of its thickness: cylinders are left again when grazed."""
JOINED = 5e-4
"""X0: thickness up to which neighbouring surfaces are one for neutral particles; seven rows of a chamber, in which four
photons of ten thousand convert."""
MOST_INCLINED = 50.0
"""Longest path through a surface for inclination along the beam, likewise."""


@dataclass(frozen=True)
class Matter:
    """Surfaces, with what follows from their media.

    Attributes:
        surfaces: S of them.
        stopping: mean energy loss in collisions below `knock_on`.
        knock_on: (S,) GeV, kinetic energy from which on electrons that are knocked on fly on their own.
        lowest: (S,) GeV, what has less kinetic energy after crossing is stopped.
        neutral: (S,) how many times the thickness neutral particles meet; see `for_neutral`.
        scattering: (S,) thickness in X0 for the logarithm of multiple scattering, see `scattering.in_all`.
    """

    surfaces: Surfaces
    stopping: StoppingTable
    knock_on: Array
    lowest: Array
    neutral: Array
    scattering: Array


def for_neutral(surfaces: Surfaces) -> Array:
    """Thin surfaces joined for neutral particles, which leave nothing in them: half of all steps are theirs.

    Returns:
        (S,) 0 for a surface that neutral particles pass by; else how many times its thickness they meet there: that of
        its neighbours too, as many as are thinner than `JOINED` together and equally long.
    """
    times = np.zeros(len(surfaces.radius))
    lengths, start = surfaces.radiation_lengths, 0
    for end in range(1, len(times) + 1):
        following = lengths[start : end + 1].sum() if end < len(times) else np.inf
        if following > JOINED or surfaces.half_length[end] != surfaces.half_length[start]:
            middle, total = (start + end - 1) // 2, lengths[start:end].sum()
            times[middle] = total / lengths[middle] if lengths[middle] > 0 else 1.0
            start = end
    return times


def matter_of(surfaces: Surfaces) -> Matter:
    """The matter of surfaces."""
    knock_on = [knock_on_threshold(medium) for medium in surfaces.media]
    return Matter(
        surfaces=surfaces,
        stopping=stopping_table(surfaces.media, tuple(threshold * 1e9 for threshold in knock_on)),
        knock_on=np.array(knock_on)[surfaces.medium],
        lowest=np.array([lowest_kinetic(medium) for medium in surfaces.media])[surfaces.medium],
        neutral=for_neutral(surfaces),
        scattering=in_all(surfaces.radiation_lengths),
    )


@dataclass(frozen=True)
class Outcome:
    """A particles after crossing matter.

    Attributes:
        momentum: (A, 3) in GeV/c.
        alive: (A,) whether the particle goes on.
        born: new particles; `index` counts the A.
    """

    momentum: Array
    alive: Array
    born: Born


def interact(
    position: Array,
    momentum: Array,
    charge: Array,
    mass: Array,
    pdg: Array,
    path: Array,
    surface: Array,
    matter: Matter,
    rng: np.random.Generator,
) -> Outcome:
    """Let particles cross surfaces.

    Charged particles knock on electrons, lose energy, radiate if they are electrons, and scatter; photons convert or
    scatter off electrons; hadrons may interact. See `secondaries`, `stars`, `ionisation` and `scattering` for the
    formulae.

    Args:
        position: (A, 3) in cm, on the surfaces.
        momentum: (A, 3) in GeV/c.
        charge: (A,) in units of the positron's.
        mass: (A,) in GeV/c^2.
        pdg: (A,).
        path: (A,) in cm, flown since the surface before: no more matter than fits into it is met, so that what curls
            within a row of a gas detector loses what it should.
        surface: (A,) index into the surfaces.
        matter: what is crossed.
        rng: source of randomness.
    """
    surfaces, alive = matter.surfaces, np.ones(len(momentum), bool)
    born: list[Born] = []
    share = np.minimum(inclination(position, momentum), path / surfaces.depth[surface])
    share = np.where(charge == 0, share * matter.neutral[surface], share)
    crossed = _Crossed(surface, share, share * surfaces.grams[surface], share * surfaces.radiation_lengths[surface])
    momentum = momentum.copy()

    charged = np.flatnonzero(charge)
    if len(charged):
        momentum[charged], new = _charged(
            momentum[charged], charge[charged], mass[charged], pdg[charged], crossed.take(charged), matter, rng
        )
        born += [part.of(charged) for part in new]
    photons = np.flatnonzero(pdg == 22)
    if len(photons):
        momentum[photons], gone, new = _photons(momentum[photons], crossed.take(photons), matter, rng)
        alive[photons] = ~gone
        born += [part.of(photons) for part in new]
    hadrons = np.flatnonzero(is_hadron(pdg))
    if len(hadrons):
        lengths = share[hadrons] * surfaces.interaction_lengths[surface[hadrons]]
        gone, star = hadronic(momentum[hadrons], mass[hadrons], pdg[hadrons], lengths, rng)
        alive[hadrons] = ~gone
        born.append(star.of(hadrons))
    alive &= _kinetic(momentum, mass) > matter.lowest[surface]
    within = joined(born)
    return Outcome(momentum, alive, emerged(within, position[within.index], surface[within.index], matter, rng))


def emerged(born: Born, position: Array, surface: Array, matter: Matter, rng: np.random.Generator) -> Born:
    """What is born in a surface after the rest of it: a share of its thickness that is uniform between 0 and 1.

    Args:
        born: Q new particles.
        position: (Q, 3) in cm.
        surface: (Q,).
        matter: of the surfaces.
        rng: source of randomness.

    Returns:
        Those that are not stopped, with the momenta they leave with.
    """
    if not len(born):
        return born
    charge, mass = charges_and_masses(born.pdg)
    surfaces = matter.surfaces
    grams = rng.random(len(born)) * inclination(position, born.momentum) * surfaces.grams[surface]
    total = np.sqrt((born.momentum * born.momentum).sum(axis=1))
    loss = _loss(total, mass, charge, grams, surface, matter)
    after = slowed(total, mass, loss)
    left = np.flatnonzero(_kinetic_of(after, mass) > matter.lowest[surface])
    return Born(born.index[left], born.pdg[left], born.momentum[left] * (after / total)[left, None])


def inclination(position: Array, momentum: Array) -> Array:
    """(A,) path of particles through thin cylinders around the beam, in units of the thickness."""
    x, y, _ = position.T
    px, py, pz = momentum.T
    transverse2 = px * px + py * py
    askew = np.sqrt(transverse2 * (x * x + y * y)) / np.maximum(np.abs(x * px + y * py), 1e-300)
    stretch = np.sqrt(1 + pz * pz / np.maximum(transverse2, 1e-300))
    longer: Array = np.minimum(askew, MOST_ASKEW) * np.minimum(stretch, MOST_INCLINED)
    return longer


@dataclass(frozen=True)
class _Crossed:
    """The surface that each particle crosses, and how much of it: in units of its thickness, in g/cm^2 and in X0."""

    surface: Array
    share: Array
    grams: Array
    lengths: Array

    def take(self, index: Array) -> _Crossed:
        return _Crossed(self.surface[index], self.share[index], self.grams[index], self.lengths[index])


def _charged(
    momentum: Array,
    charge: Array,
    mass: Array,
    pdg: Array,
    crossed: _Crossed,
    matter: Matter,
    rng: np.random.Generator,
) -> tuple[Array, list[Born]]:
    """Momenta (C, 3) after ionisation, radiation and scattering; what was knocked on and radiated."""
    surfaces, where = matter.surfaces, crossed.surface
    total = np.sqrt((momentum * momentum).sum(axis=1))
    energy = np.sqrt(total * total + mass * mass)
    moles = crossed.grams * surfaces.charge_per_mass[where]
    given, electrons = secondaries.knock_on(momentum, mass, charge, moles, rng, matter.knock_on[where])
    loss = _loss(total, mass, charge, crossed.grams, where, matter) + given
    theta0 = highland(total, total / energy, charge, crossed.lengths, crossed.share * matter.scattering[where])
    scattered = deflected(momentum, theta0, rng)
    after = scattered * (slowed(total, mass, loss) / np.maximum(total, 1e-300))[:, None]
    born = [electrons]
    light = np.flatnonzero(np.abs(pdg) == 11)
    if len(light):
        after[light], photons = secondaries.bremsstrahlung(after[light], crossed.lengths[light], rng)
        born.append(photons.of(light))
    return after, born


def slowed(total: Array, mass: Array, loss: Array) -> Array:
    """Momenta after a loss of energy that was computed from the momenta before.

    A slow particle loses more and more: for beta gamma < 1 the range goes with the kinetic energy to the power of 1.77
    (Bragg and Kleeman's rule; PDG review, "Passage of particles through matter").

    Args:
        total: (P,) GeV/c.
        mass: (P,) GeV/c^2.
        loss: (P,) GeV, stopping power before times thickness.

    Returns:
        (P,) GeV/c; 0 for what is stopped.
    """
    kinetic = np.maximum(_kinetic_of(total, mass), 1e-300)
    power = np.where(total < mass, 1.77, 1.0)
    left = kinetic * np.maximum(1 - power * loss / kinetic, 0.0) ** (1 / power)
    momentum: Array = np.sqrt(left * (left + 2 * mass))
    return momentum


def _loss(total: Array, mass: Array, charge: Array, grams: Array, surface: Array, matter: Matter) -> Array:
    """(P,) GeV, of collisions below the threshold of knock-on electrons; 0 for what is neutral."""
    beta_gamma = total / np.maximum(mass, 1e-300)
    stopping = matter.stopping.loss(matter.surfaces.medium[surface], beta_gamma)
    loss: Array = stopping * grams * (charge * charge) * 1e-3
    return loss


def _kinetic(momentum: Array, mass: Array) -> Array:
    return _kinetic_of(np.sqrt((momentum * momentum).sum(axis=1)), mass)


def _kinetic_of(total: Array, mass: Array) -> Array:
    kinetic: Array = np.sqrt(total * total + mass * mass) - mass
    return kinetic


def _photons(
    momentum: Array, crossed: _Crossed, matter: Matter, rng: np.random.Generator
) -> tuple[Array, Array, list[Born]]:
    """Momenta (C, 3) after Compton scattering; which photons are gone; what was born."""
    moles = crossed.grams * matter.surfaces.charge_per_mass[crossed.surface]
    converted, pairs = secondaries.conversions(momentum, crossed.lengths, rng)
    _, after, recoils = secondaries.compton(momentum, np.where(converted, 0.0, moles), rng)
    return after, converted, [pairs, recoils]
