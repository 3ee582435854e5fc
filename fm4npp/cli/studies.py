"""Commands that run grids of runs: study data-efficiency, study scaling."""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fm4npp.cli.app import AsJson, Debug, command, finish, progress, study_app
from fm4npp.cli.models import ConfigOption, Overrides
from fm4npp.errors import ConfigurationError

if TYPE_CHECKING:
    from fm4npp.studies.folder import Plan

OutputOption = Annotated[Path, typer.Option(help="Folder of the study; the same command goes on with it.")]
SeedsOption = Annotated[int, typer.Option(min=1, help="Each has its own events, weights and order.")]
OnlyOption = Annotated[str | None, typer.Option(help="Run these cells, such as seed=0,labels=100 or cell=7.")]
ListOption = Annotated[bool, typer.Option("--list", help="Print the cells with their states and stop.")]


@partial(command, group=study_app)
def data_efficiency(
    model: Annotated[
        list[str], typer.Option(help="Pretrained folder, name or Hub id; given once, or once for each seed.")
    ],
    head: Annotated[str, typer.Option(help="Registered head, such as track-finding.")],
    data: Annotated[list[Path], typer.Option(help="Labelled events file to draw from; may be given several times.")],
    validation: Annotated[list[Path], typer.Option(help="Labelled events that choose the best weights.")],
    test: Annotated[list[Path], typer.Option(help="Labelled events that all heads are judged by.")],
    output: OutputOption,
    overrides: Overrides = None,
    labels: Annotated[str, typer.Option(help="Numbers of labelled events, with commas.")] = "100,300,1000",
    seeds: SeedsOption = 3,
    variants: Annotated[str, typer.Option(help="With commas; the others are compared with the first.")] = (
        "pretrained,random-init,adapter-only,lora"
    ),
    metric: Annotated[str | None, typer.Option(help="Compared by; the task's own by default.")] = None,
    prediction: Annotated[str | None, typer.Option(help="Of a head with several; the first by default.")] = None,
    features: Annotated[
        bool, typer.Option("--features", help="Keep the outputs of frozen backbones on disk: faster.")
    ] = False,
    only: OnlyOption = None,
    list_cells: ListOption = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train a head on few and on many labels, with pretraining and without, and say how many labels that saves.

    Example: fm4npp study data-efficiency --model runs/a --head track-finding --data labelled.parquet
    --validation validation.parquet --test test.parquet --output runs/labels training.steps=500
    """
    from fm4npp.studies.data_efficiency import DataEfficiency, configuration

    plan = DataEfficiency(
        model,
        configuration(head, data, validation, overrides or []),
        test,
        output,
        labels=_numbers("--labels", labels),
        num_seeds=seeds,
        variants=[part.strip() for part in variants.split(",") if part.strip()],
        metric=metric,
        prediction=prediction,
        features=features,
    )
    _perform(plan, only, list_cells, as_json)


@partial(command, group=study_app)
def scaling(
    output: OutputOption,
    overrides: Overrides = None,
    config: ConfigOption = "fm4npp",
    widths: Annotated[str, typer.Option(help="Of the backbone, with commas.")] = "",
    events: Annotated[str, typer.Option(help="Numbers of training events, with commas.")] = "",
    steps: Annotated[str, typer.Option(help="Optimizer steps, with commas.")] = "",
    seeds: SeedsOption = 1,
    probe_data: Annotated[Path | None, typer.Option(help="Labelled events file to probe every model on.")] = None,
    probe_events: Annotated[int, typer.Option(min=2, help="Events of it, the first ones.")] = 300,
    only: OnlyOption = None,
    list_cells: ListOption = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Pretrain over sizes, numbers of events and training lengths, and fit how the loss falls.

    Example: fm4npp study scaling --widths 32,64,128 --steps 200,800 --output runs/scaling
    """
    from fm4npp.cli.probing import HEADLINES
    from fm4npp.studies.scaling import Probing, Scaling
    from fm4npp.training.config import PretrainConfig, parse, read_config

    plan = Scaling(
        parse(PretrainConfig, read_config(config), overrides or [], source=config),
        output,
        widths=_numbers("--widths", widths),
        events=_numbers("--events", events),
        steps=_numbers("--steps", steps),
        num_seeds=seeds,
        probing=Probing(probe_data, probe_events, HEADLINES) if probe_data else None,
    )
    _perform(plan, only, list_cells, as_json)


def _numbers(option: str, text: str) -> list[int]:
    """Counts above 0."""
    try:
        found = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = [0]
    if any(number < 1 for number in found):
        raise ConfigurationError(f"{option} {text}: give whole numbers above 0, with commas")
    return found


def _perform(plan: Plan, only: str | None, list_cells: bool, as_json: bool) -> None:
    from fm4npp.plotting.style import check as check_matplotlib
    from fm4npp.studies.folder import TABLE_NAME, grid_of, state, study
    from fm4npp.studies.grid import selected

    grid = selected(grid_of(plan), plan.axes, only)
    if list_cells:
        states = [{"cell": cell.number, "name": cell.name, "state": state(plan, cell)} for cell in grid]
        width = max(len(cell.name) for cell in grid)
        lines = [f"{row['cell']:4}  {row['name']:{width}}  {row['state']}" for row in states]
        return finish({"cells": states}, as_json, *lines)
    check_matplotlib()
    with progress("cells", len(grid)) as update:
        found = study(plan, only, progress=lambda done, total, what: update(done, what))
    for text in found.get("warnings", ()):
        warnings.warn(text, stacklevel=1)
    finish(found, as_json, *_lines(found), f"{plan.output / TABLE_NAME}: {_state(found)}")


def _state(found: dict[str, Any]) -> str:
    missing = len(found["missing"])
    return f"{missing} cells of the study are missing" if missing else "all cells are finished"


def _lines(found: dict[str, Any]) -> list[str]:
    """The summary of either study; the files have everything."""
    if found["study"] == "scaling":
        return [_fit(fit) for fit in found.get("fits", ())]
    from fm4npp.evaluation.report import number

    entry, metric = found["score"]["entry"], found["score"]["metric"]
    lines = []
    for row in found["summary"]:
        value = row["metrics"][entry][metric]
        spread = "" if value["sd"] is None else f" ± {number(value['sd'])}"
        told = f"{metric} {number(value['mean'])}{spread} ({row['num_seeds']} seeds)"
        lines.append(f"{row['variant']}, {row['labels']:,} labels: {told}")
    return [*lines, *([found["answer"]] if found["answer"] else [])]


def _fit(fit: dict[str, Any]) -> str:
    told = f"{fit['label']}: "
    if fit["b"] is None:
        return told + "; ".join(fit["warnings"])
    numbers = [f"{name} {fit[name]:.4g}" for name in ("floor", "a", "b")]
    interval = fit["intervals"]["b"]
    numbers[2] += "" if interval is None else f" [{interval[0]:.3g}, {interval[1]:.3g}]"
    return told + ", ".join([*numbers, *fit["warnings"]])
