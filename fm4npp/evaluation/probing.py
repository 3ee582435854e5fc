"""What the frozen features of a model hold, judged by probes beside the same probes on the controls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score

from fm4npp.errors import ConfigurationError, DataError
from fm4npp.evaluation import probes, representations
from fm4npp.evaluation.representations import RAW, Points
from fm4npp.evaluation.separation import knn_purity, silhouette
from fm4npp.event import PARTICLE_CLASSES, Event
from fm4npp.metrics import evaluate_classes, holm, paired
from fm4npp.modeling import FM4NPPModel

Array = NDArray[Any]
Report = dict[str, Any]
Kind = Literal["tracks", "classes", "values"]


@dataclass(frozen=True)
class Task:
    """What is read from the features.

    Attributes:
        kind: tracks are to be apart, classes told, values estimated.
        truth: see `fm4npp.truth.truth`.
        num_classes: C of a classification.
    """

    kind: Kind
    truth: str
    num_classes: int = 0


TASKS: Mapping[str, Task] = {
    "track separation": Task("tracks", "track_id"),
    "particle class": Task("classes", "particle_class", len(PARTICLE_CLASSES)),
    "noise": Task("classes", "is_noise", 2),
    "log pT": Task("values", "particle.log_pt"),
}
CONTROLS = ("random-init", "embedding", "raw")
"""What the features are compared with: those of the same architecture with random weights; the trained input of the
first block; normalised coordinates and scaled features."""
MEASURES: Mapping[str, str] = {
    "knn_purity": "share of a spacepoint's 10 nearest of its own track, the mean over spacepoints, then events",
    "track_precision": "the same of its n - 1 nearest, for a track of n spacepoints",
    "silhouette": "silhouette of spacepoints with tracks as clusters, the mean over spacepoints, then events",
    "macro_f1": "mean over classes of the harmonic mean of precision and recall, over all spacepoints",
    "macro_recall": "mean over classes of the share of their spacepoints that are found",
    "average_precision": "area under precision against recall; of several classes the mean over those that occur",
    "spearman": "rank correlation of estimate and truth over spacepoints",
    "mean_absolute_error": "mean distance of estimate and truth over spacepoints, in the truth's unit",
}
"""What is reported of each probe."""
PER_EVENT: Mapping[Kind, str] = {
    "tracks": "track_precision of the event",
    "classes": "share of the event's spacepoints in the right class, each weighted by one over its class's frequency",
    "values": "minus the mean absolute error of the event",
}
"""What is compared event by event."""


@dataclass(frozen=True)
class Settings:
    """How to probe.

    Attributes:
        representations: of the model that are probed; see `representations.names`.
        controls: of `CONTROLS`.
        seeds: random weights; at least 3 for a spread.
        depths: of the probes.
        folds: parts of the events, each of which is tested by probes trained on the others; unused with test events.
        max_spacepoints: that a probe is trained on, at most, drawn at random.
        tokens_per_batch: spacepoints run through the backbone at once.
        seed: of the probes.
    """

    representations: tuple[str, ...] = ("mix", "blocks", "last")
    controls: tuple[str, ...] = CONTROLS
    seeds: tuple[int, ...] = (0, 1, 2)
    depths: tuple[probes.Depth, ...] = ("linear", "one-layer")
    folds: int = 5
    max_spacepoints: int = 50_000
    tokens_per_batch: int = 16384
    seed: int = 0

    def check(self, model: FM4NPPModel) -> None:
        """Refuse what cannot be done before anything slow starts.

        Raises:
            ConfigurationError: for an unknown representation or control.
        """
        representations.check_names(self.representations, model)
        unknown = [name for name in self.controls if name not in CONTROLS]
        if unknown:
            raise ConfigurationError(f"no control {unknown[0]!r}; there are {', '.join(CONTROLS)}")


@dataclass(frozen=True)
class Score:
    """One probe.

    Attributes:
        task: of `TASKS`.
        probe: "distances" of the features as they are, "triplet map", "linear" or "one-layer".
        source: "model" or a control.
        representation: that was read.
        seed: of random weights, or None.
        measures: of `MEASURES`.
        per_event: (E,), see `PER_EVENT`; NaN where an event has nothing to judge.
    """

    task: str
    probe: str
    source: str
    representation: str
    seed: int | None
    measures: Mapping[str, float]
    per_event: Array


def probe(
    model: FM4NPPModel,
    events: Sequence[Event],
    test: Sequence[Event] = (),
    settings: Settings = Settings(),
    progress: Callable[[str], None] = lambda what: None,
) -> Report:
    """Probe a model and its controls.

    Args:
        model: its backbone is judged; nothing of it is trained.
        events: labelled, that the probes are trained on.
        test: labelled, that they are judged by; without any, every part of `events` is tested in its turn.
        settings: which probes and controls.
        progress: called with what is done next.

    Returns:
        `scores`, `comparisons` of the model with each control, and what they mean, as plain values.

    Raises:
        ConfigurationError: for unknown names.
        DataError: if there are too few events, or no label that a task needs.
    """
    settings.check(model)
    filled = [event for event in events if len(event)]
    tested = [event for event in test if len(event)]
    if len(filled) < 2 or (test and not tested):
        raise DataError("too few events with spacepoints to probe", remedy="give at least two, and one to test")
    splits = list(_splits(len(filled), len(tested), settings))
    everything = [*filled, *tested]
    scores: list[Score] = []
    for source, seed, subject, names in _subjects(model, settings):
        progress(source if seed is None else f"{source}, seed {seed}")
        wanted = [task.truth for task in TASKS.values()]
        points = representations.of_events(
            subject, everything, names, wanted, tokens_per_batch=settings.tokens_per_batch
        )
        for name in names:
            scores += _scores(points, name, splits, settings, source, seed)
    if not scores:
        raise DataError("the events have no label to probe", remedy="convert the file together with its labels")
    return {
        "tasks": {name: {"truth": task.truth, "per_event": PER_EVENT[task.kind]} for name, task in TASKS.items()},
        "skipped": sorted(set(TASKS) - {score.task for score in scores}),
        "measures": dict(MEASURES),
        "num_train_events": len(filled),
        "num_test_events": len(tested) or len(filled),
        "num_empty_events": len(events) + len(test) - len(everything),
        "folds": len(splits),
        "scores": [_plain(score) for score in scores],
        "comparisons": _comparisons(scores),
    }


def _splits(num_events: int, num_tested: int, settings: Settings) -> Iterator[tuple[Array, Array]]:
    """Training and test events of every fold."""
    if num_tested:
        yield np.arange(num_events), num_events + np.arange(num_tested)
        return
    fold = np.random.default_rng(settings.seed).permutation(num_events) % min(settings.folds, num_events)
    for number in range(fold.max() + 1):
        yield np.flatnonzero(fold != number), np.flatnonzero(fold == number)


def _subjects(model: FM4NPPModel, settings: Settings) -> Iterator[tuple[str, int | None, FM4NPPModel, tuple[str, ...]]]:
    """Source, seed, model and representations of everything that is probed."""
    yield "model", None, model, settings.representations
    for name in ("embedding", RAW):
        if name in settings.controls:
            yield name, None, model, (name,)
    if "random-init" in settings.controls:
        for seed, other in zip(settings.seeds, representations.random_models(model, settings.seeds), strict=True):
            yield "random-init", seed, other, settings.representations


def _scores(
    points: Points,
    name: str,
    splits: Sequence[tuple[Array, Array]],
    settings: Settings,
    source: str,
    seed: int | None,
) -> Iterator[Score]:
    """All tasks on one representation."""
    for label, task in TASKS.items():
        truth = points.truths[task.truth]
        if np.isnan(truth).all():
            continue
        judge = {"tracks": _tracks, "classes": _classes, "values": _values}[task.kind]
        for kind, measures, per_event in judge(points, name, task, truth, splits, settings):
            yield Score(label, kind, source, name, seed, measures, per_event)


Judged = Iterator[tuple[str, dict[str, float], Array]]


def _tracks(
    points: Points, name: str, task: Task, truth: Array, splits: Sequence[tuple[Array, Array]], settings: Settings
) -> Judged:
    tracks = np.nan_to_num(truth, nan=-1).astype(np.int64)
    found: dict[str, list[Array]] = {"distances": [], "triplet map": []}
    for train, test in splits:
        rows, offsets = _rows(points.offsets, train)
        features, scaled = probes.standardised(points.features[name][rows], points.features[name])
        mapping = probes.triplet_map(features, tracks[rows], offsets, settings.seed)
        for kind, space in (("distances", scaled), ("triplet map", scaled @ mapping)):
            found[kind].append(np.array([_separation(space, tracks, points.offsets, event) for event in test]))
    order = np.argsort(np.concatenate([test for _, test in splits]))
    for kind, parts in found.items():
        table = np.concatenate(parts)[order]
        yield kind, dict(zip(("knn_purity", "track_precision", "silhouette"), _means(table), strict=True)), table[:, 1]


def _separation(space: Array, tracks: Array, offsets: Array, event: int) -> tuple[float, float, float]:
    place = slice(offsets[event], offsets[event + 1])
    near, track = space[place], tracks[place]
    return knn_purity(near, track), knn_purity(near, track, len(near)), silhouette(near, track)


def _classes(
    points: Points, name: str, task: Task, truth: Array, splits: Sequence[tuple[Array, Array]], settings: Settings
) -> Judged:
    label = np.where(np.isnan(truth), -1, truth).astype(np.int64)
    count = np.bincount(label[label >= 0], minlength=task.num_classes)
    weight = np.where(label >= 0, 1 / np.maximum(count, 1)[label.clip(min=0)], 0.0)
    for depth in settings.depths:
        probability = np.zeros((len(points), task.num_classes), dtype=np.float32)
        for train, test in splits:
            rows = _sample(_rows(points.offsets, train)[0], label >= 0, settings)
            into, _ = _rows(points.offsets, test)
            features, others = probes.standardised(points.features[name][rows], points.features[name][into])
            probability[into] = probes.classes(features, label[rows], others, task.num_classes, depth, settings.seed)
        events = np.concatenate([test for _, test in splits])
        known = _within(points.offsets, events) & (label >= 0)
        right = (probability.argmax(axis=1) == label) * weight
        metrics = evaluate_classes([(label[known], probability[known].argmax(axis=1))], task.num_classes)
        measures = {
            "macro_f1": float(metrics.macro_f1 or 0.0),
            "macro_recall": float(metrics.macro_recall or 0.0),
            "average_precision": _average_precision(label[known], probability[known]),
        }
        yield depth, measures, _ratio(right * known, weight * known, points.offsets)[np.sort(events)]


def _values(
    points: Points, name: str, task: Task, truth: Array, splits: Sequence[tuple[Array, Array]], settings: Settings
) -> Judged:
    for depth in settings.depths:
        estimate = np.full(len(points), np.nan)
        for train, test in splits:
            rows = _sample(_rows(points.offsets, train)[0], ~np.isnan(truth), settings)
            into, _ = _rows(points.offsets, test)
            features, others = probes.standardised(points.features[name][rows], points.features[name][into])
            estimate[into] = probes.values(features, truth[rows], others, depth, settings.seed)
        known = ~np.isnan(truth) & ~np.isnan(estimate)
        error = np.where(known, np.abs(np.where(known, estimate - truth, 0.0)), 0.0)
        measures = {
            "spearman": float(spearmanr(estimate[known], truth[known]).statistic),
            "mean_absolute_error": float(error[known].mean()),
        }
        events = np.sort(np.concatenate([test for _, test in splits]))
        yield depth, measures, -_ratio(error, known.astype(float), points.offsets)[events]


def _rows(offsets: Array, events: Array) -> tuple[Array, Array]:
    """The spacepoints of events, and (E + 1,) where each of them starts among these."""
    rows = np.concatenate([np.arange(offsets[event], offsets[event + 1]) for event in events])
    return rows, np.concatenate([[0], np.cumsum(np.diff(offsets)[events])]).astype(np.int64)


def _sample(rows: Array, known: Array, settings: Settings) -> Array:
    """Spacepoints with a truth, at most `max_spacepoints` of them."""
    usable = rows[known[rows]]
    if not len(usable):
        raise DataError("the training events have no spacepoint with a label", remedy="give more of them")
    return np.random.default_rng(settings.seed).permutation(usable)[: settings.max_spacepoints]


def _within(offsets: Array, events: Array) -> Array:
    """(T,) whether a spacepoint is in one of the events."""
    chosen = np.zeros(len(offsets) - 1, dtype=bool)
    chosen[events] = True
    return np.repeat(chosen, np.diff(offsets))


def _ratio(part: Array, whole: Array, offsets: Array) -> Array:
    """(E,) sum of the part / sum of the whole of each event; NaN where that is 0."""
    sums, wholes = (np.add.reduceat(np.append(values, 0.0), offsets[:-1]) for values in (part, whole))
    ratio: Array = np.divide(sums, wholes, out=np.full(len(wholes), np.nan), where=wholes > 0)
    return ratio


def _average_precision(label: Array, probability: Array) -> float:
    """Of two classes that of the second; of more the mean over those that occur."""
    wanted = [1] if probability.shape[1] == 2 else range(probability.shape[1])
    areas = [average_precision_score(label == kind, probability[:, kind]) for kind in wanted if (label == kind).any()]
    return float(np.mean(areas)) if areas else float("nan")


def _means(table: Array) -> list[float]:
    """Of each column, over events where it is defined."""
    return [
        float(column[~np.isnan(column)].mean()) if (~np.isnan(column)).any() else float("nan") for column in table.T
    ]


def _comparisons(scores: Sequence[Score]) -> list[Report]:
    """The model against each control on the same events; random weights by the mean over their seeds.

    The p values are Holm's, over everything that is compared.
    """
    controls: dict[tuple[str, str, str, str], list[Score]] = {}
    for score in scores:
        if score.source != "model":
            controls.setdefault((score.task, score.probe, score.source, score.representation), []).append(score)
    found: list[Report] = []
    for score in (score for score in scores if score.source == "model"):
        for (task, kind, source, name), others in controls.items():
            if (task, kind) != (score.task, score.probe) or (source == "random-init" and name != score.representation):
                continue
            reference = np.mean([other.per_event for other in others], axis=0)
            judged = ~np.isnan(score.per_event) & ~np.isnan(reference)
            result = paired(score.per_event[judged], reference[judged])
            about = {"task": task, "probe": kind, "representation": score.representation, "control": source}
            found.append({**about, "num_seeds": len(others), **asdict(result)})
    for row, adjusted in zip(found, holm([row["wilcoxon_p"] for row in found]), strict=True):
        row["holm_p"] = float(adjusted)
    return found


def _plain(score: Score) -> Report:
    return {
        "task": score.task,
        "probe": score.probe,
        "source": score.source,
        "representation": score.representation,
        "seed": score.seed,
        **{name: None if np.isnan(value) else value for name, value in score.measures.items()},
    }
