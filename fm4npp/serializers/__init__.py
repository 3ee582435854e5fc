"""In which order the backbone reads an event."""

from __future__ import annotations

from fm4npp.registry import Registry
from fm4npp.serializers.base import Serializer

registry: Registry[Serializer] = Registry("serializer", Serializer)  # type: ignore[type-abstract]
register, get, build, names = registry.register, registry.get, registry.build, registry.names

__all__ = ["Serializer", "build", "get", "names", "register", "registry"]
