"""Pretraining: unlabelled events to a backbone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path

from accelerate.utils import set_seed
from torch import Tensor

from fm4npp.configuration import FM4NPPConfig
from fm4npp.data import EventDataset, IndexCache, cached
from fm4npp.modeling import FM4NPPModel
from fm4npp.processing import FM4NPPProcessor
from fm4npp.training import sharding
from fm4npp.training.config import PretrainConfig
from fm4npp.training.inputs import check_pretraining
from fm4npp.training.mup import parameterize
from fm4npp.training.records import Metrics
from fm4npp.training.resuming import broadcast, opened, processes
from fm4npp.training.sources import Preparing, Sources
from fm4npp.training.task import Task, perform
from fm4npp.training.trackers import check as check_trackers


def pretrain(
    config: PretrainConfig,
    output: str | Path,
    *,
    resume: bool = False,
    report: Callable[[Metrics], None] = lambda record: None,
) -> Metrics:
    """Train a new model on unlabelled events.

    Args:
        config: model, data and settings.
        output: folder of the run and of the checkpoint with the best weights.
        resume: continue the run in that folder; if there is none, begin.
        report: called with every record that is logged.

    Returns:
        The record of the best validation.

    Raises:
        ConfigurationError: if the folder holds a run already, or the configuration cannot work.
        DataError: if the data cannot be read or is of a detector that the model does not have.
    """
    folder = Path(output)
    check_pretraining(config)
    check_trackers(config.training.trackers)
    sources = Sources(config.data)
    fields = config.model.fields(sources.specifications)
    model_config = FM4NPPConfig.create(**fields)
    for name in sources.detectors:
        model_config.detector(name)
    with opened(folder, resume=resume) as saved:
        group = processes()
        set_seed(config.training.seed)
        if saved is None:
            fitted = FM4NPPProcessor(model_config).fit(sources.fit_events()) if group.is_main_process else None
            processor = broadcast(fitted)
        else:
            processor = FM4NPPProcessor.from_pretrained(folder)
        model = FM4NPPModel(processor.config, backend=config.training.backend)
        multipliers = parameterize(model, fields["backbone"], config.training)
        model.backbone.checkpoint_gradients = config.training.checkpoint_gradients
        objective = processor.config.objective
        task = Task(
            command="pretrain",
            model=model.to(group.device),
            prepare=Preparing(processor, targets=True),
            weight=lambda batch: objective.count(batch.targets),
            export=_Export(copy.deepcopy(model).cpu(), folder),
            multipliers=multipliers,
            stored=_stored(config, sources, processor),
        )
        return perform(task, config, sources, folder, saved, group, report)


class _Export:
    """Writes the model with its fitted constants; a copy of it, as the one that is trained may be in parts."""

    def __init__(self, model: FM4NPPModel, folder: Path) -> None:
        self.model, self.folder, self._config = model, folder, model.config

    def __call__(self, weights: Mapping[str, Tensor], record: Metrics, about: Metrics) -> None:
        sharding.load_trainable(self.model, weights)
        trained = {
            "objective": self._config.objective.registered_name,
            "backend": about["backend"],
            **record,
            "run": about["config"],
            "data": about["data"],  # so that nobody evaluates on it unawares, wherever the run's folder is
        }
        self.model.config = self._config.updated(training=trained)
        self.model.save_pretrained(self.folder)


def _stored(config: PretrainConfig, sources: Sources, processor: FM4NPPProcessor) -> Mapping[EventDataset, IndexCache]:
    """Order and neighbours of the events, if they are kept; computed first if they are not there yet."""
    if config.data.cache is None:
        return {}
    with processes().main_process_first():
        return {dataset: cached(dataset, processor, config.data.cache) for dataset in sources.datasets}
