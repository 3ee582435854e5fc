"""The training loop that pretraining and adaptation share."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from torch import Tensor

from fm4npp.batch import EventBatch
from fm4npp.data import EventDataset, IndexCache, cached, loader, token_budget_batches
from fm4npp.errors import CheckpointError, DataError, FM4NPPError
from fm4npp.modeling import FM4NPPModel
from fm4npp.processing import FM4NPPProcessor, collate
from fm4npp.training.checkpoint import load_state, save_state
from fm4npp.training.config import TrainingConfig
from fm4npp.training.schedule import RowAdamW, RowMultipliers, learning_rate_factor, parameter_groups

METRICS_NAME = "metrics.jsonl"
Metrics = dict[str, Any]


class Interrupted(FM4NPPError):
    """The run was asked to stop; its state is saved."""

    def __init__(self, signal_number: int, step: int) -> None:
        super().__init__(f"stopped after step {step}; the run is saved, continue it with --resume")
        self.status = 128 + signal_number


@dataclass
class Run:
    """Everything a run needs.

    Attributes:
        model: its trainable parameters are trained.
        processor: fitted.
        train: events to train on.
        validation: events that choose the best weights, or None.
        config: the loop's settings.
        folder: where everything is written.
        save: writes the weights worth keeping, given the record of the step.
        targets: True trains on the objective, False on the heads' labels.
        fingerprint: identifies the run; a saved state of another one is not resumed.
        report: called with every record that is logged.
        multipliers: parameter -> learning-rate multipliers of its rows; 1 where it is not named.
        cache: folder of the `IndexCache`s of both sets, or None.
    """

    model: FM4NPPModel
    processor: FM4NPPProcessor
    train: EventDataset
    validation: EventDataset | None
    config: TrainingConfig
    folder: Path
    save: Callable[[Metrics], None]
    targets: bool
    fingerprint: str
    report: Callable[[Metrics], None] = field(default=lambda record: None)
    multipliers: Mapping[str, RowMultipliers] = field(default_factory=dict)
    cache: Path | None = None

    @cached_property
    def stored(self) -> Mapping[EventDataset, IndexCache]:
        """Order and neighbours of the events, if they are kept; computed first if they are not there yet."""
        if self.cache is None:
            return {}
        sets = [dataset for dataset in (self.train, self.validation) if dataset is not None]
        with processes().main_process_first():
            return {data: cached(data, self.processor, self.cache) for data in sets}


def processes() -> PartialState:
    """The processes of this run, joined into one group if a launcher started several.

    Accelerate joins processes without an accelerator only when it is told that there is none; left alone, each would
    train a model of its own and write it to the same place.
    """
    return PartialState(cpu=not torch.accelerator.is_available())


def train(run: Run, *, resume: bool = False) -> Metrics:
    """Train, validate, keep the best weights and the state to continue from.

    Args:
        run: what to train.
        resume: continue from the state saved in `run.folder`.

    Returns:
        The record of the best validation, or of the last step if there is no validation set.

    Raises:
        Interrupted: after SIGINT or SIGTERM, once the state is saved.
        FM4NPPError: if the data holds no spacepoints or the loss is not finite; saved weights are kept.
    """
    _check_data(run)
    processes()
    accelerator = Accelerator()
    groups = parameter_groups(run.model, run.config.weight_decay, run.multipliers)
    optimizer = RowAdamW(groups, lr=run.config.learning_rate, betas=run.config.betas)
    state: Metrics = {"step": 0, "events": 0, "tokens": 0, "seconds": 0.0, "best": None}
    if resume:
        state = _restore(run, accelerator, optimizer)
    elif accelerator.is_main_process:
        run.folder.mkdir(parents=True, exist_ok=True)
        (run.folder / METRICS_NAME).write_text("", encoding="utf-8")
    model, optimizer = accelerator.prepare(run.model, optimizer)
    with _stop_signals() as stopping:
        _steps(run, accelerator, model, optimizer, state, stopping)
    best: Metrics = state["best"]
    return best


def _steps(
    run: Run,
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Metrics,
    stopping: list[int],
) -> None:
    config = run.config
    started = time.perf_counter() - state["seconds"]
    model.train()
    for batch in _batches(run, accelerator, state["step"]):
        if state["step"] >= config.steps:
            break
        record = _step(run, accelerator, model, optimizer, batch.to(accelerator.device), state["step"])
        state["step"] += 1
        state["events"] += record["events"] * accelerator.num_processes
        state["tokens"] += record["tokens"] * accelerator.num_processes
        state["seconds"] = time.perf_counter() - started
        last = state["step"] == config.steps
        if last or state["step"] % config.log_every == 0:
            _log(run, accelerator, {"step": state["step"], **record, **_rates(state)})
        if last or state["step"] % config.validate_every == 0:
            _validate(run, accelerator, model, state, record)
        if last or stopping or state["step"] % config.save_every == 0:
            _save(run, accelerator, optimizer, state)
        if stopping:
            raise Interrupted(stopping[0], state["step"])


def _step(
    run: Run,
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: EventBatch,
    step: int,
) -> Metrics:
    """One optimizer step; the record of its losses."""
    factor = learning_rate_factor(step, run.config.steps, run.config.warmup_steps, run.config.final_learning_rate)
    for group in optimizer.param_groups:
        group["lr"] = run.config.learning_rate * factor * group["multiplier"]
    with _precision(run, accelerator):
        output = model(**batch)
    loss: Tensor = output.loss
    if not torch.isfinite(loss):
        raise FM4NPPError(f"step {step + 1}: the loss is {loss.item()}; lower training.learning_rate")
    optimizer.zero_grad()
    accelerator.backward(loss)
    norm = accelerator.clip_grad_norm_(model.parameters(), run.config.clip_norm)
    optimizer.step()
    parts = {name: value.item() for name, value in output.losses.items()} if len(output.losses) > 1 else {}
    return {
        "loss": loss.item(),
        **parts,
        "learning_rate": run.config.learning_rate * factor,
        "gradient_norm": float(norm) if norm is not None else math.nan,
        "events": batch.num_events,
        "tokens": batch.num_tokens,
    }


def _precision(run: Run, accelerator: Accelerator) -> torch.autocast:
    """Autocast as configured; Accelerate's own is one setting for a Python process, which may hold several runs."""
    return torch.autocast(accelerator.device.type, torch.bfloat16, enabled=run.config.precision == "bf16")


