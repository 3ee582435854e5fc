"""Adaptation: labelled events to a head on a frozen backbone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from fm4npp.data import EventDataset
from fm4npp.files import write_json
from fm4npp.modeling import FM4NPPModel
from fm4npp.processing import FM4NPPProcessor
from fm4npp.training.config import AdaptConfig
from fm4npp.training.loop import Metrics, Run, train
from fm4npp.training.pretrain import RUN_NAME, check_folder, fingerprint, load_data


def adapt(
    model_folder: str | Path,
    config: AdaptConfig,
    output: str | Path,
    *,
    resume: bool = False,
    report: Callable[[Metrics], None] = lambda record: None,
) -> Metrics:
    """Train a head on a pretrained model.

    Args:
        model_folder: checkpoint, or the id of a Hub repository.
        config: head, data and settings.
        output: folder of the run and of the head with the best weights; of the whole model if the backbone is
            trained too.
        resume: continue the run in that folder.
        report: called with every record that is logged.

    Returns:
        The record of the best validation.

    Raises:
        ConfigurationError: if the folder holds a run already, or the head cannot be built.
        DataError: if the data lacks a label, or is of a detector that the model does not have.
    """
    folder = Path(output)
    training, validation = load_data(config.data)
    group = check_folder(folder, resume=resume)
    processor = FM4NPPProcessor.from_pretrained(model_folder)
    model = FM4NPPModel.from_pretrained(model_folder, device=group.device, backend=config.training.backend)
    torch.manual_seed(config.training.seed)
    model.add_head(config.name, config.head)
    model.backbone.checkpoint_gradients = config.training.checkpoint_gradients
    if config.freeze_backbone:
        model.freeze_backbone()
    for dataset in (training, validation):
        _check_labels(dataset, model, processor)

    def save(record: Metrics) -> None:
        trained = {**record, "backend": model.backend, "run": config.model_dump(mode="json")}
        if config.freeze_backbone:
            model.save_head(config.name, folder, training=trained)
        else:
            model.save_pretrained(folder)

    if not resume and group.is_main_process:
        write_json(folder / RUN_NAME, config.model_dump(mode="json"))
    run = Run(
        model=model,
        processor=processor,
        train=training,
        validation=validation,
        config=config.training,
        folder=folder,
        save=save,
        targets=False,
        fingerprint=fingerprint(config, config.data) + model.backbone_identity()["sha256"] * config.freeze_backbone,
        report=report,
    )
    return train(run, resume=resume)


def _check_labels(dataset: EventDataset | None, model: FM4NPPModel, processor: FM4NPPProcessor) -> None:
    """Find a missing label or an unknown detector before the first step."""
    if dataset is not None:
        model.require_labels(processor([dataset[0]], targets=False))
        for name in dataset.detectors:
            processor.config.detector(name)
