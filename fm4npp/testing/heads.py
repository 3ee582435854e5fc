"""The contract of heads, checked on small made-up events; for heads of this project and of plug-ins alike."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from fm4npp.batch import EventBatch, HiddenStates, event_index
from fm4npp.event import LABEL_DTYPES
from fm4npp.heads.base import Head, HeadConfig, HeadContext
from fm4npp.registry import explain
from fm4npp.truth import PARTICLE, is_of_event

CONTEXT = HeadContext(width=16, num_blocks=3, num_features=2)
"""Of the backbone that the checks pretend to have."""
SIZES = (23, 1, 0, 40)
"""Spacepoints of the events; one event has a single one, one has none."""
TOLERANCE = 1e-5


class Sample(NamedTuple):
    """What a head is given."""

    hidden: HiddenStates
    batch: EventBatch


def make_sample(sizes: Iterable[int], labels: Iterable[str], context: HeadContext = CONTEXT, seed: int = 0) -> Sample:
    """Random hidden states and the batch they belong to.

    Args:
        sizes: spacepoints of every event.
        labels: names to make labels for: 0 or 1 for every spacepoint, and -1, unknown, for a few where the label is
            not boolean; numbers of particles, some not known; for a name that begins with `event.` one an event.
        context: sizes of the model.
        seed: of the random numbers.
    """
    random = torch.Generator().manual_seed(seed)
    offsets = torch.tensor([0, *itertools.accumulate(sizes)])
    total = int(offsets[-1])

    def values(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    def label(name: str) -> Tensor:
        if name.startswith(PARTICLE):
            return values(total).masked_fill(torch.rand(total, generator=random) < 0.1, torch.nan)
        if is_of_event(name):
            return torch.randint(0, 2, (len(offsets) - 1,), generator=random).float()
        if LABEL_DTYPES.get(name) is np.bool_:
            return torch.randint(0, 2, (total,), generator=random).bool()
        return torch.randint(-1, 6, (total,), generator=random).clamp(max=1)

    hidden = HiddenStates(
        embedding=values(total, context.width),
        blocks=tuple(values(total, context.width) for _ in range(context.num_blocks)),
        last=values(total, context.width),
    )
    batch = EventBatch(
        coordinates=torch.rand(total, 3, generator=random),
        features=values(total, context.num_features),
        detector_ids=torch.zeros(total, dtype=torch.int64),
        offsets=offsets,
        order=torch.arange(total) - offsets[event_index(offsets)],
        targets={},
        labels={name: label(name) for name in labels},
    )
    return Sample(hidden, batch)


def select(sample: Sample, index: Tensor, offsets: Tensor, events: slice = slice(None)) -> Sample:
    """The spacepoints at `index` (M,), of some of the events, which start at `offsets` (B + 1,)."""
    hidden, batch = sample
    per_hit = ("coordinates", "features", "detector_ids", "order")
    selected = EventBatch(
        {name: batch[name][index] for name in per_hit},
        offsets=offsets,
        targets={},
        labels={name: values[_rows(name, index, events)] for name, values in batch.labels.items()},
    )
    blocks = tuple(block[index] for block in hidden.blocks)
    return Sample(HiddenStates(hidden.embedding[index], blocks, hidden.last[index]), selected)


def _rows(name: str, index: Any, events: slice) -> Any:
    return events if is_of_event(name) else index


def check_head(cls: type[Head], **fields: Any) -> None:
    """Check that a head class keeps the contract of `fm4npp.heads.Head`.

    Args:
        cls: the class; it is built as `cls(cls.Config(**fields), context)`.
        fields: configuration, needed where `cls.Config` has fields without a default.

    Raises:
        AssertionError: with what is wrong and what to do about it.
    """
    config = _config(cls, fields)
    torch.manual_seed(0)
    head = cls(config, CONTEXT).eval()
    labels = getattr(head, "labels", None)
    _require(isinstance(labels, Mapping), cls, "set self.labels in the constructor: prediction -> label name")
    sample = make_sample(SIZES, head.needed)
    _check_predictions(head, sample)
    _check_events_alone(head, sample)
    _check_permutation(head, sample)
    _check_state(head, config, sample)
    _check_gradients(head, sample)
    for sizes in ((0,), (1,), (0, 0)):
        few = make_sample(sizes, head.needed)
        _check_predictions(head, few)
        _check_gradients(head, few)


def _require(condition: bool, cls: type, message: str) -> None:
    if not condition:
        raise AssertionError(f"{cls.__name__}: {message}")


def _config(cls: type[Head], fields: Mapping[str, Any]) -> HeadConfig:
    try:
        config = cls.Config(**fields)
    except ValidationError as error:
        raise AssertionError(
            f"{cls.__name__}: its Config cannot be made ({explain(error)}); give the fields without a default "
            f"to the check, as check_head({cls.__name__}, field=value)"
        ) from error
    stored = cls.Config.model_validate(json.loads(config.model_dump_json()))
    _require(stored == config, cls, "its Config does not survive JSON; use plain field types")
    return config


def _losses(head: Head, sample: Sample) -> dict[str, Tensor]:
    losses = head.loss(head(*sample), sample.batch)
    _require(bool(losses), type(head), "loss returns nothing; return name -> scalar")
    for name, loss in losses.items():
        _require(loss.shape == (), type(head), f"the loss {name!r} has shape {tuple(loss.shape)}; return scalars")
        _require(bool(loss.isfinite()), type(head), f"the loss {name!r} is {loss.item()} for {_events(sample)}")
    return losses


@torch.no_grad()
def _predict(head: Head, sample: Sample) -> dict[str, Tensor]:
    return head.predict(head(*sample), sample.batch)


def _events(sample: Sample) -> str:
    sizes = sample.batch.offsets.diff().tolist()
    return f"events of {', '.join(map(str, sizes))} spacepoints"


def _check_predictions(head: Head, sample: Sample) -> None:
    predictions = _predict(head, sample)
    for name in head.labels:
        _require(name in predictions, type(head), f"labels names the prediction {name!r}, but predict does not make it")
    for name, values in predictions.items():
        batch = sample.batch
        rows, what = (batch.num_events, "events") if is_of_event(name) else (batch.num_tokens, "spacepoints")
        _require(
            values.shape[:1] == (rows,),
            type(head),
            f"the prediction {name!r} has shape {tuple(values.shape)}; return one row for each of the "
            f"{rows} {what}, in the order of the batch",
        )
        finite = not values.is_floating_point() or bool(values.isfinite().all())
        _require(finite, type(head), f"the prediction {name!r} is not finite everywhere for {_events(sample)}")


def _require_equal(head: Head, actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], message: str) -> None:
    _require(actual.keys() == expected.keys(), type(head), f"{message}: other names")
    for name, values in expected.items():
        close = torch.allclose(actual[name].double(), values.double(), rtol=TOLERANCE, atol=TOLERANCE)
        _require(close, type(head), f"{message} ({name!r})")


def _check_events_alone(head: Head, sample: Sample) -> None:
    together, offsets = _predict(head, sample), sample.batch.offsets.tolist()
    parts = []
    for number, (start, stop) in enumerate(itertools.pairwise(offsets)):
        event = slice(number, number + 1)
        alone = select(sample, torch.arange(start, stop), torch.tensor([0, stop - start]), event)
        expected = {name: values[_rows(name, slice(start, stop), event)] for name, values in together.items()}
        message = (
            f"an event of {stop - start} spacepoints is predicted otherwise alone than in a batch; neither padding nor "
            "another event's spacepoints may be seen: attend with the mask that fm4npp.batch.pad returns"
        )
        _require_equal(head, _predict(head, alone), expected, message)
        parts.append({name: loss.detach() for name, loss in _losses(head, alone).items()})
    losses = _losses(head, sample)
    message = (
        "the loss of a batch is not the mean over its events of their losses alone; do not average over spacepoints"
    )
    mean = {name: torch.stack([part[name] for part in parts]).mean() for name in losses}
    _require_equal(head, losses, mean, message)


def _check_permutation(head: Head, sample: Sample) -> None:
    offsets = sample.batch.offsets
    random = torch.Generator().manual_seed(1)
    index = torch.cat(
        [start + torch.randperm(stop - start, generator=random) for start, stop in itertools.pairwise(offsets.tolist())]
    )
    expected = {name: values[_rows(name, index, slice(None))] for name, values in _predict(head, sample).items()}
    message = "predictions depend on the order of an event's spacepoints; the order belongs to the serializer alone"
    _require_equal(head, _predict(head, select(sample, index, offsets)), expected, message)


def _check_state(head: Head, config: HeadConfig, sample: Sample) -> None:
    torch.manual_seed(1)
    other = type(head)(config, CONTEXT).eval()
    other.load_state_dict(head.state_dict(), strict=True)
    expected = _predict(head, sample)
    for name, values in _predict(other, sample).items():
        message = f"the prediction {name!r} changes after saving and loading; keep all state in parameters and buffers"
        _require(torch.equal(values, expected[name]), type(head), message)


def _check_gradients(head: Head, sample: Sample) -> None:
    _check_predictions(head, sample)
    head.zero_grad(set_to_none=True)
    torch.autograd.backward(torch.stack(list(_losses(head, sample).values())).sum())
    for name, parameter in head.named_parameters():
        if parameter.requires_grad:
            unused = f"the parameter {name} gets no gradient for {_events(sample)}, which stops distributed training"
            _require(parameter.grad is not None, type(head), unused)
            message = f"the gradient of {name} is not finite for {_events(sample)}"
            _require(parameter.grad is not None and bool(parameter.grad.isfinite().all()), type(head), message)
