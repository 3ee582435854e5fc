"""Labelled events from a particle gun and a parametric ("fast") detector simulation; NumPy only."""

from __future__ import annotations

from fm4npp.simulation.events import simulate
from fm4npp.simulation.gun import ParticleGun

__all__ = ["ParticleGun", "simulate"]
