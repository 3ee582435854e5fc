"""Track finding as instance segmentation: learned queries, each of which claims the spacepoints of one track."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Literal, Self

import numpy as np
import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from fm4npp.batch import EventBatch, HiddenStates, event_index, pad, unpad
from fm4npp.errors import DataError, NotFittedError
from fm4npp.event import Event
from fm4npp.heads.assignment import Matcher
from fm4npp.heads.attention import DecoderLayer, feed_forward, groups_of_similar_length
from fm4npp.heads.base import Head, HeadConfig, HeadContext, HeadInputs
from fm4npp.heads.labels import required_label
from fm4npp.heads.mask_sums import chunks
from fm4npp.heads.matching import NO_TRACK, TRACK, TrackLoss, track_losses
from fm4npp.heads.true_tracks import TrueTracks, Unlabelled, choose_num_queries, true_tracks
from fm4npp.truth import truth

SMALLEST_PROBABILITY = 1e-6
"""Keeps the attention of a query to a spacepoint it does not claim finite (paper, appendix C.1.1)."""


class TrackFinderConfig(HeadConfig):
    """Sizes, loss and threshold of a track finder; the defaults are the released adapter's.

    Attributes:
        label: true track of a spacepoint; below 0: none.
        num_queries: the most tracks that can be found in an event; "auto": chosen from the training events.
        query_margin: chosen queries for each track of the training event with most tracks.
        width: of the spacepoint and track embeddings.
        hidden: of the feed-forward networks.
        num_layers: decoder layers.
        num_heads: attention heads.
        unlabelled: what spacepoints of no track are in training: "background", which every mask learns to leave out,
            or "ignored", in no loss; they are seen by the attention either way, and never a track.
        min_hits: true tracks of fewer spacepoints are background in training.
        loss: weights of the loss and of the matching.
        matcher: which package finds the best pairs; "lap" needs lapx. On random costs of 300 tracks and 360 queries lap
            took 0.6 of the time of SciPy, of 1,000 and 1,200 0.4, of 30 and 40 twice as long.
        score_threshold: a spacepoint whose best score is below stays unassigned.
    """

    label: str = "track_id"
    num_queries: PositiveInt | Literal["auto"] = 150
    query_margin: float = Field(1.2, ge=1)
    width: PositiveInt = 256
    hidden: PositiveInt = 512
    num_layers: PositiveInt = 2
    num_heads: PositiveInt = 4
    unlabelled: Unlabelled = "background"
    min_hits: PositiveInt = 1
    loss: TrackLoss = TrackLoss()
    matcher: Matcher = "scipy"
    score_threshold: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}")
        return self

    def fit(self, events: Iterable[Event]) -> Self:
        """The number of queries, if it is to be chosen: for the event with most tracks, with the margin.

        Raises:
            DataError: if an event has no such label, or no event has a track.
        """
        if self.num_queries != "auto":
            return self
        num_tracks = [self._num_tracks(event) for event in events]
        if not any(num_tracks):
            raise DataError(
                f"no track of {self.min_hits} or more spacepoints in {len(num_tracks)} training events",
                remedy="train on events with tracks, or give num_queries as a number",
            )
        return self.model_copy(update={"num_queries": choose_num_queries(num_tracks, self.query_margin)})

    def _num_tracks(self, event: Event) -> int:
        owner = truth(event, self.label)
        return int((np.unique(owner[owner >= 0], return_counts=True)[1] >= self.min_hits).sum())


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
        self.queries = nn.Parameter(torch.randn(_num_queries(config), width))
        self.query_positions = nn.Parameter(torch.randn(_num_queries(config), width))
        self.layers = nn.ModuleList(DecoderLayer(width, hidden, config.num_heads) for _ in range(config.num_layers))
        self.classifier = feed_forward(width, width, 2)
        self.track_embedding = feed_forward(width, width, width)
        self._warned = False

    def forward(self, hidden: HiddenStates, batch: EventBatch) -> dict[str, Tensor]:
        """Block outputs to what the queries claim at each of L + 1 levels: the learned queries, then every layer.

        Returns:
            `class_logits` (L + 1, B, Q, 2): no track, track; `mask_logits` (L + 1, T, Q): is the spacepoint the
            query's.
        """
        points = self._points(hidden, batch)
        groups = groups_of_similar_length(batch.offsets)
        if len(groups) == 1:
            class_logits, mask_logits = self._levels(points, batch.offsets)
        else:
            parts = [self._levels(points[group.tokens], group.offsets) for group in groups]
            class_logits, mask_logits = (torch.cat(kind, dim=1) for kind in zip(*parts, strict=True))
            class_logits = class_logits[:, torch.cat([group.events for group in groups]).argsort()]
            mask_logits = mask_logits.index_select(1, torch.cat([group.tokens for group in groups]).argsort())
        return {"class_logits": class_logits, "mask_logits": mask_logits}

    def loss(self, outputs: Mapping[str, Tensor], batch: EventBatch) -> dict[str, Tensor]:
        """Class, Dice and focal loss: the mean over events of the sum over levels and over the pairs of an event.

        At every level, queries and true tracks are matched anew. Matched queries learn "track", their track's
        spacepoints by Dice and focal loss; unmatched ones learn "no track". An event's part does not depend on the
        other events of the batch.

        Returns:
            `class`, `dice` and `focal`, weighted.
        """
        config = self.config
        track_id = required_label(batch, config.label)
        tracks = true_tracks(track_id, batch.offsets, config.unlabelled, config.min_hits)
        self._warn_about_queries(tracks)
        class_logits, mask_logits = outputs["class_logits"].float(), outputs["mask_logits"]
        with torch.autocast(track_id.device.type, enabled=False):
            losses = track_losses(class_logits, mask_logits, tracks, config.loss, config.matcher)
        return {name: loss.float() / max(batch.num_events, 1) for name, loss in losses.items()}

    def predict(self, outputs: Mapping[str, Tensor], batch: EventBatch) -> dict[str, Tensor]:
        """The query of the highest score P(track) P(spacepoint is the query's) at the last level.

        Queries that are likelier no track than a track take no spacepoint, nor do outputs that are not a number.

        Returns:
            `track_id` (T,) int64: the query, unique within an event only; -1 where no query is a track or the best
            score is below the threshold. `track_score` (T,) float32: the best score; 0 where no query is a track.
        """
        probability = outputs["class_logits"][-1].float().softmax(2)
        no_track = ~(probability[..., TRACK] > probability[..., NO_TRACK])
        masks, event = outputs["mask_logits"][-1], event_index(batch.offsets)
        best = [
            masks[part]
            .float()
            .sigmoid()
            .mul_(probability[event[part], :, TRACK])
            .masked_fill_(no_track[event[part]], -1.0)
            .max(dim=1)
            for part in chunks(masks, dim=0)
        ]
        score = torch.cat([probability.new_zeros(0), *(scores for scores, _ in best)])
        query = torch.cat([event[:0], *(queries for _, queries in best)])
        return {
            "track_id": query.masked_fill(~(score >= self.config.score_threshold), -1),
            "track_score": score.clamp(min=0),
        }

    def _points(self, hidden: HiddenStates, batch: EventBatch) -> Tensor:
        # Under autocast the inputs are of lower precision than the norm's weight, and its fused kernel needs one type.
        points = self.point_norm(self.inputs(hidden, batch).to(self.point_norm.weight.dtype))
        embedded: Tensor = points + self.point_feed_forward(points)
        return embedded

    def _levels(self, points: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """(T, W) points of similarly long events to the class and mask logits of every level, see `forward`."""
        padded, mask = pad(points, offsets)
        queries = self.queries.expand(len(padded), -1, -1)
        classes, masks = [self.classifier(queries)], [self._masks(queries, padded)]
        for layer in self.layers:
            bias = torch.log(masks[-1].float().sigmoid() + SMALLEST_PROBABILITY)
            queries = layer(queries, self.query_positions, padded, mask, bias)
            classes.append(self.classifier(queries))
            masks.append(self._masks(queries, padded))
        return torch.stack(classes), torch.stack([unpad(logits.transpose(1, 2), mask) for logits in masks])

    def _masks(self, queries: Tensor, points: Tensor) -> Tensor:
        logits: Tensor = self.track_embedding(queries) @ points.transpose(1, 2)
        return logits

    def _warn_about_queries(self, tracks: TrueTracks) -> None:
        num_queries = len(self.queries)
        num_events = sum(count > num_queries for count in tracks.num_tracks)
        if num_events and not self._warned:
            self._warned = True
            warnings.warn(
                f"{num_events} of {len(tracks.num_tracks)} events have more tracks (up to {max(tracks.num_tracks)}) "
                f"than the head has queries ({num_queries}): the tracks in excess are neither learned nor found; raise "
                'num_queries, or train with num_queries "auto"',
                stacklevel=3,
            )


def _num_queries(config: TrackFinderConfig) -> int:
    if config.num_queries == "auto":
        raise NotFittedError('num_queries is "auto": fit the configuration to events first, or give a number')
    return config.num_queries
