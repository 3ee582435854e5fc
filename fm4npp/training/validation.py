"""The loss on held-out events, over all processes and for every detector."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fm4npp.data import EventDataset
from fm4npp.errors import DataError
from fm4npp.training.batches import Prepare, Stored, by_detector, dealt, load, packed
from fm4npp.training.step import Step

REMEDY = "validate on events whose spacepoints have neighbours, or leave data.validation out"


@torch.no_grad()
def validation_losses(
    step: Step,
    dataset: EventDataset,
    prepare: Prepare,
    *,
    tokens: int,
    num_workers: int = 0,
    stored: Stored | None = None,
) -> dict[str, float]:
    """Mean loss over all events of a set, each of which exactly one process counts.

    Args:
        step: what runs the model; its weight is that of the mean.
        dataset: the events.
        prepare: event to arrays.
        tokens: spacepoints of a batch, at most; a batch is of one detector.
        num_workers: processes that prepare events.
        stored: index of an event to further arguments of `prepare`.

    Returns:
        "validation_loss", and "validation_loss/<detector>" if there are several.

    Raises:
        DataError: if there is nothing to predict in all events: every loss would be 0, and no weights the best.
    """
    accelerator = step.accelerator
    detectors = by_detector(dataset)
    batches = [(name, batch) for name, own in detectors.items() for batch in packed(own, dataset.lengths, tokens)]
    own = dealt(batches, accelerator.process_index, accelerator.num_processes)
    sums: dict[str, float] = {f"{what}{name}": 0.0 for name in detectors for what in ("", "#")}
    given = load(dataset, (batch for (_, batch), _ in own), prepare, num_workers=num_workers, stored=stored)
    was_training = step.model.training
    step.model.eval()
    for ((name, _), counts), batch in zip(own, given, strict=True):
        with step.precision():
            loss = step.model(**batch.events.to(accelerator.device)).loss
        weight = step.weight(batch.events) * counts
        sums[name] += float(loss) * weight
        sums[f"#{name}"] += weight
    step.model.train(was_training)
    totals, _ = step.total(sums)
    if not any(totals[f"#{name}"] for name in detectors):
        raise DataError("nothing to predict in all these events", file=dataset.paths[0], remedy=REMEDY)
    return _means(totals, tuple(detectors))


def _means(sums: Mapping[str, float], detectors: tuple[str, ...]) -> dict[str, float]:
    total = sum(sums[f"#{name}"] for name in detectors)
    found = {"validation_loss": sum(sums[name] for name in detectors) / max(total, 1.0)}
    if len(detectors) > 1:
        found |= {f"validation_loss/{name}": sums[name] / sums[f"#{name}"] for name in detectors if sums[f"#{name}"]}
    return found
