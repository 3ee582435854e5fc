"""What is learned without labels."""

from __future__ import annotations

from fm4npp.objectives.base import Objective
from fm4npp.registry import Registry

registry: Registry[Objective] = Registry("objective", Objective)  # type: ignore[type-abstract]
register, get, build, names = registry.register, registry.get, registry.build, registry.names

__all__ = ["Objective", "build", "get", "names", "register", "registry"]
