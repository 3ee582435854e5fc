"""What an evaluation says: every number with its definition, counts and interval, and what it was computed on."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from huggingface_hub import EvalResult

from fm4npp import __version__
from fm4npp.checkpoint import weights_hash
from fm4npp.data import EventDataset
from fm4npp.errors import ConfigurationError
from fm4npp.evaluation.hygiene import LEVEL, NOT_CAUGHT
from fm4npp.metrics import DEFINITIONS, TrackSelection
from fm4npp.modeling import FM4NPPModel

Report = dict[str, Any]
Interval = tuple[float, float]

FORMAT = 2
HEADLINES: Mapping[str, tuple[str, ...]] = {
    "track finding": ("ari_per_event_mean", "ari_pooled", "efficiency", "purity", "fake_rate", "trackml_score"),
    "classification": (
        "accuracy",
        "macro_precision",
        "macro_recall",
        "macro_f1",
        "probabilities.macro_average_precision",
        "probabilities.macro_roc_auc",
        "probabilities.expected_calibration_error",
    ),
    "regression": ("mean_absolute_error", "resolution", "bias", "r_squared", "spearman"),
    "pretraining": ("loss",),
}
"""Task -> metrics of tables and cards; the report has more."""
COUNTED: Mapping[str, str] = {
    "efficiency": "{num_matched} of {num_true_tracks} true tracks",
    "purity": "{num_matched} of {num_predicted_tracks} found tracks",
    "fake_rate": "{num_predicted_tracks} found tracks",
}
OTHERWISE_COUNTED: Mapping[str, str] = {
    "classification": "{num_events} events, {num_hits} labelled {unit}",
    "regression": "{num_events} events, {num_values} known values",
}
TASKS: Mapping[str, Mapping[str, str]] = {
    "track finding": {
        "": "TrackingMetrics",
        "selection.": "TrackSelection",
        "efficiency_against.": "EfficiencyBin",
        "efficiency_where_unknown.": "EfficiencyBin",
        "purity_against.": "PurityBin",
    },
    "classification": {
        "": "ClassificationMetrics",
        "probabilities.": "ProbabilityMetrics",
        "probabilities.reliability.": "ReliabilityBin",
    },
    "regression": {"": "RegressionMetrics"},
    "pretraining": {},
}
"""Task -> where in an entry of a report -> the class whose fields are there."""
BY_DETECTOR = "detector -> the same numbers of its events alone; only where the events are of several detectors."
OWN_DEFINITIONS: Mapping[str, Mapping[str, str]] = {
    "track finding": {
        "by_detector": BY_DETECTOR,
        "ari_per_event": "adjusted Rand index of every event in the order of the files; None for one without "
        "spacepoints.",
    },
    "classification": {
        "by_detector": BY_DETECTOR,
        "class_names": "what the classes are called, in the order of all lists of classes.",
        "unit": "what is classified, and counts where definitions say spacepoints: spacepoints or events.",
    },
    "regression": {"by_detector": BY_DETECTOR},
    "pretraining": {
        "by_detector": BY_DETECTOR,
        "loss": "the objective's loss on all events as if they were one batch.",
        "num_events": "all events.",
        "num_hits": "spacepoints of all events.",
    },
}
DATASET_TYPE = "fm4npp-events"
"""Of the entries that cards get from reports; entries of other types are somebody else's."""


class Row(NamedTuple):
    """One headline number.

    Attributes:
        entry: head, or head/prediction.
        task: what it is judged as.
        metric: name, with the part of the report before a dot.
        value: None where it is not defined.
        interval: None where there is none.
        definition: one sentence.
        counts: what it was computed from.
    """

    entry: str
    task: str
    metric: str
    value: float | None
    interval: Interval | None
    definition: str
    counts: str


