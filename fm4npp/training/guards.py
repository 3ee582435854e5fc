"""What keeps a run's work safe: one run to a folder, and an end at a step when it is asked to stop."""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout

from fm4npp.errors import ConfigurationError, FM4NPPError

LOCK_NAME = ".lock"
ECHO = 1.0
"""Seconds within which a second Ctrl-C is taken for the first one, passed on by a launcher."""
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""Ctrl-C; what schedulers send when time is up; and what they can be told to send before that."""


class Interrupted(FM4NPPError):
    """The run was asked to stop, and is saved; or it was asked twice, and goes on from its last checkpoint."""

    def __init__(self, signal_number: int, step: int, *, saved: bool = True) -> None:
        told = "stopped after step {}; the run is saved, continue it with --resume"
        cut_off = "interrupted after step {}; continue from the last checkpoint with --resume"
        super().__init__((told if saved else cut_off).format(step))
        self.status = 128 + signal_number


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder; the lock ends with the process, however that ends.

    Raises:
        ConfigurationError: if another process holds it.
        FM4NPPError: if nothing can be written there.
    """
    lock = FileLock(folder / LOCK_NAME)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout as error:
        raise ConfigurationError(
            f"{folder}: another run is writing there; wait for it, or use another --output"
        ) from error
    except OSError as error:
        raise FM4NPPError(f"{folder}: cannot be written ({error.strerror or error})") from error
    try:
        yield
    finally:
        lock.release()


def is_killed_worker(error: BaseException) -> bool:
    """Whether an error is what torch, or a connection to a loader's process, raises when that process is killed."""
    told = isinstance(error, RuntimeError) and ("DataLoader worker (pid" in str(error) or "ancdata" in str(error))
    return told or isinstance(error, EOFError | ConnectionError)


def let_go(error: BaseException) -> None:
    """Free what the calls that ended in an error still hold: loaders, whose processes end with them."""
    traceback.clear_frames(error.__traceback__)


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect `SIGNALS` so that the step can be finished; a second Ctrl-C acts at once.

    Launchers pass on what their processes have received already, so that everything else may come twice.
    """
    received: list[int] = []
    previous: dict[int, Any] = {}
    first = 0.0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first
        now = time.monotonic()
        if received and number == signal.SIGINT and now - first > ECHO:
            raise KeyboardInterrupt
        first = first if received else now
        received.append(number)

    for number in SIGNALS:
        try:
            previous[number] = signal.signal(number, handle)
        except ValueError:  # not the main thread: the caller handles signals
            break
    try:
        yield received
    finally:
        for caught, handler in previous.items():
            signal.signal(caught, handler)
