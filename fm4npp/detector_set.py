"""One detector more or less in a model; every weight that stays is the same to the bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fm4npp import detectors, heads, serializers
from fm4npp.backbones.embedding import NUM_AXES, SpacepointEmbedding
from fm4npp.configuration import ADDED, FM4NPPConfig, typed
from fm4npp.detectors import Detector
from fm4npp.errors import ConfigurationError, DataError
from fm4npp.event import Event
from fm4npp.heads import Head, HeadContext
from fm4npp.heads.base import HeadInputs
from fm4npp.pretrained import PretrainedModel
from fm4npp.processing import FM4NPPProcessor

Made = TypeVar("Made")


def with_detector(
    config: FM4NPPConfig, given: str | Mapping[str, Any] | Detector, events: Iterable[Event] | None = None
) -> FM4NPPConfig:
    """A configuration with one more detector, whose serializer and objective have constants of their own.

    The serializer is that of the first detector, fitted anew; the others' constants stay.

    Args:
        config: of a model.
        given: registered name, YAML file, specification, or the detector itself.
        events: of it, to fit to; needed if the serializer takes a fit. Without any, or if the objective predicts a
            feature that this detector does not measure, the objective's constants are the other detectors'.

    Raises:
        ConfigurationError: if the model knows a detector of that name, or a subsystem of one of its subsystems' names
            that measures something else, or if events are needed.
        DataError: if an event is of another detector, or they hold no spacepoints.
    """
    detector = detectors.load(given) if isinstance(given, str) else detectors.build(given)
    known = [one.name for one in config.detectors]
    if detector.name in known:
        raise ConfigurationError(f"the model knows a detector {detector.name!r} already; give the new one another name")
    serializer, objective = config.serializers[known[0]], config.objective
    single = {"detectors": [detector], "serializers": {detector.name: serializer}, "objectives": {}, "heads": {}}
    wider = config.updated(
        detectors=[*config.detectors, detector], serializers={**config.serializers, detector.name: serializer}
    )
    count = 0
    if events is not None:
        chosen = [_own(event, detector.name) for event in events]
        measured = set(objective.predicted_features) <= set(detector.features)
        fitted = FM4NPPProcessor(config.updated(**single)).fit(chosen, objective=measured).config
        serializer, objective, count = fitted.serializers[detector.name], fitted.objective, len(chosen)
    elif not serializers.build(serializer.registered_name).fitted:
        problem = f"the serializer {serializer.registered_name} has to be fitted to events of {detector.name!r}"
        raise ConfigurationError(f"{problem}; give some of them")
    own = {} if objective == config.objective else {detector.name: objective}
    added = {**config.training.get(ADDED, {}), detector.name: count}
    return wider.updated(
        serializers={**config.serializers, detector.name: serializer},
        objectives={**config.objectives, **own},
        training={**config.training, ADDED: added},
    )


def without_detector(config: FM4NPPConfig, name: str) -> FM4NPPConfig:
    """A configuration with one detector less; the constants of the others stay.

    Raises:
        ConfigurationError: if there is no such detector, or no other.
    """
    if config.detectors == (config.detector(name),):
        raise ConfigurationError(f"{name!r} is the only detector of the model; add another before you remove it")
    left = [one for one in config.detectors if one.name != name]
    objectives, objective = _without(config.objectives, name), config.objective
    if len(left) == 1:
        objective, objectives = config.objective_of(left[0].name), {}
    training, added = dict(config.training), _without(config.training.get(ADDED, {}), name)
    training.pop(ADDED, None)
    return config.updated(
        detectors=left,
        serializers=_without(config.serializers, name),
        objective=objective,
        objectives=objectives,
        training={**training, **({ADDED: added} if added else {})},
    )


def built_head(config: FM4NPPConfig, spec: str | Mapping[str, Any]) -> Head:
    """A head with random weights, for a model of this configuration.

    Args:
        config: of the model.
        spec: registered name, or `{"type": name, **fields}`.

    Raises:
        ConfigurationError: if the specification is wrong.
    """
    name, settings = typed(heads.registry, spec)
    return heads.get(name)(settings, _context(config))


@torch.no_grad()
def change(model: PretrainedModel, config: FM4NPPConfig, seed: int = 0) -> None:
    """Give a model the configuration with other detectors, and change embedding and heads as that asks for.

    Args:
        model: changed only if all of it can be.
        config: of `with_detector` or `without_detector`.
        seed: of new weights that are random.

    Raises:
        ConfigurationError: if a head cannot stay.
    """
    config = _with_single_embedding(config, model.embedding, tuple(model.config.subsystems))
    trainable = any(parameter.requires_grad for parameter in model.backbone.parameters())
    embedding = changed_embedding(model.embedding, model.config.subsystems, config, seed=seed, trainable=trainable)
    changed = {name: _changed_head(model, name, config, seed) for name in model.heads}
    model.embedding, model.config = embedding, config
    for name, head in changed.items():
        model.heads[name] = head


def changed_embedding(
    old: SpacepointEmbedding,
    before: Mapping[str, tuple[str, ...]],
    config: FM4NPPConfig,
    *,
    seed: int,
    trainable: bool,
) -> SpacepointEmbedding:
    """The embedding of another set of detectors, which shares the parameters of everything that stays.

    A new subsystem's detector embedding is the mean of the others'. Of its features, one that others measure under
    the same name starts with the mean of their projections of it, any other as in a new model: random.

    Args:
        old: of the model.
        before: subsystem -> features of the model, in the order of the ids.
        config: of the new set.
        seed: of what is random.
        trainable: whether new parameters are, as far as such parameters are trained at all.
    """
    drawn = _drawn(
        lambda: SpacepointEmbedding(config.embedding, config.width, config.subsystems, config.feature_names), seed
    )
    new = drawn.to(old.position_projection)
    new.position_projection = old.position_projection
    for name, features in config.subsystems.items():
        if name in before:
            new.feature_projections[name] = old.feature_projections[name]
            continue
        projection = new.feature_projections[name].requires_grad_(
            trainable and new.feature_projections[name].requires_grad
        )
        for row, feature in enumerate(features):
            known = [
                old.feature_projections[o][names.index(feature)] for o, names in before.items() if feature in names
            ]
            if known:
                projection.data[row] = torch.stack(known).detach().mean(dim=0)
    if new.detector_embedding is not None:
        new.detector_embedding.data = _rows(old, list(before), list(config.subsystems)).to(new.detector_embedding)
        wanted = trainable if old.detector_embedding is None else old.detector_embedding.requires_grad
        new.detector_embedding.requires_grad_(wanted)
    return new.train(old.training)


def changed_head(old: Head, new: Head, name: str, before: tuple[str, ...], after: tuple[str, ...]) -> Head:
    """A head that was built for other features, with the weights of the old one; what it reads of a new feature is 0.

    Args:
        old: the head.
        new: built for the new set of detectors.
        name: of it, for the message.
        before: the features that the old one reads.
        after: the features that the new one reads.

    Raises:
        ConfigurationError: if the weights do not fit.
    """
    state = dict(old.state_dict())
    for place, module in old.named_modules():
        if isinstance(module, HeadInputs) and "coordinates" in module.maps:
            key = f"{place}.maps.coordinates.weight".removeprefix(".")
            state[key] = _columns(state[key], before, after)
    if {key: value.shape for key, value in state.items()} != {k: v.shape for k, v in new.state_dict().items()}:
        raise ConfigurationError(
            f"the head {name!r} does not fit the features of other detectors; remove_head it first"
        )
    new.load_state_dict(state)
    trained = {key: parameter.requires_grad for key, parameter in old.named_parameters()}
    for key, parameter in new.named_parameters():
        parameter.requires_grad_(trained[key])
    return new.train(old.training)


def _context(config: FM4NPPConfig) -> HeadContext:
    kinds = {detector.geometry.periodic for detector in config.detectors}
    periodic = kinds.pop() if len(kinds) == 1 else None
    return HeadContext(config.width, int(config.backbone["num_layers"]), len(config.feature_names), periodic)


def _changed_head(model: PretrainedModel, name: str, config: FM4NPPConfig, seed: int) -> Head:
    """A head of the model for the new configuration; itself if nothing of that matters to it."""
    head: Head = model.heads[name]  # type: ignore[assignment]
    before, after = model.config.feature_names, config.feature_names
    if before == after and _context(model.config) == _context(config):
        return head
    try:
        built = _drawn(lambda: built_head(config, config.heads[name]), seed)
    except ConfigurationError as error:
        raise ConfigurationError(f"the head {name!r} cannot stay, remove_head it first: {error}") from error
    return changed_head(head, built.to(model.device), name, before, after)


def _with_single_embedding(config: FM4NPPConfig, old: SpacepointEmbedding, before: tuple[str, ...]) -> FM4NPPConfig:
    """The configuration; if one subsystem is left, with its detector embedding where that is not 0."""
    if len(config.subsystems) > 1 or old.detector_embedding is None:
        return config
    kept = bool(old.detector_embedding[before.index(next(iter(config.subsystems)))].any())
    fields = {**config.embedding.model_dump(), "single_detector_embedding": kept}
    return config.updated(embedding=fields)


def _own(event: Event, name: str) -> Event:
    if event.detector not in ("", name):
        raise DataError(
            f"is of the detector {event.detector!r}, not {name!r}", file=event.source or None, event=event.event_id
        )
    return event


def _without(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


def _drawn(make: Callable[[], Made], seed: int) -> Made:
    """What is made with the random numbers of a seed; the caller's own are left alone."""
    state = torch.random.get_rng_state()
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would also change the accelerator's
    try:
        return make()
    finally:
        torch.random.set_rng_state(state)


def _rows(old: SpacepointEmbedding, before: list[str], after: list[str]) -> Tensor:
    """(subsystems, W) detector embeddings: those that there are, the mean of them for what is new."""
    known = old.detector_embedding
    if known is None:
        return torch.zeros(len(after), old.position_projection.shape[1])
    mean = known.detach().mean(dim=0)
    return torch.stack([known.detach()[before.index(name)] if name in before else mean for name in after])


def _columns(weight: Tensor, before: tuple[str, ...], after: tuple[str, ...]) -> Tensor:
    """(outputs, 3 + features) of a linear map of coordinates and features to that of other features."""
    changed = nn.functional.pad(weight[:, :NUM_AXES], (0, len(after)))
    for place, name in enumerate(after):
        if name in before:
            changed[:, NUM_AXES + place] = weight[:, NUM_AXES + before.index(name)]
    return changed
