"""What a run is told: YAML files with dotted overrides, every key checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from fm4npp import detectors
from fm4npp.choices import WIDTHS, Backend
from fm4npp.errors import ConfigurationError
from fm4npp.registry import explain, suggest

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
MuPRule = Literal["derived", "paper"]
Count = Annotated[int, Field(ge=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
PRESETS = Path(__file__).parents[1] / "presets"
MOST_WORKERS = 256
"""More processes than this that prepare events for one that trains are a slip of the pen, and take a machine down."""


def _as_paths(value: Any) -> Any:
    """One path or several, as text: a Path would change the URL of a file on the Hub."""
    several = [value] if isinstance(value, str | Path) else value
    return (
        [str(path) if isinstance(path, Path) else path for path in several]
        if isinstance(several, list | tuple)
        else several
    )


Paths = Annotated[tuple[str, ...], BeforeValidator(_as_paths)]
Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]


class Strict(BaseModel):
    """A frozen configuration in which an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TrainingConfig(Strict):
    """The loop's settings; the defaults are the paper's recipe (section 5.1, appendix B.7) but for the run length.

    Attributes:
        steps: optimizer steps.
        tokens_per_batch: spacepoints that a process runs at once, at most; a longer event is run alone.
        events_per_step: events of an optimizer step over all processes, run in as many batches as they need (gradient
            accumulation); the last step of an epoch may have fewer. A stream's step ends with the batch that
            completes them. Without it a step is one batch on each process.
        learning_rate: peak, after warm-up.
        final_learning_rate: at the last step, as a fraction of the peak.
        warmup_steps: linear, from 0.
        weight_decay: of matrices and convolution taps; norms, biases and the state-space constants take none.
        betas: of AdamW.
        clip_norm: gradients are scaled down to this norm.
        skip_limit: a step whose loss or gradient is not finite changes nothing and is counted; after so many in a row
            the run stops.
        ema: decay, in a step, of an exponential moving average of the weights, which is then what is validated and
            kept; 0 for none.
        validate_every: steps between validations; also before the first step and after the last.
        patience: stop after so many validations in a row without a better one.
        save_every: steps between checkpoints for `--resume`; also at the start and the end.
        keep_checkpoints: of these the newest so many are kept.
        log_every: steps between records of the training loss.
        seed: of weights and order of events.
        num_workers: processes that prepare events.
        precision: of the matrix products; the state is always float32.
        backend: what computes the backbone: auto, torch or mamba-ssm.
        checkpoint_gradients: keep only every block's input for the backward pass and compute the rest again, for
            longer events or larger batches in the same memory.
        compile: run the embedding and the heads through torch.compile. The blocks depend on the layout of every batch
            and are not compiled; on CPUs nothing is gained.
        sharded: cut the weights over the processes (FSDP2), for models that do not fit on one device; also what
            `accelerate launch --use_fsdp --fsdp_version 2` says. Otherwise every process has a copy (DDP).
        trackers: where records go besides the run's own metrics.jsonl.
        parameterization: "standard", or "mup" (maximal update, docs/mup.md), with which the learning rate found on a
            narrow model serves a wide one. For pretraining only.
        mup_base_width: width at which μP has the standard's initial weights (but for a readout of zeros) and learning
            rates: that of the model the learning rate was found on.
        mup_rule: "derived" for Mamba blocks, or "paper", its formulas for B and C as printed (appendix B.6).
    """

    steps: Count = 1000
    tokens_per_batch: Count = 16384
    events_per_step: Count | None = None
    learning_rate: Positive = 2e-4
    final_learning_rate: Annotated[float, Field(ge=0, le=1)] = 0.1
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    weight_decay: NotNegative = 0.01
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    clip_norm: Positive = 0.1
    skip_limit: Count = 10
    ema: Decay = 0.0
    validate_every: Count = 200
    patience: Count | None = None
    save_every: Count = 200
    keep_checkpoints: Count = 2
    log_every: Count = 10
    seed: Annotated[int, Field(ge=0)] = 0
    num_workers: Annotated[int, Field(ge=0, le=MOST_WORKERS)] = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    backend: Backend = "auto"
    checkpoint_gradients: bool = False
    compile: bool = False
    sharded: bool = False
    trackers: tuple[Tracker, ...] = ()
    parameterization: Literal["standard", "mup"] = "standard"
    mup_base_width: Count = 64
    mup_rule: MuPRule = "derived"


