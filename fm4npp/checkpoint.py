"""Checkpoint folders: finding them, and reading and writing their tensors without a silent difference."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import save_torch_state_dict, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fm4npp.errors import CheckpointError, first_line
from fm4npp.files import PENDING_NAME, current, read_json, reason, replaced_together
from fm4npp.manifest import check_file, entries, read_manifest, sealed

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
WEIGHT_FILES = "model*.safetensors*"
HASHES_NAME = "hashes.json"
"""The manifest of a checkpoint's files."""
FORMAT = 1
"""Of the manifest."""
UNLISTED = ("README.md",)
"""Not in the manifest: the card is for people, who may change it."""
MAX_SHARD_SIZE = "5GB"


def resolve(
    name: str | Path,
    *,
    marker: str,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """The local folder of a checkpoint, or `.pending` in it, if a writer was killed while it put files in place.

    Args:
        name: a folder, or the id `owner/name` of a Hub repository, which is downloaded into the cache.
        marker: file that the folder must hold to be what is asked for.
        revision: branch, tag or commit of a Hub repository.
        cache_dir: cache to use in place of the default one.
        token: Hub token.
        local_files_only: do not ask the network.
        force_download: download even if the cache has it.

    Raises:
        CheckpointError: if there is no such folder or repository, or it holds something else.
    """
    folder = Path(name)
    if not folder.exists():
        if str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
            raise CheckpointError(f"{name}: no such folder, and not the id owner/name of a Hub repository")
        try:
            folder = Path(
                snapshot_download(
                    str(name),
                    revision=revision,
                    cache_dir=cache_dir,
                    token=token,
                    local_files_only=local_files_only,
                    force_download=force_download,
                    allow_patterns=["*.json", "*.safetensors", "README.md"],
                )
            )
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise CheckpointError(
                f"{name}: no such folder, and the Hub does not give it ({first_line(error)})"
            ) from error
    folder = current(folder, marker)
    if not (folder / marker).is_file():
        raise CheckpointError(f"{folder}: holds no {marker}, so it is not the checkpoint that is asked for")
    return folder


def commit_of(folder: Path) -> str:
    """The commit that a folder of the Hub's cache is of, `models--owner--name/snapshots/<commit>`; else ""."""
    inside = folder.parent if folder.name == PENDING_NAME else folder
    return inside.name if inside.parent.name == "snapshots" else ""


def write_manifest(folder: Path, paths: Iterable[Path]) -> None:
    """Write the manifest of some files of a folder; the card is left out."""
    files = entries(path for path in paths if path.name not in UNLISTED)
    (folder / HASHES_NAME).write_bytes(sealed({"format": FORMAT, "files": files}))


def check_files(folder: str | Path, names: Collection[str] | None = None) -> None:
    """Compare a checkpoint's files with its manifest; a folder without one is a warning.

    Args:
        folder: of the checkpoint, as `resolve` gives it.
        names: of the files that are compared; all that the manifest lists by default.

    Raises:
        CheckpointError: naming the file that is missing, damaged, or was changed after it was saved.
    """
    path = Path(folder) / HASHES_NAME
    if not path.exists():
        warnings.warn(f"{folder}: holds no {HASHES_NAME}, so its files could not be verified", stacklevel=3)
        return
    manifest = read_manifest(path)
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path}: has format {manifest.get('format')!r}; this version reads {FORMAT}")
    for name, entry in manifest["files"].items():
        if names is None or name in names:
            check_file(Path(folder) / name, entry)


