"""Tracks as connected components: which neighbouring spacepoints are of one track, and what hangs together."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import torch
from pydantic import Field, PositiveInt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fm4npp.batch import EventBatch, HiddenStates
from fm4npp.errors import ConfigurationError
from fm4npp.heads.attention import feed_forward
from fm4npp.heads.base import Head, HeadContext, HeadInputs
from fm4npp.heads.encoder import EncoderConfig, attended
from fm4npp.heads.labels import required_label

Periodic = tuple[bool, bool, bool]


class EdgeClustererConfig(EncoderConfig):
    """Edges and sizes.

    Attributes:
        label: true track of a spacepoint; below 0: none.
        neighbours: nearest spacepoints in normalised coordinates that each is joined to by an edge.
        periodic: axes of these whose ends are the same place; None: as the model's detectors have it.
        edge_width: of the network that judges edges.
        threshold: probability from which an edge holds. One wrong edge merges two tracks.
        min_hits: found tracks of fewer spacepoints are none.
    """

    label: str = "track_id"
    neighbours: PositiveInt = 10
    periodic: Periodic | None = None
    edge_width: PositiveInt = 64
    threshold: float = Field(0.7, gt=0, lt=1)
    min_hits: PositiveInt = 3


class EdgeClusterer(Head):
    """Finds tracks without queries: every edge between neighbours is judged, and what holds together is a track.

    Edge classification on a graph of neighbours is the way of Exa.TrkX (Ju et al., arXiv:2103.06995). Cheaper than
    `track-finding`, and not limited in the number of tracks; a track with a gap wider than its neighbourhood splits.
    """

    registered_name = "edge-clustering"
    task = "track finding"
    Config = EdgeClustererConfig
    config: EdgeClustererConfig

    def __init__(self, config: EdgeClustererConfig, context: HeadContext) -> None:
        super().__init__()
        self.config = config
        self.labels = {"track_id": config.label}
        self.periodic = _periodic(config, context)
        self.inputs = HeadInputs(config.inputs, context, config.width)
        self.layers = config.layers()
        self.norm = nn.RMSNorm(config.width, eps=1e-5)
        self.projection = nn.Linear(config.width, config.edge_width)
        self.judge = feed_forward(2 * config.edge_width + 3, 2 * config.edge_width, 1)

    def forward(self, hidden: HiddenStates, batch: EventBatch) -> dict[str, Tensor]:
        """Block outputs to `edges` (2, E), spacepoints of the batch, and their `logits` (E,)."""
        points = attended(self.inputs(hidden, batch), batch.offsets, self.layers)
        points = self.projection(self.norm(points.to(self.norm.weight.dtype)))
        edges = neighbour_edges(batch.coordinates, batch.offsets, self.config.neighbours, self.periodic)
        first, second = edges
        apart = distance_apart(batch.coordinates[first] - batch.coordinates[second], self.periodic)
        pair = torch.cat([points[first] + points[second], (points[first] - points[second]).abs(), apart], dim=1)
        return {"edges": edges, "logits": self.judge(pair)[:, 0]}

    def loss(self, outputs: Mapping[str, Tensor], batch: EventBatch) -> dict[str, Tensor]:
        """Binary cross-entropy of "both are of one track": the mean over events of the mean over an event's edges."""
        (first, second), logits = outputs["edges"], outputs["logits"].float()
        track = required_label(batch, self.config.label)
        same = ((track[first] == track[second]) & (track[first] >= 0)).float()
        entropy = binary_cross_entropy_with_logits(logits, same, reduction="none")
        event = torch.searchsorted(batch.offsets, first, right=True) - 1
        num_events = max(batch.num_events, 1)
        counts = torch.bincount(event, minlength=num_events).clamp(min=1)
        return {"edges": (entropy / counts[event]).sum() / num_events}

    def predict(self, outputs: Mapping[str, Tensor], batch: EventBatch) -> dict[str, Tensor]:
        """The connected components of the edges that hold.

        Returns:
            `track_id` (T,) int64: numbered by the first of each track's spacepoints in the order of coordinates,
            unique within an event only; -1 where fewer than `min_hits` hang together. `track_score` (T,) float32: the
            mean probability of a spacepoint's edges within its track; 0 without.
        """
        probability = outputs["logits"].float().sigmoid()
        holds = probability >= self.config.threshold
        first, second = outputs["edges"][:, holds].cpu().numpy()
        size = batch.num_tokens
        graph = coo_array((np.ones(len(first), dtype=bool), (first, second)), shape=(size, size))
        component = torch.from_numpy(connected_components(graph, directed=False)[1].astype(np.int64))
        track_id = canonical(component, batch, self.config.min_hits)
        ends = outputs["edges"][:, holds].flatten()
        total = probability.new_zeros(size).index_add(0, ends, probability[holds].repeat(2))
        score = total / torch.bincount(ends, minlength=size).clamp(min=1)
        track_id = track_id.to(batch.coordinates.device)
        return {"track_id": track_id, "track_score": torch.where(track_id >= 0, score, 0.0)}


