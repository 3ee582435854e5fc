"""What regressions share: the labels they estimate, in units of their spread, and the loss."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Self

import numpy as np
import torch
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor
from torch.nn.functional import huber_loss

from fm4npp.batch import EventBatch
from fm4npp.errors import DataError
from fm4npp.event import Event
from fm4npp.heads.encoder import EncoderConfig
from fm4npp.heads.labels import mean_over_events, required_quantity
from fm4npp.truth import is_of_event, truth


class QuantitiesConfig(EncoderConfig):
    """What is estimated.

    Attributes:
        quantities: labels, such as `particle.log_pt`, see `fm4npp.truth.truth`; NaN: unknown, and ignored.
        mean: of each over the training spacepoints where it is known; taken from the training events.
        std: of each, likewise.
        delta: errors beyond so many deviations count linearly (Huber 1964).
    """

    quantities: Annotated[tuple[str, ...], Field(min_length=1)] = ("particle.log_pt",)
    mean: tuple[float, ...] | None = None
    std: tuple[PositiveFloat, ...] | None = None
    delta: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if any(is_of_event(name) for name in self.quantities) or len(set(self.quantities)) < len(self.quantities):
            raise ValueError("quantities: of spacepoints or their particles, each once")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if (values is None) != (self.mean is None) or (values and len(values) != len(self.quantities)):
                raise ValueError(f"{name}: one number for each of {', '.join(self.quantities)}")
        return self

    def fit(self, events: Iterable[Event]) -> Self:
        """Mean and standard deviation of each quantity, where they are not given.

        Raises:
            DataError: if a quantity is nowhere known.
        """
        if self.mean is not None:
            return self
        sums = np.zeros((3, len(self.quantities)))
        for event in events:
            for column, name in enumerate(self.quantities):
                values = truth(event, name).astype(np.float64)
                known = values[np.isfinite(values)]
                sums[:, column] += len(known), known.sum(), np.square(known).sum()
        unknown = [name for name, count in zip(self.quantities, sums[0], strict=True) if not count]
        if unknown:
            raise DataError(f"no training event has a known {unknown[0]!r}", remedy="train on labelled events")
        mean = sums[1] / sums[0]
        std = np.sqrt(np.maximum(sums[2] / sums[0] - mean**2, 0))
        std = np.where(std > 1e-6 * np.abs(mean), std, 1.0)  # a constant stays in its own unit
        return self.model_copy(update={"mean": tuple(mean.tolist()), "std": tuple(std.tolist())})

    def scale(self) -> tuple[Tensor, Tensor]:
        """(Q,) means and (Q,) deviations.

        Raises:
            DataError: if they still are to be taken from training events.
        """
        if self.mean is None or self.std is None:
            raise DataError(
                "mean and std of the quantities need training events", remedy="train with adapt, or give them"
            )
        return torch.tensor(self.mean), torch.tensor(self.std)


def regression_losses(
    estimates: Tensor, batch: EventBatch, config: QuantitiesConfig, weight: Tensor
) -> dict[str, Tensor]:
    """Huber loss of each quantity: the mean over events of the weighted mean over spacepoints where it is known.

    Args:
        estimates: (T, Q) in units of the deviations, of the mean.
        batch: with the labels.
        config: of the head.
        weight: (T,) not below 0.
    """
    mean, std = config.scale()
    losses = {}
    for column, name in enumerate(config.quantities):
        truths = (required_quantity(batch, name).float() - mean[column].item()) / std[column].item()
        known = truths.isfinite()
        error = huber_loss(
            estimates[:, column].float(), truths.nan_to_num(nan=0.0), reduction="none", delta=config.delta
        )
        losses[name] = mean_over_events(error, known * weight, batch.offsets)
    return losses


def estimated(estimates: Tensor, config: QuantitiesConfig) -> Mapping[str, Tensor]:
    """(T, Q) in units of the deviations to (T,) of each quantity in its own unit."""
    mean, std = (values.to(estimates.device) for values in config.scale())
    values = estimates.float() * std + mean
    return {name: values[:, column] for column, name in enumerate(config.quantities)}
