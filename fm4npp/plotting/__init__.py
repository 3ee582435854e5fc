"""Pictures of events, drawn with matplotlib (extra `plot`), which is imported only when one is drawn."""

from __future__ import annotations

from fm4npp.plotting.display import draw_event

__all__ = ["draw_event"]
