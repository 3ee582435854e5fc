"""Adaptation: labelled events to a head on a pretrained model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor

from fm4npp.data import EventDataset
from fm4npp.data.features import FeatureStore
from fm4npp.files import write_json
from fm4npp.modeling import FM4NPPModel
from fm4npp.processing import FM4NPPProcessor
from fm4npp.training import sharding
from fm4npp.training.config import AdaptConfig, LoRAConfig
from fm4npp.training.features import build_features, feature_store
from fm4npp.training.inputs import check_adaptation
from fm4npp.training.loop import Loop, Run
from fm4npp.training.lora import inject
from fm4npp.training.records import RUN_NAME, Metrics, Records, describe
from fm4npp.training.resuming import identity, opened, processes
from fm4npp.training.sources import Preparing, Sources, check_labels


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
        resume: continue the run in that folder; if there is none, begin.
        report: called with every record that is logged.

    Returns:
        The record of the best validation.

    Raises:
        ConfigurationError: if the folder holds a run already, or the head cannot be built.
        DataError: if the data lacks a label, or is of a detector that the model does not have.
    """
    folder = Path(output)
    check_adaptation(model_folder, config)
    with opened(folder, resume=resume) as saved:
        group = processes()
        model = FM4NPPModel.from_pretrained(model_folder, device=group.device, backend=config.training.backend)
        base = model.backbone_identity()["sha256"]
        set_seed(config.training.seed)
        labels = frozenset(model.add_head(config.name, config.head).labels.values())
        sources = Sources(config.data)
        for name in sources.detectors:
            model.config.detector(name)
        check_labels(sources, labels)
        _choose_trained(model, config)
        exported = copy.deepcopy(model).cpu() if group.is_main_process else None
        about = describe(
            "adapt", config, sources.identity(), model, group, base={"path": str(model_folder), "sha256": base}
        )

        def export(weights: Mapping[str, Tensor], record: Metrics) -> None:
            assert exported is not None
            sharding.load_trainable(exported, weights)
            if config.tuning == "full":
                exported.save_pretrained(folder)
            else:
                trained = {**record, "backend": about["backend"], "run": about["config"]}
                exported.save_head(config.name, folder, training=trained)

        if saved is None and group.is_main_process:
            write_json(folder / RUN_NAME, about)
        prepare = Preparing(FM4NPPProcessor(model.config), labels=labels)
        stored = _features(model, config, sources)
        run = Run(
            model=model,
            batches=sources.batches(prepare, config.training, group, stored),
            validation=sources.validation,
            prepare=prepare,
            weight=lambda batch: batch.num_events,
            config=config.training,
            folder=folder,
            export=export,
            records=Records(folder, main=group.is_main_process, listeners=[report]),
            identity=identity(config, sources.identity(), backbone=base),
            stored=stored.get(sources.validation) if sources.validation is not None else None,
        )
        return Loop(run, Accelerator()).train(saved)


def _features(model: FM4NPPModel, config: AdaptConfig, sources: Sources) -> Mapping[EventDataset, FeatureStore]:
    """The frozen backbone's outputs, if they are kept; computed first if they are not there yet."""
    data = config.data
    if data.features is None:
        return {}
    options: dict[str, Any] = {"kind": data.features_kind, "dtype": data.features_dtype}
    processor = FM4NPPProcessor(model.config)
    found = {}
    with processes().main_process_first():
        for dataset in sources.datasets:
            store = feature_store(dataset, model, processor, data.features, **options)
            build_features(store, model, processor, tokens_per_batch=config.training.tokens_per_batch)
            found[dataset] = store
    return found


def _choose_trained(model: FM4NPPModel, config: AdaptConfig) -> None:
    """Freeze what is not to be trained; the objective's projection never is, as nothing depends on it."""
    if config.tuning == "frozen":
        model.freeze_backbone()
    elif config.tuning == "lora":
        inject(model, config.lora or LoRAConfig())
    if config.data.features is not None and config.data.features_kind == "mixed":
        model.freeze_layer_mix()
    model.output.requires_grad_(False)
    model.backbone.checkpoint_gradients = config.training.checkpoint_gradients
