"""Stacks of state-space blocks over packed events."""

from __future__ import annotations

from fm4npp.backbones.base import Backbone, BackboneConfig
from fm4npp.registry import Registry

registry: Registry[Backbone] = Registry("backbone", Backbone)  # type: ignore[type-abstract]
register, get, build, names = registry.register, registry.get, registry.build, registry.names

__all__ = ["Backbone", "BackboneConfig", "build", "get", "names", "register", "registry"]
