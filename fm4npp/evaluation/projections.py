"""Features of one event in two dimensions, as they are and after the map that was learned to part its tracks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from fm4npp.errors import DataError
from fm4npp.evaluation import probes, representations
from fm4npp.event import Event
from fm4npp.modeling import FM4NPPModel

Array = NDArray[Any]

SHOWN = 1500
"""Spacepoints of an event that are drawn, at most."""
PERPLEXITY = 30.0
"""Of t-SNE, less for small events."""


def project(
    model: FM4NPPModel, events: Sequence[Event], event: Event, representation: str = "mix", *, seed: int = 0
) -> tuple[dict[str, dict[str, Array]], Array]:
    """One event's features in two dimensions (paper figures 14 and 15).

    Args:
        model: frozen.
        events: with the label `track_id`, that the linear map is trained on.
        event: that is shown, with the label `track_id`, and none of `events`.
        representation: see `representations.names`.
        seed: of the map, of the projections, and of the spacepoints drawn of a large event.

    Returns:
        "frozen features" and "after a linear map" -> method -> (N, 2), and (N,) tracks. UMAP is among the methods where
        `umap-learn` is installed.

    Raises:
        DataError: if the event has fewer than four spacepoints on tracks, or the events none.
    """
    points = representations.of_events(model, [*events, event], [representation], ["track_id"])
    tracks = np.nan_to_num(points.truths["track_id"], nan=-1).astype(np.int64)
    start = int(points.offsets[-2])
    train, shown = probes.standardised(points.features[representation][:start], points.features[representation][start:])
    rows = np.flatnonzero(tracks[start:] >= 0)
    rows = np.sort(np.random.default_rng(seed).permutation(rows)[:SHOWN])
    if len(rows) < 4:
        raise DataError("has fewer than four spacepoints on tracks", event=event.event_id, remedy="show another event")
    mapping = probes.triplet_map(train, tracks[:start], points.offsets[:-1], seed)
    spaces = {"frozen features": shown[rows], "after a linear map": shown[rows] @ mapping}
    found = {
        space: {name: method(values) for name, method in _methods(len(rows), seed).items()}
        for space, values in spaces.items()
    }
    return found, tracks[start:][rows]


def _methods(count: int, seed: int) -> Mapping[str, Callable[[Array], Array]]:
    methods: dict[str, Callable[[Array], Array]] = {
        "PCA": PCA(2, random_state=seed).fit_transform,
        "t-SNE": TSNE(2, perplexity=min(PERPLEXITY, (count - 1) / 3), random_state=seed, init="pca").fit_transform,
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numba's, of a package that is not ours
            from umap import UMAP
    except ImportError:
        return methods

    def umap(values: Array) -> Array:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a seed makes it slower
            placed: Array = UMAP(n_neighbors=min(15, count - 1), random_state=seed).fit_transform(values)
        return placed

    return {**methods, "UMAP": umap}
