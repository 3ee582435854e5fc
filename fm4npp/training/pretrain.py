"""Pretraining: unlabelled events to a backbone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from fm4npp.configuration import FM4NPPConfig
from fm4npp.data import EventDataset
from fm4npp.errors import ConfigurationError
from fm4npp.files import sha256, write_json
from fm4npp.modeling import FM4NPPModel
from fm4npp.processing import FM4NPPProcessor
from fm4npp.training.config import DataConfig, PretrainConfig, Strict
from fm4npp.training.loop import Metrics, Run, processes, train
from fm4npp.training.mup import parameterize

RUN_NAME = "run.json"


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
        resume: continue the run in that folder.
        report: called with every record that is logged.

    Returns:
        The record of the best validation.

    Raises:
        ConfigurationError: if the folder holds a run already, or the configuration cannot work.
        DataError: if the data cannot be read or is of a detector that the model does not have.
    """
    folder = Path(output)
    training, validation = load_data(config.data)
    group = check_folder(folder, resume=resume)
    torch.manual_seed(config.training.seed)
    model_config = FM4NPPConfig.create(**config.model.fields(training.specifications))
    for dataset in (training, validation):
        for name in dataset.detectors if dataset is not None else ():
            model_config.detector(name)
    if resume:
        processor = FM4NPPProcessor.from_pretrained(folder)
    else:
        processor = FM4NPPProcessor(model_config).fit(islice(_shuffled(training), config.data.fit_events))
    model = FM4NPPModel(processor.config, backend=config.training.backend).to(group.device)
    model.backbone.checkpoint_gradients = config.training.checkpoint_gradients
    multipliers = parameterize(model, config.model.fields(training.specifications)["backbone"], config.training)

    def save(record: Metrics) -> None:
        trained = {
            "objective": processor.config.objective.registered_name,
            "backend": model.backend,
            **record,
            "run": config.model_dump(mode="json"),
        }
        model.config = processor.config.updated(training=trained)
        model.save_pretrained(folder)

    if not resume and group.is_main_process:
        save({"step": 0})  # with the fitted constants, so that a run stopped before its first validation resumes
        write_json(folder / RUN_NAME, config.model_dump(mode="json"))
    run = Run(
        model=model,
        processor=processor,
        train=training,
        validation=validation,
        config=config.training,
        folder=folder,
        save=save,
        targets=True,
        fingerprint=fingerprint(config, config.data),
        report=report,
        multipliers=multipliers,
        cache=config.data.cache,
    )
    return train(run, resume=resume)


def load_data(data: DataConfig) -> tuple[EventDataset, EventDataset | None]:
    """The training and the validation events."""
    return EventDataset(data.train), EventDataset(data.validation) if data.validation else None


def check_folder(folder: Path, *, resume: bool) -> PartialState:
    """Refuse to overwrite a finished or a running run.

    Returns:
        The processes of this run; all have looked before one writes.

    Raises:
        ConfigurationError: if the folder holds anything and the run is not resumed.
    """
    group = processes()
    if not resume and folder.exists() and any(folder.iterdir()):
        raise ConfigurationError(f"{folder}: is not empty; use another --output, or --resume the run in it")
    group.wait_for_everyone()
    return group


def fingerprint(config: Strict, data: DataConfig) -> str:
    """Identifies a run by its configuration and the content of its files."""
    content = {str(path): sha256(path) for path in (*data.train, *data.validation)}
    values = config.model_dump(mode="json", exclude={"data": {"cache"}})  # what is kept there changes no result
    text = json.dumps({"config": values, "data": content}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _shuffled(dataset: EventDataset) -> Any:
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
    return (dataset[index] for index in order)
