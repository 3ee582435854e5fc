"""How the pretraining loss, and what probes read from the features, change with size, data and training length."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fm4npp.data import EventDataset
from fm4npp.errors import ConfigurationError
from fm4npp.evaluation.probing import Settings, probe
from fm4npp.files import read_json
from fm4npp.modeling import FM4NPPModel
from fm4npp.plotting.studies import draw_probes, draw_scaling
from fm4npp.readers.events_parquet import files
from fm4npp.studies import power_law, tables
from fm4npp.studies.folder import DATA, PICTURE_NAME, Report, begun, cost
from fm4npp.studies.grid import Axes, Cell
from fm4npp.studies.subsets import check_enough, write_subset
from fm4npp.training import PretrainConfig, pretrain
from fm4npp.training.config import parse
from fm4npp.training.inputs import check_pretraining, data_identity
from fm4npp.training.records import Metrics
from fm4npp.training.resuming import identity, processes
from fm4npp.training.sources import Sources

FLOPS_PER_PARAMETER = 6
"""Floating-point operations of training for each parameter and token, forward and backward (Kaplan et al. 2020,
arXiv:2001.08361, section 2.1): an estimate, which leaves out the scan and the convolutions."""
PROBED = Settings(representations=("mix",), controls=(), depths=("linear",))
PROBE_PICTURE = "study-probes.png"


@dataclass(frozen=True)
class Abscissa:
    """What a loss is drawn and fitted against.

    Attributes:
        axis: that is varied; empty for all of them together.
        quantity: of a cell.
        label: for people.
    """

    axis: str
    quantity: str
    label: str


ABSCISSAE = (
    Abscissa("width", "parameters", "trained parameters"),
    Abscissa("events", "events", "training events"),
    Abscissa("steps", "tokens", "spacepoints trained on"),
    Abscissa("", "flops", "floating-point operations, estimated"),
)


@dataclass(frozen=True)
class Probing:
    """What the features of every model are judged by.

    Attributes:
        path: labelled events file.
        num_events: that are used, the first ones.
        measures: task of `evaluation.probing.TASKS` -> measure that is kept.
    """

    path: Path
    num_events: int
    measures: Mapping[str, str]

    def identity(self) -> Report:
        """What decides the results."""
        content = [file["content"] for file in data_identity(files(self.path))]
        return {"content": content, "num_events": self.num_events}


class Scaling:
    """A study of pretraining runs; see `folder.Plan`.

    Args:
        config: of every run, but for the axes.
        output: folder.
        widths: of the backbone.
        events: numbers of training events.
        steps: optimizer steps.
        num_seeds: each has its own subsets, weights and order.
        probing: of the trained models; None for none.

    Raises:
        ConfigurationError: if no axis is given, or a setting cannot work.
    """

    name = "scaling"
    labelled = True

    def __init__(
        self,
        config: PretrainConfig,
        output: Path,
        *,
        widths: Sequence[int] = (),
        events: Sequence[int] = (),
        steps: Sequence[int] = (),
        num_seeds: int = 1,
        probing: Probing | None = None,
    ) -> None:
        given = {"width": widths, "events": events, "steps": steps}
        if not any(given.values()):
            raise ConfigurationError("nothing to scale: give --widths, --events or --steps")
        if not config.data.validation:
            raise ConfigurationError("data.validation: is needed, the losses are those of the validation events")
        self.config, self.output, self.probing = config, output, probing
        self.axes: Axes = {
            **{axis: tuple(sorted(set(values))) for axis, values in given.items() if values},
            "seed": tuple(range(num_seeds)),
        }

    # ---- what it is

    def settings(self) -> Report:
        """See `Plan`."""
        return identity(self.config, self._sources.identity())

    @cached_property
    def _sources(self) -> Sources:
        return Sources(self.config.data)

    @cached_property
    def _events(self) -> EventDataset:
        return EventDataset(self._sources.paths["train"])

    @property
    def _num_events(self) -> int | None:
        """Of all training files; None if some are on the Hub."""
        identified = self._sources.identity()["train"]
        return sum(file["events"] for file in identified) if all("events" in file for file in identified) else None

    def warnings(self) -> list[str]:
        """What makes cells less comparable than they seem."""
        found = []
        if len(self.axes.get("width", ())) > 1 and self.config.training.parameterization == "standard":
            found.append(
                "all widths have one learning rate in the standard parameterization, which may suit some better than "
                "others; training.parameterization=mup makes it serve all"
            )
        if len(self.axes["seed"]) < 2:
            found.append("one seed: how much losses differ by chance is not known")
        return found

    # ---- cells

    def prepare(self, wanted: Sequence[Cell]) -> None:
        """Check all settings, and write the subsets."""
        check_pretraining(self.config)
        if "events" in self.axes:
            check_enough(self._events, self.axes["events"], "--events")
        for cell in wanted:
            self.cell_config(cell)

    def cell_config(self, cell: Cell) -> PretrainConfig:
        """The settings of one run."""
        values = self.config.model_dump(mode="json")
        values["training"]["seed"] = cell.values["seed"]
        if "width" in cell.values:
            values["model"] |= {"size": None}
            values["model"]["backbone"] = {**values["model"]["backbone"], "width": cell.values["width"]}
        if "steps" in cell.values:
            values["training"]["steps"] = cell.values["steps"]
        if "events" in cell.values:
            count, seed = cell.values["events"], cell.values["seed"]
            values["data"]["train"] = write_subset(self._events, count, seed, self.output / DATA)
        return parse(PretrainConfig, values, source=cell.name)

    def is_finished(self, cell: Cell) -> bool:
        """See `Plan`; a run that is to be probed and was not, or on other events, is not finished."""
        if not cell.report.is_file() or self.probing is None:
            return cell.report.is_file()
        return bool(read_json(cell.report).get("probed_on") == self._probed_on)

    @cached_property
    def _probed_on(self) -> Report | None:
        return None if self.probing is None else self.probing.identity()

    def perform(self, cell: Cell, report: Callable[[Metrics], None]) -> Report:
        """Pretrain, and probe if that is asked for."""
        best = pretrain(self.cell_config(cell), cell.folder, resume=begun(cell.folder), report=report)
        spent = cost(cell.folder)
        return {
            "cell": dict(cell.values),
            "validation_loss": best["validation_loss"],
            "best_step": best["step"],
            **spent,
            "events": cell.values.get("events", self._num_events),
            "events_seen": spent["events"],
            "flops": FLOPS_PER_PARAMETER * spent["parameters"] * spent["tokens"],
            "probes": self._probe(cell.folder),
            "probed_on": self._probed_on,
        }

    def _probe(self, folder: Path) -> list[Report]:
        """Task, probe, measure and its value."""
        if self.probing is None:
            return []
        events = EventDataset([self.probing.path])
        chosen = events.__getitems__(range(min(self.probing.num_events, len(events))))
        backend = self.config.training.backend
        model = FM4NPPModel.from_pretrained(folder, device=processes().device, backend=backend)
        settings = replace(PROBED, tokens_per_batch=self.config.training.tokens_per_batch)
        found = probe(model, chosen, (), settings)
        measures = self.probing.measures
        return [
            {"task": row["task"], "probe": row["probe"], "measure": measures[row["task"]], "value": value}
            for row in found["scores"]
            if (value := row[measures[row["task"]]]) is not None
        ]

    # ---- results

    def results(self, finished: Sequence[tuple[Cell, Report]]) -> Report:
        """See `Plan`."""
        rows = [{"name": cell.name, **report} for cell, report in finished]
        fits = [found for abscissa in ABSCISSAE if (found := fitted(rows, abscissa, self.axes)) is not None]
        return {"warnings": self.warnings(), "cells": rows, "fits": fits}

    def table(self, found: Report) -> str:
        """See `Plan`."""
        return tables.scaling(found)

    def draw(self, found: Report) -> list[Path]:
        """See `Plan`."""
        if not found["fits"]:
            return []
        pictures = [draw_scaling(found, self.output / PICTURE_NAME)]
        if any(row["probes"] for row in found["cells"]):
            pictures.append(draw_probes(found, self.output / PROBE_PICTURE))
        return pictures


def fitted(rows: Sequence[Report], abscissa: Abscissa, axes: Axes) -> Report | None:
    """The power law along one axis, the others at their largest; or along the frontier of the estimated operations.

    Args:
        rows: finished cells.
        abscissa: what the loss is fitted against.
        axes: of the grid.

    Returns:
        The fit, its cells' names and their values; None if there are no two different ones.
    """
    if abscissa.axis not in (*axes, ""):
        return None
    known = [row for row in rows if row["validation_loss"] is not None]
    chosen = _along(known, abscissa.axis, axes) if abscissa.axis else frontier(known)
    x = np.array([row[abscissa.quantity] for row in chosen], dtype=float)
    if abscissa.axis == "steps":  # seeds see a few tokens more or less in as many steps
        steps = [row["cell"]["steps"] for row in chosen]
        x = np.array([np.mean(x[np.equal(steps, step)]) for step in steps])
    if len(np.unique(x)) < 2:
        return None
    losses = np.array([row["validation_loss"] for row in chosen])
    return {
        **asdict(abscissa),
        "cells": [row["name"] for row in chosen],
        "x": x.tolist(),
        "losses": losses.tolist(),
        "held": _held(abscissa.axis, axes),
        **asdict(power_law.fit(x, losses)),
    }


def _along(rows: Sequence[Report], axis: str, axes: Axes) -> list[Report]:
    held = _held(axis, axes)
    return [row for row in rows if all(row["cell"][name] == value for name, value in held.items())]


def _held(axis: str, axes: Axes) -> dict[str, int]:
    """What the other axes are held at."""
    if not axis:
        return {}
    return {name: max(values) for name, values in axes.items() if name not in (axis, "seed")}


def frontier(rows: Sequence[Report]) -> list[Report]:
    """The cells of those combinations of axes that no cheaper one matches in mean loss over seeds."""
    groups: dict[tuple[Any, ...], list[Report]] = {}
    for row in rows:
        groups.setdefault(tuple(value for name, value in row["cell"].items() if name != "seed"), []).append(row)
    ordered = sorted(groups.values(), key=lambda own: float(np.mean([row["flops"] for row in own])))
    found: list[Report] = []
    lowest = float("inf")
    for own in ordered:
        loss = float(np.mean([row["validation_loss"] for row in own]))
        if loss < lowest:
            lowest, flops = loss, float(np.mean([row["flops"] for row in own]))
            found += [{**row, "flops": flops} for row in own]
    return found
