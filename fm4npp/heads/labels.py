"""The truth that a head is trained on, taken from a batch."""

from __future__ import annotations

from torch import Tensor

from fm4npp.batch import EventBatch
from fm4npp.errors import DataError


def required_label(batch: EventBatch, name: str) -> Tensor:
    """(T,) int64: one label of the batch; below 0 means unknown.

    Raises:
        DataError: if not every event of the batch has that label.
    """
    if name not in batch.labels:
        raise DataError(
            f"the events have no label {name!r} (they have: {', '.join(batch.labels) or 'none'})",
            remedy="train on labelled events, or name another label in the head's configuration",
        )
    return batch.labels[name].long()
