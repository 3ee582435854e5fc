"""A class for every spacepoint: particle identification, noise tagging, and any other label of that kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fm4npp.batch import EventBatch, HiddenStates, pad, unpad
from fm4npp.errors import DataError
from fm4npp.event import PARTICLE_CLASSES
from fm4npp.heads.attention import MultiHeadAttention, feed_forward
from fm4npp.heads.base import Head, HeadConfig, HeadContext, HeadInputs
from fm4npp.heads.labels import required_label


class PointClassifierConfig(HeadConfig):
    """Classes and sizes of a point classifier.

    Attributes:
        label: true class of a spacepoint; below 0: unknown, and ignored.
        num_classes: C.
        class_names: C names, or none.
        width: of the attention and of the classifier.
        num_layers: self-attention layers; the released adapters have 1.
        num_heads: attention heads.
    """

    label: str
    num_classes: int = Field(ge=2)
    class_names: tuple[str, ...] = ()
    width: PositiveInt = 256
    num_layers: int = Field(1, ge=0, le=4)
    num_heads: PositiveInt = 4

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError(f"{len(self.class_names)} class_names for num_classes {self.num_classes}")
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}")
        return self


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


class SelfAttention(nn.Module):
    """Every spacepoint gathers from all of its event: a prenorm residual without a feed-forward network."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = MultiHeadAttention(width, num_heads)

    def forward(self, points: Tensor, mask: Tensor) -> Tensor:
        """(B, S, W) and (B, S) bool, true where there is a spacepoint, to (B, S, W)."""
        normed = self.norm(points)
        gathered: Tensor = points + self.attention(normed, normed, mask)
        return gathered


def mean_over_events(values: Tensor, counted: Tensor, offsets: Tensor) -> Tensor:
    """Scalar: the mean over all B events of the mean over an event's counted spacepoints; 0 for an event with none.

    Args:
        values: (T,).
        counted: (T,) bool.
        offsets: (B + 1,).
    """
    sums = pad(torch.where(counted, values, 0.0), offsets)[0].sum(dim=1)
    counts = pad(counted, offsets)[0].sum(dim=1)
    return (sums / counts.clamp(min=1)).sum() / max(len(counts), 1)


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
        self.inputs = HeadInputs(config.inputs, context, config.width)
        self.layers = nn.ModuleList(SelfAttention(config.width, config.num_heads) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.width, eps=1e-5)
        self.classifier = feed_forward(config.width, config.width, config.num_classes)

    def forward(self, hidden: HiddenStates, batch: EventBatch) -> dict[str, Tensor]:
        """Block outputs to `logits` (T, C)."""
        points, mask = pad(self.inputs(hidden, batch), batch.offsets)
        for layer in self.layers:
            points = layer(points, mask)
        return {"logits": self.classifier(self.norm(unpad(points, mask).to(self.norm.weight.dtype)))}

    def loss(self, outputs: Mapping[str, Tensor], batch: EventBatch) -> dict[str, Tensor]:
        """Unweighted cross-entropy: the mean over events of the mean over an event's labelled spacepoints.

        An event's part thus does not depend on the other events of the batch; an event without labelled spacepoints
        counts as 0.

        Raises:
            DataError: if the label is missing or names a class that the head does not have.
        """
        label = required_label(batch, self.config.label)
        if len(label) and int(label.max()) >= self.config.num_classes:
            raise DataError(
                f"label {self.config.label!r} has the class {int(label.max())}, "
                f"the head only 0 to {self.config.num_classes - 1}",
                remedy="raise num_classes or mark such spacepoints with -1",
            )
        entropy = cross_entropy(outputs["logits"].float(), label.clamp(min=0), reduction="none")
        return {"cross_entropy": mean_over_events(entropy, label >= 0, batch.offsets)}

    def predict(self, outputs: Mapping[str, Tensor], batch: EventBatch) -> dict[str, Tensor]:
        """The likeliest class of every spacepoint.

        Returns:
            The label's name: (T,) int64, the class; with `_probability` appended: (T, C) float32, of every class.
        """
        probability = outputs["logits"].float().softmax(1)
        name = self.config.label
        return {name: probability.argmax(1), f"{name}_probability": probability}


class ParticleIdentifier(PointClassifier):
    """Identifies the kind of particle that left a spacepoint: other, pion, kaon, proton or electron."""

    registered_name = "particle-id"
    Config = ParticleIdentifierConfig


class NoiseTagger(PointClassifier):
    """Tags the spacepoints of low-momentum secondaries as noise."""

    registered_name = "noise-tagging"
    Config = NoiseTaggerConfig
