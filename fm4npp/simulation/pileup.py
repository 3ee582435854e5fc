"""Several collisions in one event."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from fm4npp.errors import ConfigurationError
from fm4npp.simulation.generator import Generator
from fm4npp.simulation.particles import Particles

_STREAM = 0x9111E  # of the numbers of collisions, apart from the generator's own randomness


def overlay(generator: Generator, num_events: int, pileup: float, seed: np.random.SeedSequence) -> Particles:
    """Events of one collision and a Poisson number of further ones, each in its own place in the beam spot.

    Args:
        generator: of the collisions.
        num_events: how many events.
        pileup: mean number of further collisions in an event, not negative; with 0 these are the generator's events.
        seed: of all randomness.

    Returns:
        The particles, event after event, those of one collision after those of another.

    Raises:
        ConfigurationError: if `pileup` is negative or not finite.
    """
    if not 0 <= pileup < np.inf:
        raise ConfigurationError(f"pileup = {pileup} must be a mean number of collisions, 0 or more")
    if pileup == 0:
        return generator.collisions(num_events, seed)
    stream = np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, _STREAM), pool_size=seed.pool_size)
    num_collisions = 1 + np.random.default_rng(stream).poisson(pileup, num_events)
    given = generator.collisions(int(num_collisions.sum()), seed)
    order = np.argsort(given.event, kind="stable")
    place = np.full(len(given) + 1, -1)  # the last one is nobody: the parent -1
    place[order] = np.arange(len(given))
    columns = {field.name: getattr(given, field.name)[order] for field in fields(Particles)}
    columns["event"] = np.repeat(np.arange(num_events), num_collisions)[columns["event"]]
    columns["parent"] = place[columns["parent"]]
    return Particles(**columns)