class DataConfig(Strict):
    """The events of a run.

    Attributes:
        train: events files, folders of them, patterns, or data sets on the Hugging Face Hub.
        validation: the same, of the events that choose the best weights; without any, the last weights are the best.
        weights: detector -> how often its events are trained on, relative to the others; by default every event is
            once an epoch. For streams of several detectors it is needed.
        streaming: read the training events one after the other, in memory that does not grow with their number.
        buffer: when streaming, events that are shuffled among each other.
        fit_events: training events that the serializer and the objective are fitted to.
        cache: folder where the order of the tokens and the neighbours of the spacepoints are kept, computed when they
            are not there yet, about 60 bytes a spacepoint; by default they are computed every time. For pretraining.
        features: folder where a frozen backbone's outputs are kept, computed when they are not there yet; heads that
            are trained on the same events share them. For adaptation.
        features_kind: "raw" keeps every block's output, "mixed" only their mean.
        features_dtype: of what is kept.
    """

    train: Paths = Field(min_length=1)
    validation: Paths = ()
    weights: dict[str, Positive] = Field(default_factory=dict)
    streaming: bool = False
    buffer: Count = 1000
    fit_events: Count = 10_000
    cache: Path | None = None
    features: Path | None = None
    features_kind: Literal["raw", "mixed"] = "raw"
    features_dtype: Literal["float32", "bfloat16", "float16"] = "float32"

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if self.streaming and self.cache is not None:
            raise ValueError("cache: is for events by index; leave out streaming or the cache")
        if self.streaming and self.features is not None:
            raise ValueError("features: are kept of events by index; leave out streaming or the features")
        return self


class ModelConfig(Strict):
    """A new model.

    Attributes:
        size: m1 to m6, the widths of the paper's Table 1; sets `backbone.width`.
        detectors: specifications, or YAML files of such; empty means those of the training files.
        serializer: specification, the same for every detector.
        objective: specification; `energy: auto` in it is decided by whether all detectors measure an energy.
        embedding: fields of the embedding.
        backbone: specification.
    """

    size: str | None = None
    detectors: tuple[str | dict[str, Any], ...] = ()
    serializer: str | dict[str, Any] = "raster-scan"
    objective: str | dict[str, Any] = "k-nnn"
    embedding: dict[str, Any] = Field(default_factory=dict)
    backbone: dict[str, Any] = Field(default_factory=lambda: {"type": "mamba2"})

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        if self.size is not None and self.size not in WIDTHS:
            raise ValueError(f"unknown size {self.size!r}; {suggest(self.size, tuple(WIDTHS))}")
        if (self.size is None) == ("width" not in self.backbone):
            raise ValueError("give either model.size or model.backbone.width")
        return self

    def fields(self, specifications: Sequence[str | dict[str, Any]]) -> dict[str, Any]:
        """The fields of an `FM4NPPConfig`, with the training files' detectors where none are named."""
        width = {"width": WIDTHS[self.size]} if self.size is not None else {}
        chosen = [_loaded(detector) for detector in self.detectors or specifications]
        return {
            "detectors": chosen,
            "serializer": self.serializer,
            "objective": _with_energy(self.objective, chosen),
            "embedding": self.embedding,
            "backbone": {"type": "mamba2", **self.backbone, **width},
        }


def _with_energy(objective: str | dict[str, Any], chosen: Sequence[str | dict[str, Any]]) -> str | dict[str, Any]:
    """The objective with `energy: auto` decided."""
    if not isinstance(objective, dict) or objective.get("energy") != "auto":
        return objective
    measured = [names for one in chosen for names in detectors.build(one).subsystem_features.values()]
    return {**objective, "energy": all("energy" in names for names in measured)}


def _loaded(detector: str | dict[str, Any]) -> str | dict[str, Any]:
    """A specification as it is, or that in a YAML file."""
    if isinstance(detector, str) and detector.endswith((".yaml", ".yml")):
        return detectors.load(detector).spec()
    return detector


