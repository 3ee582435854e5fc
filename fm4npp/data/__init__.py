"""Events from files and into files, and sets of events for training.

Reading and writing need neither torch nor `datasets`; these come with the sets.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fm4npp.data.accounting import MAX_REJECTED, Accounting
from fm4npp.data.reading import Source, choose_reader, read_events
from fm4npp.data.writing import ROWS_PER_GROUP, EventWriter, write_events

if TYPE_CHECKING:
    from fm4npp.data.cache import IndexCache, cached
    from fm4npp.data.dataset import EventDataset, loader, token_budget_batches
    from fm4npp.data.loading import load
    from fm4npp.data.mixture import Mixture
    from fm4npp.data.stream import EventStream
    from fm4npp.data.stream_loader import StreamLoader, stream_batches

_LAZY = {
    "EventDataset": "dataset",
    "EventStream": "stream",
    "IndexCache": "cache",
    "Mixture": "mixture",
    "StreamLoader": "stream_loader",
    "cached": "cache",
    "load": "loading",
    "loader": "dataset",
    "stream_batches": "stream_loader",
    "token_budget_batches": "dataset",
}

__all__ = [
    "MAX_REJECTED",
    "ROWS_PER_GROUP",
    "Accounting",
    "EventDataset",
    "EventStream",
    "EventWriter",
    "IndexCache",
    "Mixture",
    "Source",
    "StreamLoader",
    "cached",
    "choose_reader",
    "load",
    "loader",
    "read_events",
    "stream_batches",
    "token_budget_batches",
    "write_events",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
