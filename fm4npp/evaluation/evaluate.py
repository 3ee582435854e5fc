"""Metrics of a model's heads on labelled events, and of its objective on any."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import compress, groupby
from typing import Any

import numpy as np
import torch

from fm4npp.batch import EventBatch
from fm4npp.errors import DataError
from fm4npp.evaluation.predict import predict_events
from fm4npp.event import Array, Event
from fm4npp.heads import Head
from fm4npp.metrics import (
    TrackSelection,
    TracksOfEvent,
    evaluate_classes,
    evaluate_probabilities,
    evaluate_tracks,
    evaluate_values,
    per_event_ari,
)
from fm4npp.modeling import FM4NPPModel
from fm4npp.processing import FM4NPPProcessor
from fm4npp.truth import is_of_event, truth

Report = dict[str, Any]

PROBABILITY = "_probability"
"""Appended to the name of a predicted class, it names the probabilities of all classes."""
BY_DETECTOR = "by_detector"
"""What holds the metrics of each detector, where events are of several."""
WEIGHT = "weight"
"""Label with the weight of every spacepoint in the TrackML score; without it all weigh the same."""
EVERY_TRACK = TrackSelection()


@dataclasses.dataclass
class _Found:
    """What one prediction of a head is judged by: one entry an event.

    Attributes:
        true: (N,) each, or (1,) of the event.
        predicted: of the same lengths.
        probabilities: (N, C) each, or none of them.
        particles: of the events, for tracks.
        weights: (N,) each, or none of them, for tracks.
        detectors: of the events.
    """

    true: list[Array] = dataclasses.field(default_factory=list)
    predicted: list[Array] = dataclasses.field(default_factory=list)
    probabilities: list[Array] = dataclasses.field(default_factory=list)
    particles: list[Mapping[str, Array]] = dataclasses.field(default_factory=list)
    weights: list[Array | None] = dataclasses.field(default_factory=list)
    detectors: list[str] = dataclasses.field(default_factory=list)

    def add(self, event: Event, head: Head, prediction: str, values: Mapping[str, Array]) -> None:
        """Keep what judges one event."""
        rows = slice(None) if head.grouped_by is None else first_of_each(truth(event, head.grouped_by))
        self.true.append(truth(event, head.labels[prediction])[rows])
        self.predicted.append(values[prediction][rows])
        if head.task == "track finding":
            self.particles.append(event.particles)
            self.weights.append(event.labels.get(WEIGHT))
        elif prediction + PROBABILITY in values:
            self.probabilities.append(values[prediction + PROBABILITY])
        self.detectors.append(event.detector)

    def of(self, detector: str) -> _Found:
        """The entries of one detector's events."""
        chosen = [one == detector for one in self.detectors]
        lists = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return _Found(**{name: list(compress(values, chosen)) for name, values in lists.items()})


def evaluate(
    model: FM4NPPModel,
    processor: FM4NPPProcessor,
    events: Iterable[Event],
    *,
    tokens_per_batch: int = 16384,
    selection: TrackSelection = EVERY_TRACK,
    progress: Callable[[int], None] = lambda num_events: None,
) -> Report:
    """Evaluate every head of a model; a model without heads is evaluated by its objective.

    Args:
        model: in evaluation mode or not; nothing is trained.
        processor: of the same checkpoint.
        events: with the labels that the heads were trained with.
        tokens_per_batch: spacepoints run at once, at most.
        selection: which true tracks count in everything but the Rand index; the default is the paper's.
        progress: called with the number of events after each one.

    Returns:
        Head name, or head/prediction of a head with several, -> its metrics as plain values: `TrackingMetrics` and
        `ari_per_event`, `ClassificationMetrics` and, as `probabilities`, `ProbabilityMetrics`, or `RegressionMetrics`.
        Of events of several detectors also `by_detector`: detector -> its own metrics, without those of each
        event, class or bin.

    Raises:
        DataError: if there is no event, or a label is missing.
    """
    if not model.heads:
        return {"objective": objective_loss(model, processor, events, tokens_per_batch=tokens_per_batch)}
    heads: dict[str, Head] = dict(model.heads.items())  # type: ignore[arg-type]
    kept = {(name, prediction): _Found() for name, head in heads.items() for prediction in head.labels}
    count = 0
    for event, predictions in predict_events(model, processor, events, tokens_per_batch=tokens_per_batch):
        for (name, prediction), found in kept.items():
            found.add(event, heads[name], prediction, predictions[name])
        count += 1
        progress(count)
    if not count:
        raise DataError("no events to evaluate")
    return {
        entry_name(heads[name], name, prediction): _with_detectors(
            found.detectors, partial(_metrics_of, heads[name], prediction, found, selection)
        )
        for (name, prediction), found in kept.items()
    }


def entry_name(head: Head, name: str, prediction: str) -> str:
    """What a report calls a prediction: the head's name, with the prediction's if the head has several."""
    return name if len(head.labels) == 1 else f"{name}/{prediction}"