def read_tensors(folder: str | Path) -> dict[str, Tensor]:
    """All tensors of `model.safetensors`, or of the shards that its index names.

    Raises:
        CheckpointError: naming the file that is missing or damaged.
    """
    folder = current(current(folder, WEIGHTS_NAME), INDEX_NAME)
    index = folder / INDEX_NAME
    if not index.exists():
        return _read_file(folder / WEIGHTS_NAME)
    weight_map = read_json(index, CheckpointError).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index}: holds no weight_map")
    tensors: dict[str, Tensor] = {}
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name:
            raise CheckpointError(f"{index}: names {name!r}, which is not a file of this folder")
        tensors |= _read_file(folder / name)
    if set(tensors) != set(weight_map):
        raise CheckpointError(f"{index}: does not list the tensors that its shards hold")
    return tensors


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: is missing") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: is damaged ({error})") from error


def write_tensors(module: nn.Module, folder: str | Path, max_shard_size: str = MAX_SHARD_SIZE) -> None:
    """Write a module's state to `model.safetensors`, in shards with an index above `max_shard_size`.

    Raises:
        WeightsNotWritten: saying why and how many bytes they need.
    """
    state = {name: tensor.detach().to("cpu").contiguous() for name, tensor in module.state_dict().items()}
    try:
        save_torch_state_dict(state, folder, max_shard_size=max_shard_size)
    except (OSError, SafetensorError) as error:
        size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
        raise WeightsNotWritten(error, size) from error


def load_strict(module: nn.Module, tensors: Mapping[str, Tensor], where: str | Path) -> None:
    """Copy `tensors` into a module, all of them and nothing else.

    Raises:
        CheckpointError: naming every tensor that is missing, unexpected or of another shape or kind.
    """
    own = module.state_dict()
    problems = [f"missing {name}" for name in own if name not in tensors]
    problems += [f"unexpected {name}" for name in tensors if name not in own]
    for name in own.keys() & tensors.keys():
        if own[name].shape != tensors[name].shape:
            problems.append(f"{name} has shape {tuple(tensors[name].shape)}, not {tuple(own[name].shape)}")
        elif own[name].is_floating_point() != tensors[name].is_floating_point():
            problems.append(f"{name} is {tensors[name].dtype}, not {own[name].dtype}")
    if problems:
        shown = "; ".join(sorted(problems)[:8]) + (f"; and {len(problems) - 8} more" if len(problems) > 8 else "")
        raise CheckpointError(f"{where}: the weights do not fit the configuration: {shown}")
    module.load_state_dict(dict(tensors), strict=True)


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, shapes, types and bytes of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu").contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class WeightsNotWritten(OSError):
    """Weights that cannot be written.

    Args:
        error: why.
        num_bytes: that they need.
    """

    def __init__(self, error: Exception, num_bytes: int) -> None:
        super().__init__(reason(error))
        self.num_bytes = num_bytes


@contextmanager
def staged(folder: str | Path) -> Iterator[Path]:
    """Write a checkpoint's files beside it first; they take their places all at once, even if the process is killed.

    Args:
        folder: the final folder; other files in it stay, stale weight files go.

    Yields:
        An empty folder to write to.

    Raises:
        CheckpointError: if something cannot be written; what was in `folder` is then read as before.
    """
    folder = Path(folder)
    size = weights = 0
    try:
        with replaced_together(folder, stale=WEIGHT_FILES) as staging:
            try:
                yield staging
                write_manifest(staging, staging.iterdir())
            finally:
                size = sum(path.stat().st_size for path in staging.iterdir() if not path.match(WEIGHT_FILES))
                weights = sum(path.stat().st_size for path in staging.glob(WEIGHT_FILES))
    except (OSError, SafetensorError) as error:
        size += error.num_bytes if isinstance(error, WeightsNotWritten) else weights
        raise CheckpointError(f"{folder}: cannot be written ({reason(error)}); {_left(folder, size)}") from error


def _left(folder: Path, size: int) -> str:
    """How large the files are that could not be written, as far as is known, and what the folder holds now."""
    pending = (folder / PENDING_NAME).is_dir()
    kept = (
        f"what was saved last is whole in {PENDING_NAME} and is read from there"
        if pending
        else "what was there is kept"
    )
    return f"at least {size:,} bytes are needed; {kept}"
