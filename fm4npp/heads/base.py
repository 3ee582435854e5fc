"""The head interface, and the inputs that heads share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from fm4npp.batch import EventBatch, HiddenStates
from fm4npp.event import Event

Task = Literal["track finding", "classification", "regression"]
"""What a prediction is judged as: tracks by their spacepoints, classes, or numbers."""
Input = Literal["blocks", "embedding", "coordinates"]


class HeadConfig(BaseModel):
    """What every head can be told.

    Attributes:
        inputs: what the head reads of a spacepoint: `blocks`, the learned softmax mix of all block outputs;
            `embedding`, the input of the first block; `coordinates`, its normalised coordinates and features.
            Without `blocks` the backbone is not run: that is the adapter-only control.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    inputs: Annotated[tuple[Input, ...], Field(min_length=1)] = ("blocks",)

    def fit(self, events: Iterable[Event]) -> Self:
        """The same configuration with what is to be taken from the training events: sizes, weights, scales.

        Args:
            events: labelled, read only if something is to be taken from them.
        """
        return self


@dataclass(frozen=True)
class HeadContext:
    """The sizes of the model that a head is attached to.

    Attributes:
        width: of the backbone.
        num_blocks: of the backbone.
        num_features: columns of `EventBatch.features`.
        periodic: coordinates whose two ends are the same place; None if the model's detectors differ in that.
    """

    width: int
    num_blocks: int
    num_features: int
    periodic: tuple[bool, bool, bool] | None = (False, False, False)


class LayerMix(nn.Module):
    """Softmax-weighted mean of all block outputs, with learned weights, all equal at the start.

    Released adapters read this mix of the blocks' updates rather than the last layer alone.
    """

    def __init__(self, num_blocks: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_blocks))

    def forward(self, blocks: tuple[Tensor, ...]) -> Tensor:
        """One (T, W) for every block to their mix (T, W)."""
        weights = self.weight.softmax(0)
        mixed = weights[0] * blocks[0]
        for weight, block in zip(weights[1:], blocks[1:], strict=True):
            mixed = mixed + weight * block
        return mixed


class HeadInputs(nn.Module):
    """What a head reads of each spacepoint, projected to the head's own width.

    Every input goes through its own norm and linear map; the maps are summed. For `blocks` this is the released
    adapters' input: layer mix, RMSNorm, LayerNorm, Linear.
    """

    def __init__(self, inputs: tuple[Input, ...], context: HeadContext, width: int) -> None:
        super().__init__()
        self.maps = nn.ModuleDict()
        for name in inputs:
            if name == "blocks":
                self.mix = LayerMix(context.num_blocks)
                self.maps[name] = nn.Sequential(
                    nn.RMSNorm(context.width, eps=1e-5), nn.LayerNorm(context.width), nn.Linear(context.width, width)
                )
            elif name == "embedding":
                self.maps[name] = nn.Sequential(nn.LayerNorm(context.width), nn.Linear(context.width, width))
            else:
                self.maps[name] = nn.Linear(3 + context.num_features, width)

    def forward(self, hidden: HiddenStates, batch: EventBatch) -> Tensor:
        """(T, width)."""
        projected: list[Tensor] = [mapping(self._values(name, hidden, batch)) for name, mapping in self.maps.items()]
        return sum(projected[1:], projected[0])

    def _values(self, name: str, hidden: HiddenStates, batch: EventBatch) -> Tensor:
        if name == "coordinates":
            return torch.cat([batch.coordinates, batch.features], dim=1)
        return hidden.embedding if name == "embedding" else self.mix(hidden.blocks)


class Head(nn.Module, ABC):
    """A task learned from labels on top of a backbone.

    Subclasses name their configuration class in `Config` and are built as `cls(config, context)`.
    """

    registered_name: ClassVar[str] = ""
    Config: ClassVar[type[HeadConfig]] = HeadConfig
    task: ClassVar[Task] = "classification"
    config: Any
    labels: Mapping[str, str]
    """Prediction -> the label of `EventBatch.labels` that it is trained and judged by; set by the constructor.

    A name that begins with `event.` is of something that an event has one of, see `fm4npp.truth`. A classification
    `a` comes with the prediction `a_probability`, of every class."""
    num_classes: Mapping[str, int] = MappingProxyType({})
    """Prediction -> its number of classes, of a classification; set by the constructor."""
    reads: tuple[str, ...] = ()
    """Labels that `forward` needs to know; where events lack one, what another head that is judged by it predicts."""
    grouped_by: str | None = None
    """Label whose spacepoints share a prediction, judged once for all of them; those below 0 are not judged."""

    @property
    def needed(self) -> frozenset[str]:
        """Labels without which the head cannot be trained."""
        return frozenset({*self.labels.values(), *self.reads})

    @abstractmethod
    def forward(self, hidden: HiddenStates, batch: EventBatch) -> dict[str, Tensor]:
        """Block outputs to raw outputs."""

    @abstractmethod
    def loss(self, outputs: Mapping[str, Tensor], batch: EventBatch) -> dict[str, Tensor]:
        """Raw outputs to scalars, each the mean over the events of the batch; their sum is minimised."""

    @abstractmethod
    def predict(self, outputs: Mapping[str, Tensor], batch: EventBatch) -> dict[str, Tensor]:
        """Raw outputs to name -> (T, ...), one row a spacepoint in the order of the batch.

        A name that begins with `event.` is one of (B, ...), one row an event.
        """
