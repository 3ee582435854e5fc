"""The scores of a grid of evaluated heads: means over seeds, and comparisons of variants on the same test events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm4npp.errors import ConfigurationError
from fm4npp.evaluation.report import HEADLINES, rows
from fm4npp.metrics import holm, paired

Array = NDArray[Any]
Report = dict[str, Any]

DEFAULT_METRIC: Mapping[str, str] = {
    "track finding": "ari_per_event_mean",
    "classification": "macro_f1",
    "regression": "spearman",
}
"""Task -> what a head is compared by."""
LOWER_IS_BETTER = ("fake_rate", "mean_absolute_error", "resolution", "probabilities.expected_calibration_error")
NOT_RANKED = ("bias",)
"""Metrics of which neither more nor less is better."""
PER_EVENT = {"ari_per_event_mean": "ari_per_event"}
"""Metric -> where a report has it of every event."""


@dataclass(frozen=True)
class Score:
    """What a head is compared by.

    Attributes:
        entry: of a report: head, or head/prediction.
        metric: of `HEADLINES`.
        sign: 1 if higher is better, -1 if lower is.
        definition: one sentence.
    """

    entry: str
    metric: str
    sign: int
    definition: str


@dataclass(frozen=True)
class Evaluated:
    """One finished cell.

    Attributes:
        variant: its name.
        labels: N.
        seed: of subset, weights and order.
        report: of its evaluation.
    """

    variant: str
    labels: int
    seed: int
    report: Report

    def value(self, entry: str, metric: str) -> float | None:
        """A headline number; None where it is not defined."""
        return next((row.value for row in rows(self.report) if (row.entry, row.metric) == (entry, metric)), None)


def check_metric(task: str, metric: str | None) -> str:
    """The metric that heads of a task are compared by.

    Args:
        task: of the head.
        metric: that is asked for; None for the default.

    Raises:
        ConfigurationError: naming those that there are.
    """
    known = [name for name in HEADLINES[task] if name not in NOT_RANKED]
    if metric is not None and metric not in known:
        raise ConfigurationError(f"--metric {metric}: heads for {task} are compared by {', '.join(known)}")
    return metric or DEFAULT_METRIC[task]


def score_of(report: Report, metric: str, prediction: str | None) -> Score:
    """What the heads of a study are compared by.

    Args:
        report: of any of its cells.
        metric: of the chosen prediction's task.
        prediction: entry of the report, or its last part; None for the first.

    Raises:
        ConfigurationError: naming the predictions that there are.
    """
    entries = list(report["heads"])
    found = [entry for entry in entries if prediction is None or prediction in (entry, entry.rpartition("/")[2])]
    if not found:
        raise ConfigurationError(f"--prediction {prediction}: there are {', '.join(entries)}")
    definition = next((r.definition for r in rows(report) if (r.entry, r.metric) == (found[0], metric)), None)
    if definition is None:
        raise ConfigurationError(f"--metric {metric}: {found[0]} is not judged by it")
    return Score(found[0], metric, -1 if metric in LOWER_IS_BETTER else 1, definition)


def told(cell: Evaluated) -> Report:
    """The headline numbers of a cell with their intervals, and what it cost."""
    metrics: Report = {}
    for row in rows(cell.report):
        metrics.setdefault(row.entry, {})[row.metric] = {"value": row.value, "interval": row.interval}
    about = {"variant": cell.variant, "labels": cell.labels, "seed": cell.seed}
    return {**about, "metrics": metrics, "trained": cell.report["trained"], "cost": cell.report["cost"]}


def summary(cells: Sequence[Evaluated]) -> list[Report]:
    """Mean and standard deviation over seeds of every headline number.

    The standard deviation has N - 1 in the denominator, and is None of one seed.
    """
    found: list[Report] = []
    for (variant, labels), own in _grouped(cells).items():
        numbers: dict[str, dict[str, list[float | None]]] = {}
        for row in (row for cell in own for row in rows(cell.report)):
            numbers.setdefault(row.entry, {}).setdefault(row.metric, []).append(row.value)
        metrics = {entry: {name: _spread(values) for name, values in of.items()} for entry, of in numbers.items()}
        seconds = float(np.mean([cell.report["cost"]["seconds"] for cell in own]))
        about = {"variant": variant, "labels": labels, "num_seeds": len(own), "training_seconds": seconds}
        found.append({**about, "metrics": metrics})
    return found


def _grouped(cells: Sequence[Evaluated]) -> dict[tuple[str, int], list[Evaluated]]:
    groups: dict[tuple[str, int], list[Evaluated]] = {}
    for cell in cells:
        groups.setdefault((cell.variant, cell.labels), []).append(cell)
    return groups


def _spread(values: Sequence[float | None]) -> Report:
    known = [value for value in values if value is not None]
    return {
        "mean": float(np.mean(known)) if known else None,
        "sd": float(np.std(known, ddof=1)) if len(known) > 1 else None,
        "num_seeds": len(known),
    }


def table_of(cells: Sequence[Evaluated], score: Score, labels: Sequence[int], seeds: Sequence[int]) -> dict[str, Array]:
    """Variant -> (L, S) scores, higher is better; variants of which one is missing or undefined are left out."""
    found: dict[str, Array] = {}
    for variant in dict.fromkeys(cell.variant for cell in cells):
        own = {
            (cell.labels, cell.seed): cell.value(score.entry, score.metric) for cell in cells if cell.variant == variant
        }
        values = [[own.get((count, seed)) for seed in seeds] for count in labels]
        if not any(value is None for row in values for value in row):
            found[variant] = score.sign * np.array(values, dtype=float)
    return found


def comparisons(cells: Sequence[Evaluated], score: Score, reference: str) -> list[Report]:
    """The reference against every other variant with the same labels, with Holm's p values over all of them.

    On the same test events where reports have the score of every event, which is then the mean over seeds; else on the
    same seeds, which are few: their p values cannot be small.
    """
    groups = _grouped(cells)
    found = []
    for (variant, labels), own in groups.items():
        first = groups.get((reference, labels), [])
        if variant != reference and first:
            found += list(_compared(first, own, score))
    for row, adjusted in zip(found, holm([row["wilcoxon_p"] for row in found]), strict=True):
        row["holm_p"] = float(adjusted)
    return found


def _compared(first: Sequence[Evaluated], second: Sequence[Evaluated], score: Score) -> Iterator[Report]:
    seeds = sorted({cell.seed for cell in first} & {cell.seed for cell in second})
    field = PER_EVENT.get(score.metric)
    scores = np.array([_scores(cells, seeds, score, field) for cells in (first, second)])
    known = np.isfinite(scores).all(axis=0)
    if not seeds or not known.any() or (field is None and known.sum() < 2):
        return  # one seed says nothing of the spread
    result = asdict(paired(*scores[:, known]))
    result["num_pairs"] = result.pop("num_events")
    yield {
        "labels": first[0].labels,
        "first": first[0].variant,
        "second": second[0].variant,
        "metric": score.metric,
        "over": "events" if field else "seeds",
        "num_seeds": len(seeds),
        **result,
    }


def _scores(cells: Sequence[Evaluated], seeds: Sequence[int], score: Score, field: str | None) -> Array:
    """(E,) mean over seeds of every event's score, or (S,) the seeds' scores; NaN where not defined."""
    chosen = sorted((cell for cell in cells if cell.seed in seeds), key=lambda cell: cell.seed)
    if field is None:
        return np.array([cell.value(score.entry, score.metric) for cell in chosen], dtype=float)
    events = np.array([cell.report["heads"][score.entry][field] for cell in chosen], dtype=float)
    means: Array = events.mean(axis=0) if len(events) else np.empty(0)
    return means
