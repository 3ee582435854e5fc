"""A model on a detector that it was not trained on: its weights, and the other detector's constants."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from fm4npp import detectors
from fm4npp.configuration import listed
from fm4npp.errors import ConfigurationError
from fm4npp.event import Event
from fm4npp.modeling import FM4NPPModel


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
    known, wanted = model.config.subsystems, detectors.build(name).subsystem_features
    if len(known) != 1 or len(wanted) != 1:
        raise ConfigurationError(
            f"a model of {', '.join(known)} cannot stand in for {', '.join(wanted)}: only one subsystem can replace "
            "another; fm4npp add-detector gives the model one more"
        )
    (old, own), (new, theirs) = *known.items(), *wanted.items()
    if own != theirs:
        raise ConfigurationError(
            f"{old} measures {listed(own)}, {new} {listed(theirs)}: features must be the same for the weights to be "
            "used; fm4npp add-detector starts new ones"
        )
    other = copy.deepcopy(model)
    for head in list(other.heads):
        other.remove_head(head)
    return other.add_detector(name, events).remove_detector(model.config.detectors[0].name).eval()