def assemble(
    model: FM4NPPModel,
    events: EventDataset,
    metrics: Report,
    *,
    files: Sequence[Mapping[str, Any]],
    selection: TrackSelection,
    heads: Mapping[str, str] | None = None,
    warnings: Sequence[str] = (),
    seen: bool = False,
) -> Report:
    """The whole report of an evaluation, as JSON values.

    Args:
        model: that was evaluated.
        events: that it was evaluated on.
        metrics: what `evaluate` gave.
        files: of the events, see `hygiene.identified`.
        selection: which true tracks counted.
        heads: name -> folder or Hub id of the heads that were loaded.
        warnings: what a reader must know.
        seen: whether a file was among the training or validation files and the evaluation was forced.
    """
    names = dict(heads or {})
    return {
        "format": FORMAT,
        "fm4npp": __version__,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("numpy", "torch")}},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": model.backbone_identity(),
        "head_weights": {
            name: {"path": names.get(name), "sha256": weights_hash(dict(head.state_dict()))}
            for name, head in model.heads.items()
        },
        "backend": model.backend,
        "device": str(model.device),
        "data": counted(events, files),
        "selection": {**dataclasses.asdict(selection), "text": str(selection)},
        "hygiene": {"level": LEVEL, "not_caught": NOT_CAUGHT, "seen_in_training": seen},
        "warnings": list(warnings),
        "definitions": {task: definitions_of(task) for task in {values["task"]: 0 for values in metrics.values()}},
        "heads": metrics,
    }


def counted(events: EventDataset, files: Sequence[Mapping[str, Any]]) -> list[Report]:
    """Files with their numbers of events, spacepoints, and events without any."""
    parts = [events.lengths[start:stop] for start, stop in zip(events.starts, events.starts[1:], strict=False)]
    return [
        {
            **file,
            "num_events": len(lengths),
            "num_spacepoints": int(lengths.sum()),
            "num_empty_events": int(np.count_nonzero(lengths == 0)),
        }
        for file, lengths in zip(files, parts, strict=True)
    ]


def definitions_of(task: str) -> dict[str, str]:
    """Where in an entry of a report -> what the number there means."""
    taken = {
        place + field: text
        for place, name in TASKS[task].items()
        for field, text in DEFINITIONS.get(name, {}).items()  # nothing in `python -OO`
    }
    return {**taken, **OWN_DEFINITIONS[task]}


def rows(report: Report) -> list[Row]:
    """The headline numbers of all entries of a report."""
    return [row for entry, values in report["heads"].items() for row in _rows(report, entry, values)]


def detector_rows(report: Report) -> dict[str, list[Row]]:
    """The headline numbers of each detector: detector -> the rows of `rows`; none unless events are of several."""
    found: dict[str, list[Row]] = {}
    for entry, values in report["heads"].items():
        for detector, own in values.get("by_detector", {}).items():
            found.setdefault(detector, []).extend(_rows(report, entry, own))
    return found


def _rows(report: Report, entry: str, values: Report) -> list[Row]:
    shown = (name for name in HEADLINES[values["task"]] if "probabilities" in values or "." not in name)
    return [_row(report, entry, values, metric) for metric in shown]


def _row(report: Report, entry: str, values: Report, metric: str) -> Row:
    task = values["task"]
    part, _, name = metric.rpartition(".")
    inside = values[part] if part else values
    found = inside.get("intervals", {}).get(name)
    return Row(
        entry=entry,
        task=task,
        metric=metric,
        value=inside[name],
        interval=(found[0], found[1]) if found else None,
        definition=report["definitions"][task].get(metric, ""),
        counts=_counts(task, name, values),
    )


def _counts(task: str, metric: str, values: Report) -> str:
    form = COUNTED.get(metric) or OTHERWISE_COUNTED.get(task, "{num_events} events, {num_hits} spacepoints")
    return form.format_map(values)


def number(value: float | None) -> str:
    """Four decimals, or more of a small number."""
    if value is None:
        return "undefined"
    return f"{value:.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.2e}"


def told(row: Row) -> str:
    """A value with its interval."""
    return number(row.value) + (f" [{number(row.interval[0])}, {number(row.interval[1])}]" if row.interval else "")


