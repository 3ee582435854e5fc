"""The energy that objectives predict beside places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fm4npp.errors import ConfigurationError, DataError
from fm4npp.objectives.base import Array


def log_energy(features: Mapping[str, Any]) -> Array:
    """The feature `energy` to (N,) float64 log(1 + energy), of the number that the file gives.

    Raises:
        ConfigurationError: if there is no such feature.
        DataError: if an energy is not above -1.
    """
    if "energy" not in features:
        raise ConfigurationError(
            "energy=True needs the feature 'energy'; this detector measures: "
            f"{', '.join(sorted(features)) or 'nothing but positions'}; set energy to false"
        )
    energy = np.asarray(features["energy"], dtype=np.float64)
    if not (energy > -1).all():
        raise DataError("an energy is not above -1, so log(1 + energy) does not exist", remedy="set energy to false")
    logarithm: Array = np.log1p(energy)
    return logarithm
