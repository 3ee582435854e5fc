"""What gives an event its first particles."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from pydantic import BaseModel, ConfigDict

from fm4npp.simulation.particles import Particles


class Generator(BaseModel, ABC):
    """Makes collisions; its fields are its whole configuration."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @property
    @abstractmethod
    def source(self) -> str:
        """Name, version and tune, as it is written into every event."""

    @abstractmethod
    def collisions(self, count: int, seed: np.random.SeedSequence) -> Particles:
        """Independent collisions, each around its own point within the beam spot.

        Args:
            count: how many; `event` counts them.
            seed: of all randomness; the same gives the same collisions whatever was made before.
        """
