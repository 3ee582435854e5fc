"""Spacepoints too close to be told apart become one."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fm4npp.simulation.layers import Layers
from fm4npp.simulation.planes import wrapped

Array = NDArray[Any]


@dataclass(frozen=True)
class Clusters:
    """N spacepoints on the surfaces of layers.

    Attributes:
        event: (N,) int64.
        layer: (N,) int64, index into `Layers`.
        particle: (N,) int64, index into `Particles`: who made most of it.
        phi: (N,) azimuth in (-pi, pi].
        z: (N,) in cm.
        energy: (N,) not negative.
    """

    event: Array
    layer: Array
    particle: Array
    phi: Array
    z: Array
    energy: Array

    def __len__(self) -> int:
        return len(self.event)

    def take(self, index: Array) -> Clusters:
        """Some of them: (M,) indices, or (N,) a mask."""
        return Clusters(*(getattr(self, field.name)[index] for field in fields(Clusters)))


def merged(clusters: Clusters, layers: Layers) -> Clusters:
    """Join spacepoints of one event and layer that are closer than `merge_rphi` along r-phi and `merge_z` along z.

    Neighbours of neighbours belong together (single linkage), as cluster finders join adjacent cells. A group that
    becomes longer than a cluster may be is cut into equal intervals along z and along r-phi, as few as needed: the
    turns of a curler that hardly moves along the beam make several spacepoints. Energies add; the position is the
    mean of azimuth and z, weighted with energy, or equally where there is none; the particle is the one with the most
    energy (or members), the smaller index of equals. Distances are taken on the layer's cylinder.

    Args:
        clusters: N, in any order; the result does not depend on it but for its own order.
        layers: a layer with `merge_rphi` or `merge_z` 0 is left alone.

    Returns:
        First those that stay alone, in the order given; then the merged ones by event, layer and z.
    """
    first, second = close_pairs(clusters, layers)
    if not len(first):
        return clusters
    members, group = _groups(first, second)
    alone = np.ones(len(clusters), bool)
    alone[members] = False
    joined = _joined(*_cut(*_ordered(clusters.take(members), group), layers))
    single = clusters.take(alone)
    return Clusters(
        *(np.concatenate([getattr(single, field.name), getattr(joined, field.name)]) for field in fields(Clusters))
    )


def close_pairs(clusters: Clusters, layers: Layers) -> tuple[Array, Array]:
    """All pairs of spacepoints to merge, some of them twice.

    Columns of azimuth at least two merging distances wide are searched along z, and once more after a shift by half
    a column: two spacepoints closer than half a column share one in at least one of the two searches.

    Args:
        clusters: N spacepoints.
        layers: of the detector.

    Returns:
        (Q,) and (Q,) int64 indices.
    """
    near = _near_along_z(clusters, layers)
    if len(near) < 2:
        return near[:0], near[:0]
    pairs = [_search(clusters.take(near), layers, shift) for shift in (0.0, 0.5)]
    first, second = (np.concatenate(ends) for ends in zip(*pairs, strict=True))
    return near[first], near[second]


def _near_along_z(clusters: Clusters, layers: Layers) -> Array:
    """Indices of spacepoints with another one of their event and layer within `merge_z`: mostly few."""
    reach = np.where(layers.merge_rphi > 0, layers.merge_z, 0.0)
    active = np.flatnonzero(reach[clusters.layer] > 0) if not reach.all() else np.arange(len(clusters))
    if len(active) < 2:
        return active[:0]
    layer, z = clusters.layer[active], clusters.z[active]
    order, slack = _sorted(clusters.event[active] * len(reach) + layer, z)
    layer, z = layer[order], z[order]
    # The next event or layer is nearer in this order than it is: of no harm, the pairs are looked at below.
    close = np.abs(np.diff(z)) < reach[layer[1:]] + slack
    either = np.concatenate([close, [False]]) | np.concatenate([[False], close])
    near: Array = active[np.sort(order[either])]
    return near


def _search(clusters: Clusters, layers: Layers, shift: float) -> tuple[Array, Array]:
    """(Q,) and (Q,): pairs that share a column when columns are shifted by a part of their width."""
    layer, phi, z = clusters.layer, clusters.phi, clusters.z
    columns = np.maximum(
        np.floor(np.pi * layers.radius / np.where(layers.merge_rphi > 0, layers.merge_rphi, np.inf)), 1
    )
    place = np.floor((phi / (2 * np.pi) + 0.5) * columns[layer] + shift) % columns[layer]
    column = clusters.event * columns.sum() + (np.cumsum(columns) - columns)[layer] + place
    order, slack = _sorted(column, z)
    first, second = _neighbours(layer[order], phi[order], z[order], column[order], slack, layers)
    return order[first], order[second]


def _sorted(column: Array, z: Array) -> tuple[Array, float]:
    """(N,) order by column and, but for the returned number of cm, by z: one number sorts ten times faster than two."""
    low, extent = z.min(), np.ptp(z) + 1.0
    key = column + (z - low) / extent  # less than 1 apart within a column
    return np.argsort(key), float(4 * np.spacing(key.max()) * extent)


def _neighbours(layer: Array, phi: Array, z: Array, column: Array, slack: float, layers: Layers) -> tuple[Array, Array]:
    """(Q,) and (Q,): close pairs among spacepoints sorted by column and z, looking one further each time."""
    reach, near_phi = layers.merge_z[layer], (layers.merge_rphi / layers.radius)[layer]
    lower, step = np.arange(len(z) - 1), 1
    pairs: list[tuple[Array, Array]] = []
    while len(lower):
        upper = lower + step
        within = (column[lower] == column[upper]) & (z[upper] - z[lower] < reach[lower] + slack)
        lower, upper = lower[within], upper[within]
        close = np.abs(wrapped(phi[upper] - phi[lower])) < near_phi[lower]
        close &= np.abs(z[upper] - z[lower]) < reach[lower]
        pairs.append((lower[close], upper[close]))
        step += 1
        lower = lower[lower + step < len(z)]
    first, second = (np.concatenate(ends) for ends in zip(*pairs, strict=True))
    return first, second


def _groups(first: Array, second: Array) -> tuple[Array, Array]:
    """(M,) everything in a pair, and (M,) the number of its connected group."""
    members, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    links = (np.ones(len(first), bool), (places[: len(first)], places[len(first) :]))
    _, group = connected_components(coo_array(links, shape=(len(members), len(members))), directed=False)
    return members, group


def _ordered(members: Clusters, group: Array) -> tuple[Clusters, Array]:
    """Members and groups, groups by event, layer and z, members by what they are, whatever order they came in."""
    keys = (members.particle, members.energy, members.phi, members.z)
    order = np.lexsort((*keys, group))
    starts = _starts(group[order])
    lowest = order[starts]
    rank = np.empty(len(starts), np.int64)
    by_place = np.lexsort((*(key[lowest] for key in keys), members.layer[lowest], members.event[lowest]))
    rank[by_place] = np.arange(len(starts))
    order = order[np.argsort(rank[group[order]], kind="stable")]
    return members.take(order), rank[group[order]]


def _cut(members: Clusters, group: Array, layers: Layers) -> tuple[Clusters, Array, Array]:
    """Groups cut where they are too long; the azimuth of members counted from their uncut group's first one."""
    start = _starts(group)
    layer = members.layer[start]
    off = wrapped(members.phi - members.phi[start][group])
    piece_z = _pieces(members.z, group, start, _longest(layers.longest_z[layer]))
    piece_phi = _pieces(off, group, start, _longest(layers.longest_rphi[layer]) / layers.radius[layer])
    order = np.lexsort((piece_phi, piece_z, group))
    changes = np.diff(np.stack([group, piece_z, piece_phi])[:, order]).any(axis=0)
    cut = np.concatenate([[0], np.cumsum(changes)])
    return members.take(order), cut, off[order]


