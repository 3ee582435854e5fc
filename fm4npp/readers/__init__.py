"""File formats: one file each, columns out, no physics. The only place that opens data files."""

from __future__ import annotations

from fm4npp.readers.base import WHOLE, Columns, Reader, Table
from fm4npp.registry import Registry

registry: Registry[Reader] = Registry("reader", Reader)  # type: ignore[type-abstract]
register, get, build, names = registry.register, registry.get, registry.build, registry.names

__all__ = ["WHOLE", "Columns", "Reader", "Table", "build", "get", "names", "register", "registry"]
