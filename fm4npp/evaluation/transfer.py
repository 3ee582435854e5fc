"""A model on a detector that it was not trained on: its weights, and the other detector's constants."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fm4npp import detectors
from fm4npp.errors import ConfigurationError
from fm4npp.event import Event
from fm4npp.modeling import FM4NPPModel
from fm4npp.processing import FM4NPPProcessor


def on_detector(model: FM4NPPModel, name: str, events: Sequence[Event]) -> FM4NPPModel:
    """The same weights on the events of another detector, for which serializer and objective are fitted anew.

    What the model learned about the only subsystem's features is used for the new one's, if they have the same names.

    Args:
        model: of one detector with one subsystem; its heads are left behind.
        name: of the other detector, likewise.
        events: of it, to fit to.

    Raises:
        ConfigurationError: if there are several detectors or subsystems, or other features.
    """
    detector = detectors.build(name)
    config = model.config
    old, new = tuple(config.subsystems), tuple(detector.subsystem_features)
    if len(old) != 1 or len(new) != 1:
        raise ConfigurationError(
            f"a model of {', '.join(old)} cannot stand in for {', '.join(new)}: only one subsystem can replace another"
        )
    if config.subsystems[old[0]] != detector.subsystem_features[new[0]]:
        raise ConfigurationError(
            f"{old[0]} measures {_listed(config.subsystems[old[0]])}, {new[0]} "
            f"{_listed(detector.subsystem_features[new[0]])}: features must be the same for the weights to be used"
        )
    serializer = config.serializers[config.detectors[0].name]
    moved = config.updated(detectors=[detector], serializers={detector.name: serializer}, heads={})
    fitted = FM4NPPProcessor(moved).fit(events)
    other = FM4NPPModel(fitted.config, backend=model.backbone.backend)
    prefix = "embedding.feature_projections."
    state = {
        prefix + new[0] if key == prefix + old[0] else key: value
        for key, value in model.state_dict().items()
        if not key.startswith("heads.")
    }
    with torch.no_grad():
        other.load_state_dict(state)
    return other.to(model.device).eval()


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "nothing but positions"
