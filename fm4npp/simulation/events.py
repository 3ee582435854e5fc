"""From generated particles to events: generate, transport, measure, label, shuffle."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm4npp.detectors import Detector
from fm4npp.errors import ConfigurationError
from fm4npp.event import Event
from fm4npp.simulation.generator import Generator
from fm4npp.simulation.gun import ParticleGun
from fm4npp.simulation.layers import ENERGY, Layers, layers_of, surfaces_of
from fm4npp.simulation.measurement import Spacepoints, measure
from fm4npp.simulation.pileup import overlay
from fm4npp.simulation.transport import transport
from fm4npp.simulation.truth import Truth, truth_of

Array = NDArray[Any]

BLOCK = 512
"""Events that are simulated together: many enough for NumPy, few enough for the memory."""
MAX_PILEUP = 1000.0
"""Largest mean number of further collisions: the memory holds at least one event."""
DEFAULT_GUN = ParticleGun()


def simulate(
    detector: Detector, num_events: int, seed: int, generator: Generator = DEFAULT_GUN, pileup: float = 0.0
) -> Iterator[Event]:
    """Labelled events of a detector; a fast, parametric simulation (docs/simulation.md).

    Args:
        detector: with a `Response` for every subsystem.
        num_events: how many.
        seed: not negative. The same seed and number give the same events.
        generator: of collisions: a particle gun, or PYTHIA.
        pileup: mean number of further collisions in an event, Poisson.

    Returns:
        The events one after another, spacepoints in random order. Labels: `track_id` (from 1, one for each particle,
        secondaries too), `pdg`, `particle_class`, `is_noise`, `layer` (index over the layers of all subsystems).
        Particles: every generated charged one, every one with spacepoints and its ancestors, with `parent` (track_id,
        0 for none) and `num_hits`.

    Raises:
        ConfigurationError: if the detector cannot be simulated, or a number is negative.
    """
    check(detector, num_events, seed, pileup)
    return _simulated(detector, num_events, seed, generator, pileup)


def _simulated(detector: Detector, num_events: int, seed: int, generator: Generator, pileup: float) -> Iterator[Event]:
    size = block_size(pileup)
    for block, first in enumerate(range(0, num_events, size)):
        yield from block_events(detector, generator, seed, block, min(size, num_events - first), pileup)


def check(detector: Detector, num_events: int, seed: int, pileup: float) -> None:
    """Raise a ConfigurationError unless these can be simulated."""
    if num_events < 0 or seed < 0 or not 0 <= pileup <= MAX_PILEUP:
        raise ConfigurationError(
            f"simulate: num_events = {num_events}, seed = {seed} and pileup = {pileup} must not be negative, and "
            f"pileup not more than {MAX_PILEUP:g}"
        )
    layers_of(detector)


def block_size(pileup: float) -> int:
    """Number of events that are simulated together; fewer where each holds more collisions."""
    return max(1, round(BLOCK / (1 + pileup)))


def block_events(
    detector: Detector, generator: Generator, seed: int, block: int, count: int, pileup: float = 0.0
) -> list[Event]:
    """The events of one block; they depend on the arguments alone.

    Args:
        detector: see `simulate`.
        generator: see `simulate`.
        seed: see `simulate`.
        block: number of the block, from 0. Its first event has the id `block * block_size(pileup)`.
        count: number of its events.
        pileup: see `simulate`.
    """
    generation, detection = np.random.SeedSequence([seed, block]).spawn(2)
    rng = np.random.default_rng(detection)
    layers = layers_of(detector)
    flown = transport(overlay(generator, count, pileup, generation), surfaces_of(detector), rng)
    spacepoints = measure(flown.crossings, flown.particles, layers, rng)
    order = rng.permutation(len(spacepoints))
    spacepoints = spacepoints.take(order[np.argsort(spacepoints.event[order], kind="stable")])
    truth = truth_of(flown, spacepoints, count)
    source = f"{generator.source}{f', pile-up {pileup:g}' if pileup else ''}; seed {seed}; "
    source += f"fast simulation, fm4npp {importlib.metadata.version('fm4npp')}"
    first = block * block_size(pileup)
    return [
        _event(detector, layers, spacepoints.take(slice(*ends)), truth, index, first + index, slice(*ends), source)
        for index, ends in enumerate(pairwise(np.searchsorted(spacepoints.event, np.arange(count + 1)).tolist()))
    ]


def _event(
    detector: Detector,
    layers: Layers,
    spacepoints: Spacepoints,
    truth: Truth,
    index: int,
    event_id: int,
    place: slice,
    source: str,
) -> Event:
    return Event(
        positions=spacepoints.position.astype(np.float32),
        features=spacepoints.energy[:, None] if layers.energy else np.empty((len(spacepoints), 0)),
        feature_names=(ENERGY,) if layers.energy else (),
        labels={**{name: values[place] for name, values in truth.labels.items()}, "layer": spacepoints.layer},
        particles=truth.particles_of(index),
        detector_ids=layers.subsystem[spacepoints.layer],
        subsystems=detector.subsystems,
        detector=detector.name,
        event_id=event_id,
        source=source,
    )