def _with_detectors(names: Sequence[str], metrics: Callable[[str | None], Report]) -> Report:
    """The metrics of all events and, of several detectors, of each one's.

    Args:
        names: detector of every event.
        metrics: detector, or None for all, -> metrics of its events.
    """
    several = sorted(set(names))
    overall = metrics(None)
    if len(several) < 2:
        return overall
    return {**overall, BY_DETECTOR: {name: _numbers(metrics(name)) for name in several}}


def _numbers(metrics: Report) -> Report:
    """Single numbers with their intervals and counts, without what is of each event, class or bin."""
    shown = {name: value for name, value in metrics.items() if not isinstance(value, list | tuple | dict)}
    nested = {"probabilities": _numbers(metrics["probabilities"])} if "probabilities" in metrics else {}
    return {**shown, "intervals": metrics.get("intervals", {}), **nested}


def _metrics_of(head: Head, prediction: str, found: _Found, selection: TrackSelection, detector: str | None) -> Report:
    return _metrics(head, prediction, found if detector is None else found.of(detector), selection)


def _metrics(head: Head, prediction: str, found: _Found, selection: TrackSelection) -> Report:
    if head.task == "track finding":
        return _of_tracks(found, selection)
    if head.task == "regression":
        values = evaluate_values(zip(found.true, found.predicted, strict=True))
        return {"task": head.task, **dataclasses.asdict(values)}
    return _of_classes(found, head, prediction)


def _of_tracks(found: _Found, selection: TrackSelection) -> Report:
    events = map(TracksOfEvent, found.true, found.predicted, found.particles, found.weights)
    metrics = dataclasses.asdict(evaluate_tracks(events, selection))
    ari = [per_event_ari(true, predicted) for true, predicted in zip(found.true, found.predicted, strict=True)]
    return {"task": "track finding", **metrics, "ari_per_event": ari}


def _of_classes(found: _Found, head: Head, prediction: str) -> Report:
    true = [as_classes(values) for values in found.true]
    num_classes = found.probabilities[0].shape[1] if found.probabilities else int(head.config.num_classes)
    metrics = dataclasses.asdict(evaluate_classes(zip(true, found.predicted, strict=True), num_classes))
    class_names = _class_names(head, head.labels[prediction], num_classes)
    unit = "events" if is_of_event(head.labels[prediction]) else "spacepoints"
    report = {"task": "classification", **metrics, "class_names": class_names, "unit": unit}
    if found.probabilities:
        probabilities = evaluate_probabilities(zip(true, found.probabilities, strict=True), num_classes)
        report["probabilities"] = dataclasses.asdict(probabilities)
    return report


def first_of_each(track: Array) -> Array:
    """One spacepoint of each track of (N,), which speaks for all of it; of those below 0 none."""
    first: Array = np.unique(track, return_index=True)[1]
    return first[track[first] >= 0]


def as_classes(values: Array) -> Array:
    """(N,) int64 classes of (N,) truth, -1 where that is NaN."""
    numbers = np.asarray(values)
    return np.where(np.isnan(numbers), -1, numbers).astype(np.int64) if numbers.dtype.kind == "f" else numbers


def _class_names(head: Head, label: str, num_classes: int) -> list[str]:
    """What a head's configuration calls the classes of a label; their numbers if it does not say."""
    tasks = [task for task in getattr(head.config, "tasks", ()) if task.label == label]
    names = getattr(tasks[0] if tasks else head.config, "class_names", None) or ()
    return [str(name) for name in (names if len(names) == num_classes else range(num_classes))]


@torch.no_grad()
def objective_loss(
    model: FM4NPPModel, processor: FM4NPPProcessor, events: Iterable[Event], *, tokens_per_batch: int = 16384
) -> Report:
    """The pretraining loss on events, as if they were one batch.

    Raises:
        DataError: if there are no spacepoints.
    """
    model.eval()
    sums: dict[str, _Loss] = {}
    known = model.config.detectors[0].name
    for name, run in groupby(events, key=lambda event: event.detector or known):
        found = sums.setdefault(name, _Loss())
        for _, batch in processor.batches(run, tokens_per_batch, targets=True):
            loss = model(**batch.to(model.device)).loss
            found.add(float(loss), model.config.objective.count(batch.targets), batch)
    if not any(found.num_hits for found in sums.values()):
        raise DataError("no spacepoints to evaluate")
    return _with_detectors(list(sums), lambda name: _report(sums.values() if name is None else [sums[name]]))


@dataclasses.dataclass
class _Loss:
    """What a loss is the mean of."""

    total: float = 0.0
    weight: float = 0.0
    num_events: int = 0
    num_hits: int = 0

    def add(self, loss: float, weight: float, batch: EventBatch) -> None:
        """Count a batch of one detector's events."""
        self.total += loss * weight
        self.weight += weight
        self.num_events += batch.num_events
        self.num_hits += batch.num_tokens


def _report(found: Iterable[_Loss]) -> Report:
    parts = list(found)
    weight = sum(part.weight for part in parts)
    return {
        "task": "pretraining",
        "loss": sum(part.total for part in parts) / max(weight, 1.0),
        "num_events": sum(part.num_events for part in parts),
        "num_hits": sum(part.num_hits for part in parts),
    }
