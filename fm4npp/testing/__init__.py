"""The contracts of the axes as checks, for the components of this project and of plug-ins alike.

Each check takes a class (and the fields that it cannot do without), tries it on small made-up events and raises an
AssertionError that says what is wrong and what to do about it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fm4npp.testing.detectors import check_detector
    from fm4npp.testing.heads import check_head
    from fm4npp.testing.objectives import check_objective
    from fm4npp.testing.readers import check_reader
    from fm4npp.testing.serializers import check_serializer

__all__ = ["check_detector", "check_head", "check_objective", "check_reader", "check_serializer"]


def __getattr__(name: str) -> Any:
    """Import a check when it is asked for: those of detectors and serializers need no torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{name.removeprefix('check_')}s"), name)
