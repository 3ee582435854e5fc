"""What every command shares: one-line errors, progress on a terminal, a machine-readable last line."""

from __future__ import annotations

import functools
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fm4npp import __version__
from fm4npp.cli.interrupts import MESSAGE, STATUS
from fm4npp.errors import FM4NPPError

app = typer.Typer(
    name="fm4npp",
    help="Foundation models for nuclear and particle physics, on any detector of sparse spacepoints.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

AsJson = Annotated[bool, typer.Option("--json", help="Print a machine-readable last line.")]
MaxRejected = Annotated[
    float, typer.Option(min=0, max=1, help="Share of events, and of spacepoints, that may be rejected.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]

# In a pipe nothing is wrapped: one line an entry.
out = Console(soft_wrap=True, highlight=False, width=None if sys.stdout.isatty() else 1000)
is_main_process = os.environ.get("RANK", "0") == "0"
"""Of several processes that train together, one speaks."""
err = Console(stderr=True, soft_wrap=True, highlight=False)


def _version(value: bool) -> None:
    if value:
        out.print(f"fm4npp {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


data_app = typer.Typer(name="data", help="Data sets on the Hugging Face Hub.", no_args_is_help=True)
app.add_typer(data_app)

study_app = typer.Typer(name="study", help="Grids of runs that answer one question.", no_args_is_help=True)
app.add_typer(study_app)


def command(function: Callable[..., None], group: typer.Typer = app) -> Callable[..., None]:
    """Register a command whose errors are one line on stderr and a non-zero exit status."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            with _one_line_warnings():
                function(*args, **kwargs)
        except FM4NPPError as error:
            if kwargs.get("debug"):
                raise
            err.print(f"[red]error:[/] {escape(str(error))}")
            raise typer.Exit(getattr(error, "status", 1)) from None
        except KeyboardInterrupt:
            err.print(f"[red]error:[/] {MESSAGE}")
            raise typer.Exit(STATUS) from None
        except BrokenPipeError:
            # The reader of our output left; keep the interpreter from complaining about it at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None

    name = function.__name__.removesuffix("_command").replace("_", "-")
    group.command(name)(run)
    return run


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    def show(message: Warning | str, *details: Any, **named: Any) -> None:
        err.print(f"[yellow]warning:[/] {escape(' '.join(str(message).split()))}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """A bar on a terminal, nothing in a pipe.

    Args:
        what: shown before the bar.
        total: expected count, if it is known.

    Yields:
        A function of the count so far, and of a text to show beside it.
    """
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=err,
        disable=not (err.is_terminal and is_main_process),
    )
    with bar:
        task = bar.add_task(what, total=total, note="", rate="")
        first: list[tuple[int, float]] = []  # what is resumed begins with what was done before

        def update(count: int, note: str = "") -> None:
            elapsed = bar.tasks[0].elapsed or 0.0
            first.append((count, elapsed))
            del first[1:]
            done, seconds = count - first[0][0], elapsed - first[0][1]
            rate = f"{done / seconds:,.1f}/s" if seconds > 0 else ""
            bar.update(task, completed=count, rate=rate, note=note or bar.tasks[0].fields["note"])

        yield update


def finish(summary: dict[str, Any], as_json: bool, *lines: str) -> None:
    """Say what was done: lines for people, and with `--json` one last line for machines."""
    if not is_main_process:
        return
    for line in lines:
        out.print(escape(line))
    if as_json:
        sys.stdout.write(json.dumps(summary, ensure_ascii=False) + "\n")
        sys.stdout.flush()
