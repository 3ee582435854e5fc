"""How well tracks are apart in a space of features, event by event."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.metrics import silhouette_score

Array = NDArray[Any]

NEIGHBOURS = 10
"""Of a spacepoint, that should be of its own track."""
AT_ONCE = 4 * 10**6
"""Distances computed at once, which bounds the memory."""
LARGEST_SILHOUETTE = 1000
"""Spacepoints of an event whose silhouette is taken, at most: its cost grows with their square."""


def knn_purity(features: Array, tracks: Array, neighbours: int = NEIGHBOURS) -> float:
    """Share of a spacepoint's nearest spacepoints that are of its own track, the mean over spacepoints of an event.

    Of a track of n spacepoints only min(k, n - 1) neighbours are looked at, so that perfect separation scores 1.

    Args:
        features: (N, D).
        tracks: (N,) track of each; below 0: of none, left out.
        neighbours: k.

    Returns:
        NaN for an event without two tracks, one of them of two spacepoints.
    """
    own = tracks >= 0
    points, (_, track, sizes) = features[own], np.unique(tracks[own], return_inverse=True, return_counts=True)
    wanted = np.minimum(sizes[track] - 1, neighbours)
    asked = np.flatnonzero(wanted)
    if len(sizes) < 2 or not len(asked):
        return float("nan")
    rows = max(AT_ONCE // len(points), 1)
    shares = [_shares(points, track, wanted, asked[start : start + rows]) for start in range(0, len(asked), rows)]
    return float(np.concatenate(shares).mean())


def _shares(points: Array, track: Array, wanted: Array, rows: Array) -> Array:
    """(R,) share of the wanted number of nearest points that are of the row's own track."""
    distance = cdist(points[rows], points, "sqeuclidean")
    distance[np.arange(len(rows)), rows] = np.inf
    most = int(wanted[rows].max())
    nearest = np.argpartition(distance, most - 1, axis=1)[:, :most]
    by_distance = np.argsort(np.take_along_axis(distance, nearest, axis=1), axis=1)
    same = track[np.take_along_axis(nearest, by_distance, axis=1)] == track[rows, None]
    counted = np.arange(most) < wanted[rows, None]
    shares: Array = (same & counted).sum(axis=1) / wanted[rows]
    return shares


def silhouette(features: Array, tracks: Array, seed: int = 0) -> float:
    """Mean silhouette of an event's spacepoints, the tracks being the clusters (Rousseeuw 1987; scikit-learn).

    Args:
        features: (N, D).
        tracks: (N,) track of each; below 0: of none, left out. Tracks of a single spacepoint are left out too.
        seed: of the sample of `LARGEST_SILHOUETTE` spacepoints that is taken of a larger event.

    Returns:
        Between -1 and 1; NaN for an event without two tracks.
    """
    rows = np.flatnonzero(tracks >= 0)
    if len(rows) > LARGEST_SILHOUETTE:
        rows = np.random.default_rng(seed).choice(rows, LARGEST_SILHOUETTE, replace=False)
    ids, sizes = np.unique(tracks[rows], return_counts=True)
    rows = rows[np.isin(tracks[rows], ids[sizes > 1])]
    if (sizes > 1).sum() < 2:
        return float("nan")
    return float(silhouette_score(features[rows], tracks[rows]))
