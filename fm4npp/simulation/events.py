"""From generated particles to events: propagate, measure, label, shuffle."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm4npp.detectors import Detector
from fm4npp.errors import ConfigurationError
from fm4npp.event import Event, particle_class
from fm4npp.simulation.gun import ParticleGun
from fm4npp.simulation.helix import Helices, crossings, helices, points, turn_limit
from fm4npp.simulation.ionisation import relative_loss, straggling
from fm4npp.simulation.layers import ENERGY, Layers, layers_of
from fm4npp.simulation.particles import Particles

Array = NDArray[Any]

NOISE_BELOW = 0.06
"""GeV/c: spacepoints of particles below this momentum are noise (paper appendix A.3)."""
LONGEST_PATH = 4.0
"""Longest path in a layer that a particle can have by crossing it askew in the transverse plane, in units of the
layer's thickness: a cluster does not grow further along the layer."""
DEFAULT_GUN = ParticleGun()


def simulate(detector: Detector, num_events: int, seed: int, gun: ParticleGun = DEFAULT_GUN) -> Iterator[Event]:
    """Labelled events of a particle gun in a detector; a fast, parametric simulation.

    Particles fly on helices in a uniform field until they pass the outermost layer, leave the ends, or have used up
    their path, so those that the field holds inside make several turns; what lies between the layers is transparent.
    They lose no momentum on the way, do not scatter, decay or interact, and clusters do not merge. Each crossing is
    measured with the detector's efficiency and resolution; its radius stays on the layer.

    Args:
        detector: with a `Response` for every subsystem.
        num_events: how many.
        seed: not negative. Event i depends on (seed, i) alone, so a longer run starts with the events of a shorter one.
        gun: what is shot.

    Returns:
        The events one after another, spacepoints in random order. Labels: `track_id` (from 1, one for each particle,
        curling electrons too), `particle_class`, `is_noise`, `layer` (index over the layers of all subsystems).
        Particles: every generated one, with `num_hits`, which may be 0.

    Raises:
        ConfigurationError: if the detector cannot be simulated, or a number is negative.
    """
    if num_events < 0 or seed < 0:
        raise ConfigurationError(f"simulate: num_events = {num_events} and seed = {seed} must not be negative")
    source = f"particle-gun seed={seed} fm4npp {importlib.metadata.version('fm4npp')}"
    make = functools.partial(_event, detector, layers_of(detector), gun, seed, source)
    return map(make, range(num_events))


def _event(detector: Detector, layers: Layers, gun: ParticleGun, seed: int, source: str, index: int) -> Event:
    rng = np.random.default_rng([seed, index])
    half_length = float(layers.half_length.max())
    particles = gun.shoot(rng, (float(layers.radius.min()), float(layers.radius.max())), half_length)
    paths = helices(particles.vertex, particles.momentum, particles.charge, layers.field)
    limit = turn_limit(paths, float(layers.radius.max()), half_length, particles.max_path)
    particle, layer, turn = _seen(crossings(paths, layers.radius, limit), layers, rng)
    true = points(paths, particle, turn)
    measured = _smeared(true, layer, layers, rng)
    energy = _energies(particles, paths, layers, (particle, layer, turn), true, rng)
    kept = np.flatnonzero(np.abs(measured[:, 2]) <= layers.half_length[layer])
    hits = rng.permutation(kept)
    owner, layer = particle[hits], layer[hits]
    return Event(
        positions=measured[hits],
        features=energy[hits, None] if layers.energy else np.empty((len(hits), 0)),
        feature_names=(ENERGY,) if layers.energy else (),
        labels={
            "track_id": owner + 1,
            "particle_class": particle_class(particles.pdg)[owner],
            "is_noise": (particles.total_momentum < NOISE_BELOW)[owner],
            "layer": layer,
        },
        particles={**particles.columns(), "num_hits": np.bincount(owner, minlength=len(particles))},
        detector_ids=layers.subsystem[layer],
        subsystems=detector.subsystems,
        detector=detector.name,
        event_id=index,
        source=source,
    )


def _seen(crossing: tuple[Array, Array, Array], layers: Layers, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """The crossings (particle, layer, turn) that make a spacepoint."""
    particle, layer, turn = crossing
    seen = rng.random(len(layer)) < layers.efficiency[layer]
    return particle[seen], layer[seen], turn[seen]


def _smeared(true: Array, layer: Array, layers: Layers, rng: np.random.Generator) -> Array:
    """(C, 3) measured positions: moved along the cylinder and along z by the resolution."""
    move = rng.standard_normal((2, len(true)))
    radius = layers.radius[layer]
    phi = np.arctan2(true[:, 1], true[:, 0]) + move[0] * layers.resolution_rphi[layer] / radius
    z = true[:, 2] + move[1] * layers.resolution_z[layer]
    return np.stack([radius * np.cos(phi), radius * np.sin(phi), z], axis=1)


def _energies(
    particles: Particles,
    paths: Helices,
    layers: Layers,
    crossing: tuple[Array, Array, Array],
    true: Array,
    rng: np.random.Generator,
) -> Array:
    """(C,) deposited energy: mean loss of the particle x path in the layer x straggling x gain."""
    particle, layer, turn = crossing
    heading = paths.phi[particle] + paths.sense[particle] * turn
    askew = np.abs(np.cos(heading - np.arctan2(true[:, 1], true[:, 0])))
    path = paths.stretch[particle] / np.maximum(askew, 1 / LONGEST_PATH)
    loss = relative_loss(particles.total_momentum / particles.mass)[particle]
    deposit: Array = layers.gain[layer] * loss * path * straggling(len(layer), rng)
    return deposit
