"""Work shared out among processes: a few pieces at a time, and a clean end whatever happens."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from fm4npp.errors import ConfigurationError, FM4NPPError

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2
"""Items for each process that may be under way, or finished before their turn."""
WORKERS_PER_CORE = 4
"""More processes than this for each core only take memory and time from each other."""
ALWAYS_ALLOWED = 8
"""Processes, on however few cores."""
WATCH = 2.0
"""Seconds after which a loader's worker sees that its parent is no more."""


def check_workers(workers: int) -> None:
    """Refuse a number of processes that would take the machine down.

    Raises:
        ConfigurationError: above `WORKERS_PER_CORE` for each core that this process may use, and `ALWAYS_ALLOWED`.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    most = max(ALWAYS_ALLOWED, WORKERS_PER_CORE * cores)
    if workers > most:
        raise ConfigurationError(f"--workers {workers}: at most {most} processes on {cores} cores")


def results(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int, *, in_order: bool = False, killed: str = ""
) -> Generator[Result, None, None]:
    """The results of a function of every item; no more than `AHEAD` of them for each process are held at a time.

    With one process everything is done in this one, at the time a result is asked for. Close the iterator
    (`contextlib.closing`) where it may be left before its end: its processes end then, whatever they are doing.

    Args:
        function: one that can be pickled; sent to every process once. It starts no processes of its own.
        items: short ones, as they are sent while others are waited for.
        workers: processes.
        in_order: results in the order of the items, not as they are finished.
        killed: message for the case that a process dies.

    Raises:
        FM4NPPError: if a process dies. The first error of the function is raised as it is, and ends all processes.
    """
    if workers <= 1:
        yield from map(function, items)
        return
    with _team(function, workers) as team:
        try:
            yield from _collected(team, enumerate(items), in_order)
        except _DiedError as error:
            raise FM4NPPError(killed or "a process was killed; out of memory?") from error


class _DiedError(Exception):
    pass


def _collected(team: list[Connection], queue: Iterator[tuple[int, Any]], in_order: bool) -> Iterator[Any]:
    """Give out the items, and yield the results."""
    idle, working = list(team), dict[Connection, int]()
    finished: dict[int, Any] = {}
    turn = 0
    while True:
        while idle and len(working) + len(finished) < AHEAD * len(team) and (piece := next(queue, None)) is not None:
            number, item = piece
            _send(idle[-1], item)
            working[idle.pop()] = number
        if finished and (not in_order or turn in finished):
            yield finished.pop(turn if in_order else next(iter(finished)))
            turn += 1
        elif working:
            ready: list[Any] = wait(list(working))
            for connection in ready:
                finished[working.pop(connection)] = _receive(connection)
                idle.append(connection)
        else:
            return


def _send(connection: Connection, item: Any) -> None:
    try:
        connection.send(item)
    except OSError as error:
        raise _DiedError from error


def _receive(connection: Any) -> Any:
    try:
        value, failed = connection.recv()
    except (EOFError, OSError) as error:
        raise _DiedError from error
    if failed:
        raise value
    return value


@contextmanager
def _team(function: Callable[[Any], Any], workers: int) -> Iterator[list[Connection]]:
    """Processes that apply the function to what they are sent, each at the other end of one connection.

    Nobody else has that end. So one that dies ends what it was sending (a shared queue would wait for the rest), and
    they notice when this process dies.
    """
    context = multiprocessing.get_context("spawn")  # threads of Arrow do not survive a fork
    connections, processes = [], []
    try:
        with _interrupts_held():
            for _ in range(workers):
                ours, theirs = context.Pipe()
                connections.append(ours)
                process = context.Process(target=_work, args=(theirs, function), daemon=True)
                process.start()
                processes.append(process)
                theirs.close()
        yield connections
    finally:
        for connection in connections:
            connection.close()
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes started in here never see Ctrl-C, from their first moment on: it is their parent that ends them.

    Their parent is told when all are started. One that was interrupted before it has sent a process what to do could
    not end it either. A mask holds no interrupt back from it: another thread (of BLAS, say) may take the signal, and
    Python raises it in the main thread.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    with _handler_held():
        resource_tracker.ensure_running()  # starting it, as the first process does, would let interrupts in again
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # processes inherit it
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _handler_held() -> Iterator[None]:
    """What an interrupt does, it does at the end; Python runs handlers in the main thread alone."""
    if threading.current_thread() is not threading.main_thread() or not callable(signal.getsignal(signal.SIGINT)):
        yield
        return
    held: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if held:
            signal.raise_signal(signal.SIGINT)


def started(loader: Iterable[Item]) -> Iterator[Item]:
    """The iterator of a torch loader, its processes started; one that was killed is an error where its batch is due.

    Torch would raise it from a signal handler, wherever the program is: where errors are swallowed, or while another
    loader starts. Without that handler, here and in loaders that others have started, an iterator looks for itself,
    every five seconds that it waits.
    """
    main = threading.current_thread() is threading.main_thread()  # elsewhere torch leaves the handler alone too
    before = signal.getsignal(signal.SIGCHLD) if main and hasattr(signal, "SIGCHLD") else None
    iterator = iter(loader)
    if before is not None:
        torch_set_it = getattr(before, "__module__", "").startswith("torch.")
        signal.signal(signal.SIGCHLD, signal.SIG_DFL if torch_set_it else before)
    return iterator


def leave_signals_to_parent(worker: int = 0) -> None:
    """For a loader's workers: schedulers and launchers signal all processes, but one decides when to stop.

    Without it SIGTERM kills torch's workers, and a run that is asked to stop fails over it. What their parent sends
    still ends them, where senders can be told apart (Linux), and so does its death: torch's own watch fails when a
    worker waits to hand over a batch that nobody takes.

    Args:
        worker: number of it; every one does the same.
    """
    for name in ("SIGINT", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if hasattr(signal, "sigtimedwait") and parent is not None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with, args=(parent.pid,), daemon=True).start()


def _end_with(parent: int) -> None:
    sender = None
    while os.getppid() == parent and sender != parent:
        received = signal.sigtimedwait({signal.SIGTERM}, WATCH)
        sender = received.si_pid if received else None
    os._exit(0)


def _work(connection: Any, function: Callable[[Any], Any]) -> None:
    """What a process does until its parent closes the connection, or is no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        while True:
            item = connection.recv()
            try:
                outcome = function(item), False
            except Exception as error:
                outcome = _explained(error), True
            connection.send(outcome)
    except (EOFError, ConnectionError):
        return


def _explained(error: Exception) -> Exception:
    """An error with where it happened, which does not travel along; but ours are for users, who need it not."""
    if not isinstance(error, FM4NPPError):
        error.add_note(traceback.format_exc())
    return error
