"""Processes that die at a chosen moment, as a batch system or a full memory ends them."""

import errno
import os
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

CHANGES = frozenset({"os.chmod", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir"})
"""Events of Python's audit that change a file system, beside opening a file to write; replacing a file is renaming."""
DISK_FULL, QUOTA, READ_ONLY = errno.ENOSPC, errno.EDQUOT, errno.EROFS

if not hasattr(os, "fork"):
    pytest.skip("needs processes that fork", allow_module_level=True)


def start(function: Callable[[], object]) -> int:
    """Run a function in a child, which exits with status 0, or 1 if it fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads: the child uses none of them
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function()
            status = 0
        finally:
            os._exit(status)
    return pid


def moments(function: Callable[[], object], folder: Path, copies: Path) -> list[Path]:
    """What a kill would leave of a folder at every moment of a function that writes to it.

    Args:
        function: runs in a child.
        folder: that it writes to.
        copies: folder to make.

    Returns:
        A copy of the folder from before every change of the file system, and one from after the last.
    """
    busy = False

    def copy(event: str, arguments: tuple) -> None:
        nonlocal busy
        writes = event in CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if writes and not busy:
            busy = True
            replicate(folder, copies / f"{len(list(copies.iterdir())):03d}")
            busy = False

    def watched() -> None:
        sys.addaudithook(copy)  # of the child alone
        function()
        copy("os.rename", ())

    copies.mkdir()
    assert os.waitpid(start(watched), 0)[1] == 0
    return sorted(copies.iterdir())


def replicate(folder: Path, copy: Path) -> None:
    """Copy a folder; files that are the same one stay the same one."""
    known: dict[int, Path] = {}
    copy.mkdir()
    for path in sorted(folder.rglob("*")):
        target = copy / path.relative_to(folder)
        if path.is_dir():
            target.mkdir()
        elif path.stat().st_ino in known:
            target.hardlink_to(known[path.stat().st_ino])
        else:
            shutil.copy2(path, target)
            known[path.stat().st_ino] = target


def killed(function: Callable[[Callable[[], None]], object], seconds: float) -> None:
    """Run a function in a child and kill it some time after it has called its argument."""
    reader, writer = os.pipe()
    pid = start(lambda: function(lambda: os.write(writer, b".")))
    os.close(writer)
    assert os.read(reader, 1) == b"."
    os.close(reader)
    time.sleep(seconds)
    os.kill(pid, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def message_under_file_limit(function: Callable[[], object], limit: int) -> str:
    """What the error of a function says in a child whose files may not grow beyond `limit` bytes."""
    import resource

    reader, writer = os.pipe()

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            function()
        except Exception as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())

    pid = start(limited)
    os.close(writer)
    os.waitpid(pid, 0)
    with os.fdopen(reader) as handle:
        return handle.read()


def failing(code: int) -> Callable[..., None]:
    """A function that fails as the operating system does."""

    def fail(*arguments: object, **named: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail
