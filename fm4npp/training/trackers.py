"""A run's curves in TensorBoard, Weights & Biases, MLflow or trackio, by Accelerate's trackers; none by default.

`metrics.jsonl` always holds everything, so a tracker that fails in mid-run is left out with one warning and the
training goes on. A resumed run continues the same run of its trackers, as far as they can.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from accelerate.tracking import GeneralTracker, MLflowTracker, TensorBoardTracker, TrackioTracker, WandBTracker

from fm4npp.errors import ConfigurationError, FM4NPPError, first_line
from fm4npp.files import read_json, write_json
from fm4npp.registry import suggest

PROJECT = "fm4npp"
"""What runs are filed under, but for TensorBoard; WANDB_PROJECT and MLFLOW_EXPERIMENT_NAME take precedence."""
STATE_NAME = "trackers.json"
"""In the folder of the run: how each tracker calls it."""
INSTALL = {
    "tensorboard": "pip install tensorboard",
    "wandb": "pip install wandb",
    "mlflow": "pip install mlflow",
    "trackio": "pip install trackio",
}
"""Tracker, as Accelerate calls it -> how to install it."""
TRACKERS = tuple(INSTALL)
Plain = bool | int | float | str


def check(names: Sequence[str]) -> None:
    """Find out before training whether trackers can be used.

    Args:
        names: trackers of the configuration.

    Raises:
        ConfigurationError: if one is unknown or not installed.
    """
    for name in names:
        if name not in TRACKERS:
            raise ConfigurationError(f"trackers: unknown tracker {name!r}; {suggest(name, TRACKERS)}")
        spec = importlib.util.find_spec(name)
        # Trackers make folders of their own name, which Python takes for empty packages.
        if spec is None or spec.origin is None:
            raise ConfigurationError(f"trackers: {name} is not installed; {INSTALL[name]}, or leave it out")


def flat(values: Mapping[str, Any]) -> dict[str, Plain]:
    """A configuration as dotted names and plain values.

    Args:
        values: nested mappings and lists.

    Returns:
        "training.learning_rate" -> 0.0002; items of a list under their number; None, paths and the like as text.
    """
    found: dict[str, Plain] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{inner}": kept for inner, kept in flat(value).items()}
        elif isinstance(value, list | tuple):
            found |= flat({f"{key}.{place}": item for place, item in enumerate(value)})
        else:
            found[str(key)] = value if isinstance(value, bool | int | float | str) else str(value)
    return found


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """What a tracker can draw of a record: its finite numbers but the step."""
    return {
        name: value
        for name, value in record.items()
        if name != "step" and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


class Trackers:
    """The trackers of a run; on all processes but the first there is nothing to do, and nothing is done.

    Args:
        started: by name.
    """

    def __init__(self, started: Mapping[str, GeneralTracker]) -> None:
        self._started = dict(started)

    @property
    def names(self) -> tuple[str, ...]:
        """Those that are still at work."""
        return tuple(self._started)

    def log(self, record: Mapping[str, Any]) -> None:
        """Draw a record of the training or of a validation.

        Args:
            record: as in `metrics.jsonl`, with its `step`.
        """
        self._each(lambda tracker: tracker.log(numbers(record), step=record["step"]))

    def finish(self) -> None:
        """Close all; without it, what was logged last may be lost. It may be called twice."""
        self._each(lambda tracker: tracker.finish())
        self._started = {}

    def _each(self, act: Callable[[GeneralTracker], None]) -> None:
        for name, tracker in list(self._started.items()):
            try:
                with _quiet():
                    act(tracker)
            except Exception as error:  # whatever somebody else's library and network do, the training goes on
                del self._started[name]
                warnings.warn(
                    f"{name} is left out from here on ({first_line(error)}); metrics.jsonl has everything",
                    stacklevel=3,
                )


def start(
    names: Sequence[str],
    folder: Path,
    configuration: Mapping[str, Any],
    *,
    resume: bool = False,
    step: int = 0,
    is_main_process: bool = True,
) -> Trackers:
    """Begin, or continue, a run of each tracker.

    Args:
        names: trackers of the configuration.
        folder: of the run; its name becomes the name of the run.
        configuration: the resolved configuration.
        resume: continue the run in that folder; a tracker that cannot be started then only warns.
        step: steps done.
        is_main_process: False starts nothing.

    Returns:
        The trackers.

    Raises:
        ConfigurationError: if one is unknown, not installed, or cannot be started.
    """
    check(names)
    started: dict[str, GeneralTracker] = {}
    if not is_main_process or not names:
        return Trackers(started)
    known = _read_state(folder) if resume else {}
    for name in dict.fromkeys(names):
        try:
            with _quiet():
                tracker = _build(name, folder, known.get(name), step)
                tracker.start()
                if name not in known:
                    tracker.store_init_configuration(flat(configuration))
        except Exception as error:
            problem = f"{name} cannot be started ({first_line(error)})"
            if not resume:
                Trackers(started).finish()
                raise ConfigurationError(f"trackers: {problem}; leave it out of the configuration") from error
            warnings.warn(f"{problem}; metrics.jsonl has everything", stacklevel=2)
        else:
            started[name] = tracker
            known[name] = _identifier(name, tracker)
    write_json(folder / STATE_NAME, known)
    return Trackers(started)


@contextlib.contextmanager
def tracked(*arguments: Any, **named: Any) -> Iterator[Trackers]:
    """`start` the trackers of a run, and close them however it ends."""
    started = start(*arguments, **named)
    try:
        yield started
    finally:
        started.finish()


def _build(name: str, folder: Path, identifier: str | None, step: int) -> GeneralTracker:
    """Accelerate's tracker of a new run, or of the one with that identifier."""
    if name == "tensorboard":
        # What was logged after the checkpoint that is continued from is logged again.
        return TensorBoardTracker(name, folder, purge_step=None if identifier is None else step + 1)
    if name == "wandb":
        place = {} if "WANDB_DIR" in os.environ else {"dir": str(folder)}
        again = {} if identifier is None else {"id": identifier, "resume": "allow"}
        return WandBTracker(os.environ.get("WANDB_PROJECT", PROJECT), name=folder.name, **place, **again)
    if name == "mlflow":
        return MLflowTracker(PROJECT, run_id=identifier, run_name=folder.name)
    # trackio finds a run by its name alone.
    unique = f"{folder.name}-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    return TrackioTracker(PROJECT, name=identifier or unique, resume="allow", embed=False)


def _identifier(name: str, tracker: GeneralTracker) -> str:
    """What the run is found again by."""
    if name == "tensorboard":
        return name
    run = tracker.tracker
    return str(run.info.run_id if name == "mlflow" else run.id if name == "wandb" else run.name)


def _read_state(folder: Path) -> dict[str, str]:
    """Tracker -> what it calls the run in that folder; nothing where there is no such file."""
    path = folder / STATE_NAME
    if not path.exists():
        return {}
    try:
        return {str(name): str(identifier) for name, identifier in read_json(path).items()}
    except (FM4NPPError, AttributeError) as error:
        warnings.warn(f"{path}: cannot be read ({first_line(error)}); the trackers begin new runs", stacklevel=3)
        return {}


def _quiet() -> contextlib.redirect_stdout[TextIO]:
    """What trackers print goes beside the output of the command, which may be read by a program."""
    return contextlib.redirect_stdout(sys.stderr)
