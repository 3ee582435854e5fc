"""The losses and rates of a run, from its `metrics.jsonl`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]
Series = tuple[tuple[int, float], ...]
"""Steps and values."""


@dataclass(frozen=True)
class Records:
    """What a run has logged; None where it has not.

    Attributes:
        training: step, loss of the training batches.
        validation: step, loss of the validation events.
        learning_rate: step, learning rate.
        step: last step logged.
        best: step and loss of the best validation.
        events: seen in all; an estimate if not every step was logged.
        estimated: whether `events` is one.
        seconds: of training.
        events_per_second: of the last record.
        tokens_per_second: of the last record.
        skipped: steps skipped, because a loss or a gradient was not finite.
    """

    training: Series = ()
    validation: Series = ()
    learning_rate: Series = ()
    step: int | None = None
    best: tuple[int, float] | None = None
    events: int | None = None
    estimated: bool = False
    seconds: float | None = None
    events_per_second: float | None = None
    tokens_per_second: float | None = None
    skipped: int | None = None


def read_records(path: Path, problems: list[str]) -> Records:
    """The records in a file of one JSON object a line.

    Args:
        path: the file; one that is not there yet holds nothing.
        problems: what cannot be read is added, one line for the file; all other lines count.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return Records()
    except OSError as error:
        problems.append(f"{path}: cannot be read ({error.strerror or error})")
        return Records()
    parsed = [_parsed(line) for line in lines]
    bad = [number for number, (line, record) in enumerate(zip(lines, parsed, strict=True), 1) if line and not record]
    if bad:
        cut = "; the last one is cut short, as by a kill" if bad[-1] == len(lines) else ""
        place = f"line {bad[0]} is no record" if len(bad) == 1 else f"{len(bad)} lines are no records, first {bad[0]}"
        problems.append(f"{path}: {place}{cut}; left out")
    return _summary(_one_history([record for record in parsed if record]))


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The record in a line; None if it is damaged."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def _one_history(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the steps that a resumed run has done again: those from the step on that comes a second time."""
    kept: list[dict[str, Any]] = []
    for record in records:
        while kept and (kept[-1]["step"], _kind(kept[-1])) >= (record["step"], _kind(record)):
            kept.pop()
        kept.append(record)
    return kept


def _kind(record: Record) -> int:
    """Validation comes after the training of its step."""
    return int("validation_loss" in record)


def _summary(records: list[dict[str, Any]]) -> Records:
    training = [record for record in records if not _kind(record)]
    last = training[-1] if training else {}
    validation = _series(records, "validation_loss")
    events, estimated = _events(training)
    return Records(
        training=_series(training, "loss"),
        validation=validation,
        learning_rate=_series(training, "learning_rate"),
        step=records[-1]["step"] if records else None,
        best=min(validation, key=lambda point: point[1], default=None),
        events=events,
        estimated=estimated,
        seconds=_number(last.get("seconds_elapsed")),
        events_per_second=_number(last.get("events_per_second")),
        tokens_per_second=_number(last.get("tokens_per_second")),
        skipped=None if (skipped := _number(last.get("skipped"))) is None else int(skipped),
    )


def _events(training: list[dict[str, Any]]) -> tuple[int | None, bool]:
    """Events seen and whether that is an estimate: a record stands for the steps since the one before."""
    total, estimated, before = 0.0, False, 0
    for record in training:
        events = _number(record.get("events"))
        if events is None:
            return None, False
        steps, before = record["step"] - before, record["step"]
        total += events * steps
        estimated |= steps > 1
    return (round(total), estimated) if training else (None, False)


def _series(records: list[dict[str, Any]], key: str) -> Series:
    """The finite values of a key."""
    found = ((record["step"], _number(record.get(key))) for record in records)
    return tuple((step, value) for step, value in found if value is not None)


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
