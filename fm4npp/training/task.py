"""What pretraining and adaptation differ in, and what they do the same way once it is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from accelerate import Accelerator, PartialState
from torch import Tensor

from fm4npp.data import EventDataset
from fm4npp.files import write_json
from fm4npp.modeling import FM4NPPModel
from fm4npp.training.batches import Stored
from fm4npp.training.config import AdaptConfig, PretrainConfig
from fm4npp.training.loop import Loop, Run
from fm4npp.training.records import RUN_NAME, Metrics, Records, describe
from fm4npp.training.resuming import identity
from fm4npp.training.schedule import RowMultipliers
from fm4npp.training.sources import Preparing, Sources
from fm4npp.training.state import Saved
from fm4npp.training.step import Weight
from fm4npp.training.trackers import tracked

Report = Callable[[Metrics], None]


class Export(Protocol):
    """Writes the weights worth keeping."""

    def __call__(self, weights: Mapping[str, Tensor], record: Metrics, about: Metrics) -> None:
        """Whole tensors by name, the record of the step, and what `run.json` says of the run."""


@dataclass(frozen=True)
class Task:
    """What is trained, and on what.

    Attributes:
        command: "pretrain" or "adapt".
        model: on its device; its trainable parameters are trained.
        prepare: event to arrays.
        weight: what a batch's loss is the mean over.
        export: of the best weights; called on the main process.
        multipliers: parameter -> learning-rate multipliers of its rows.
        stored: events by index -> index to what was computed earlier.
        base: what the model was made from, for `run.json`; part of what a resumed run must have in common.
    """

    command: str
    model: FM4NPPModel
    prepare: Preparing
    weight: Weight
    export: Export
    multipliers: Mapping[str, RowMultipliers] = field(default_factory=dict)
    stored: Mapping[EventDataset, Stored] = field(default_factory=dict)
    base: Mapping[str, str] = field(default_factory=dict)


def compile_parts(model: FM4NPPModel) -> None:
    """Run the embedding and the heads through torch.compile.

    The blocks stay as they are: they depend on the layout of every batch, which would be traced again each time.
    """
    for module in (model.embedding, *model.heads.values()):
        module.compile(dynamic=True)


def perform(
    task: Task,
    config: PretrainConfig | AdaptConfig,
    sources: Sources,
    folder: Path,
    saved: Saved | None,
    group: PartialState,
    report: Report,
) -> Metrics:
    """Train, in a folder that is held.

    Args:
        task: what.
        config: of the run.
        sources: the events.
        folder: of the run.
        saved: the state to go on from, or None.
        group: the processes of the run.
        report: called with every record.

    Returns:
        The record of the best validation.
    """
    if config.training.compile:
        compile_parts(task.model)
    files, main = sources.identity(), group.is_main_process
    base = {"base": dict(task.base)} if task.base else {}
    about = describe(task.command, config, files, task.model, group, **base)
    if saved is None and main:
        write_json(folder / RUN_NAME, about)
    step = saved.step if saved is not None else 0
    settings: dict[str, Any] = {"resume": saved is not None, "step": step, "is_main_process": main}
    with tracked(config.training.trackers, folder, about["config"], **settings) as trackers:
        run = Run(
            model=task.model,
            batches=sources.batches(task.prepare, config.training, group, task.stored),
            validation=sources.validation,
            prepare=task.prepare,
            weight=task.weight,
            config=config.training,
            folder=folder,
            export=lambda weights, record: task.export(weights, record, about),
            records=Records(folder, main=main, listeners=[report, trackers.log]),
            identity=identity(config, files, base=task.base.get("sha256")),
            multipliers=task.multipliers,
            stored=task.stored.get(sources.validation) if sources.validation is not None else None,
        )
        return Loop(run, Accelerator()).train(saved)
