"""Writing files so that a reader never meets half of one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fm4npp.errors import FM4NPPError


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
