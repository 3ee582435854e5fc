"""A class for every spacepoint: particle identification, noise tagging, and any other label of that kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Self

from pydantic import Field
from torch import Tensor, nn

from fm4npp.batch import EventBatch, HiddenStates
from fm4npp.event import PARTICLE_CLASSES, Event
from fm4npp.heads.attention import feed_forward
from fm4npp.heads.base import Head, HeadContext, HeadInputs
from fm4npp.heads.classes import ClassesConfig, balanced, check_weights, class_predictions, entropies
from fm4npp.heads.encoder import EncoderConfig, attended
from fm4npp.heads.labels import class_label, mean_over_events


class PointClassifierConfig(EncoderConfig, ClassesConfig):
    """Classes and sizes of a point classifier, see `ClassesConfig` and `EncoderConfig`."""

    def fit(self, events: Iterable[Event]) -> Self:
        """Balanced weights as numbers."""
        if self.class_weights != "balanced":
            return self
        weights = balanced(events, {self.label: self.num_classes})
        return self.model_copy(update={"class_weights": weights[self.label]})


class ParticleIdentifierConfig(PointClassifierConfig):
    """A point classifier for the five classes of `fm4npp.event.PARTICLE_CLASSES`."""

    label: str = "particle_class"
    num_classes: int = Field(len(PARTICLE_CLASSES), ge=2)
    class_names: tuple[str, ...] = PARTICLE_CLASSES


class NoiseTaggerConfig(PointClassifierConfig):
    """A point classifier for signal and noise."""

    label: str = "is_noise"
    num_classes: int = Field(2, ge=2)
    class_names: tuple[str, ...] = ("signal", "noise")


class PointClassifier(Head):
    """Sorts spacepoints into classes: self-attention within the event, then a small network on each spacepoint.

    The released adapter for particle identification and noise tagging (paper section 4.2 and appendix C.1.2):
    331,793 + 259 W parameters on a backbone of width W with 12 blocks, for 5 classes.
    """

    registered_name = "point-classification"
    Config = PointClassifierConfig
    config: PointClassifierConfig

    def __init__(self, config: PointClassifierConfig, context: HeadContext) -> None:
        super().__init__()
        self.config = config
        self.labels = {config.label: config.label}
        self.num_classes = {config.label: config.num_classes}
        self.weights = check_weights(config.class_weights)
        self.inputs = HeadInputs(config.inputs, context, config.width)
        self.layers = config.layers()
        self.norm = nn.RMSNorm(config.width, eps=1e-5)
        self.classifier = feed_forward(config.width, config.width, config.num_classes)

    def forward(self, hidden: HiddenStates, batch: EventBatch) -> dict[str, Tensor]:
        """Block outputs to `logits` (T, C)."""
        points = attended(self.inputs(hidden, batch), batch.offsets, self.layers)
        return {"logits": self.classifier(self.norm(points.to(self.norm.weight.dtype)))}

    def loss(self, outputs: Mapping[str, Tensor], batch: EventBatch) -> dict[str, Tensor]:
        """Cross-entropy: the mean over events of the mean over an event's labelled spacepoints, times class weights.

        An event's part thus does not depend on the other events of the batch; an event without labelled spacepoints
        counts as 0.

        Raises:
            DataError: if the label is missing or names a class that the head does not have.
        """
        label = class_label(batch, self.config.label, self.config.num_classes)
        entropy = entropies(outputs["logits"], label, self.weights)
        return {"cross_entropy": mean_over_events(entropy, label >= 0, batch.offsets)}

    def predict(self, outputs: Mapping[str, Tensor], batch: EventBatch) -> dict[str, Tensor]:
        """The likeliest class of every spacepoint.

        Returns:
            The label's name: (T,) int64, the class; with `_probability` appended: (T, C) float32, of every class.
        """
        return class_predictions(self.config.label, outputs["logits"])


class ParticleIdentifier(PointClassifier):
    """Identifies the kind of particle that left a spacepoint: other, pion, kaon, proton or electron."""

    registered_name = "particle-id"
    Config = ParticleIdentifierConfig


class NoiseTagger(PointClassifier):
    """Tags the spacepoints of low-momentum secondaries as noise."""

    registered_name = "noise-tagging"
    Config = NoiseTaggerConfig