class PretrainConfig(Strict):
    """A pretraining run."""

    model: ModelConfig
    data: DataConfig
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _check(self) -> PretrainConfig:
        if self.data.features is not None:
            raise ValueError("data.features: keeps a frozen backbone's outputs, for adaptation; leave it out")
        return self


class LoRAConfig(Strict):
    """A low-rank adapter of the backbone (LoRA, arXiv:2106.09685), trained together with a head.

    There is no dropout: it would act on the rows, and only weights are adapted here.

    Attributes:
        rank: r, rows of A and columns of B.
        alpha: strength; the product B A is multiplied by alpha / rank.
        targets: the linear layers of the backbone that are adapted, by the end of their names: `in_proj` is that of
            all blocks, `layers.0.mixer.in_proj` that of the first.
    """

    rank: Count = 8
    alpha: Positive = 16.0
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("in_proj", "out_proj")


class AdaptConfig(Strict):
    """An adaptation run.

    Attributes:
        name: what the head is called in the model.
        head: its specification.
        data: labelled events.
        training: the loop's settings.
        tuning: what is trained besides the head: nothing of the "frozen" backbone, the "full" backbone, which is then
            part of the result, or low-rank updates of it ("lora").
        lora: settings of these.
    """

    name: str
    head: dict[str, Any]
    data: DataConfig
    training: TrainingConfig = TrainingConfig(learning_rate=1e-3, weight_decay=1e-4, clip_norm=1.0)
    tuning: Literal["frozen", "full", "lora"] = "frozen"
    lora: LoRAConfig | None = None

    @model_validator(mode="after")
    def _check(self) -> AdaptConfig:
        if self.training.parameterization != "standard":
            raise ValueError("training.parameterization: heads are trained in the standard parameterization only")
        if self.data.cache is not None:
            raise ValueError("data.cache: keeps what pretraining needs, heads are trained on labels; leave it out")
        if self.data.features is not None and self.tuning != "frozen":
            raise ValueError("data.features: are those of a frozen backbone; leave them out, or tuning")
        if self.lora is not None and self.tuning != "lora":
            raise ValueError("lora: is used with tuning=lora only")
        return self


ConfigT = TypeVar("ConfigT", bound=Strict)


def parse(cls: type[ConfigT], values: Mapping[str, Any], overrides: Sequence[str] = (), source: str = "") -> ConfigT:
    """A configuration from plain values and `key.path=value` overrides, whose values are read as YAML.

    Raises:
        ConfigurationError: naming every wrong or unknown key.
    """
    merged: dict[str, Any] = {**values}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigurationError(f"{override!r} is not an override; write key.path=value")
        try:
            _assign(merged, key.split("."), yaml.safe_load(text), override)
        except yaml.YAMLError as error:
            raise ConfigurationError(f"{override!r}: the value is not valid YAML") from error
    try:
        return cls.model_validate(merged)
    except ValidationError as error:
        raise ConfigurationError(explain(error, f"{source}: " if source else "")) from error


def _assign(values: dict[str, Any], path: list[str], value: Any, override: str) -> None:
    for key in path[:-1]:
        inner = values.get(key)
        if inner is not None and not isinstance(inner, str | Mapping):
            raise ConfigurationError(f"{override!r}: {key} holds no further keys")
        # A component given by its name alone becomes a specification that can take fields.
        values[key] = {"type": inner} if isinstance(inner, str) else dict(inner or {})
        values = values[key]
    values[path[-1]] = value


def read_config(name: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file, or in that of a preset that comes with the toolkit.

    Args:
        name: of a preset, or the path of a file, which ends in .yaml or .yml.

    Raises:
        ConfigurationError: if there is no such preset, or the file cannot be read or is no mapping.
    """
    if str(name).endswith((".yaml", ".yml")):
        return read_yaml(name)
    presets = {path.stem: path for path in sorted(PRESETS.glob("*.yaml"))}
    if str(name) not in presets:
        hint = suggest(str(name), tuple(presets))
        raise ConfigurationError(f"no preset {str(name)!r}; {hint}; or name a file that ends in .yaml")
    return read_yaml(presets[str(name)])


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigurationError: if it cannot be read or is no mapping.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise ConfigurationError(f"{path}: holds no configuration")
    return values