def _periodic(config: EdgeClustererConfig, context: HeadContext) -> Periodic:
    periodic = config.periodic or context.periodic
    if periodic is None:
        raise ConfigurationError(
            "edge-clustering: the model's detectors differ in which coordinates are periodic; give head.periodic, such "
            "as [false,false,false]"
        )
    return periodic


def neighbour_edges(coordinates: Tensor, offsets: Tensor, neighbours: int, periodic: Periodic) -> Tensor:
    """Edges between spacepoints that are among the nearest of one or the other, each once.

    Args:
        coordinates: (T, 3), normalised.
        offsets: (B + 1,).
        neighbours: of each spacepoint.
        periodic: axes along which the shorter way round counts.

    Returns:
        (2, E) int64, the first of a pair below the second, sorted.
    """
    points = coordinates.detach().cpu().double().numpy()
    points = np.where(periodic, points % 1.0 % 1.0, points)  # twice: just below 0, the first gives 1
    found = [np.empty((2, 0), dtype=np.int64)]
    bounds = offsets.tolist()
    for start, stop in itertools.pairwise(bounds):
        count = min(neighbours + 1, stop - start)
        if count < 2:
            continue
        own = points[start:stop]
        nearest = cKDTree(own, boxsize=np.where(periodic, 1.0, 0.0)).query(own, k=count)[1]
        here, there = np.repeat(np.arange(stop - start), count), nearest.ravel()
        pairs = np.unique(np.minimum(here, there) * (stop - start) + np.maximum(here, there))
        first, second = np.divmod(pairs, stop - start)
        found.append(np.stack([first, second])[:, first != second] + start)
    return torch.from_numpy(np.concatenate(found, axis=1)).to(coordinates.device)


def distance_apart(difference: Tensor, periodic: Periodic) -> Tensor:
    """(E, 3) differences of coordinates to (E, 3) distances along each axis, the shorter way round where periodic."""
    distance = difference.abs()
    return torch.where(torch.tensor(periodic, device=distance.device), torch.minimum(distance, 1 - distance), distance)


def canonical(component: Tensor, batch: EventBatch, min_hits: int) -> Tensor:
    """Component numbers that do not depend on the order of the spacepoints.

    Args:
        component: (T,) int64, one number for each component of the whole batch.
        batch: with coordinates and offsets, on any device.
        min_hits: components of fewer spacepoints become -1.

    Returns:
        (T,) int64 from 0 within each event, by the smallest coordinates of each component.
    """
    number = component.numpy()
    coordinates, offsets = batch.coordinates.detach().cpu().numpy(), batch.offsets.cpu().numpy()
    event = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((*coordinates.T, event))
    large = np.bincount(number, minlength=1)[number] >= min_hits
    found = np.full(len(number), -1, dtype=np.int64)
    kept = order[large[order]]
    ids, first, inverse = np.unique(number[kept], return_index=True, return_inverse=True)
    rank = np.empty(len(ids), dtype=np.int64)
    by_place = np.argsort(first)
    owner = event[kept][first[by_place]]
    starts = np.searchsorted(owner, owner)  # tracks of earlier events
    rank[by_place] = np.arange(len(ids)) - starts
    found[kept] = rank[inverse]
    return torch.from_numpy(found)
