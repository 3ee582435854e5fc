"""The truth that a head is trained on, taken from a batch, and means over events of what is counted."""

from __future__ import annotations

import torch
from torch import Tensor

from fm4npp.batch import EventBatch, pad
from fm4npp.errors import DataError


def required_label(batch: EventBatch, name: str) -> Tensor:
    """(T,) int64, or (B,) where the name begins with `event.`: one label of the batch; below 0 means unknown.

    Raises:
        DataError: if not every event of the batch has that label.
    """
    label = required_quantity(batch, name)
    return label.nan_to_num(nan=-1).long() if label.is_floating_point() else label.long()


def required_quantity(batch: EventBatch, name: str) -> Tensor:
    """A label as it is: (T,), or (B,) where the name begins with `event.`; NaN where it is not known.

    Raises:
        DataError: if not every event of the batch has that label.
    """
    if name not in batch.labels:
        raise DataError(
            f"the events have no label {name!r} (they have: {', '.join(batch.labels) or 'none'})",
            remedy="train on labelled events, or name another label in the head's configuration",
        )
    return batch.labels[name]


def class_label(batch: EventBatch, name: str, num_classes: int) -> Tensor:
    """`required_label`, if it names classes that a head has.

    Raises:
        DataError: if the label is missing or names a class that the head does not have.
    """
    label = required_label(batch, name)
    if len(label) and int(label.max()) >= num_classes:
        raise DataError(
            f"label {name!r} has the class {int(label.max())}, the head only 0 to {num_classes - 1}",
            remedy="raise num_classes or mark such spacepoints with -1",
        )
    return label


def mean_over_events(values: Tensor, counted: Tensor, offsets: Tensor) -> Tensor:
    """Scalar: the mean over all B events of the mean over an event's counted spacepoints; 0 for an event with none.

    Args:
        values: (T,).
        counted: (T,) bool, or weights not below 0.
        offsets: (B + 1,).
    """
    sums = pad(torch.where(counted > 0, values * counted, 0.0), offsets)[0].sum(dim=1)
    totals = pad(counted, offsets)[0].sum(dim=1)
    return (sums / torch.where(totals > 0, totals, 1)).sum() / max(len(totals), 1)
