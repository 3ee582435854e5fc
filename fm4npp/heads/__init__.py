"""What is predicted with labels, from the block outputs of a backbone."""

from __future__ import annotations

from fm4npp.heads.base import Head, HeadConfig, HeadContext
from fm4npp.registry import Registry

registry: Registry[Head] = Registry("head", Head)  # type: ignore[type-abstract]
register, get, names = registry.register, registry.get, registry.names

__all__ = ["Head", "HeadConfig", "HeadContext", "get", "names", "register", "registry"]
