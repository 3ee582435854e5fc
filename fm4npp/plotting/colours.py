"""Which colour a track has in an event display; pure NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_HUES = ("#3f90da", "#bd1f01", "#ffa90e", "#832db6", "#92dadd", "#e76300", "#a96b59", "#b9ac70")
"""M. A. Petroff, "Accessible color sequences for data visualization" (arXiv 2107.02270), ten colours without the two
greys, reordered so that neighbours differ most."""
_RGB = np.array([[int(hue[i : i + 2], 16) / 255 for i in (1, 3, 5)] for hue in _HUES])
PALETTE: Array = np.concatenate([_RGB, 0.5 * _RGB[[0, 3, 7, 4]]])
"""(12, 3) red, green, blue: eight hues safe for the colour-blind, then four of them darker (the other four would all
become brown)."""
GREY: Array = np.array([0.62, 0.62, 0.62])
"""Spacepoints that belong to no track."""


def colours_of_tracks(track: Array, positions: Array) -> Array:
    """Colours by true track; neighbours in azimuth get different ones.

    Args:
        track: (N,) int, below 0 where a spacepoint belongs to no track.
        positions: (N, 3) in cm.

    Returns:
        (N, 3) red, green, blue; `GREY` without a track.
    """
    ids, which = np.unique(track, return_inverse=True)
    azimuth = np.arctan2(*(np.bincount(which, positions[:, axis]) for axis in (1, 0))) if len(ids) else np.empty(0)
    rank = np.empty(len(ids), dtype=np.int64)
    rank[np.lexsort([ids, azimuth])] = np.arange(len(ids))
    colours: Array = np.where((ids < 0)[:, None], GREY, PALETTE[rank % len(PALETTE)])[which]
    return colours


def double_majority(predicted: Array, track: Array) -> dict[int, int]:
    """Pairs of predicted and true tracks that each hold more than half of the other's spacepoints.

    Args:
        predicted: (N,) int, below 0 where unassigned.
        track: (N,) int true tracks, below 0 where there is none.

    Returns:
        Predicted track -> true track; each true track occurs once at most.
    """
    pairs, shared = np.unique(
        np.stack([predicted, track], axis=1)[(predicted >= 0) & (track >= 0)], axis=0, return_counts=True
    )
    size = [dict(zip(*np.unique(ids, return_counts=True), strict=True)) for ids in (predicted, track)]
    return {
        int(p): int(t) for (p, t), n in zip(pairs, shared, strict=True) if 2 * n > size[0][p] and 2 * n > size[1][t]
    }
