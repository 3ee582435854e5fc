"""Metrics of a model's heads on labelled events, and of its objective on any."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch

from fm4npp.errors import DataError
from fm4npp.evaluation.predict import predict_events
from fm4npp.event import Event
from fm4npp.metrics import evaluate_classes, evaluate_tracks
from fm4npp.modeling import FM4NPPModel
from fm4npp.processing import FM4NPPProcessor
from fm4npp.truth import truth

Report = dict[str, Any]


def evaluate(
    model: FM4NPPModel,
    processor: FM4NPPProcessor,
    events: Iterable[Event],
    *,
    tokens_per_batch: int = 16384,
    min_hits: int = 1,
    progress: Callable[[int], None] = lambda num_events: None,
) -> Report:
    """Evaluate every head of a model; a model without heads is evaluated by its objective.

    Args:
        model: in evaluation mode or not; nothing is trained.
        processor: of the same checkpoint.
        events: with the labels that the heads were trained with.
        tokens_per_batch: spacepoints run at once, at most.
        min_hits: fewest spacepoints of a true track that counts in efficiency and purity; 1 is the paper's.
        progress: called with the number of events after each one.

    Returns:
        Head name -> its metrics as plain values; see `TrackingMetrics` and `ClassificationMetrics`.

    Raises:
        DataError: if there is no event, or a label is missing.
    """
    if not model.heads:
        return {"objective": objective_loss(model, processor, events, tokens_per_batch=tokens_per_batch)}
    pairs: dict[tuple[str, str], list[tuple[Any, Any]]] = {
        (name, prediction): [] for name in model.heads for prediction in _labels(model, name)
    }
    count = 0
    for event, predictions in predict_events(model, processor, events, tokens_per_batch=tokens_per_batch):
        for name, found in predictions.items():
            for prediction, label in _labels(model, name).items():
                pairs[name, prediction].append((truth(event, label), found[prediction]))
        count += 1
        progress(count)
    if not count:
        raise DataError("no events to evaluate")
    return {
        name if len(_labels(model, name)) == 1 else f"{name}/{prediction}": _metrics(model, name, found, min_hits)
        for (name, prediction), found in pairs.items()
    }


def _labels(model: FM4NPPModel, name: str) -> dict[str, str]:
    return dict(model.heads[name].labels)  # type: ignore[arg-type]


def _metrics(model: FM4NPPModel, name: str, pairs: list[tuple[Any, Any]], min_hits: int) -> Report:
    head = model.heads[name]
    if head.task == "track finding":
        return {"task": head.task, **dataclasses.asdict(evaluate_tracks(pairs, min_hits))}
    classes = int(head.config.num_classes)  # type: ignore[union-attr, arg-type]
    return {"task": "classification", **dataclasses.asdict(evaluate_classes(pairs, classes))}


@torch.no_grad()
def objective_loss(
    model: FM4NPPModel, processor: FM4NPPProcessor, events: Iterable[Event], *, tokens_per_batch: int = 16384
) -> Report:
    """The pretraining loss on events, as if they were one batch.

    Raises:
        DataError: if there are no spacepoints.
    """
    model.eval()
    total = weights = tokens = count = 0.0
    for _, batch in processor.batches(events, tokens_per_batch, targets=True):
        loss = model(**batch.to(model.device)).loss
        weight = model.config.objective.count(batch.targets)
        total += float(loss) * weight
        weights += weight
        tokens += batch.num_tokens
        count += batch.num_events
    if not tokens:
        raise DataError("no spacepoints to evaluate")
    return {"task": "pretraining", "loss": total / max(weights, 1.0), "num_events": int(count), "num_hits": int(tokens)}
