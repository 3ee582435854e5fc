"""Adaptation: labelled events to a head on a pretrained model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed
from torch import Tensor

from fm4npp import heads
from fm4npp.configuration import typed
from fm4npp.data import EventDataset
from fm4npp.data.features import FeatureStore
from fm4npp.modeling import FM4NPPModel
from fm4npp.processing import FM4NPPProcessor
from fm4npp.training import sharding
from fm4npp.training.config import AdaptConfig, LoRAConfig
from fm4npp.training.features import build_features, feature_store
from fm4npp.training.inputs import check_adaptation
from fm4npp.training.lora import inject
from fm4npp.training.records import Metrics
from fm4npp.training.resuming import opened, processes
from fm4npp.training.sources import Preparing, Sources, check_labels
from fm4npp.training.task import Task, perform
from fm4npp.training.trackers import check as check_trackers


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
    check_trackers(config.training.trackers)
    with opened(folder, resume=resume) as saved:
        group = processes()
        model = FM4NPPModel.from_pretrained(model_folder, device=group.device, backend=config.training.backend)
        base = model.backbone_identity()["sha256"]
        set_seed(config.training.seed)
        sources = Sources(config.data)
        for name in sources.detectors:
            model.config.detector(name)
        labels = _add_head(model, config, sources)
        _choose_trained(model, config)
        if config.tuning == "full":
            _freeze_unread(model, sources)
        task = Task(
            command="adapt",
            model=model,
            prepare=Preparing(FM4NPPProcessor(model.config), labels=labels),
            weight=lambda batch: batch.num_events,
            export=_Export(copy.deepcopy(model).cpu(), config, folder),
            stored=_features(model, config, sources),
            base={"path": str(model_folder), "sha256": base},
        )
        return perform(task, config, sources, folder, saved, group, report)


class _Export:
    """Writes the head, or the whole model if its backbone is trained too; a copy, as in pretraining."""

    def __init__(self, model: FM4NPPModel, config: AdaptConfig, folder: Path) -> None:
        self.model, self.config, self.folder = model, config, folder
        self._base = model.config

    def __call__(self, weights: Mapping[str, Tensor], record: Metrics, about: Metrics) -> None:
        sharding.load_trainable(self.model, weights)
        # The data too, so that nobody evaluates on it unawares, wherever the run's folder is.
        trained = {**record, "backend": about["backend"], "run": about["config"], "data": about["data"]}
        if self.config.tuning == "full":
            adapted = {**self._base.training.get("adapted", {}), self.config.name: trained}
            self.model.config = self._base.updated(training={**self._base.training, "adapted": adapted})
            self.model.save_pretrained(self.folder)
        else:
            self.model.save_head(self.config.name, self.folder, training=trained)


def _add_head(model: FM4NPPModel, config: AdaptConfig, sources: Sources) -> frozenset[str]:
    """Attach the head, with what it takes from the training events; the labels it is trained with."""
    name, settings = typed(heads.registry, config.head)
    fitted = settings.fit(sources.fit_events())
    labels = model.add_head(config.name, {"type": name, **fitted.model_dump(mode="json")}).needed
    check_labels(sources, labels)
    return labels


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


def _freeze_unread(model: FM4NPPModel, sources: Sources) -> None:
    """Freeze what the head's loss does not depend on, such as the objective's projection.

    Weight decay would change it, and processes would wait for its gradient.
    """
    event = next(event for event in sources.fit_events() if len(event))
    batch = FM4NPPProcessor(model.config)([event], targets=False)
    sharding.freeze_unread(model, model(**batch.to(model.device)).loss)


def _choose_trained(model: FM4NPPModel, config: AdaptConfig) -> None:
    """Freeze what is not to be trained."""
    if config.tuning == "frozen":
        model.freeze_backbone()
    elif config.tuning == "lora":
        inject(model, config.lora or LoRAConfig())
    if config.data.features is not None and config.data.features_kind == "mixed":
        model.freeze_layer_mix()
    model.backbone.checkpoint_gradients = config.training.checkpoint_gradients
