"""Everything a model and its processor are made of, as one JSON value: `config.json` of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, ValidationError, model_validator

from fm4npp import backbones, detectors, heads, objectives, serializers
from fm4npp.backbones.embedding import EmbeddingConfig
from fm4npp.choices import WIDTHS
from fm4npp.detectors import Detector
from fm4npp.errors import CheckpointError, ConfigurationError, FM4NPPError
from fm4npp.files import current, read_json
from fm4npp.objectives import Objective
from fm4npp.registry import PROJECT, Component, Registry, Unknown, explain, suggest
from fm4npp.serializers import Serializer

CONFIG_NAME = "config.json"
ADDED = "added_detectors"
"""Key of `training`: detector that was added after the training -> number of events that it was fitted to."""


def _spec(component: Component) -> dict[str, Any]:
    return component.spec()


AnyDetector = Annotated[Detector, BeforeValidator(detectors.build), PlainSerializer(_spec)]
AnySerializer = Annotated[Serializer, BeforeValidator(serializers.build), PlainSerializer(_spec)]
AnyObjective = Annotated[Objective, BeforeValidator(objectives.build), PlainSerializer(_spec)]


def complete(registry: Registry[Any], spec: str | Mapping[str, Any]) -> dict[str, Any]:
    """A backbone's or head's specification with every default filled in.

    Args:
        registry: of the kind; its classes name their configuration class in `Config`.
        spec: a registered name, or `{"type": name, **fields}`.

    Raises:
        ConfigurationError: for an unknown name or field.
    """
    name, config = typed(registry, spec)
    return {"type": name, **config.model_dump(mode="json")}


def listed(features: tuple[str, ...]) -> str:
    """Names of features, for a message."""
    return ", ".join(features) or "nothing but positions"


def typed(registry: Registry[Any], spec: str | Mapping[str, Any]) -> tuple[str, Any]:
    """The registered name and the validated configuration of a backbone's or head's specification."""
    fields = {"type": spec} if isinstance(spec, str) else dict(spec)
    name = fields.pop("type", None)
    if not isinstance(name, str):
        raise ConfigurationError(f"a {registry.kind} is given by its name or as {{'type': name, ...}}, not by {spec!r}")
    try:
        return name, registry.get(name).Config(**fields)
    except ValidationError as error:
        raise ConfigurationError(explain(error, f"{registry.kind} {name!r}: ")) from error


class FM4NPPConfig(BaseModel):
    """Configuration of a model and its processor; unknown keys are errors.

    Attributes:
        format: version of this layout.
        detectors: the detectors whose events the model reads.
        serializers: detector name -> serializer, each fitted to that detector's events where it needs a fit. The
            key `serializer` may be given instead: one specification for every detector.
        objective: the pretraining objective.
        objectives: detector name -> the same objective with constants of that detector's own, of detectors that were
            added to a trained model; the others share those of `objective`.
        embedding: how spacepoints are embedded.
        backbone: `{"type": name, "width": ..., ...}`.
        heads: name -> `{"type": name, ...}` of the heads inside the checkpoint.
        providers: "kind/name" -> distribution and version of every component that is not this project's, so that
            loading can say what to install.
        training: what made the weights; informative.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal[1] = 1
    detectors: Annotated[tuple[AnyDetector, ...], Field(min_length=1)]
    serializers: dict[str, AnySerializer]
    objective: AnyObjective = Field(default_factory=lambda: objectives.build("k-nnn"))
    objectives: dict[str, AnyObjective] = Field(default_factory=dict)
    embedding: EmbeddingConfig = EmbeddingConfig()
    backbone: Annotated[dict[str, Any], BeforeValidator(lambda spec: complete(backbones.registry, spec))]
    heads: dict[str, Annotated[dict[str, Any], BeforeValidator(lambda spec: complete(heads.registry, spec))]] = Field(
        default_factory=dict
    )
    providers: dict[str, str] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _one_serializer_for_all(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or "serializers" in data:
            return data
        data = dict(data)
        spec = data.pop("serializer", "raster-scan")
        built = [detectors.build(detector) for detector in data.get("detectors", ())]
        return {**data, "detectors": built, "serializers": {detector.name: spec for detector in built}}

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [detector.name for detector in self.detectors]
        if len(set(names)) != len(names):
            raise ValueError(f"detectors: every detector once, but the names are {', '.join(names)}")
        if set(self.serializers) != set(names):
            raise ValueError(f"serializers: one for each of {', '.join(names)}, not {', '.join(self.serializers)}")
        for name, objective in self.objectives.items():
            if name not in names:
                raise ValueError(f"objectives: no detector {name!r} among {', '.join(names)}")
            if type(objective) is not type(self.objective) or objective.output_size != self.objective.output_size:
                raise ValueError(f"objectives: that of {name} is another than `objective`, not just of other constants")
        self._check_subsystems()
        return self

    def _check_subsystems(self) -> None:
        """Subsystems of one name share their weights, so they must measure the same."""
        found: dict[str, tuple[str, tuple[str, ...]]] = {}
        for detector in self.detectors:
            for subsystem, features in detector.subsystem_features.items():
                owner, known = found.setdefault(subsystem, (detector.name, features))
                if known != features:
                    raise ValueError(
                        f"detectors: subsystem {subsystem!r} of {owner} measures {listed(known)}, but of "
                        f"{detector.name} {listed(features)}; give one of them another name"
                    )

    @classmethod
    def create(cls, **fields: Any) -> FM4NPPConfig:
        """A configuration from plain values, with one-line errors.

        Raises:
            ConfigurationError: naming every wrong or unknown key.
        """
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise ConfigurationError(explain(error, "configuration: ")) from error

    @classmethod
    def named(cls, size: str, **fields: Any) -> FM4NPPConfig:
        """One of the paper's sizes (Table 1), by default on the sPHENIX TPC with the reference components.

        Args:
            size: "m1" to "m6".
            fields: other fields of the configuration, in place of the defaults.

        Raises:
            ConfigurationError: for an unknown size or field.
        """
        if size not in WIDTHS:
            raise Unknown(f"unknown size {size!r}; {suggest(size, tuple(WIDTHS))}")
        defaults = {"detectors": ["sphenix-tpc"], "backbone": {"type": "mamba2", "width": WIDTHS[size]}}
        return cls.create(**{**defaults, **fields})

    @classmethod
    def load(cls, folder: str | Path) -> FM4NPPConfig:
        """Read `config.json` of a checkpoint folder.

        Raises:
            CheckpointError: if it is absent, damaged, or names a component that is not installed.
        """
        path = current(folder, CONFIG_NAME) / CONFIG_NAME
        data = read_json(path, CheckpointError)
        if not isinstance(data, dict) or "backbone" not in data:
            raise CheckpointError(f"{path}: is not the configuration of an FM4NPP model")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise CheckpointError(explain(error, f"{path}: ")) from error
        except FM4NPPError as error:
            providers = data.get("providers") or {}
            hint = f"; it was made with {', '.join(f'{k} of {v}' for k, v in providers.items())}" if providers else ""
            raise CheckpointError(f"{path}: {error}{hint}") from error

    def updated(self, **fields: Any) -> FM4NPPConfig:
        """A copy with some fields changed, validated, with `providers` brought up to date."""
        values = {name: getattr(self, name) for name in type(self).model_fields} | fields
        config = self.create(**{**values, "providers": {}})
        return config.model_copy(update={"providers": config._foreign()})

    def json_object(self) -> dict[str, Any]:
        """The whole configuration as plain JSON values; `create(**json_object())` gives an equal one."""
        return self.model_dump(mode="json")

    @property
    def width(self) -> int:
        """Width of the backbone."""
        return int(self.backbone["width"])

    @property
    def subsystems(self) -> dict[str, tuple[str, ...]]:
        """Subsystem -> its features; the position of a subsystem is its detector id in a batch."""
        found: dict[str, tuple[str, ...]] = {}
        for detector in self.detectors:
            found |= detector.subsystem_features
        return found

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The columns of `EventBatch.features`: the union of all detectors' features."""
        return tuple(dict.fromkeys(name for detector in self.detectors for name in detector.features))

    def detector(self, name: str) -> Detector:
        """The detector called `name`.

        Raises:
            ConfigurationError: if the model does not have it.
        """
        for detector in self.detectors:
            if detector.name == name:
                return detector
        known = tuple(detector.name for detector in self.detectors)
        raise Unknown(
            f"this model does not know the detector {name!r}; it knows: {', '.join(known)}; `fm4npp add-detector` "
            "adds one"
        )

    def objective_of(self, name: str) -> Objective:
        """The objective with the constants that a detector's targets are made with."""
        return self.objectives.get(name, self.objective)

    @property
    def fitted(self) -> bool:
        """Whether every serializer and the objective have the constants they need."""
        names = (detector.name for detector in self.detectors)
        return all(self.objective_of(name).fitted and self.serializers[name].fitted for name in names)

    def _foreign(self) -> dict[str, str]:
        used: list[tuple[Registry[Any], str]] = [(backbones.registry, self.backbone["type"])]
        used += [(heads.registry, spec["type"]) for spec in self.heads.values()]
        used += [(detectors.registry, detector.registered_name) for detector in self.detectors]
        used += [(serializers.registry, serializer.registered_name) for serializer in self.serializers.values()]
        used += [(objectives.registry, self.objective.registered_name)]
        origins = {f"{registry.kind}/{name}": registry.origin(name) for registry, name in used}
        return {
            key: f"{origin.distribution} {origin.version}".strip()
            for key, origin in origins.items()
            if origin.distribution != PROJECT
        }
