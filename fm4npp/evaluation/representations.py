"""What probes read: a frozen model's features of every spacepoint, and the controls that they are compared with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fm4npp.errors import ConfigurationError, DataError
from fm4npp.event import Event
from fm4npp.modeling import FM4NPPModel
from fm4npp.processing import FM4NPPProcessor
from fm4npp.truth import missing, truth

Array = NDArray[Any]

RAW = "raw"
"""Normalised coordinates and scaled features: what a model without any training starts from."""


@dataclass(frozen=True)
class Points:
    """Spacepoints of several events, end to end.

    Attributes:
        offsets: (E + 1,) int64, where each event starts.
        features: representation -> (T, D) float32.
        truths: name -> (T,) float64, see `fm4npp.truth.truth`; NaN where unknown.
    """

    offsets: Array
    features: Mapping[str, Array]
    truths: Mapping[str, Array] = field(default_factory=dict)

    @property
    def num_events(self) -> int:
        """E."""
        return len(self.offsets) - 1

    def __len__(self) -> int:
        return int(self.offsets[-1])


def names(model: FM4NPPModel) -> tuple[str, ...]:
    """Representations of a model.

    `block 1` to `block L`, every block's output; `mix`, their mean after each is scaled to unit variance; `blocks`, all
    of them side by side; `last`, the residual stream after the final norm; `embedding`, the input of the first block.
    """
    blocks = tuple(f"block {number + 1}" for number in range(int(model.config.backbone["num_layers"])))
    return (*blocks, "mix", "blocks", "last", "embedding")


def check_names(wanted: Sequence[str], model: FM4NPPModel) -> None:
    """Refuse a representation that does not exist.

    Raises:
        ConfigurationError: naming those that do.
    """
    known = (*names(model), RAW)
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ConfigurationError(f"no representation {unknown[0]!r}; there are {', '.join(known)}")


def of_events(
    model: FM4NPPModel,
    events: Sequence[Event],
    wanted: Sequence[str],
    truths: Iterable[str] = (),
    *,
    tokens_per_batch: int = 16384,
) -> Points:
    """The features of events, in the order of their spacepoints.

    Args:
        model: frozen, with a fitted processor.
        events: of the model's detectors.
        wanted: representations of `names`, and `RAW`.
        truths: kinds of truth to take along; one that an event lacks is unknown for all of it.
        tokens_per_batch: spacepoints run at once, at most.

    Raises:
        DataError: if there is no spacepoint.
    """
    processor = FM4NPPProcessor(model.config)
    model.eval()
    parts: dict[str, list[Array]] = {name: [] for name in wanted}
    with torch.no_grad():
        for _, batch in processor.batches(events, tokens_per_batch):
            moved = batch.to(model.device)
            hidden = model.hidden_states(moved, blocks=not set(wanted) <= {RAW, "embedding"})
            found = {
                "embedding": hidden.embedding,
                "last": hidden.last,
                RAW: torch.cat([moved.coordinates, moved.features], dim=1),
                **{f"block {number + 1}": block for number, block in enumerate(hidden.blocks)},
            }
            if hidden.blocks:
                found["blocks"] = torch.cat(hidden.blocks, dim=1)
                found["mix"] = torch.stack([torch.nn.functional.rms_norm(b, b.shape[1:]) for b in hidden.blocks]).mean(
                    0
                )
            for name in wanted:
                parts[name] += processor.restore(found[name].float(), batch)
    offsets = np.concatenate([[0], np.cumsum([len(event) for event in events])]).astype(np.int64)
    if not offsets[-1]:
        raise DataError("the events hold no spacepoints to probe")
    features = {name: np.concatenate(values) for name, values in parts.items()}
    return Points(offsets, features, {name: _truths(events, name) for name in truths})


def random_models(model: FM4NPPModel, seeds: Iterable[int]) -> Iterator[FM4NPPModel]:
    """The same architecture, serializer and constants, with the weights that training would have started from."""
    for seed in seeds:
        state = torch.random.get_rng_state()
        torch.manual_seed(seed)
        other = FM4NPPModel(model.config.updated(heads={}), backend=model.backbone.backend)
        torch.random.set_rng_state(state)
        yield other.to(model.device).eval()


def _truths(events: Sequence[Event], name: str) -> Array:
    values = [
        np.full(len(event), np.nan)
        if missing([name], event.labels, event.particles, event.scalars)
        else truth(event, name).astype(np.float64)
        for event in events
    ]
    return np.concatenate(values)
