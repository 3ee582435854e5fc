"""The command `fm4npp`."""

from __future__ import annotations

from fm4npp.cli.app import app

# Imported for their commands.
from fm4npp.cli import data, information, models  # isort: skip  # noqa: F401


def main() -> None:
    """Run the command line."""
    app()


__all__ = ["app", "main"]
