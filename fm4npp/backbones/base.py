"""The backbone interface: embedded spacepoints of packed events to the output of every block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from fm4npp.choices import Backend
from fm4npp.errors import BackendError

Count = Annotated[int, Field(ge=1)]


class BackboneConfig(BaseModel):
    """Sizes common to every backbone.

    Attributes:
        width: features of a spacepoint inside the model.
        num_layers: number of blocks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    width: Count
    num_layers: Count = 12


class Backbone(nn.Module, ABC):
    """Residual blocks over packed events; what happens in one event never depends on another.

    Subclasses name their configuration class in `Config` and are built as `cls(config)`.

    Attributes:
        backend: the backend that is asked for.
        checkpoint_gradients: keep only the input of every block for the backward pass and compute the rest again.
    """

    registered_name: ClassVar[str] = ""
    Config: ClassVar[type[BackboneConfig]] = BackboneConfig
    config: Any
    backend: Backend = "auto"
    checkpoint_gradients: bool = False

    @abstractmethod
    def forward(self, embedding: Tensor, offsets: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Run all blocks.

        Args:
            embedding: (T, width), the events packed end to end in reading order.
            offsets: (B + 1,), where each event starts.

        Returns:
            One (T, width) for every block, its update before the residual sum; and the residual stream after the
            final norm, (T, width).
        """

    def running_backend(self, device: torch.device) -> str:
        """The backend that computes on `device`.

        Raises:
            BackendError: if the one that is asked for cannot.
        """
        if self.backend not in ("auto", "torch"):
            raise BackendError(f"backend {self.backend!r}: the backbone {self.registered_name!r} has none but 'torch'")
        return "torch"
