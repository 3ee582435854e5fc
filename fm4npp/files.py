"""Writing files so that a reader never meets half of one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from fm4npp.errors import FM4NPPError, first_line

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

STAGING = ".staging"
"""What the names of unfinished files and folders begin with."""
PENDING_NAME = ".pending"
"""A folder of whole files that belong into the folder around it, and are read from here until they are there."""
ABANDONED_AFTER = 24 * 3600.0
"""Seconds without a change after which an unfinished folder is taken for a killed writer's, where locks do not work."""


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success flush it to disk and rename it, on any failure remove it.

    Args:
        path: final name of the file. Its folder is created.

    Yields:
        The temporary path to write to, with the same suffix.

    Raises:
        FM4NPPError: if the file cannot be written (disk full, no permission); `path` is then untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.filename is not None and Path(error.filename) not in (temporary, path, path.parent):
            raise  # the body failed to read something else
        reason = error.strerror or str(error)
        raise FM4NPPError(f"{path}: cannot be written ({reason}); nothing was changed") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON to `path`, atomically."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | Path, error: type[FM4NPPError] = FM4NPPError) -> Any:
    """Read the JSON file `path`.

    Raises:
        FM4NPPError: (or the given subclass) if the file is absent or is no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as cause:
        raise error(f"{path}: cannot be read ({cause.strerror or cause})") from cause
    except (UnicodeDecodeError, json.JSONDecodeError) as cause:
        raise error(f"{path}: is not valid JSON ({cause})") from cause


def sha256(path: str | Path) -> str:
    """SHA-256 of the bytes of a file, as 64 hexadecimal digits."""
    with Path(path).open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def reason(error: Exception) -> str:
    """Why something could not be read or written, and nothing else: "No space left on device"."""
    told = getattr(error, "strerror", None) or first_line(error)
    number = re.search(r"\(os error (\d+)\)", told)  # as libraries written in Rust say it, in their own words
    return os.strerror(int(number[1])) if number else told


def sync(path: str | Path) -> None:
    """Wait until the bytes of a file, or the names in a folder, are on the disk."""
    folder = Path(path).is_dir()
    if folder and os.name == "nt":
        return  # Windows neither needs nor allows it
    handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if not (folder and error.errno in (errno.EINVAL, errno.ENOTSUP)):  # file systems that order names themselves
            raise
    finally:
        os.close(handle)


def temporary_name(prefix: str) -> str:
    """A name that no other writer has: prefix, process and eight random hexadecimal digits."""
    return f"{prefix}.{os.getpid()}.{secrets.token_hex(4)}"


def share(path: str | Path) -> None:
    """Give a file the permissions of its folder; safetensors writes files that only their owner can read."""
    path = Path(path)
    path.chmod(path.parent.stat().st_mode & 0o666)


def discard(path: Path, temporary: Path) -> None:
    """Remove a folder or a file under another name, so that a kill meanwhile leaves no half of it under its own."""
    path.rename(temporary)
    remove(temporary)


def remove(path: Path) -> None:
    """Remove a folder with all that is in it, or a file; nothing if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# ---- several files at once


def current(folder: str | Path, marker: str) -> Path:
    """Where a folder's files are to be read.

    Args:
        folder: that `replaced_together` may have written.
        marker: name of one of the files.

    Returns:
        `folder/.pending` if a writer was killed, or is at work, between committing the files and putting them in
        place; else the folder.
    """
    pending = Path(folder) / PENDING_NAME
    return pending if (pending / marker).is_file() else Path(folder)


@contextmanager
def replaced_together(folder: str | Path, stale: str) -> Iterator[Path]:
    """Write several files of a folder so that readers who ask `current` meet all of the old or all of the new.

    The new files are written to an unfinished folder, whose renaming to `.pending` is the one moment that counts.
    They are linked to their places afterwards; if a kill comes between, the next writer does it.

    Args:
        folder: created if it does not exist; files that are not written stay.
        stale: pattern of files that go if they are not written.

    Yields:
        An empty folder to write to.

    Raises:
        OSError: if something cannot be written; the folder is as it was, or holds all that is new in `.pending`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    staging = folder / temporary_name(STAGING)
    with ExitStack() as stack:
        with _exclusive(folder):
            _remove_abandoned(folder)
            staging.mkdir()
            stack.enter_context(_exclusive(staging))
        try:
            yield staging
            _settle(staging, folder)
            with _exclusive(folder):
                _finish(folder, stale)
                _commit(staging, folder, stale)
        finally:
            with suppress(OSError):
                remove(staging)


def _settle(staging: Path, folder: Path) -> None:
    """Wait until all is on the disk, and find what would keep it from its place while nothing is changed yet."""
    for path in staging.iterdir():
        share(path)
        sync(path)
        if (folder / path.name).is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(folder / path.name))
    sync(staging)


def _commit(staging: Path, folder: Path, stale: str) -> None:
    links = _links(staging, folder)
    try:
        staging.rename(folder / PENDING_NAME)
    except OSError:
        _unlink(links)
        raise
    sync(folder)
    _install(folder, links, stale)


def _finish(folder: Path, stale: str) -> None:
    """Put in place what a killed writer had committed."""
    pending = folder / PENDING_NAME
    if pending.is_dir():
        _install(folder, _links(pending, folder), stale)


def _links(source: Path, folder: Path) -> dict[Path, Path]:
    """Link all files under temporary names: final -> temporary path, the configuration last."""
    links: dict[Path, Path] = {}
    try:
        for path in sorted(source.iterdir(), key=lambda path: (path.suffix == ".json", path.name)):
            link = links[folder / path.name] = folder / temporary_name(STAGING)
            _link(path, link)
    except OSError:
        _unlink(links)
        raise
    return links


def _link(path: Path, link: Path) -> None:
    try:
        link.hardlink_to(path)
    except OSError:  # a file system without links
        shutil.copyfile(path, link)
        share(link)
        sync(link)


def _unlink(links: dict[Path, Path]) -> None:
    for link in links.values():
        with suppress(OSError):
            link.unlink()


def _install(folder: Path, links: dict[Path, Path], stale: str) -> None:
    for final, link in links.items():
        link.replace(final)
        link.unlink(missing_ok=True)  # it is still there if both were links to the same file already
    for path in folder.glob(stale):
        if path not in links and path.is_file():
            path.unlink()
    sync(folder)
    discard(folder / PENDING_NAME, folder / temporary_name(STAGING))


def _remove_abandoned(folder: Path) -> None:
    for path in folder.glob(f"{STAGING}.*"):
        with suppress(OSError):
            if _abandoned(path):
                remove(path)


def _abandoned(path: Path) -> bool:
    """Whether no writer is at work on a folder: each holds a lock on its own, which dies with it."""
    try:
        os.close(_lock(path, wait=False))
    except BlockingIOError:
        return False
    except OSError:
        return time.time() - path.lstat().st_mtime > ABANDONED_AFTER
    return True


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Keep other writers waiting, where the file system can."""
    handle = None
    with suppress(OSError):
        handle = _lock(folder, wait=True)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _lock(path: Path, *, wait: bool) -> int:
    if fcntl is None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(handle)
        raise
    return handle
