"""File formats: one file each, columns out, no physics. The only place that opens data files."""

from __future__ import annotations

from fm4npp.readers.base import WHOLE, Block, Columns, Reader, Table, events_of
from fm4npp.registry import Registry

registry: Registry[Reader] = Registry("reader", Reader)  # type: ignore[type-abstract]
register, get, build, names = registry.register, registry.get, registry.build, registry.names

__all__ = ["WHOLE", "Block", "Columns", "Reader", "Table", "build", "events_of", "get", "names", "register", "registry"]
