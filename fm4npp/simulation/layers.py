"""A detector as the simulation sees it: one row of numbers for each cylindrical layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm4npp.detectors import Detector
from fm4npp.errors import ConfigurationError

Array = NDArray[Any]
ENERGY = "energy"
"""The one measured quantity that can be simulated."""


@dataclass(frozen=True)
class Layers:
    """The L layers of a detector, subsystem after subsystem in the order of `Detector.subsystems`.

    Attributes:
        field: solenoid field in tesla.
        radius: (L,) in cm.
        subsystem: (L,) int16, index into `Detector.subsystems`.
        half_length: (L,) largest |z| of a spacepoint, in cm.
        resolution_rphi: (L,) in cm.
        resolution_z: (L,) in cm.
        efficiency: (L,) probability of a spacepoint.
        gain: (L,) mean of `energy` for a minimum-ionising particle that crosses radially; 0 where not measured.
        energy: whether the detector has the feature `energy`.
    """

    field: float
    radius: Array
    subsystem: Array
    half_length: Array
    resolution_rphi: Array
    resolution_z: Array
    efficiency: Array
    gain: Array
    energy: bool


def layers_of(detector: Detector) -> Layers:
    """The layers of every subsystem of a detector.

    Raises:
        ConfigurationError: if the detector, or a part of it, cannot be simulated.
    """
    _check(detector)
    responses = [detector.responses[name] for name in detector.subsystems]
    lengths = [len(geometry.layers) for geometry, _ in responses]

    def spread(values: list[float]) -> Array:
        return np.repeat(np.array(values, dtype=np.float64), lengths)

    measures = [ENERGY in detector.subsystem_features[name] for name in detector.subsystems]
    return Layers(
        field=responses[0][1].field,
        radius=np.concatenate([geometry.layers for geometry, _ in responses]),
        subsystem=np.repeat(np.arange(len(lengths), dtype=np.int16), lengths),
        half_length=spread([response.half_length for _, response in responses]),
        resolution_rphi=spread([response.resolution_rphi for _, response in responses]),
        resolution_z=spread([response.resolution_z for _, response in responses]),
        efficiency=spread([response.efficiency for _, response in responses]),
        gain=spread([response.gain * has for (_, response), has in zip(responses, measures, strict=True)]),
        energy=ENERGY in detector.features,
    )


def _check(detector: Detector) -> None:
    missing = [name for name in detector.subsystems if name not in detector.responses]
    if missing:
        raise ConfigurationError(
            f"detector {detector.name!r} cannot be simulated: {', '.join(missing)} has no response or no layers; "
            "give it the fields `response` and `layers`"
        )
    if unknown := [name for name in detector.features if name != ENERGY]:
        raise ConfigurationError(
            f"detector {detector.name!r} cannot be simulated: no model of the feature {', '.join(unknown)}; "
            f"only {ENERGY!r} has one"
        )
    for name, (geometry, response) in detector.responses.items():
        if geometry.system != "cylindrical" or not geometry.layers or geometry.layers[0] <= 0:
            raise ConfigurationError(
                f"{name!r} cannot be simulated: its layers must be cylinders with a radius above 0"
            )
        if ENERGY in detector.subsystem_features[name] and response.gain == 0:
            raise ConfigurationError(
                f"{name!r} cannot be simulated: it measures {ENERGY!r}, but its response has gain 0"
            )
    if len(fields := {response.field for _, response in detector.responses.values()}) > 1:
        raise ConfigurationError(
            f"detector {detector.name!r} cannot be simulated: its parts have different fields, "
            f"{', '.join(map(str, sorted(fields)))} T; helices need one"
        )
