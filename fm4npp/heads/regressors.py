"""Numbers of spacepoints and of tracks, such as the momentum of the particle that left them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fm4npp.batch import EventBatch, HiddenStates, event_index
from fm4npp.heads.attention import feed_forward
from fm4npp.heads.base import Head, HeadContext, HeadInputs
from fm4npp.heads.encoder import attended
from fm4npp.heads.labels import required_label
from fm4npp.heads.quantities import QuantitiesConfig, estimated, regression_losses


class PointRegressor(Head):
    """Estimates numbers from each spacepoint: self-attention within the event, then a small network."""

    registered_name = "point-regression"
    task = "regression"
    Config = QuantitiesConfig
    config: QuantitiesConfig

    def __init__(self, config: QuantitiesConfig, context: HeadContext) -> None:
        super().__init__()
        self.config = config
        self.labels = {name: name for name in config.quantities}
        config.scale()
        self.inputs = HeadInputs(config.inputs, context, config.width)
        self.layers = config.layers()
        self.norm = nn.RMSNorm(config.width, eps=1e-5)
        self.estimator = feed_forward(config.width, config.width, len(config.quantities))

    def forward(self, hidden: HiddenStates, batch: EventBatch) -> dict[str, Tensor]:
        """Block outputs to `estimates` (T, Q), in deviations from the mean."""
        points = attended(self.inputs(hidden, batch), batch.offsets, self.layers)
        return {"estimates": self.estimator(self.norm(points.to(self.norm.weight.dtype)))}

    def loss(self, outputs: Mapping[str, Tensor], batch: EventBatch) -> dict[str, Tensor]:
        """Huber loss of each quantity, the mean over events of the mean over spacepoints where it is known."""
        estimates = outputs["estimates"]
        return regression_losses(estimates, batch, self.config, torch.ones_like(estimates[:, 0]))

    def predict(self, outputs: Mapping[str, Tensor], batch: EventBatch) -> dict[str, Tensor]:
        """Each quantity's name to (T,) in its own unit."""
        return dict(estimated(outputs["estimates"], self.config))


class TrackRegressorConfig(QuantitiesConfig):
    """What is estimated of tracks.

    Attributes:
        tracks: label that says which spacepoints are of one track; where events do not have it, the prediction of that
            name of another head of the model.
    """

    tracks: str = "track_id"


class TrackRegressor(Head):
    """Estimates numbers from the spacepoints of a track: a learned weighted mean over them, then a small network.

    All spacepoints of a track get its estimate; one of no track is judged by itself alone.
    """

    registered_name = "track-regression"
    task = "regression"
    Config = TrackRegressorConfig
    config: TrackRegressorConfig

    def __init__(self, config: TrackRegressorConfig, context: HeadContext) -> None:
        super().__init__()
        self.config = config
        self.labels = {name: name for name in config.quantities}
        self.reads, self.grouped_by = (config.tracks,), config.tracks
        config.scale()
        self.inputs = HeadInputs(config.inputs, context, config.width)
        self.layers = config.layers()
        self.norm = nn.RMSNorm(config.width, eps=1e-5)
        self.importance = nn.Linear(config.width, 1)
        self.estimator = feed_forward(config.width, config.width, len(config.quantities))

    def forward(self, hidden: HiddenStates, batch: EventBatch) -> dict[str, Tensor]:
        """Block outputs to `estimates` (T, Q), in deviations from the mean, and `size` (T,) of each one's track.

        Raises:
            DataError: if there is neither the label nor a prediction of the tracks.
        """
        points = attended(self.inputs(hidden, batch), batch.offsets, self.layers)
        points = self.norm(points.to(self.norm.weight.dtype))
        track = track_index(required_label(batch, self.config.tracks), batch.offsets)
        num_tracks = int(track.max()) + 1 if len(track) else 0
        score = self.importance(points)[:, 0].float()
        highest = score.new_zeros(num_tracks).scatter_reduce(0, track, score.detach(), "amax", include_self=False)
        weight = (score - highest[track]).exp()
        total = weight.new_zeros(num_tracks).index_add(0, track, weight)
        pooled = points.new_zeros(num_tracks, points.shape[1])
        pooled = pooled.index_add(0, track, (points * (weight / total[track])[:, None]).to(points.dtype))
        size = torch.bincount(track, minlength=num_tracks)
        return {"estimates": self.estimator(pooled)[track], "size": size[track]}

    def loss(self, outputs: Mapping[str, Tensor], batch: EventBatch) -> dict[str, Tensor]:
        """Huber loss of each quantity, the mean over events of the mean over tracks where it is known."""
        on_track = required_label(batch, self.config.tracks) >= 0
        return regression_losses(outputs["estimates"], batch, self.config, on_track / outputs["size"].clamp(min=1))

    def predict(self, outputs: Mapping[str, Tensor], batch: EventBatch) -> dict[str, Tensor]:
        """Each quantity's name to (T,) in its own unit, the same for all spacepoints of a track."""
        return dict(estimated(outputs["estimates"], self.config))


def track_index(track_id: Tensor, offsets: Tensor) -> Tensor:
    """Numbers of tracks over all events.

    Args:
        track_id: (T,), unique within an event only; below 0: of no track.
        offsets: (B + 1,).

    Returns:
        (T,) int64 from 0; spacepoints of one track of one event share theirs, each of no track has its own.
    """
    alone = -1 - torch.arange(len(track_id), device=track_id.device)
    keys = torch.stack([event_index(offsets), torch.where(track_id >= 0, track_id, alone)], dim=1)
    return torch.unique(keys, dim=0, return_inverse=True)[1] if len(track_id) else track_id
