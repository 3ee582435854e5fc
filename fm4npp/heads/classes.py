"""What classifying heads share: weights of the classes, losses, and probabilities as predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, model_validator
from torch import Tensor
from torch.nn.functional import cross_entropy

from fm4npp.errors import DataError
from fm4npp.event import Event
from fm4npp.truth import truth

Weights = tuple[NonNegativeFloat, ...] | Literal["balanced"] | None


class ClassesConfig(BaseModel):
    """The classes of one label.

    Attributes:
        label: true class; below 0 or NaN: unknown, and ignored.
        num_classes: C.
        class_names: C names, or none.
        class_weights: C factors of the loss, or None for 1; "balanced" becomes numbers when the head meets its
            training events, see `balanced`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    label: str
    num_classes: Annotated[int, Field(ge=2)]
    class_names: tuple[str, ...] = ()
    class_weights: Weights = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, values in (("class_names", self.class_names), ("class_weights", self.class_weights)):
            if values and values != "balanced" and len(values) != self.num_classes:
                raise ValueError(f"{len(values)} {name} for num_classes {self.num_classes}")
        return self


def balanced(events: Iterable[Event], num_classes: Mapping[str, int]) -> dict[str, tuple[float, ...]]:
    """Weights with which every class of a label adds as much to the loss: N / (C n_c) for n_c of N known ones.

    C is the number of classes that occur; one that does not has the weight 1. The mean over the N is 1, so that the
    learning rate keeps its meaning.

    Args:
        events: labelled, read once and one by one.
        num_classes: label, see `fm4npp.truth.truth` -> the head's number of its classes.

    Raises:
        DataError: if a label is nowhere known, or a class is not among those of the head.
    """
    counts = {label: np.zeros(number, dtype=np.int64) for label, number in num_classes.items()}
    for event in events:
        for label, number in num_classes.items():
            counts[label] += _counts(event, label, number)
    return {label: _inverse(found, label) for label, found in counts.items()}


def _counts(event: Event, label: str, num_classes: int) -> NDArray[np.int64]:
    """(C,) spacepoints of each class; one of its class, if the label is of the event."""
    values = truth(event, label)
    classes = np.where(np.isfinite(values), values, -1).astype(np.int64)
    if len(classes) and classes.max() >= num_classes:
        raise DataError(
            f"label {label!r} has the class {classes.max()}, the head only 0 to {num_classes - 1}",
            file=event.source or None,
            event=event.event_id,
            remedy="raise num_classes",
        )
    return np.bincount(classes[classes >= 0], minlength=num_classes)


def _inverse(counts: NDArray[np.int64], label: str) -> tuple[float, ...]:
    if not counts.any():
        raise DataError(f"no training event has a known {label!r}", remedy="train on labelled events")
    weights = counts.sum() / ((counts > 0).sum() * np.maximum(counts, 1))
    return tuple(float(weight) for weight in np.where(counts > 0, weights, 1.0))


def check_weights(weights: Weights) -> tuple[float, ...] | None:
    """Weights that are numbers.

    Raises:
        DataError: if they still are to be taken from training events.
    """
    if weights == "balanced":
        raise DataError("class_weights='balanced' needs training events", remedy="train with adapt, or give numbers")
    return weights


def entropies(logits: Tensor, label: Tensor, weights: tuple[float, ...] | None) -> Tensor:
    """(N, C) logits and (N,) labels, of which those below 0 are arbitrary, to the (N,) weighted cross-entropies."""
    classes = label.clamp(min=0)
    entropy = cross_entropy(logits.float(), classes, reduction="none")
    return entropy if weights is None else entropy * torch.tensor(weights, device=logits.device)[classes]


def class_predictions(name: str, logits: Tensor) -> dict[str, Tensor]:
    """The likeliest class (N,) under the label's name, and with `_probability` appended all (N, C) float32."""
    probability = logits.float().softmax(1)
    return {name: probability.argmax(1), f"{name}_probability": probability}
