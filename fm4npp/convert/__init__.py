"""Files of any registered format to events files (Parquet), and the authors' checkpoints to ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fm4npp.convert.events import ConversionReport, convert

if TYPE_CHECKING:
    from fm4npp.convert.checkpoint import load_original_checkpoint

__all__ = ["ConversionReport", "convert", "load_original_checkpoint"]


def __getattr__(name: str) -> Any:
    if name != "load_original_checkpoint":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fm4npp.convert.checkpoint import load_original_checkpoint  # needs torch, which converting events does not

    return load_original_checkpoint
