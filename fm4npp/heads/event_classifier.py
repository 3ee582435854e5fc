"""A class for every event, such as whether a trigger should have fired."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from fm4npp.batch import EventBatch, HiddenStates, pad
from fm4npp.event import Event
from fm4npp.heads.attention import MultiHeadAttention, feed_forward, groups_of_similar_length
from fm4npp.heads.base import Head, HeadContext, HeadInputs
from fm4npp.heads.classes import ClassesConfig, balanced, check_weights, class_predictions, entropies
from fm4npp.heads.encoder import EncoderConfig, attended
from fm4npp.heads.labels import class_label
from fm4npp.truth import EVENT


class EventClassifierConfig(EncoderConfig, ClassesConfig):
    """Classes and sizes of an event classifier, see `ClassesConfig` and `EncoderConfig`.

    Attributes:
        label: of the event, `event.` and the name of a scalar.
        num_queries: learned questions that the spacepoints of an event are asked.
    """

    label: str = "event.trigger"
    num_classes: int = Field(2, ge=2)
    num_queries: PositiveInt = 4

    @model_validator(mode="after")
    def _of_events(self) -> Self:
        if not self.label.startswith(EVENT):
            raise ValueError(f"label: must begin with {EVENT!r}, as it is of the whole event")
        return self

    def fit(self, events: Iterable[Event]) -> Self:
        """Balanced weights as numbers."""
        if self.class_weights != "balanced":
            return self
        weights = balanced(events, {self.label: self.num_classes})
        return self.model_copy(update={"class_weights": weights[self.label]})


class EventClassifier(Head):
    """Sorts events into classes: learned queries attend to all spacepoints, and a network reads what they found.

    An event without spacepoints answers every query with 0.
    """

    registered_name = "event-classification"
    Config = EventClassifierConfig
    config: EventClassifierConfig

    def __init__(self, config: EventClassifierConfig, context: HeadContext) -> None:
        super().__init__()
        self.config = config
        self.labels = {config.label: config.label}
        self.num_classes = {config.label: config.num_classes}
        self.weights = check_weights(config.class_weights)
        self.inputs = HeadInputs(config.inputs, context, config.width)
        self.layers = config.layers()
        self.norm = nn.LayerNorm(config.width)
        self.queries = nn.Parameter(torch.randn(config.num_queries, config.width))
        self.pooling = MultiHeadAttention(config.width, config.num_heads)
        self.classifier = feed_forward(config.num_queries * config.width, config.width, config.num_classes)

    def forward(self, hidden: HiddenStates, batch: EventBatch) -> dict[str, Tensor]:
        """Block outputs to `logits` (B, C)."""
        points = attended(self.inputs(hidden, batch), batch.offsets, self.layers)
        points = self.norm(points.to(self.norm.weight.dtype))
        groups = groups_of_similar_length(batch.offsets)
        answers = torch.cat([self._pooled(points[group.tokens], group.offsets) for group in groups])
        return {"logits": self.classifier(answers[torch.cat([group.events for group in groups]).argsort()])}

    def loss(self, outputs: Mapping[str, Tensor], batch: EventBatch) -> dict[str, Tensor]:
        """Cross-entropy times class weights, the mean over events; one of unknown class counts as 0.

        Raises:
            DataError: if the label is missing or names a class that the head does not have.
        """
        label = class_label(batch, self.config.label, self.config.num_classes)
        entropy = entropies(outputs["logits"], label, self.weights)
        return {"cross_entropy": torch.where(label >= 0, entropy, 0.0).sum() / max(len(label), 1)}

    def predict(self, outputs: Mapping[str, Tensor], batch: EventBatch) -> dict[str, Tensor]:
        """The likeliest class of every event.

        Returns:
            The label's name: (B,) int64, the class; with `_probability` appended: (B, C) float32, of every class.
        """
        return class_predictions(self.config.label, outputs["logits"])

    def _pooled(self, points: Tensor, offsets: Tensor) -> Tensor:
        """(T, W) points of similarly long events to (b, queries x W)."""
        padded, mask = pad(points, offsets)
        answers: Tensor = self.pooling(self.queries.expand(len(padded), -1, -1), padded, mask)
        return answers.flatten(1)
