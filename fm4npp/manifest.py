"""Manifests: size and SHA-256 of the files of a folder, and of the manifest itself.

safetensors has no checksum, and JSON none either: a flipped bit in either is another number and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fm4npp.errors import CheckpointError
from fm4npp.files import reason, sha256

MANIFEST_NAME = "manifest.json"
Entry = Mapping[str, Any]
"""`bytes` and `sha256` of a file."""


def entries(paths: Iterable[Path]) -> dict[str, Entry]:
    """Name -> entry of each file."""
    return {path.name: {"sha256": sha256(path), "bytes": path.stat().st_size} for path in sorted(paths)}


def sealed(manifest: Mapping[str, Any]) -> bytes:
    """The only bytes that a manifest may have: sorted, and with the hash of all the rest."""

    def text(value: Mapping[str, Any]) -> bytes:
        return json.dumps(value, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"

    return text({**manifest, "sha256": hashlib.sha256(text(manifest)).hexdigest()})


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest that is what was written.

    Raises:
        CheckpointError: if it cannot be read, or is not.
    """
    data = _bytes(path)
    try:
        manifest = json.loads(data)
        manifest.pop("sha256")
        whole = sealed(manifest) == data
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
        whole = False
    if not whole:
        raise CheckpointError(f"{path}: is damaged (it is not what was written)")
    return dict(manifest)


def verified(path: Path, expected: Entry) -> bytes:
    """The bytes of a file, once its size and its hash are those of the manifest.

    Raises:
        CheckpointError: if they are not.
    """
    _check_size(path, expected)
    data = _bytes(path)
    if hashlib.sha256(data).hexdigest() != expected["sha256"]:
        raise CheckpointError(f"{path}: is damaged (its SHA-256 is not the manifest's)")
    return data


def check_file(path: Path, expected: Entry) -> None:
    """What `verified` does, in memory that does not grow with the file."""
    _check_size(path, expected)
    try:
        found = sha256(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({reason(error)})") from error
    if found != expected["sha256"]:
        raise CheckpointError(
            f"{path}: is damaged, or was changed after it was saved (its SHA-256 is not the manifest's)"
        )


def _check_size(path: Path, expected: Entry) -> None:
    """Before reading, for what is damaged may be of any size."""
    try:
        found = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({reason(error)})") from error
    if found != expected["bytes"]:
        raise CheckpointError(f"{path}: is damaged ({found:,} bytes in place of {expected['bytes']:,})")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({reason(error)})") from error
