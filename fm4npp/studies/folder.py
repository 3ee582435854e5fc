"""A study's folder: which study it holds, running its cells, and gathering what they found.

Whatever stops a study, the same command goes on with it: what is finished is not done again, a run that was stopped
goes on from its last checkpoint. Cells may be run by several processes, each with its own `--only`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock

from fm4npp import __version__
from fm4npp.errors import CheckpointError, ConfigurationError, DataError, FM4NPPError
from fm4npp.files import atomic_path, read_json, write_json
from fm4npp.studies.grid import Axes, Cell, cells, selected
from fm4npp.training.guards import LOCK_NAME, Interrupted
from fm4npp.training.records import Metrics
from fm4npp.training.resuming import differences, processes
from fm4npp.training.state import newest

FORMAT = 1
STUDY_NAME, TABLE_NAME, PICTURE_NAME = "study.json", "study.md", "study.png"
RUNS, DATA, BACKBONES, FEATURES = "runs", "data", "backbones", "features"
STUDY_LOCK = ".study.lock"
Report = dict[str, Any]
Progress = Callable[[int, int, str], None]
"""Called with the number of finished cells, of all that are asked for, and what is done now."""


class Stopped(FM4NPPError):
    """A cell was asked to stop; the same command goes on."""

    def __init__(self, cell: str, interrupted: Interrupted) -> None:
        told = str(interrupted).partition(";")[0]
        super().__init__(f"{cell}: {told}; give the same command again to go on with the study")
        self.status = interrupted.status


class Plan(Protocol):
    """What the studies differ in.

    Attributes:
        name: of the kind of study.
        output: its folder.
        axes: name -> values.
        labelled: see `grid.cells`.
    """

    name: str
    output: Path
    axes: Axes
    labelled: bool

    def settings(self) -> Report:
        """All that decides the results but the axes, as JSON."""

    def prepare(self, wanted: Sequence[Cell]) -> None:
        """Write what the cells need and is not there yet."""

    def is_finished(self, cell: Cell) -> bool:
        """Whether nothing is left to do of it."""

    def perform(self, cell: Cell, report: Callable[[Metrics], None]) -> Report:
        """Run a cell, or go on with it; what it found."""

    def results(self, finished: Sequence[tuple[Cell, Report]]) -> Report:
        """What the finished cells say together."""

    def table(self, found: Report) -> str:
        """The results as Markdown."""

    def draw(self, found: Report) -> list[Path]:
        """Write the pictures."""


def grid_of(plan: Plan) -> list[Cell]:
    """All cells of a study."""
    return cells(plan.axes, plan.output / RUNS, labelled=plan.labelled)


def study(plan: Plan, only: str | None = None, progress: Progress = lambda done, total, what: None) -> Report:
    """Run the cells of a study that are not finished, and gather what all finished ones found.

    Args:
        plan: of the study.
        only: which cells, see `grid.selected`; by default all.
        progress: see `Progress`.

    Returns:
        What `study.json` holds.

    Raises:
        Stopped: after Ctrl-C or a signal of the scheduler; all is kept.
        ConfigurationError: if the folder holds another study, or a cell cannot work.
        FM4NPPError: after everything else is done, if a cell failed.
    """
    if processes().num_processes > 1:
        raise ConfigurationError("a study is run by one process; give each process its own cells with --only")
    grid = grid_of(plan)
    wanted = selected(grid, plan.axes, only)
    with _held(plan.output):
        about = _about(plan)
        check_same_study(plan.output, about)
        if not (plan.output / STUDY_NAME).exists():
            write_json(plan.output / STUDY_NAME, about)
        plan.prepare([cell for cell in wanted if not plan.is_finished(cell)])
    problems = _run(plan, wanted, progress)
    found = _gathered(plan, grid, about)
    if problems:
        raise FM4NPPError(f"{len(problems)} of {len(wanted)} cells are not finished, the first: {problems[0]}")
    return found


def state(plan: Plan, cell: Cell) -> str:
    """Finished, or how far a cell is, see `Cell.state`."""
    return "finished" if plan.is_finished(cell) else cell.state()


def check_same_study(folder: Path, about: Report) -> None:
    """Refuse a folder that holds another study, or one whose grid would shrink.

    Args:
        folder: of the study.
        about: `study`, `settings` and `axes` of this one.

    Raises:
        ConfigurationError: naming what differs.
    """
    path = folder / STUDY_NAME
    if not path.exists():
        if any(file.name not in (STUDY_LOCK, LOCK_NAME) for file in folder.iterdir()):
            raise ConfigurationError(f"{folder}: is not empty and holds no study; use another --output")
        return
    saved = read_json(path, ConfigurationError)
    if not isinstance(saved, dict) or not {"study", "settings", "axes"} <= set(saved):
        raise ConfigurationError(f"{path}: is no study; use another --output")
    found = list(
        differences({"study": saved["study"], **saved["settings"]}, {"study": about["study"], **about["settings"]})
    )
    if found:
        more = f" and {len(found) - 4} more" if len(found) > 4 else ""
        raise ConfigurationError(
            f"{folder}: holds another study ({'; '.join(found[:4])}{more}); give its own settings, data and model, or "
            "another --output"
        )
    _check_axes(folder, saved["axes"], about["axes"])


def _check_axes(folder: Path, saved: Mapping[str, Sequence[Any]], own: Mapping[str, Sequence[Any]]) -> None:
    """A grid may grow, but what was asked for stays: a result is not left out because it is not liked."""
    if set(saved) != set(own):
        raise ConfigurationError(f"{folder}: is a study of {', '.join(saved)}, not of {', '.join(own)}")
    for axis, values in saved.items():
        lost = [str(value) for value in values if value not in own[axis]]
        if lost:
            raise ConfigurationError(f"{folder}: the study has {axis} {', '.join(lost)} too; name them again")


def _about(plan: Plan) -> Report:
    axes = {name: list(values) for name, values in plan.axes.items()}
    return {
        "format": FORMAT,
        "fm4npp": __version__,
        "study": plan.name,
        "settings": plan.settings(),
        "axes": axes,
        "complete": False,
        "missing": [cell.name for cell in grid_of(plan)],
    }


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Wait until no other process prepares or gathers."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / STUDY_LOCK)
        lock.acquire()
    except OSError as error:
        raise FM4NPPError(f"{folder}: cannot be written ({error.strerror or error})") from error
    try:
        yield
    finally:
        lock.release()


def _run(plan: Plan, wanted: Sequence[Cell], progress: Progress) -> list[str]:
    """Run what is not finished; why cells could not be, while others can."""
    problems: list[str] = []
    for done, cell in enumerate(wanted):
        progress(done, len(wanted), cell.name)
        if plan.is_finished(cell):
            continue
        if cell.is_held:
            problems.append(f"{cell.folder}: another process is at work on it")
            continue
        try:
            write_json(cell.report, plan.perform(cell, _noted(progress, done, len(wanted), cell)))
        except Interrupted as error:
            raise Stopped(cell.name, error) from error
        except (ConfigurationError, DataError, CheckpointError):
            raise  # the others would end in the same way
        except FM4NPPError as error:
            warnings.warn(f"{cell.folder}: failed ({error}); the study goes on without it", stacklevel=3)
            problems.append(f"{cell.folder}: {error}")
    progress(len(wanted), len(wanted), "")
    return problems


def _noted(progress: Progress, done: int, total: int, cell: Cell) -> Callable[[Metrics], None]:
    return lambda record: progress(done, total, f"{cell.name} step {record['step']}")


def begun(folder: Path) -> bool:
    """Whether a run's folder holds anything, so that it is to be resumed."""
    return folder.is_dir() and any(path.name != LOCK_NAME for path in folder.iterdir())


