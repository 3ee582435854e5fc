"""What the columns of a file mean: one small class, or one YAML file, a detector."""

from __future__ import annotations

from fm4npp.detectors.base import Column, Detector, Feature, Response
from fm4npp.registry import Registry

registry: Registry[Detector] = Registry("detector", Detector)  # type: ignore[type-abstract]
register, get, build, names = registry.register, registry.get, registry.build, registry.names

__all__ = ["Column", "Detector", "Feature", "Response", "build", "get", "names", "register", "registry"]
