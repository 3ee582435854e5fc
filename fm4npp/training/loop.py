"""The training loop that pretraining and adaptation share."""

from __future__ import annotations

import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from fm4npp.data import EventDataset
from fm4npp.errors import FM4NPPError, first_line
from fm4npp.modeling import FM4NPPModel
from fm4npp.training import sharding
from fm4npp.training.average import WeightAverage
from fm4npp.training.batches import Batch, Batches, Prepare, Stored
from fm4npp.training.config import TrainingConfig
from fm4npp.training.guards import Interrupted, is_killed_worker, let_go, stop_signals
from fm4npp.training.randomness import random_state, restore_random_state
from fm4npp.training.records import Metrics, Records, write_status
from fm4npp.training.resuming import check_same, check_threads
from fm4npp.training.schedule import RowAdamW, RowMultipliers, learning_rate_factor, parameter_groups
from fm4npp.training.state import Saved, write
from fm4npp.training.step import Outcome, Step, Weight
from fm4npp.training.validation import validation_losses

SHOWN = 5
"""Events that a message names."""


@dataclass
class Run:
    """Everything a run needs.

    Attributes:
        model: its trainable parameters are trained.
        batches: what every step is trained on, on this process.
        validation: events that choose the best weights, or None.
        prepare: event to arrays.
        weight: what a batch's loss is the mean over, so that batches can be averaged as if they were one.
        config: the loop's settings.
        folder: where everything is written.
        export: writes the weights worth keeping: name -> whole tensor, and the record of the step.
        records: of the run.
        identity: what decides the result; a saved state of anything else is not resumed.
        multipliers: parameter -> learning-rate multipliers of its rows; 1 where it is not named.
        stored: index of a validation event to what was computed earlier, or None.
    """

    model: FM4NPPModel
    batches: Batches
    validation: EventDataset | None
    prepare: Prepare
    weight: Weight
    config: TrainingConfig
    folder: Path
    export: Callable[[Mapping[str, Tensor], Metrics], None]
    records: Records
    identity: Metrics
    multipliers: Mapping[str, RowMultipliers] = field(default_factory=dict)
    stored: Stored | None = None


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: optimizer steps done, skipped ones included.
        events: trained on, on all processes.
        tokens: of these.
        seconds: spent training, before an interruption too.
        skipped: steps that changed nothing, because the loss or a gradient was not finite.
        skipped_in_row: of these, the last ones, without a good one since.
        best: record of the best validation.
        stale: validations since then.
        done: whether nothing is left to do.
    """

    step: int = 0
    events: int = 0
    tokens: int = 0
    seconds: float = 0.0
    skipped: int = 0
    skipped_in_row: int = 0
    best: Metrics | None = None
    stale: int = 0
    done: bool = False


class Loop:
    """One run: steps, validations and checkpoints until it is done or asked to stop.

    Args:
        run: what to train.
        accelerator: device and processes.
    """

    def __init__(self, run: Run, accelerator: Accelerator) -> None:
        self.run, self.config, self.accelerator = run, run.config, accelerator
        groups = parameter_groups(run.model, run.config.weight_decay, run.multipliers)
        optimizer = RowAdamW(groups, lr=run.config.learning_rate, betas=run.config.betas)
        sharded = sharding.sharding_asked(run.config.sharded)
        self.model, self.optimizer = sharding.prepare(accelerator, run.model, optimizer, sharded=sharded)
        self.step = Step(
            accelerator,
            self.model,
            self.optimizer,
            config=run.model.config,
            weight=run.weight,
            clip_norm=run.config.clip_norm,
            precision=run.config.precision,
        )
        self.average = WeightAverage(run.model, run.config.ema) if run.config.ema else None
        self.progress = Progress()
        self._last_event = ""

    def train(self, saved: Saved | None = None) -> Metrics:
        """Train from the beginning, or from a saved state.

        Returns:
            The record of the best validation, or of the last step if there is no validation set.

        Raises:
            Interrupted: after a signal to stop, once the state is saved.
            FM4NPPError: if too many steps in a row are not finite, or the untrained model cannot be validated.
        """
        if saved is not None:
            self._restore(saved)  # before the status of a run that turns out to be another is touched
        with self._told(), stop_signals() as received:
            if saved is None:
                self._begin()
            self._steps(received)
        return self.progress.best or {}

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Keep `status.json` up to date, whatever happens."""
        self._status("running")
        try:
            yield
        except BaseException as error:
            told = self._in_our_words(error)
            if not isinstance(told, Interrupted):
                with suppress(FM4NPPError):  # on a full disk: what happened first is what is told
                    self._status("failed", first_line(told))
            if told is error:
                raise
            let_go(error)
            raise told from error
        self._status("finished")

    def _in_our_words(self, error: BaseException) -> BaseException:
        """A second Ctrl-C, and what torch says when a loader's worker dies; any other error as it is."""
        if isinstance(error, KeyboardInterrupt):
            return self._cut_off()
        if not (self.config.num_workers and is_killed_worker(error)):
            return error
        read = f"after {self._last_event}" if self._last_event else "before its first event was used"
        return FM4NPPError(
            f"a process that prepares events was killed (out of memory?) {read}; give the machine more memory or lower "
            "training.num_workers, and continue with --resume"
        )

    def _cut_off(self) -> Interrupted:
        interrupted = Interrupted(signal.SIGINT, self.progress.step, saved=False)
        with suppress(FM4NPPError):
            self._status("stopped", str(interrupted))
        return interrupted

    def _status(self, status: str, message: str = "") -> None:
        if self.accelerator.is_main_process:
            write_status(self.run.folder, status, self.progress.step, self.config.steps, message)

    def _begin(self) -> None:
        """Validate and save before the first step: what cannot be validated or saved is found now."""
        self.run.records.cut(0)
        self._validate(None)
        self._save()

    def _steps(self, received: list[int]) -> None:
        config, progress = self.config, self.progress
        before, started, waiting = progress.seconds, time.perf_counter(), 0.0
        self.model.train()
        batches = iter(self.run.batches)
        while not progress.done:
            asked = time.perf_counter()
            given = next(batches)
            waiting += time.perf_counter() - asked
            self._last_event = given[-1].names[-1]
            outcome, record = self._step(given, received[0] if received else 0)
            spent = time.perf_counter() - started
            progress.seconds = before + spent
            progress.done = progress.step >= config.steps
            if progress.done or progress.step % config.log_every == 0:
                self.run.records.add({**record, **self._rates(), "wait_share": round(waiting / spent, 4)})
            if progress.done or progress.step % config.validate_every == 0:
                self._validate(record["loss"])
            # Several processes agree in the next step on what one of them has heard since.
            stop = outcome.stop or (received[0] if received and self.accelerator.num_processes == 1 else 0)
            if progress.done or stop or progress.step % config.save_every == 0:
                self._save()
            if stop and not progress.done:
                self._stop(Interrupted(stop, progress.step))

    def _stop(self, interrupted: Interrupted) -> None:
        """Say so before any process ends: a launcher then ends the others at once."""
        self._status("stopped", str(interrupted))
        self.accelerator.wait_for_everyone()
        raise interrupted

    # ---- steps

    def _step(self, batches: list[Batch], stop: int) -> tuple[Outcome, Metrics]:
        config, progress = self.config, self.progress
        factor = learning_rate_factor(progress.step, config.steps, config.warmup_steps, config.final_learning_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * factor * group["multiplier"]
        outcome = self.step(batches, stop)
        progress.step += 1
        progress.events += outcome.events
        progress.tokens += outcome.tokens
        if outcome.taken:
            progress.skipped_in_row = 0
            if self.average is not None:
                self.average.update()
        else:
            self._skipped(outcome, batches)
        record = {
            "step": progress.step,
            "epoch": round(self.run.batches.epoch, 4),
            **{name: _json(value) for name, value in outcome.losses.items()},
            "learning_rate": config.learning_rate * factor,
            "gradient_norm": _json(outcome.gradient_norm),
            "skipped": progress.skipped,
            "events": outcome.events,
            "tokens": outcome.tokens,
        }
        return outcome, record

    def _skipped(self, outcome: Outcome, batches: list[Batch]) -> None:
        """Count a step that was not taken; stop if there are too many in a row.

        Raises:
            FM4NPPError: naming the events.
        """
        progress = self.progress
        progress.skipped += 1
        progress.skipped_in_row += 1
        if progress.skipped_in_row < self.config.skip_limit:
            return
        names = gather_object([name for batch in batches if batch.counts for name in batch.names])
        shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
        raise FM4NPPError(
            f"step {progress.step}: the loss is {outcome.losses['loss']:g} and the norm of the gradients "
            f"{outcome.gradient_norm:g}: {progress.skipped_in_row} steps in a row were skipped because they were not "
            f"finite; lower training.learning_rate, or look at the events of the last one: {shown}; the checkpoints "
            "are kept"
        )

    def _rates(self) -> Metrics:
        seconds = max(self.progress.seconds, 1e-9)
        return {
            "events_per_second": round(self.progress.events / seconds, 2),
            "tokens_per_second": round(self.progress.tokens / seconds, 1),
            "seconds_elapsed": round(self.progress.seconds, 3),
        }

    # ---- validation

    def _validate(self, training_loss: float | None) -> None:
        """Validate; if it is the best so far, or there is nothing to validate on, keep the weights."""
        progress = self.progress
        found: Metrics = {"step": progress.step, "training_loss": training_loss}
        with self._averaged():
            if self.run.validation is not None:
                found |= {name: _json(value) for name, value in self._validation_losses(self.run.validation).items()}
                self.run.records.add(found)
                self._check_validation(found)
            if self._is_best(found):
                progress.best, progress.stale = found, 0
                self._export(found)
            else:
                progress.stale += 1
        if self.config.patience is not None and progress.stale >= self.config.patience:
            progress.done = True

    def _validation_losses(self, dataset: EventDataset) -> dict[str, float]:
        config = self.config
        return validation_losses(
            self.step,
            dataset,
            self.run.prepare,
            tokens=config.tokens_per_batch,
            num_workers=config.num_workers,
            stored=self.run.stored,
        )

    def _check_validation(self, found: Metrics) -> None:
        if found["validation_loss"] is None:
            if not self.progress.step:
                raise FM4NPPError("the validation loss of the untrained model is not finite; look at data.validation")
            warnings.warn(
                f"step {found['step']}: the validation loss is not finite; these weights are not kept", stacklevel=3
            )

    def _is_best(self, found: Metrics) -> bool:
        best = self.progress.best
        if self.run.validation is None or best is None:
            return True
        return found["validation_loss"] is not None and found["validation_loss"] < best["validation_loss"]

    def _averaged(self) -> AbstractContextManager[None]:
        """What is validated and kept: the average of the weights, if there is one."""
        return self.average.applied() if self.average is not None else nullcontext()

    def _export(self, found: Metrics) -> None:
        main = self.accelerator.is_main_process
        weights = sharding.trainable(self.model, keep=main)
        if main:
            counts = {name: getattr(self.progress, name) for name in ("events", "tokens", "skipped")}
            self.run.export(weights, {**found, **counts, **self._rates()})

    # ---- state

    def _save(self) -> None:
        """Write a checkpoint to resume from; every process takes part, the main one writes."""
        main = self.accelerator.is_main_process
        everyone = gather_object([{"position": self.run.batches.state_dict(), "random": random_state()}])
        tensors = {
            "model": sharding.trainable(self.model, keep=main),
            "optimizer": sharding.optimizer_state(self.optimizer, self.model, keep=main),
        }
        if self.average is not None:
            tensors["average"] = {name: sharding.full(value) for name, value in self.average.weights.items()}
        if not main:
            return
        values = {
            "progress": asdict(self.progress),
            "processes": everyone,
            "identity": self.run.identity,
            "records": self.run.records.num_bytes,
            "threads": torch.get_num_threads(),
            "average": self.average.updates if self.average is not None else None,
        }
        write(self.run.folder, self.progress.step, tensors, {"run": values}, keep=self.config.keep_checkpoints)
        self._status("running")

    def _restore(self, saved: Saved) -> None:
        values = saved.values["run"]
        check_same(values["identity"], self.run.identity, self.run.folder)
        check_threads(values["threads"])
        self.progress = Progress(**values["progress"])
        own = values["processes"][self.accelerator.process_index]
        sharding.load_trainable(self.model, saved.tensors["model"])
        sharding.load_optimizer(self.optimizer, self.model, saved.tensors["optimizer"])
        if self.average is not None:
            for name, average in self.average.weights.items():
                sharding.fill(average, saved.tensors["average"][name])
            self.average.updates = values["average"]
        self.run.batches.load_state_dict(own["position"])
        restore_random_state(own["random"])
        self.run.records.cut(values["records"])


def _json(value: float) -> float | None:
    """A number as JSON has it: there are none that are not finite."""
    return value if math.isfinite(value) else None
