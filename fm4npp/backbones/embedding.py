"""Spacepoints to vectors: encoded position, measured features and the subsystem that measured them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from fm4npp.backbones.packing import rowwise_linear
from fm4npp.errors import ConfigurationError

NUM_AXES = 3


class EmbeddingConfig(BaseModel):
    """How spacepoints are embedded.

    Attributes:
        projection: "frozen", fixed standard-normal matrices without scaling, as in the released models; or "learned",
            trained matrices that start with an embedding of about unit variance.
        num_octaves: frequencies of the position encoding.
        single_detector_embedding: whether a single subsystem has a detector embedding too, as several always have: one
            that is left of several needs its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    projection: Literal["frozen", "learned"] = "frozen"
    num_octaves: int = Field(10, ge=0)
    single_detector_embedding: bool = False


def nerf_encoding(coordinates: Tensor, num_octaves: int = 10) -> Tensor:
    """Position as sines and cosines of growing frequency (NeRF, arXiv:2003.08934, eq. 4, but without the factor pi).

    Args:
        coordinates: (T, 3), normalised.
        num_octaves: L, the frequencies are 2^0 to 2^(L - 1) radians per unit.

    Returns:
        (T, 3 + 6 L): [p, sin(p), cos(p), sin(2 p), cos(2 p), ...].
    """
    angles = [coordinates * 2.0**octave for octave in range(num_octaves)]
    return torch.cat([coordinates, *(wave for angle in angles for wave in (angle.sin(), angle.cos()))], dim=1)


class SpacepointEmbedding(nn.Module):
    """Projected position encoding + each subsystem's projection of its own features + its detector embedding.

    A row's bits do not depend on the other rows. There is a detector embedding for two subsystems or more.

    Args:
        config: options.
        width: W, numbers of an embedded spacepoint.
        subsystem_features: names of the features that each subsystem measures, in the order of the detector ids.
        feature_names: the columns of the features given to `forward`.

    Raises:
        ConfigurationError: if a subsystem measures a feature that is no column, or its name cannot name a parameter.
    """

    def __init__(
        self,
        config: EmbeddingConfig,
        width: int,
        subsystem_features: Mapping[str, tuple[str, ...]],
        feature_names: tuple[str, ...],
    ) -> None:
        super().__init__()
        _check(subsystem_features, feature_names)
        self.config = config
        learned = config.projection == "learned"
        encoding_size = NUM_AXES * (1 + 2 * config.num_octaves)
        # A sine or cosine of a spread-out phase has variance 1/2, a scaled feature 1; either sum is given half of 1.
        position_std = (encoding_size**-0.5) if learned else 1.0
        self.position_projection = _normal(encoding_size, width, position_std, learned)
        # One by one: a mapping would be sorted by name, and the projections must be in the order of the detector ids.
        self.feature_projections = nn.ParameterDict()
        for name, names in subsystem_features.items():
            std = (2 * max(len(names), 1)) ** -0.5 if learned else 1.0
            self.feature_projections[name] = _normal(len(names), width, std, learned)
        several = len(subsystem_features) > 1 or config.single_detector_embedding
        self.detector_embedding = nn.Parameter(torch.zeros(len(subsystem_features), width)) if several else None

        owned = [(owner, name) for owner, names in enumerate(subsystem_features.values()) for name in names]
        columns = torch.tensor([feature_names.index(name) for _, name in owned], dtype=torch.int64)
        owners = torch.tensor([owner for owner, _ in owned], dtype=torch.int64)
        self.register_buffer("_columns", columns, persistent=False)
        self.register_buffer("_owners", owners, persistent=False)
        self._columns: Tensor
        self._owners: Tensor

    def forward(self, coordinates: Tensor, features: Tensor, detector_ids: Tensor) -> Tensor:
        """Embed spacepoints.

        Args:
            coordinates: (T, 3), normalised.
            features: (T, F), scaled; one column for each of `feature_names`.
            detector_ids: (T,), the subsystem of each spacepoint.

        Returns:
            (T, W).
        """
        own = detector_ids[:, None] == self._owners
        # One product for all subsystems: what another subsystem measures enters as an exact zero.
        measured = features[:, self._columns].masked_fill(~own, 0)
        inputs = torch.cat([nerf_encoding(coordinates, self.config.num_octaves), measured], dim=1)
        projections = torch.cat([self.position_projection, *self.feature_projections.values()])
        embedded = rowwise_linear(inputs, projections.t())
        if self.detector_embedding is None:
            return embedded
        return embedded + nn.functional.embedding(detector_ids, self.detector_embedding)


def _normal(num_inputs: int, width: int, std: float, learned: bool) -> nn.Parameter:
    return nn.Parameter(torch.randn(num_inputs, width) * std, requires_grad=learned)


def _check(subsystem_features: Mapping[str, tuple[str, ...]], feature_names: tuple[str, ...]) -> None:
    for subsystem, names in subsystem_features.items():
        if not subsystem or "." in subsystem:
            raise ConfigurationError(f"subsystem {subsystem!r}: the name must not be empty or hold a dot")
        for name in names:
            if name not in feature_names:
                columns = ", ".join(feature_names)
                raise ConfigurationError(f"subsystem {subsystem!r} measures {name!r}, none of the columns {columns}")
