"""From true crossings to measured spacepoints: acceptance, deposit, drift and diffusion, resolution, merging."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm4npp.simulation.crossings import Crossings
from fm4npp.simulation.deposits import deposited, path_lengths
from fm4npp.simulation.ionisation import straggled
from fm4npp.simulation.layers import Layers
from fm4npp.simulation.merging import Clusters, merged
from fm4npp.simulation.particles import Particles
from fm4npp.simulation.planes import Places, on_cylinders, on_planes, surface_radius, wrapped

Array = NDArray[Any]


@dataclass(frozen=True)
class Spacepoints:
    """N measured spacepoints of a block of events.

    Attributes:
        event: (N,) int64, index of the event within the block.
        layer: (N,) int64, index into `Layers`.
        particle: (N,) int64, index into `Particles`: who made most of it.
        position: (N, 3) float64 in cm, on the surface of the layer.
        energy: (N,) float64, gain x deposit in keV; 0 where the layer has gain 0.
    """

    event: Array
    layer: Array
    particle: Array
    position: Array
    energy: Array

    def __len__(self) -> int:
        return len(self.event)

    def take(self, index: Array | slice) -> Spacepoints:
        """Some of them: (M,) indices, (N,) a mask, or a slice."""
        return Spacepoints(*(getattr(self, field.name)[index] for field in fields(Spacepoints)))


@dataclass(frozen=True)
class _Seen:
    """Crossings at sensitive places, (N,) each: who, which layer, where, and the path in the sensitive medium in cm.

    `trail_rphi` and `trail_z` are the extent in cm of the charge left along that path, signed.
    """

    particle: Array
    layer: Array
    phi: Array
    radius: Array
    z: Array
    path: Array
    total_momentum: Array
    trail_rphi: Array
    trail_z: Array

    def take(self, index: Array) -> _Seen:
        return _Seen(*(getattr(self, field.name)[index] for field in fields(_Seen)))


def measure(crossings: Crossings, particles: Particles, layers: Layers, rng: np.random.Generator) -> Spacepoints:
    """What a detector records of particles that cross its layers.

    In turn: efficiency; the place on the flat surfaces of the layer (`planes`); dead regions; the path in the
    sensitive medium, in pieces as long as a spacepoint may be, and the energy deposited there; the threshold, on each
    particle's own deposit; single-point resolution and diffusion; merging (`merging`); saturation.

    Args:
        crossings: of charged particles.
        particles: who crosses.
        layers: of the detector.
        rng: source of randomness.

    Returns:
        Spacepoints in an order that follows from the arguments alone.
    """
    efficient = np.flatnonzero(rng.random(len(crossings)) < layers.efficiency[crossings.layer])
    seen = _divided(_seen(crossings, efficient, particles.charge, layers), layers)
    deposit = _deposits(seen, particles, layers, rng)
    if layers.threshold.any():
        above = np.flatnonzero(deposit >= layers.threshold[seen.layer])
        seen, deposit = seen.take(above), deposit[above]
    phi, z = smeared(seen.layer, seen.phi, seen.radius, seen.z, seen.path, layers, rng)
    energy = deposit * layers.gain[seen.layer]
    clusters = Clusters(particles.event[seen.particle], seen.layer, seen.particle, phi, z, energy)
    clusters = merged(clusters.take(inside(z, seen.z, seen.layer, layers)), layers)
    energy = saturated(clusters.energy, clusters.layer, layers)
    return Spacepoints(clusters.event, clusters.layer, clusters.particle, _positions(clusters, layers), energy)


def saturated(energy: Array, layer: Array, layers: Layers) -> Array:
    """(N,) energies in the unit of the feature, no larger than a spacepoint of the layer can record."""
    most = np.where(layers.saturation > 0, layers.saturation * layers.gain, np.inf)
    return np.minimum(energy, most[layer])


def sensitive(phi: Array, z: Array, layer: Array, layers: Layers) -> Array:
    """Whether places of layers measure anything.

    Insensitive are `dead_phi` around each boundary of sectors, |z| below `dead_z`, and what is beyond `half_length`.

    Args:
        phi: (N,) azimuth.
        z: (N,) in cm.
        layer: (N,) index into `layers`.
        layers: of the detector.

    Returns:
        (N,) bool.
    """
    away = np.abs(z)
    alive = (away <= layers.half_length[layer]) & (away >= layers.dead_z[layer])
    if (layers.sectors * layers.dead_phi).any():
        sector = 2 * np.pi / np.maximum(layers.sectors, 1)
        dead = np.where(layers.sectors > 0, layers.dead_phi / 2 / sector, 0.0)  # share of the sector at either side
        place = (phi - layers.sector_phi[layer]) / sector[layer]
        alive &= np.abs(place - np.rint(place)) >= dead[layer]
    return alive


def smeared(
    layer: Array, phi: Array, radius: Array, z: Array, path: Array, layers: Layers, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Measured azimuth and z.

    The variance is that of the single-point resolution plus that of diffusion over the drift to the nearer end, shared
    by the ionisation electrons of the path: resolution^2 + diffusion^2 drift / (electrons path).

    Args:
        layer: (N,) index into `layers`.
        phi: (N,) true azimuth.
        radius: (N,) in cm, on the surface of the layer.
        z: (N,) true z in cm.
        path: (N,) in cm.
        layers: of the detector.
        rng: source of randomness.

    Returns:
        phi: (N,) in (-pi, pi].
        z: (N,) in cm.
    """
    variance = layers.resolution_rphi[layer] ** 2, layers.resolution_z[layer] ** 2
    if layers.diffusion_rphi.any() or layers.diffusion_z.any():
        drift = (layers.half_length[layer] - np.abs(z)) / (layers.electrons[layer] * path)
        rphi, along = (layers.diffusion_rphi**2)[layer], (layers.diffusion_z**2)[layer]
        variance = variance[0] + rphi * drift, variance[1] + along * drift
    move = rng.standard_normal((2, len(z)))
    # Along a flat surface tangent to the cylinder of radius R, d phi = R / r^2 ds.
    phi = phi + np.sqrt(variance[0]) * move[0] * layers.radius[layer] / (radius * radius)
    return wrapped(phi), z + np.sqrt(variance[1]) * move[1]


