"""What pretraining is worth in labels: one head on several backbones, trained on nested sets of labelled events."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

from fm4npp import heads
from fm4npp.configuration import CONFIG_NAME, typed
from fm4npp.data import EventDataset
from fm4npp.errors import ConfigurationError, DataError
from fm4npp.evaluation import evaluate, hygiene
from fm4npp.evaluation.report import assemble
from fm4npp.evaluation.representations import random_models
from fm4npp.metrics import TrackSelection
from fm4npp.modeling import FM4NPPModel
from fm4npp.plotting.studies import draw_data_efficiency
from fm4npp.processing import FM4NPPProcessor
from fm4npp.studies import label_ratio, scores, tables
from fm4npp.studies.folder import BACKBONES, DATA, FEATURES, PICTURE_NAME, Report, begun, cost
from fm4npp.studies.grid import Axes, Cell
from fm4npp.studies.subsets import check_enough, write_subset
from fm4npp.training import AdaptConfig, adapt
from fm4npp.training.config import parse
from fm4npp.training.inputs import check_adaptation, data_identity
from fm4npp.training.records import Metrics
from fm4npp.training.resuming import identity, processes
from fm4npp.training.sources import Sources

DECIDED = ("name", "tuning", "data.train", "data.validation", "data.features", "data.streaming", "training.seed")
"""Settings of a run that the study decides."""


class Variant(NamedTuple):
    """What the head is put on.

    Attributes:
        backbone: the pretrained one, or one with random weights.
        tuning: of the backbone.
        inputs: of the head, where they are the variant's matter.
    """

    backbone: Literal["pretrained", "random"] = "pretrained"
    tuning: Literal["frozen", "lora"] = "frozen"
    inputs: tuple[str, ...] = ()


VARIANTS = {
    "pretrained": Variant(),
    "random-init": Variant(backbone="random"),
    "adapter-only": Variant(inputs=("coordinates",)),
    "lora": Variant(tuning="lora"),
}
WITHOUT_PRETRAINING = ("random-init", "adapter-only")
"""Against which pretraining may save labels."""


def configuration(head: str, data: Sequence[Any], validation: Sequence[Any], overrides: Sequence[str]) -> AdaptConfig:
    """The settings that all cells share.

    Raises:
        ConfigurationError: naming a setting that is wrong, or that the study decides.
    """
    for override in overrides:
        key = override.partition("=")[0]
        if key in DECIDED:
            raise ConfigurationError(f"{override!r}: {key} is decided by the study")
    values: dict[str, Any] = {
        "name": head,
        "head": {"type": head},
        "data": {"train": data, "validation": validation},
        "training": AdaptConfig.model_fields["training"].default.model_dump(),
        "tuning": "lora",  # so that settings of it may be given
    }
    return parse(AdaptConfig, values, overrides)


class DataEfficiency:
    """A study of heads on few labels; see `folder.Plan`.

    Args:
        models: pretrained checkpoints, or Hub ids: one for all seeds, or one for each, so that the spread over seeds is
            that of pretraining too.
        config: of `configuration`.
        test: labelled events files that all heads are judged by.
        output: folder.
        labels: numbers of labelled events.
        num_seeds: subsets, each with its own weights and order.
        variants: of `VARIANTS`; the others are compared with the first.
        metric: of `evaluation.report.HEADLINES`; None for the task's own.
        prediction: of a head with several.
        features: keep the frozen backbones' outputs on disk while heads are trained on them.

    Raises:
        ConfigurationError: for an unknown variant or metric, or a number of models that fits no number of seeds.
    """

    name = "data-efficiency"
    labelled = False

    def __init__(
        self,
        models: Sequence[str],
        config: AdaptConfig,
        test: Sequence[Path],
        output: Path,
        *,
        labels: Sequence[int] = (100, 300, 1000),
        num_seeds: int = 3,
        variants: Sequence[str] = tuple(VARIANTS),
        metric: str | None = None,
        prediction: str | None = None,
        features: bool = False,
    ) -> None:
        unknown = [name for name in variants if name not in VARIANTS]
        if unknown or not variants:
            raise ConfigurationError(f"no variant {', '.join(unknown) or 'given'}; there are {', '.join(VARIANTS)}")
        if len(models) not in (1, num_seeds):
            raise ConfigurationError(
                f"--model: {len(models)} are given for {num_seeds} seeds; give one, or one for each"
            )
        self.models, self.config, self.test, self.output = models, config, test, output
        self.axes: Axes = {
            "variant": tuple(dict.fromkeys(variants)),
            "labels": tuple(sorted(set(labels))),
            "seed": tuple(range(num_seeds)),
        }
        head, _ = typed(heads.registry, config.head)
        self.metric = scores.check_metric(heads.registry.get(head).task, metric)
        self.prediction, self.features = prediction, features

    # ---- what it is

    def check(self) -> None:
        """Find what cannot work before anything slow starts.

        Raises:
            FM4NPPError: naming it.
        """
        for model in self.models:
            check_adaptation(model, self.config)
        check_enough(self._labelled_events, self.axes["labels"], "--labels")

    def settings(self) -> Report:
        """See `Plan`."""
        paths = {**self._sources.paths, "test": EventDataset(self.test).paths}
        _check_disjoint({split: hygiene.identified(files) for split, files in paths.items()})
        data = {split: data_identity(files) for split, files in paths.items()}
        models = [self._loaded(model).backbone_identity()["sha256"] for model in self.models]
        return identity(self.config, data, models=models)

    @cached_property
    def _sources(self) -> Sources:
        return Sources(self.config.data)

    @cached_property
    def _labelled_events(self) -> EventDataset:
        return EventDataset(self._sources.paths["train"])

    def _model(self, cell: Cell) -> str:
        """The pretrained checkpoint of a cell's seed."""
        return self.models[int(cell.values["seed"]) % len(self.models)]

    def _loaded(self, folder: str | Path) -> FM4NPPModel:
        model = FM4NPPModel.from_pretrained(folder, device=processes().device, backend=self.config.training.backend)
        for name in list(model.heads):
            model.remove_head(name)
        return model

    # ---- cells

    def prepare(self, wanted: Sequence[Cell]) -> None:
        """Write the subsets and the backbones with random weights."""
        self.check()
        self._check_unseen()
        for cell in wanted:
            self._subset(cell)
            folder = self._folder_of_backbone(cell)
            if folder is not None and not (folder / CONFIG_NAME).exists():
                (random,) = random_models(self._loaded(self._model(cell)), [cell.values["seed"]])
                random.config = random.config.updated(training={})  # nothing was trained
                random.save_pretrained(folder)

    def _check_unseen(self) -> None:
        """Refuse test events that a backbone was trained or chosen on."""
        files = hygiene.identified(EventDataset(self.test).paths)
        for model in self.models:
            origins = hygiene.origins(model, self._loaded(model).config.training, {})
            known = [file["path"] for file in files if hygiene.seen([file], origins)]
            if known:
                told = f"is among the events that {model} was trained or chosen on"
                raise DataError(told, file=known[0], remedy="give other --test events")

    def _subset(self, cell: Cell) -> list[str]:
        folder = self.output / DATA
        return write_subset(self._labelled_events, cell.values["labels"], cell.values["seed"], folder)

    def _folder_of_backbone(self, cell: Cell) -> Path | None:
        """Of random weights; None for the pretrained ones."""
        if VARIANTS[cell.values["variant"]].backbone == "pretrained":
            return None
        return self.output / BACKBONES / f"random-init-{cell.values['seed']}"

    def cell_config(self, cell: Cell) -> AdaptConfig:
        """The settings of one run."""
        variant = VARIANTS[cell.values["variant"]]
        values = self.config.model_dump(mode="json")
        values["data"]["train"] = self._subset(cell)
        values["tuning"], values["training"]["seed"] = variant.tuning, cell.values["seed"]
        if variant.tuning != "lora":
            values["lora"] = None
        if variant.inputs:
            values["head"] = {**values["head"], "inputs": list(variant.inputs)}
        elif self.features and variant.tuning == "frozen":
            values["data"]["features"] = self.output / FEATURES / f"{variant.backbone}-{cell.values['seed']}"
        return parse(AdaptConfig, values)

    def is_finished(self, cell: Cell) -> bool:
        """See `Plan`."""
        return cell.report.is_file()

    def perform(self, cell: Cell, report: Callable[[Metrics], None]) -> Report:
        """Train the head and judge it by the test events."""
        backbone = self._folder_of_backbone(cell) or self._model(cell)
        best = adapt(backbone, self.cell_config(cell), cell.folder, resume=begun(cell.folder), report=report)
        model = self._loaded(backbone)
        name = model.load_head(cell.folder)
        events = EventDataset(self.test)
        files = hygiene.identified(events.paths)
        origins = hygiene.origins(backbone, model.config.training, {name: cell.folder})
        tokens, selection = self.config.training.tokens_per_batch, TrackSelection()
        metrics = evaluate(model, FM4NPPProcessor(model.config), events, tokens_per_batch=tokens, selection=selection)
        cautions = hygiene.check(files, origins)
        found = assemble(
            model, events, metrics, files=files, selection=selection, heads={name: str(cell.folder)}, warnings=cautions
        )
        return {**found, "cell": dict(cell.values), "trained": best, "cost": cost(cell.folder)}

    # ---- results

    def results(self, finished: Sequence[tuple[Cell, Report]]) -> Report:
        """See `Plan`."""
        done = [scores.Evaluated(**cell.values, report=report) for cell, report in finished]
        score = scores.score_of(done[0].report, self.metric, self.prediction)
        labels, seeds = self.axes["labels"], self.axes["seed"]
        reference, *others = self.axes["variant"]
        complete = scores.table_of(done, score, labels, seeds)
        ratios = {
            name: label_ratio.label_ratios(labels, complete[reference], complete[name])
            for name in others
            if {reference, name} <= set(complete)
        }
        asked = {name: found for name, found in ratios.items() if name in WITHOUT_PRETRAINING}
        return {
            "score": asdict(score),
            "warnings": sorted({text for cell in done for text in cell.report["warnings"]}),
            "cells": [scores.told(cell) for cell in done],
            "summary": scores.summary(done),
            "comparisons": scores.comparisons(done, score, reference),
            "label_ratios": [_plain(reference, name, one) for name, found in ratios.items() for one in found],
            "answer": label_ratio.answer(score.metric, asked) if asked and reference == "pretrained" else None,
        }

    def table(self, found: Report) -> str:
        """See `Plan`."""
        return tables.data_efficiency(found)

    def draw(self, found: Report) -> list[Path]:
        """See `Plan`."""
        return [draw_data_efficiency(found, self.output / PICTURE_NAME)]


def _check_disjoint(splits: dict[str, list[dict[str, Any]]]) -> None:
    """Refuse a file that is given twice: numbers on events that were trained on are no test."""
    seen: dict[str, tuple[str, str]] = {}
    for split, files in splits.items():
        for file in files:
            key = str(file["content"] or file["path"])
            if key in seen:
                other, path = seen[key]
                raise DataError(
                    f"the {split} events are the same as the {other} events ({path})",
                    file=file["path"],
                    remedy="give each split its own",
                )
            seen[key] = split, str(file["path"])


def _plain(reference: str, name: str, one: label_ratio.LabelRatio) -> Report:
    """A label ratio as JSON, which has no infinity: None where a bound is open."""

    def ends(bracket: label_ratio.Bracket | None) -> Report | None:
        if bracket is None:
            return None
        return {"low": bracket.low or None, "high": bracket.high if math.isfinite(bracket.high) else None}

    return {
        "reference": reference,
        "variant": name,
        "labels": one.labels,
        "ratio": ends(one.ratio),
        "interval": ends(one.interval),
        "num_seeds": one.num_seeds,
        "told": str(one.ratio),
        "told_interval": None if one.interval is None else str(one.interval),
        "saves_4x": label_ratio.verdict(one),
    }
