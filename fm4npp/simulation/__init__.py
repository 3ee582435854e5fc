"""Labelled events: particle gun or PYTHIA, and a parametric ("fast") detector simulation; NumPy only."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fm4npp.simulation.events import simulate as simulate
    from fm4npp.simulation.generator import Generator as Generator
    from fm4npp.simulation.gun import ParticleGun as ParticleGun
    from fm4npp.simulation.pythia import Pythia8 as Pythia8

_WHERE = {"Generator": "generator", "ParticleGun": "gun", "Pythia8": "pythia", "simulate": "events"}
__all__ = ["Generator", "ParticleGun", "Pythia8", "simulate"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"fm4npp.simulation.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
