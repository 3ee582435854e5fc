"""The command `fm4npp`."""

from __future__ import annotations

import os

from fm4npp.cli.interrupts import interrupts_in_one_line

with interrupts_in_one_line():
    from fm4npp.cli.app import app

    # Imported for their commands.
    from fm4npp.cli import checkpoints, simulation, data, data_sets, information, models, probing, runs  # isort: skip  # noqa: F401
    from fm4npp.cli import checking, studies, training  # isort: skip  # noqa: F401


def main() -> None:
    """Run the command line."""
    # OpenMP's idle threads would spin on the processors that the compiled loops run on; torch is not imported yet.
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    with interrupts_in_one_line():
        app()


__all__ = ["app", "main"]
