"""Ctrl-C before a command runs, while what it needs is loaded: one line, as later."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

MESSAGE = "interrupted; nothing was written under the final name"
STATUS = 130
"""Exit status of an interrupted command: 128 and the number of the signal, as shells have it."""


@contextmanager
def interrupts_in_one_line() -> Iterator[None]:
    """End the process on Ctrl-C, without a traceback.

    Raises:
        SystemExit: on Ctrl-C, with `STATUS`.
    """
    try:
        yield
    except KeyboardInterrupt:
        sys.stderr.write(f"error: {MESSAGE}\n")
        raise SystemExit(STATUS) from None
