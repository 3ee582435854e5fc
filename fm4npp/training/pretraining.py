"""Pretraining: unlabelled events to a backbone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor

from fm4npp.configuration import FM4NPPConfig
from fm4npp.data import EventDataset, IndexCache, cached
from fm4npp.files import write_json
from fm4npp.modeling import FM4NPPModel
from fm4npp.processing import FM4NPPProcessor
from fm4npp.training import sharding
from fm4npp.training.config import PretrainConfig
from fm4npp.training.inputs import check_pretraining
from fm4npp.training.loop import Loop, Run
from fm4npp.training.mup import parameterize
from fm4npp.training.records import RUN_NAME, Metrics, Records, describe
from fm4npp.training.resuming import broadcast, identity, opened, processes
from fm4npp.training.sources import Preparing, Sources


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
        exported = copy.deepcopy(model) if group.is_main_process else None
        model = model.to(group.device)
        about = describe("pretrain", config, sources.identity(), model, group)

        def export(weights: Mapping[str, Tensor], record: Metrics) -> None:
            assert exported is not None
            sharding.load_trainable(exported, weights)
            trained = {
                "objective": processor.config.objective.registered_name,
                "backend": about["backend"],
                **record,
                "run": about["config"],
            }
            exported.config = processor.config.updated(training=trained)
            exported.save_pretrained(folder)

        if saved is None and group.is_main_process:
            write_json(folder / RUN_NAME, about)
        prepare = Preparing(processor, targets=True)
        stored = _stored(config, sources, processor)
        run = Run(
            model=model,
            batches=sources.batches(prepare, config.training, group, stored),
            validation=sources.validation,
            prepare=prepare,
            weight=lambda batch: processor.config.objective.count(batch.targets),
            config=config.training,
            folder=folder,
            export=export,
            records=Records(folder, main=group.is_main_process, listeners=[report]),
            identity=identity(config, sources.identity()),
            multipliers=multipliers,
            stored=stored.get(sources.validation) if sources.validation is not None else None,
        )
        return Loop(run, Accelerator()).train(saved)


def _stored(config: PretrainConfig, sources: Sources, processor: FM4NPPProcessor) -> Mapping[EventDataset, IndexCache]:
    """Order and neighbours of the events, if they are kept; computed first if they are not there yet."""
    if config.data.cache is None:
        return {}
    with processes().main_process_first():
        return {dataset: cached(dataset, processor, config.data.cache) for dataset in sources.datasets}