def inside(z: Array, true_z: Array, layer: Array, layers: Layers) -> Array:
    """(N,) whether measured z, in cm, are in the layer, and on the side of a central membrane where charge drifts."""
    same_side = (z * true_z >= 0) | (layers.dead_z[layer] == 0)
    kept: Array = (np.abs(z) <= layers.half_length[layer]) & same_side
    return kept


def _seen(crossings: Crossings, index: Array, charge: Array, layers: Layers) -> _Seen:
    """The crossings of sensitive places among those with an index."""
    particle, layer = crossings.particle[index], crossings.layer[index]
    momentum = crossings.momentum[index]
    places = _places(crossings.position[index], momentum, charge[particle], layer, layers)
    thickness = layers.thickness[layer]
    # One that turns back within the layer, but short of its surface, leaves its charge there all the same.
    alive = sensitive(places.phi, places.z, layer, layers) & (places.gap <= thickness / 2)
    path = path_lengths(places.cosine, momentum, thickness, layers.half_length[layer])
    path = np.minimum(path, crossings.path[index])  # of what curls within the layer
    total = np.sqrt((momentum * momentum).sum(axis=1))
    along = momentum[:, 1] * np.cos(places.phi) - momentum[:, 0] * np.sin(places.phi)
    trail = path * along / total, path * momentum[:, 2] / total
    seen = _Seen(particle, layer, places.phi, places.radius, places.z, path, total, *trail)
    return seen.take(np.flatnonzero(alive))


def _divided(seen: _Seen, layers: Layers) -> _Seen:
    """The same with trails of charge longer than a spacepoint may be in equal pieces.

    What is left over counts as a piece from half the longest extent on; less is taken along by its neighbours.
    """
    longest = [np.where(limit > 0, limit, np.inf)[seen.layer] for limit in (layers.longest_rphi, layers.longest_z)]
    lengths = np.maximum(np.abs(seen.trail_rphi) / longest[0], np.abs(seen.trail_z) / longest[1])
    count = np.maximum(np.rint(lengths), 1).astype(np.int64)
    if (count == 1).all():
        return seen
    whole = np.repeat(np.arange(len(count)), count)
    number = np.arange(len(whole)) - np.repeat(np.cumsum(count) - count, count)
    count, pieces = count[whole], seen.take(whole)
    place = (number + 0.5) / count - 0.5
    return replace(
        pieces,
        phi=wrapped(pieces.phi + place * pieces.trail_rphi / pieces.radius),
        z=pieces.z + place * pieces.trail_z,
        path=pieces.path / count,
    )


def _places(position: Array, momentum: Array, charge: Array, layer: Array, layers: Layers) -> Places:
    """Where particles are on the surfaces of their layers."""
    num_planes = layers.planes[layer]
    flat = num_planes > 0
    if flat.all() and len(flat):
        return on_planes(position, momentum, charge, layers.radius[layer], num_planes, layers.field)
    places = on_cylinders(position, momentum)
    if flat.any():
        which = np.flatnonzero(flat)
        radius = layers.radius[layer[which]]
        moved = on_planes(position[which], momentum[which], charge[which], radius, num_planes[which], layers.field)
        for field in fields(Places):
            getattr(places, field.name)[which] = getattr(moved, field.name)
    return places


def _deposits(seen: _Seen, particles: Particles, layers: Layers, rng: np.random.Generator) -> Array:
    """(N,) energy in keV that each particle leaves, at most all it has; 0 in layers that make no use of it."""
    used = (layers.gain > 0) | (layers.threshold > 0)
    deposit = np.zeros(len(seen.layer))
    which = np.arange(len(deposit)) if used.all() else np.flatnonzero(used[seen.layer])
    if not len(which):
        return deposit
    seen = seen.take(which)
    mass, charge = particles.mass[seen.particle], particles.charge[seen.particle]
    mean, xi, largest = deposited(seen.layer, seen.path, seen.total_momentum, mass, charge, layers)
    kinetic = np.sqrt(seen.total_momentum**2 + mass * mass) - mass
    deposit[which] = np.minimum(straggled(mean, xi, rng, largest), kinetic * 1e6)
    return deposit


def _positions(clusters: Clusters, layers: Layers) -> Array:
    """(N, 3) in cm, on the surfaces of layers."""
    radius = surface_radius(clusters.phi, layers.radius[clusters.layer], layers.planes[clusters.layer])
    return np.stack([radius * np.cos(clusters.phi), radius * np.sin(clusters.phi), clusters.z], axis=1)