def extremes(ari: Sequence[float | None], lengths: Sequence[int]) -> dict[str, int]:
    """Kinds "best", "median" and "worst" -> index of such an event; fewer kinds of fewer than three events.

    They are of the longer half: an event of one spacepoint always scores 1.

    Args:
        ari: of every event, None where not defined.
        lengths: spacepoints of every event.
    """
    found = [(value, index) for index, value in enumerate(ari) if value is not None]
    least = float(np.median([lengths[index] for _, index in found])) if found else 0.0
    order = sorted((value, index) for value, index in found if lengths[index] >= least)
    kinds = {"best": len(order) - 1, "worst": 0, "median": len(order) // 2} if order else {}
    taken: dict[int, str] = {}
    for kind, place in kinds.items():
        taken.setdefault(place, kind)
    return {kind: order[kinds[kind]][1] for kind in ("best", "median", "worst") if kind in taken.values()}


# ---- cards and the Hub


def card_table(report: Report) -> str:
    """The headline numbers as a Markdown table, with what they were computed on and every warning."""
    lines = ["| head | metric | value [95 % interval] | of |", "|---|---|---|---|"]
    lines += [f"| {_cell(row.entry)} | {row.metric} | {told(row)} | {_cell(row.counts)} |" for row in rows(report)]
    lines += _detector_lines(report)
    made = f"fm4npp {report['fm4npp']}, weights `{report['model']['sha256'][:12]}`"
    lines += ["", f"Tracks that count: {report['selection']['text']}. Made with {made}, on:", ""]
    for file in report["data"]:
        content = f"content `{file['content'][:12]}`" if file["content"] else "content unknown"
        name = _cell(Path(file["path"]).name)
        lines.append(f"- {name}: {file['num_events']} events, {file['num_spacepoints']} spacepoints, {content}")
    lines += [f"- **Warning:** {_cell(text)}" for text in report["warnings"]]
    return "\n".join(lines)


def _detector_lines(report: Report) -> list[str]:
    """A Markdown table with a column for each detector, if there are several."""
    columns = detector_rows(report)
    if not columns:
        return []
    head = ["", f"| head | metric | {' | '.join(map(_cell, columns))} |", "|---|---" + "|---" * len(columns) + "|"]
    lines = [
        f"| {_cell(first.entry)} | {first.metric} | {' | '.join(told(row) for row in (first, *others))} |"
        for first, *others in zip(*columns.values(), strict=True)
    ]
    return [*head, *lines]


def _cell(text: str) -> str:
    """Text of anybody's in Markdown, as itself."""
    plain = " ".join(str(text).split())
    for mark, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "&#124;"), ("`", "&#96;")):
        plain = plain.replace(mark, written)
    return plain


def eval_results(report: Report) -> list[EvalResult]:
    """The headline numbers as entries of a card's `model-index`; what is not defined has none.

    Raises:
        ConfigurationError: if the model has seen the events in training.
    """
    if report["hygiene"]["seen_in_training"]:
        raise ConfigurationError("events that were seen in training say nothing that belongs on a card")
    names = ", ".join(Path(file["path"]).name for file in report["data"])
    content = {"content": [file["content"] or file["path"] for file in report["data"]]}
    return [
        EvalResult(
            task_type=row.task.replace(" ", "-"),
            task_name=row.entry,
            dataset_type=DATASET_TYPE,
            dataset_name=names,
            dataset_args=content,
            metric_type=row.metric,
            metric_name=f"{row.entry}: {row.metric}",
            metric_value=row.value,
        )
        for row in rows(report)
        if row.value is not None
    ]


def hub_entries(report: Report, dataset_id: str, revision: str | None = None) -> list[Report]:
    """The headline numbers as the content of a file of `.eval_results/`, for a data set on the Hub.

    Args:
        report: of files of that data set.
        dataset_id: `owner/name`.
        revision: commit of the data set.

    Raises:
        ConfigurationError: if the model has seen the events in training.
    """
    dataset = {"id": dataset_id, **({"revision": revision} if revision else {})}
    return [
        {
            "dataset": {**dataset, "task_id": f"{result.task_type}/{result.metric_type}"},
            "value": result.metric_value,
            "date": report["created"],
            "notes": f"{result.task_name}; {report['selection']['text']}; fm4npp {report['fm4npp']}",
        }
        for result in eval_results(report)
    ]
