"""FM4NPP: foundation models for nuclear and particle physics, on any detector of sparse spacepoints.

Everything here is loaded when it is first used: `import fm4npp` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fm4npp import convert, detectors, heads, objectives, readers, serializers
    from fm4npp.batch import EventBatch
    from fm4npp.configuration import FM4NPPConfig
    from fm4npp.data import EventDataset, read_events, write_events
    from fm4npp.errors import DataError, FM4NPPError
    from fm4npp.event import Event
    from fm4npp.geometry import Geometry
    from fm4npp.modeling import FM4NPPModel
    from fm4npp.processing import FM4NPPProcessor

__version__ = "0.1.0"

_HOMES = {
    "DataError": "errors",
    "Event": "event",
    "EventBatch": "batch",
    "EventDataset": "data",
    "FM4NPPConfig": "configuration",
    "FM4NPPError": "errors",
    "FM4NPPModel": "modeling",
    "FM4NPPProcessor": "processing",
    "Geometry": "geometry",
    "read_events": "data",
    "write_events": "data",
}
_MODULES = ("convert", "detectors", "heads", "objectives", "readers", "serializers")

__all__ = [
    "DataError",
    "Event",
    "EventBatch",
    "EventDataset",
    "FM4NPPConfig",
    "FM4NPPError",
    "FM4NPPModel",
    "FM4NPPProcessor",
    "Geometry",
    "convert",
    "detectors",
    "heads",
    "objectives",
    "read_events",
    "readers",
    "serializers",
    "write_events",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"fm4npp.{name}")
    if name in _HOMES:
        return getattr(importlib.import_module(f"fm4npp.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'fm4npp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
