"""Folders of tensors and JSON values whose every bit is verified before it is used.

A folder holds `<stem>.safetensors` and `<stem>.json` files and `manifest.json`, which lists the size and the SHA-256 of
every file and its own. safetensors has no checksum: a flipped bit in a tensor is another number and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from fm4npp.errors import CheckpointError, first_line
from fm4npp.files import reason, share, sync
from fm4npp.manifest import MANIFEST_NAME, entries, read_manifest, sealed, verified

FORMAT = 1
COMMON_TYPES = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool}
    | {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}
)
"""What every version of safetensors stores as it is; tensors of another type are stored as their bytes."""


class Contents(NamedTuple):
    """What a folder holds.

    Attributes:
        step: of the training run.
        tensors: file stem -> name -> tensor, on the CPU.
        values: file stem -> JSON value.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    values: dict[str, Any]


# ---- writing


def encoded(value: Any) -> bytes:
    """A value as JSON.

    Raises:
        TypeError: for a key that is not text, which JSON would turn into text, or a value that JSON does not have.
        ValueError: for a number that is not finite.
    """
    _check_keys(value)
    return json.dumps(value, allow_nan=False).encode()


def _check_keys(value: Any) -> None:
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is not text")
        value = list(value.values())
    for item in value if isinstance(value, list | tuple) else ():
        _check_keys(item)


def check_tensors(tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Refuse what cannot be stored.

    Raises:
        TypeError: naming a tensor that is sparse, quantized, without values, or spread over processes.
    """
    for stem, group in tensors.items():
        for name, tensor in group.items():
            plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout == torch.strided
            if not plain or tensor.is_quantized or tensor.is_meta or name == "__metadata__":
                raise TypeError(f"{stem}: {name!r} cannot be stored; a plain dense tensor with values is needed")


def fill(folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], texts: Mapping[str, bytes]) -> None:
    """Write all files into an empty folder, the manifest last, and wait until they are on the disk.

    Args:
        folder: exists.
        step: of the training run.
        tensors: file stem -> name -> tensor.
        texts: file stem -> `encoded` value.
    """
    as_bytes: dict[str, dict[str, list[Any]]] = {}
    for stem, group in tensors.items():
        stored, as_bytes[stem] = _storable(group)
        save_file(stored, folder / f"{stem}.safetensors")
    for stem, text in texts.items():
        (folder / f"{stem}.json").write_bytes(text)
    for path in folder.iterdir():
        share(path)
        sync(path)
    manifest = {"format": FORMAT, "step": step, "files": entries(folder.iterdir()), "as_bytes": as_bytes}
    (folder / MANIFEST_NAME).write_bytes(sealed(manifest))
    sync(folder / MANIFEST_NAME)
    sync(folder)


def _storable(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[Any]]]:
    """What safetensors accepts in place of the tensors, and type and shape of those that are stored as bytes."""
    stored: dict[str, Tensor] = {}
    as_bytes: dict[str, list[Any]] = {}
    memory: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().to("cpu").resolve_conj().resolve_neg().contiguous()
        if value.dtype not in COMMON_TYPES:
            as_bytes[name] = [str(value.dtype).removeprefix("torch."), list(value.shape)]
            value = value.reshape(-1).view(torch.uint8)
        place = value.untyped_storage().data_ptr()
        stored[name] = value.clone() if place in memory else value
        memory.add(place)
    return stored, as_bytes


# ---- reading


def contents(folder: Path) -> Contents:
    """Read a folder and verify every bit; what is returned is made of the very bytes that were verified.

    Raises:
        CheckpointError: naming the file that is missing, damaged, or does not belong there.
    """
    manifest = _manifest(folder)
    tensors: dict[str, dict[str, Tensor]] = {}
    values: dict[str, Any] = {}
    try:
        for name, expected in manifest["files"].items():
            data = verified(folder / name, expected)
            stem, _, kind = name.rpartition(".")
            if kind == "safetensors":
                tensors[stem] = _restored(load(data), manifest["as_bytes"][stem])
            else:
                values[stem] = json.loads(data)
        return Contents(int(manifest["step"]), tensors, values)
    except (LookupError, AttributeError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: is not a checkpoint of this format ({first_line(error)})") from error


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST_NAME
    manifest = read_manifest(path)
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path}: has format {manifest.get('format')!r}; this version reads {FORMAT}")
    _check_names(folder, {MANIFEST_NAME, *manifest.get("files", ())})
    return manifest


def _check_names(folder: Path, expected: set[str]) -> None:
    try:
        found = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read ({reason(error)})") from error
    for name in sorted(expected - found):
        raise CheckpointError(f"{folder / name}: is missing")
    for name in sorted(found - expected):
        raise CheckpointError(f"{folder / name}: is damaged or not of this checkpoint (the manifest does not name it)")


def _restored(tensors: dict[str, Tensor], as_bytes: Mapping[str, Any]) -> dict[str, Tensor]:
    for name, (kind, shape) in as_bytes.items():
        tensors[name] = tensors[name].view(getattr(torch, kind)).reshape(shape)
    return tensors
