"""Track finding as instance segmentation: learned queries, each of which claims the spacepoints of one track."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from fm4npp.batch import EventBatch, HiddenStates, pad, unpad
from fm4npp.heads.attention import MultiHeadAttention, feed_forward
from fm4npp.heads.base import Head, HeadConfig, HeadContext, HeadInputs
from fm4npp.heads.labels import required_label
from fm4npp.heads.matching import NO_TRACK, TRACK, TrackLoss, level_loss, track_members

SMALLEST_PROBABILITY = 1e-6
"""Keeps the attention of a query to a spacepoint it does not claim finite (paper, appendix C.1.1)."""


class TrackFinderConfig(HeadConfig):
    """Sizes, loss and threshold of a track finder; the defaults are the released adapter's.

    Attributes:
        label: true track of a spacepoint; below 0: none.
        num_queries: the most tracks that can be found in an event.
        width: of the spacepoint and track embeddings.
        hidden: of the feed-forward networks.
        num_layers: decoder layers.
        num_heads: attention heads.
        loss: weights of the loss and of the matching.
        score_threshold: a spacepoint whose best score is below stays unassigned.
    """

    label: str = "track_id"
    num_queries: PositiveInt = 150
    width: PositiveInt = 256
    hidden: PositiveInt = 512
    num_layers: PositiveInt = 2
    num_heads: PositiveInt = 4
    loss: TrackLoss = TrackLoss()
    score_threshold: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}")
        return self


class DecoderLayer(nn.Module):
    """Queries gather from the spacepoints, then from each other; every step is a prenorm residual."""

    def __init__(self, width: int, hidden: int, num_heads: int) -> None:
        super().__init__()
        self.cross_norm = nn.LayerNorm(width)
        self.cross_attention = MultiHeadAttention(width, num_heads)
        self.self_norm = nn.LayerNorm(width)
        self.self_attention = MultiHeadAttention(width, num_heads)
        self.feed_forward = feed_forward(width, hidden, width)

    def forward(self, queries: Tensor, positions: Tensor, points: Tensor, mask: Tensor, bias: Tensor) -> Tensor:
        """Refined queries.

        Args:
            queries: (B, Q, W).
            positions: (Q, W), added to the queries in cross-attention only.
            points: (B, S, W).
            mask: (B, S) bool, true where there is a spacepoint.
            bias: (B, Q, S), added to the cross-attention's logits.

        Returns:
            (B, Q, W).
        """
        queries = queries + self.cross_attention(self.cross_norm(queries) + positions, points, mask, bias)
        normed = self.self_norm(queries)
        queries = queries + self.self_attention(normed, normed)
        refined: Tensor = queries + self.feed_forward(queries)
        return refined


class TrackFinder(Head):
    """Finds the tracks of an event: learned queries, refined by a decoder, claim the spacepoints of one track each.

    The released adapter (paper section 4.2 and appendix C.1.1): 2,121,230 + 259 W parameters on a backbone of width W
    with 12 blocks. Queries attend to a spacepoint with log(p + 1e-6) added to the logit, p the probability that it is
    theirs by the level before; the paper prints the opposite sign.
    """

    registered_name = "track-finding"
    task = "track finding"
    Config = TrackFinderConfig
    config: TrackFinderConfig

    def __init__(self, config: TrackFinderConfig, context: HeadContext) -> None:
        super().__init__()
        self.config = config
        self.labels = {"track_id": config.label}
        width, hidden = config.width, config.hidden
        self.inputs = HeadInputs(config.inputs, context, width)
        self.point_norm = nn.RMSNorm(width, eps=1e-5)
        self.point_feed_forward = feed_forward(width, hidden, width)
        self.queries = nn.Parameter(torch.randn(config.num_queries, width))
        self.query_positions = nn.Parameter(torch.randn(config.num_queries, width))
        self.layers = nn.ModuleList(DecoderLayer(width, hidden, config.num_heads) for _ in range(config.num_layers))
        self.classifier = feed_forward(width, width, 2)
        self.track_embedding = feed_forward(width, width, width)
        self._warned = False

    def forward(self, hidden: HiddenStates, batch: EventBatch) -> dict[str, Tensor]:
        """Block outputs to what the queries claim at each of L + 1 levels: the learned queries, then every layer.

        Returns:
            `class_logits` (L + 1, B, Q, 2): no track, track; `mask_logits` (L + 1, B, Q, S): is the spacepoint the
            query's; `mask` (B, S) bool, true where there is a spacepoint.
        """
        points, mask = pad(self._points(hidden, batch), batch.offsets)
        queries = self.queries.expand(len(points), -1, -1)
        levels = [self._claims(queries, points)]
        for layer in self.layers:
            bias = torch.log(levels[-1][1].float().sigmoid() + SMALLEST_PROBABILITY)
            queries = layer(queries, self.query_positions, points, mask, bias)
            levels.append(self._claims(queries, points))
        class_logits, mask_logits = (torch.stack(parts) for parts in zip(*levels, strict=True))
        return {"class_logits": class_logits, "mask_logits": mask_logits, "mask": mask}

    def loss(self, outputs: Mapping[str, Tensor], batch: EventBatch) -> dict[str, Tensor]:
        """Class, Dice and focal loss: the mean over events of the sum over levels and over the pairs of an event.

        At every level, queries and true tracks are matched anew. Matched queries learn "track", their track's
        spacepoints by Dice and focal loss; unmatched ones learn "no track". An event's part does not depend on the
        other events of the batch.

        Returns:
            `class`, `dice` and `focal`, weighted.
        """
        members = track_members(required_label(batch, self.config.label), batch.offsets)
        self._warn_about_queries(members.shape[1])
        losses = {
            name: outputs["mask_logits"].new_zeros((), dtype=torch.float32) for name in ("class", "dice", "focal")
        }
        with torch.autocast(members.device.type, enabled=False):
            for classes, masks in zip(outputs["class_logits"].float(), outputs["mask_logits"].float(), strict=True):
                level = level_loss(classes, masks, members, outputs["mask"], self.config.loss)
                losses = {name: losses[name] + level[name] / max(batch.num_events, 1) for name in losses}
        return losses

    def predict(self, outputs: Mapping[str, Tensor], batch: EventBatch) -> dict[str, Tensor]:
        """The query of the highest score P(track) P(spacepoint is the query's) at the last level.

        Queries that are likelier no track than a track take no spacepoint.

        Returns:
            `track_id` (T,) int64: the query, unique within an event only; -1 where no query is a track or the best
            score is below the threshold. `track_score` (T,) float32: the best score; 0 where no query is a track.
        """
        probability = outputs["class_logits"][-1].float().softmax(2)
        is_track = probability[..., TRACK] > probability[..., NO_TRACK]
        scores = probability[..., TRACK, None] * outputs["mask_logits"][-1].float().sigmoid()
        score, query = scores.masked_fill(~is_track[..., None], -1.0).max(dim=1)
        track_id = query.masked_fill(score < self.config.score_threshold, -1)
        return {
            "track_id": unpad(track_id, outputs["mask"]),
            "track_score": unpad(score.clamp(min=0), outputs["mask"]),
        }

    def _points(self, hidden: HiddenStates, batch: EventBatch) -> Tensor:
        # Under autocast the inputs are of lower precision than the norm's weight, and its fused kernel needs one type.
        points = self.point_norm(self.inputs(hidden, batch).to(self.point_norm.weight.dtype))
        embedded: Tensor = points + self.point_feed_forward(points)
        return embedded

    def _claims(self, queries: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        return self.classifier(queries), self.track_embedding(queries) @ points.transpose(1, 2)

    def _warn_about_queries(self, num_tracks: int) -> None:
        if num_tracks > self.config.num_queries and not self._warned:
            self._warned = True
            warnings.warn(
                f"an event has {num_tracks} tracks and the head {self.config.num_queries} queries: "
                "the tracks in excess are neither learned nor found; raise num_queries",
                stacklevel=3,
            )