def cost(folder: Path) -> Report:
    """Steps, events, tokens and seconds of a whole run, and its number of trained parameters.

    Raises:
        CheckpointError: if the folder holds no run that is whole.
    """
    saved = newest(folder)
    if saved is None:
        raise CheckpointError(f"{folder}: holds no checkpoint; remove it, and give the same command again")
    progress = saved.values["run"]["progress"]
    counts = {name: progress[name] for name in ("events", "tokens", "seconds", "skipped")}
    parameters = read_json(folder / "run.json", CheckpointError)["parameters"]["trained"]
    return {"steps": progress["step"], **counts, "parameters": parameters}


def _gathered(plan: Plan, grid: Sequence[Cell], about: Report) -> Report:
    """Write what all finished cells say: JSON, table and pictures."""
    with _held(plan.output):
        finished = [(cell, read_json(cell.report)) for cell in grid if plan.is_finished(cell)]
        missing = [cell.name for cell in grid if not plan.is_finished(cell)]
        found = {**about, "complete": not missing, "missing": missing}
        if finished:
            found |= plan.results(finished)
        write_json(plan.output / STUDY_NAME, found)
        if finished:
            with atomic_path(plan.output / TABLE_NAME) as temporary:
                temporary.write_text(plan.table(found), encoding="utf-8")
            plan.draw(found)
    return found
