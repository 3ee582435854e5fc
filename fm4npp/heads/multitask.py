"""Several classifications of spacepoints that share everything but their last layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Self

from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor, nn

from fm4npp.batch import EventBatch, HiddenStates
from fm4npp.event import PARTICLE_CLASSES, Event
from fm4npp.heads.attention import feed_forward
from fm4npp.heads.base import Head, HeadContext, HeadInputs
from fm4npp.heads.classes import ClassesConfig, balanced, check_weights, class_predictions, entropies
from fm4npp.heads.encoder import EncoderConfig, attended
from fm4npp.heads.labels import class_label, mean_over_events


class TaskConfig(ClassesConfig):
    """One of the classifications.

    Attributes:
        weight: of its loss in the sum.
    """

    weight: PositiveFloat = 1.0


DEFAULT_TASKS = (
    TaskConfig(label="particle_class", num_classes=len(PARTICLE_CLASSES), class_names=PARTICLE_CLASSES),
    TaskConfig(label="is_noise", num_classes=2, class_names=("signal", "noise")),
)


class MultitaskConfig(EncoderConfig):
    """Tasks and shared sizes.

    Attributes:
        tasks: classifications of different labels; by default particle identification and noise tagging.
    """

    tasks: Annotated[tuple[TaskConfig, ...], Field(min_length=1)] = DEFAULT_TASKS

    @model_validator(mode="after")
    def _different(self) -> Self:
        if len({task.label for task in self.tasks}) < len(self.tasks):
            raise ValueError("tasks: every label once")
        return self

    def fit(self, events: Iterable[Event]) -> Self:
        """Balanced weights as numbers."""
        wanted = {task.label: task.num_classes for task in self.tasks if task.class_weights == "balanced"}
        if not wanted:
            return self
        weights = balanced(events, wanted)
        tasks = tuple(
            task.model_copy(update={"class_weights": weights.get(task.label, task.class_weights)})
            for task in self.tasks
        )
        return self.model_copy(update={"tasks": tasks})


class Multitask(Head):
    """Point classifiers that share inputs and attention, each with a network of its own (paper appendix C.3)."""

    registered_name = "multitask"
    Config = MultitaskConfig
    config: MultitaskConfig

    def __init__(self, config: MultitaskConfig, context: HeadContext) -> None:
        super().__init__()
        self.config = config
        self.labels = {task.label: task.label for task in config.tasks}
        self.num_classes = {task.label: task.num_classes for task in config.tasks}
        self.weights = [check_weights(task.class_weights) for task in config.tasks]
        self.inputs = HeadInputs(config.inputs, context, config.width)
        self.layers = config.layers()
        self.norm = nn.RMSNorm(config.width, eps=1e-5)
        self.classifiers = nn.ModuleList(
            feed_forward(config.width, config.width, task.num_classes) for task in config.tasks
        )

    def forward(self, hidden: HiddenStates, batch: EventBatch) -> dict[str, Tensor]:
        """Block outputs to (T, C) logits under each label's name."""
        points = attended(self.inputs(hidden, batch), batch.offsets, self.layers)
        shared = self.norm(points.to(self.norm.weight.dtype))
        return {
            task.label: classifier(shared) for task, classifier in zip(self.config.tasks, self.classifiers, strict=True)
        }

    def loss(self, outputs: Mapping[str, Tensor], batch: EventBatch) -> dict[str, Tensor]:
        """The weighted loss of each task under its label's name, see `PointClassifier.loss`."""
        losses = {}
        for task, weights in zip(self.config.tasks, self.weights, strict=True):
            label = class_label(batch, task.label, task.num_classes)
            entropy = entropies(outputs[task.label], label, weights)
            losses[task.label] = task.weight * mean_over_events(entropy, label >= 0, batch.offsets)
        return losses

    def predict(self, outputs: Mapping[str, Tensor], batch: EventBatch) -> dict[str, Tensor]:
        """Classes and probabilities of each task, see `PointClassifier.predict`."""
        found: dict[str, Tensor] = {}
        for task in self.config.tasks:
            found |= class_predictions(task.label, outputs[task.label])
        return found
