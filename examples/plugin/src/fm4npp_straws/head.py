"""A tagger whose loss looks at the hard cases."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from fm4npp.batch import EventBatch, HiddenStates
from fm4npp.heads.base import Head, HeadConfig, HeadContext, HeadInputs
from fm4npp.heads.classes import class_predictions
from fm4npp.heads.labels import class_label, mean_over_events


class FocalTaggerConfig(HeadConfig):
    """Label and sizes.

    Attributes:
        label: of spacepoints, with two classes.
        width: of the layer between input and output.
        gamma: how much less a spacepoint counts that is tagged rightly already; 0 is cross-entropy.
    """

    label: str = "is_noise"
    width: PositiveInt = 32
    gamma: NonNegativeFloat = 2.0


class FocalTagger(Head):
    """Two classes of spacepoints by the focal loss (Lin et al. 2017, arXiv:1708.02002), for labels that are rare."""

    registered_name = "focal-tagging"
    Config = FocalTaggerConfig
    config: FocalTaggerConfig

    def __init__(self, config: FocalTaggerConfig, context: HeadContext) -> None:
        super().__init__()
        self.config = config
        self.labels = {config.label: config.label}
        self.num_classes = {config.label: 2}
        self.inputs = HeadInputs(config.inputs, context, config.width)
        self.output = nn.Linear(config.width, 2)

    def forward(self, hidden: HiddenStates, batch: EventBatch) -> dict[str, Tensor]:
        """Block outputs to `logits` (T, 2)."""
        points = self.inputs(hidden, batch)
        return {"logits": self.output(nn.functional.gelu(points).to(self.output.weight.dtype))}

    def loss(self, outputs: Mapping[str, Tensor], batch: EventBatch) -> dict[str, Tensor]:
        """The mean over events; spacepoints of unknown class do not count."""
        label = class_label(batch, self.config.label, 2)
        logarithms = outputs["logits"].float().log_softmax(dim=1)
        own = logarithms.gather(1, label.clamp(min=0)[:, None]).squeeze(1)
        focal = -((1 - own.exp()) ** self.config.gamma) * own
        return {"focal": mean_over_events(torch.where(label >= 0, focal, 0.0), label >= 0, batch.offsets)}

    def predict(self, outputs: Mapping[str, Tensor], batch: EventBatch) -> dict[str, Tensor]:
        """The label's name: (T,) int64; with `_probability` appended: (T, 2)."""
        return class_predictions(self.config.label, outputs["logits"])
