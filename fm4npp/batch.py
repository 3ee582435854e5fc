"""Several events packed end to end, and the one place where padding exists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fm4npp.errors import ConfigurationError
from fm4npp.event import Event

Array = NDArray[Any]


class HiddenStates(NamedTuple):
    """What the backbone hands to a head, all in the packed order of the batch.

    Attributes:
        embedding: (T, W), the input of the first block.
        blocks: one (T, W) for every block, its update before the residual sum.
        last: (T, W), the residual stream after the final norm.
    """

    embedding: Tensor
    blocks: tuple[Tensor, ...]
    last: Tensor

    @classmethod
    def of_stored(cls, stored: Mapping[str, Tensor], num_blocks: int) -> HiddenStates:
        """Hidden states that a batch brings along.

        Args:
            stored: `embedding` (T, W), `last` (T, W), and `blocks`: (T, L, W), or (T, W), their mean, which then
                stands for every block, so that any mix of them is the mean.
            num_blocks: L.
        """
        blocks = stored["blocks"]
        updates = blocks.unbind(1) if blocks.ndim == 3 else (blocks,) * num_blocks
        return cls(stored["embedding"], tuple(updates), stored["last"])


class EventBatch(dict[str, Any]):
    """B events with T spacepoints in all, packed end to end; the keys are the arguments of `FM4NPPModel.forward`.

    Keys:
        coordinates: (T, 3) float32, normalised by each event's geometry.
        features: (T, F) float32, scaled; F is the union of all detectors' features, absent ones are 0.
        detector_ids: (T,) int64, the subsystem that measured each spacepoint.
        offsets: (B + 1,) int64, where each event starts; `offsets[-1]` is T.
        order: (T,) int64, each token's index among its event's spacepoints in the file.
        targets: name -> (T, ...), the objective's targets; empty when none were asked for.
        labels: name -> (T,), truth that every event of the batch has; (B,) where the name begins with `event.`.
        hidden: only where hidden states were stored: `embedding`, `blocks`, `last`, see `HiddenStates.of_stored`.
    """

    @property
    def coordinates(self) -> Tensor:
        """(T, 3)."""
        return self["coordinates"]  # type: ignore[no-any-return]

    @property
    def features(self) -> Tensor:
        """(T, F)."""
        return self["features"]  # type: ignore[no-any-return]

    @property
    def detector_ids(self) -> Tensor:
        """(T,)."""
        return self["detector_ids"]  # type: ignore[no-any-return]

    @property
    def offsets(self) -> Tensor:
        """(B + 1,)."""
        return self["offsets"]  # type: ignore[no-any-return]

    @property
    def order(self) -> Tensor:
        """(T,)."""
        return self["order"]  # type: ignore[no-any-return]

    @property
    def targets(self) -> dict[str, Tensor]:
        """Name -> (T, ...)."""
        return self["targets"]  # type: ignore[no-any-return]

    @property
    def labels(self) -> dict[str, Tensor]:
        """Name -> (T,), or (B,) where the name begins with `event.`."""
        return self["labels"]  # type: ignore[no-any-return]

    @property
    def hidden(self) -> dict[str, Tensor]:
        """Name -> (T, ...); empty if the model has to compute them."""
        return self.get("hidden") or {}

    @property
    def num_events(self) -> int:
        """B."""
        return len(self.offsets) - 1

    @property
    def num_tokens(self) -> int:
        """T."""
        return len(self.coordinates)

    def to(self, device: torch.device | str) -> EventBatch:
        """The batch on another device."""

        def move(value: Any) -> Any:
            if isinstance(value, Mapping):
                return {name: move(item) for name, item in value.items()}
            return value.to(device)

        return EventBatch({name: move(value) for name, value in self.items()})


def lengths(offsets: Tensor) -> Tensor:
    """(B + 1,) offsets to (B,) numbers of spacepoints."""
    return offsets[1:] - offsets[:-1]


def event_index(offsets: Tensor) -> Tensor:
    """(B + 1,) offsets to (T,): the event that each token belongs to."""
    sizes = lengths(offsets)
    return torch.repeat_interleave(torch.arange(len(sizes), device=offsets.device), sizes)


def pad(values: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Packed to padded, for heads that attend within an event.

    Args:
        values: (T, ...).
        offsets: (B + 1,).

    Returns:
        (B, S, ...) with zeros after each event's end, S the longest event (at least 1), and (B, S) bool, true
        where there is a spacepoint.
    """
    sizes = lengths(offsets)
    longest = max(int(sizes.max()) if len(sizes) else 0, 1)
    mask = torch.arange(longest, device=values.device)[None, :] < sizes[:, None].to(values.device)
    padded = values.new_zeros(len(sizes), longest, *values.shape[1:])
    index = mask.nonzero(as_tuple=True)
    return padded.index_put(index, values), mask


def unpad(padded: Tensor, mask: Tensor) -> Tensor:
    """The inverse of `pad`: (B, S, ...) and (B, S) bool to (T, ...)."""
    return padded[mask]


@dataclass(frozen=True)
class PreparedEvent:
    """One event as the model reads it, in NumPy: what a loader's worker makes.

    Attributes:
        coordinates: (N, 3) float32, normalised, in the serializer's order like everything below.
        features: (N, F) float32, scaled.
        detector_ids: (N,) int64.
        order: (N,) int64, index of each token among the event's spacepoints.
        targets: name -> (N, ...).
        labels: name -> (N,), or (1,) where the name begins with `event.`; int64, quantities float32.
        hidden: name -> (N, ...) float32, the frozen model's hidden states, if they were computed before.
    """

    coordinates: Array
    features: Array
    detector_ids: Array
    order: Array
    targets: Mapping[str, Array]
    labels: Mapping[str, Array]
    hidden: Mapping[str, Array] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.order)


def collate(events: Sequence[PreparedEvent]) -> EventBatch:
    """Pack prepared events end to end.

    Args:
        events: at least one.

    Returns:
        The batch; a label is in it if every event has it.

    Raises:
        ConfigurationError: if some events bring hidden states along and others do not.
    """

    def pack(parts: Iterable[Array]) -> Tensor:
        return torch.from_numpy(np.concatenate(list(parts)))

    labels = set.intersection(*(set(event.labels) for event in events))
    offsets = np.concatenate([[0], np.cumsum([len(event) for event in events])])
    batch = EventBatch(
        coordinates=pack(event.coordinates for event in events),
        features=pack(event.features for event in events),
        detector_ids=pack(event.detector_ids for event in events),
        offsets=torch.from_numpy(offsets),
        order=pack(event.order for event in events),
        targets={name: pack(event.targets[name] for event in events) for name in events[0].targets},
        labels={name: pack(event.labels[name] for event in events) for name in sorted(labels)},
    )
    if any(set(event.hidden) != set(events[0].hidden) for event in events):
        raise ConfigurationError("a batch of events with and without stored hidden states; give them to all or to none")
    if events[0].hidden:
        batch["hidden"] = {name: pack(event.hidden[name] for event in events) for name in events[0].hidden}
    return batch


def in_batches(events: Iterable[Event], budget: int) -> Iterator[list[Event]]:
    """Group a stream of events, in order, into lists of at most `budget` spacepoints (at least one event)."""
    group: list[Event] = []
    size = 0
    for event in events:
        if group and size + len(event) > budget:
            yield group
            group, size = [], 0
        group.append(event)
        size += len(event)
    if group:
        yield group
