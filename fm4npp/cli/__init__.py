"""The command `fm4npp`."""

from __future__ import annotations

import os

from fm4npp.cli.app import app

# Imported for their commands.
from fm4npp.cli import checkpoints, simulation, data, data_sets, information, models, training  # isort: skip  # noqa: F401


def main() -> None:
    """Run the command line."""
    # OpenMP's idle threads would spin on the processors that the compiled loops run on; torch is not imported yet.
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    app()


__all__ = ["app", "main"]