def _longest(extent: Array) -> Array:
    """Extents in cm, those without a limit infinite."""
    return np.where(extent > 0, extent, np.inf)


def _pieces(values: Array, group: Array, start: Array, longest: Array) -> Array:
    """(M,) in which of the equal intervals of its group a value is, so many that none is too long."""
    low = np.minimum.reduceat(values, start)
    extent = np.maximum.reduceat(values, start) - low
    count = np.maximum(np.ceil(extent / longest), 1.0)
    share = (values - low[group]) / np.where(extent > 0, extent, 1.0)[group]
    pieces: Array = np.minimum(np.floor(share * count[group]), count[group] - 1).astype(np.int64)
    return pieces


def _joined(members: Clusters, group: Array, off: Array) -> Clusters:
    """One spacepoint a group; `group` (M,) increases, `off` (M,) is azimuth from a place common to the group."""
    start = _starts(group)
    energy = np.add.reduceat(members.energy, start)
    weight = np.where(energy[group] > 0, members.energy, 1.0)
    total = np.add.reduceat(weight, start)
    phi = members.phi[start] - off[start] + np.add.reduceat(weight * off, start) / total
    return Clusters(
        event=members.event[start],
        layer=members.layer[start],
        particle=_largest(members.particle, group, weight),
        phi=wrapped(phi),
        z=np.add.reduceat(weight * members.z, start) / total,
        energy=energy,
    )


def _largest(particle: Array, group: Array, weight: Array) -> Array:
    """(G,) the particle with the largest sum of weights in each group; of equals, the one with the smaller index."""
    order = np.lexsort((particle, group))
    particle, group, weight = particle[order], group[order], weight[order]
    start = np.flatnonzero(np.concatenate([[True], (np.diff(group) != 0) | (np.diff(particle) != 0)]))
    particle, group, total = particle[start], group[start], np.add.reduceat(weight, start)
    best = np.lexsort((particle, -total, group))
    winners: Array = particle[best[_starts(group[best])]]
    return winners


def _starts(group: Array) -> Array:
    """Where each run of equal numbers starts."""
    return np.concatenate([[0], np.flatnonzero(np.diff(group)) + 1])
