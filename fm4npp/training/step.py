"""One optimizer step: over as many batches and processes as it takes, and not at all if it would do harm."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from fm4npp.batch import EventBatch
from fm4npp.configuration import FM4NPPConfig
from fm4npp.training import sharding
from fm4npp.training.batches import Batch

COUNTS = ("#events", "#tokens")
Weight = Callable[[EventBatch], float]


@dataclass(frozen=True)
class Outcome:
    """What became of a step; the same on every process.

    Attributes:
        losses: "loss", the parts it is the sum of, and "loss/<detector>"; not finite if one of a batch is not.
        gradient_norm: before clipping.
        taken: whether the weights were changed: not if the loss or the norm is not finite.
        events: trained on, on all processes.
        tokens: of these.
        stop: a signal that some process received, or 0.
    """

    losses: Mapping[str, float]
    gradient_norm: float
    taken: bool
    events: int
    tokens: int
    stop: int


class Step:
    """Takes optimizer steps.

    Args:
        accelerator: device and processes.
        model: as Accelerate prepared it.
        optimizer: of its trainable parameters.
        config: of the model, without the wrappers of parallel training.
        weight: what the mean over batches and processes is weighted by.
        clip_norm: gradients are scaled down to this norm.
        precision: "fp32" or "bf16", of the matrix products.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        config: FM4NPPConfig,
        weight: Weight,
        clip_norm: float,
        precision: str,
    ) -> None:
        self.accelerator, self.model, self.optimizer = accelerator, model, optimizer
        self.config, self.weight = config, weight
        self.clip_norm, self._precision = clip_norm, precision

    def __call__(self, batches: Sequence[Batch], stop: int = 0) -> Outcome:
        """Take one step.

        Args:
            batches: of this process; all processes have as many.
            stop: a signal that this process received, or 0.
        """
        self.optimizer.zero_grad()
        sums, stopping = self.total(self._backward(batches), stop)
        norm = sharding.clip_gradients(self.model, self.clip_norm)
        taken = math.isfinite(sums["loss"]) and math.isfinite(norm)
        if taken:
            self.optimizer.step()
        self.optimizer.zero_grad()
        events, tokens = (int(sums.pop(name)) for name in COUNTS)
        return Outcome(_means(sums), norm, taken, events, tokens, stopping)

    def _backward(self, batches: Sequence[Batch]) -> dict[str, float]:
        """Leave the gradients of the step's loss in the parameters; what this process adds to every sum.

        The loss is the mean over all the step's events or targets, whatever batch and process they are in.
        """
        weights = [self.weight(batch.events) * batch.counts for batch in batches]
        total = max(self.total({"weight": float(sum(weights))})[0]["weight"], 1.0)
        sums: dict[str, Any] = dict.fromkeys(COUNTS, 0)
        for number, (batch, weight) in enumerate(zip(batches, weights, strict=True), 1):
            events = batch.events.to(self.accelerator.device)
            with sharding.no_sync(self.model, number < len(batches)):  # exchanged with the last batch of the step
                with self.precision():
                    output = self.model(**events)
                # Processes take the mean of their gradients.
                self.accelerator.backward(output.loss * (self.accelerator.num_processes * weight / total))
            _add(sums, {"loss": output.loss, **(output.losses if len(output.losses) > 1 else {})}, weight / total)
            counts = {"#events": events.num_events, "#tokens": events.num_tokens}
            _add(sums, {**counts, **losses_by_detector(self.config, output.predictions, events)}, batch.counts)
        return {name: float(value) for name, value in sums.items()}

    def precision(self) -> torch.autocast:
        """Autocast as configured; Accelerate's own is one setting for a Python process, which may hold several runs."""
        return torch.autocast(self.accelerator.device.type, torch.bfloat16, enabled=self._precision == "bf16")

    def total(self, values: Mapping[str, float], stop: int = 0) -> tuple[dict[str, float], int]:
        """The sum of every value over the processes, and the largest `stop`."""
        if self.accelerator.num_processes == 1:
            return dict(values), stop
        own = torch.tensor([[*values.values(), stop]], dtype=torch.float64, device=self.accelerator.device)
        everyone = self.accelerator.gather(own)
        return dict(zip(values, everyone[:, :-1].sum(0).tolist(), strict=True)), int(everyone[:, -1].max())


def _add(sums: dict[str, Any], values: Mapping[str, Any], weight: float) -> None:
    for name, value in values.items():
        number = value.detach().double() if isinstance(value, Tensor) else value
        sums[name] = sums.get(name, 0) + number * weight


def _means(sums: Mapping[str, float]) -> dict[str, float]:
    """The sums that have a count beside them, "#name", divided by it; those of nothing left out."""
    counted = {
        name: value / sums[f"#{name}"] if sums.get(f"#{name}") else value
        for name, value in sums.items()
        if not name.startswith("#")
    }
    return {name: value for name, value in counted.items() if sums.get(f"#{name}", 1)}


@torch.no_grad()
def losses_by_detector(config: FM4NPPConfig, predictions: Mapping[str, Any], batch: EventBatch) -> dict[str, Any]:
    """The objective's loss on the spacepoints of each detector, if there are several and the batch has targets.

    Returns:
        "loss/<detector>" -> loss times what it is the mean over, see `Objective.count`, and "#loss/<detector>" -> that.
    """
    if len(config.detectors) < 2 or not batch.targets:
        return {}
    slots = list(config.subsystems)
    found: dict[str, Any] = {}
    for detector in config.detectors:
        own = torch.tensor(
            [slots.index(name) for name in detector.subsystem_features], device=batch.detector_ids.device
        )
        chosen = torch.isin(batch.detector_ids, own)
        targets = {name: values[chosen] for name, values in batch.targets.items()}
        count = config.objective.count(targets)
        loss = config.objective.loss(predictions["objective"][chosen], targets)
        found |= {f"loss/{detector.name}": loss * count, f"#loss/{detector.name}": count}
    return found