def _batches(run: Run, accelerator: Accelerator, done: int) -> Iterator[EventBatch]:
    """Endless packed batches of this process; the order depends on seed and epoch alone, so `done` can be skipped."""
    epoch = 0
    while True:
        seed = (run.config.seed, epoch)
        batches = token_budget_batches(run.train.lengths, run.config.tokens_per_batch, seed=seed)
        count = max(len(batches) // accelerator.num_processes, 1)
        own = [batches[i % len(batches)] for i in range(accelerator.process_index, count * accelerator.num_processes)]
        own = own[:: accelerator.num_processes]
        if done < len(own):
            yield from _load(run, run.train, own[done:])
        done = max(done - len(own), 0)
        epoch += 1


def _load(run: Run, dataset: EventDataset, batches: list[list[int]]) -> Iterator[EventBatch]:
    def prepare(event: Any, **stored: Any) -> Any:
        return run.processor.prepare(event, targets=run.targets, **stored)

    options: dict[str, Any] = {"num_workers": run.config.num_workers, "stored": run.stored.get(dataset)}
    for batch in loader(dataset, batches, prepare, collate, **options):
        if not run.targets:
            run.model.require_labels(batch)
        yield batch


def _validate(run: Run, accelerator: Accelerator, model: torch.nn.Module, state: Metrics, record: Metrics) -> None:
    """Validate; if it is the best so far, or there is nothing to validate on, keep the weights."""
    found: Metrics = {"step": state["step"], "training_loss": record["loss"]}
    if run.validation is not None:
        found["validation_loss"] = validation_loss(run, accelerator, model)
        _log(run, accelerator, found)
    best = state["best"]
    if best is None or run.validation is None or found["validation_loss"] < best["validation_loss"]:
        state["best"] = found
        if accelerator.is_main_process:
            run.save({**found, **_rates(state), **{key: state[key] for key in ("events", "tokens", "seconds")}})


@torch.no_grad()
def validation_loss(run: Run, accelerator: Accelerator, model: torch.nn.Module) -> float:
    """Mean loss over the validation events: of the objective over spacepoints, of heads over events."""
    assert run.validation is not None
    model.eval()
    batches = token_budget_batches(run.validation.lengths, run.config.tokens_per_batch)
    total = torch.zeros(2, dtype=torch.float64)
    for batch in _load(run, run.validation, batches[accelerator.process_index :: accelerator.num_processes]):
        with _precision(run, accelerator):
            loss = model(**batch.to(accelerator.device)).loss
        weight = batch.num_tokens if run.targets else batch.num_events
        total += torch.tensor([float(loss) * weight, weight], dtype=torch.float64)
    summed = accelerator.reduce(total.to(accelerator.device), reduction="sum")
    model.train()
    value = float(summed[0] / summed[1])
    if not math.isfinite(value):
        raise FM4NPPError(f"the validation loss is {value}; lower training.learning_rate")
    return value


def _save(run: Run, accelerator: Accelerator, optimizer: torch.optim.Optimizer, state: Metrics) -> None:
    if accelerator.is_main_process:
        trained = {name: p.detach() for name, p in run.model.named_parameters() if p.requires_grad}
        save_state(
            run.folder,
            {
                **state,
                "fingerprint": run.fingerprint,
                "weights": trained,
                "optimizer": optimizer.state_dict(),
                "random": torch.get_rng_state(),
                "num_processes": accelerator.num_processes,
            },
        )


def _restore(run: Run, accelerator: Accelerator, optimizer: torch.optim.Optimizer) -> Metrics:
    state = load_state(run.folder)
    if state["num_processes"] != accelerator.num_processes:
        raise CheckpointError(
            f"{run.folder}: is a run of {state['num_processes']} processes, not {accelerator.num_processes}; "
            "resume it with as many"
        )
    if state["fingerprint"] != run.fingerprint:
        raise CheckpointError(f"{run.folder}: holds another run (configuration or data differ); use another --output")
    own = {name: p for name, p in run.model.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state["weights"][name])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"])
    return {key: state[key] for key in ("step", "events", "tokens", "seconds", "best")}


def _rates(state: Metrics) -> Metrics:
    seconds = max(state["seconds"], 1e-9)
    return {
        "events_per_second": round(state["events"] / seconds, 2),
        "tokens_per_second": round(state["tokens"] / seconds, 1),
        "seconds_elapsed": round(seconds, 3),
    }


def _log(run: Run, accelerator: Accelerator, record: Metrics) -> None:
    if accelerator.is_main_process:
        with (run.folder / METRICS_NAME).open("a", encoding="utf-8") as handle:
            handle.write(json.dumps(record) + "\n")
        run.report(record)


def _check_data(run: Run) -> None:
    for name, dataset in (("training", run.train), ("validation", run.validation)):
        if dataset is not None and not int(dataset.lengths.sum()):
            raise DataError(f"the {name} events hold no spacepoints", file=", ".join(map(str, dataset.paths)))


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect the first SIGINT or SIGTERM so that the step can be finished; a second one acts at once."""
    received: list[int] = []
    previous: dict[int, Any] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, previous[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            previous[number] = signal.signal(number, handle)
        except ValueError:  # not the main thread: the caller handles signals
            break
    try:
        yield received
    finally:
        for caught, handler in previous.items():
            signal.signal(caught, handler)
