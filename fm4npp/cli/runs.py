"""The command runs: what was trained below a folder, and how it went."""

from __future__ import annotations

import warnings
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from fm4npp.cli.app import AsJson, Debug, command, finish, out

if TYPE_CHECKING:
    from fm4npp.inspection.runs import TrainingRun

STYLES = {"running": "cyan", "finished": "green", "failed": "red", "killed": "red", "stopped": "yellow"}
WORDS = ("run", "what", "status", "started")
"""Columns on the left; the others are numbers."""
SPARED = ("skipped", "started", "events", "events/s", "time", "what")
"""Columns that a narrow terminal goes without, in this order."""
WIDEST = 10_000
"""Characters: more than any table has."""
DAY = 24 * 3600


@command
def runs(
    folder: Annotated[Path, typer.Argument(help="A run's --output, or a folder of runs at any depth.")],
    plot: Annotated[Path | None, typer.Option(help="Picture of the curves to write: .png, .pdf or .svg.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List runs with their losses, and plot their curves.

    Example: fm4npp runs runs --plot curves.png
    """
    from fm4npp.inspection.runs import find_runs

    found = find_runs(folder)
    for problem in (problem for run in found for problem in run.problems):
        warnings.warn(problem, stacklevel=2)
    missing = _print_table([_cells(run, folder) for run in found])
    lines = [f"(in a wider terminal, a pipe or --json also: {', '.join(missing)})"] if missing else []
    lines += [f"{_name(run, folder)}: {run.message}" for run in found if run.status == "failed" and run.message]
    if plot is not None:
        from fm4npp.plotting.curves import draw_curves

        lines.append(f"picture: {draw_curves(_curves(found, folder), plot)}")
    finish({"runs": [_summary(run) for run in found]}, as_json, *lines)


def _print_table(rows: list[dict[str, str]]) -> tuple[str, ...]:
    """Print the rows.

    Returns:
        The columns for which there was no room.
    """
    for count in range(len(SPARED) + 1):
        table = Table(box=None, pad_edge=False)
        names = [name for name in rows[0] if name not in SPARED[:count]]
        for name in names:
            table.add_column(name, justify="left" if name in WORDS else "right", overflow="fold")
        for row in rows:
            table.add_row(*(row[name] for name in names))
        if out.measure(table, options=out.options.update(max_width=WIDEST)).maximum <= out.width:
            break
    out.print(table)
    return SPARED[:count]


def _cells(run: TrainingRun, root: Path) -> dict[str, str]:
    """The row of a run; empty where nothing is known."""
    records = run.records
    return {
        "run": escape(_name(run, root)),
        "what": escape(run.what),
        "status": f"[{STYLES.get(run.status, 'dim')}]{run.status}[/]",
        "step": "" if run.step is None else f"{run.step:,}" + (f"/{run.steps:,}" if run.steps else ""),
        "best validation": f"{records.best[1]:.5g} at {records.best[0]:,}" if records.best else "",
        "training": f"{records.training[-1][1]:.5g}" if records.training else "",
        "events": "" if records.events is None else f"{'~' * records.estimated}{records.events:,}",
        "time": _duration(records.seconds),
        "events/s": "" if records.events_per_second is None else f"{records.events_per_second:,.1f}",
        "skipped": "" if records.skipped is None else f"{records.skipped:,}",
        "started": f"{run.started:%Y-%m-%d %H:%M}",
    }


def _duration(seconds: float | None) -> str:
    """Hours, minutes and seconds; days before them."""
    if seconds is None:
        return ""
    days, rest = divmod(round(seconds), DAY)
    return f"{days} d " * bool(days) + str(timedelta(seconds=rest))


def _name(run: TrainingRun, root: Path) -> str:
    """The folder below the one that was asked for; that one's own name if it is the run."""
    relative = run.folder.relative_to(root)
    return str(relative) if relative.parts else root.resolve().name


def _curves(found: list[TrainingRun], root: Path) -> list[Any]:
    from fm4npp.plotting.curves import Curve

    return [
        Curve(
            name=_name(run, root),
            loss=f"{run.command or 'run'}: {run.loss or 'loss'}",
            training=run.records.training,
            validation=run.records.validation,
            learning_rate=run.records.learning_rate,
        )
        for run in found
    ]


def _summary(run: TrainingRun) -> dict[str, Any]:
    records = run.records
    best = records.best or (None, None)
    return {
        "folder": str(run.folder),
        "command": run.command,
        "what": run.what,
        "loss": run.loss,
        "status": run.status,
        "message": run.message,
        "step": run.step,
        "steps": run.steps,
        "best_validation_loss": best[1],
        "best_step": best[0],
        "training_loss": records.training[-1][1] if records.training else None,
        "events": records.events,
        "events_estimated": records.estimated,
        "seconds": records.seconds,
        "events_per_second": records.events_per_second,
        "tokens_per_second": records.tokens_per_second,
        "skipped": records.skipped,
        "started": run.started.isoformat(),
        "problems": list(run.problems),
    }
