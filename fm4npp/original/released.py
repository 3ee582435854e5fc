"""The released checkpoints by the paper's names, downloaded and converted once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants

from fm4npp.configuration import CONFIG_NAME, FM4NPPConfig
from fm4npp.errors import CheckpointError, first_line
from fm4npp.original.ckpt import Original, read
from fm4npp.registry import suggest

REPOSITORY = "FM4NPP/PP_collision"
PREFIX = "fm4npp-"
RELEASED = {
    "fm4npp-m3": "pp_nerf_m1_k30.ckpt",
    "fm4npp-m4": "pp_nerf_m3_k30.ckpt",
    "fm4npp-m5": "pp_nerf_m4_k30.ckpt",
    "fm4npp-m6": "pp_nerf_m5_k30.ckpt",
}
"""The paper's name -> the file of the Hub repository, whose own m1 to m5 are other sizes than the paper's."""
UNRELEASED = ("fm4npp-m1", "fm4npp-m2")


@dataclass(frozen=True)
class Released:
    """A released checkpoint on this machine.

    Attributes:
        alias: the paper's name.
        path: the `.ckpt` file in the Hub's cache.
        revision: commit of the Hub repository that it is of.
        folder: where it is kept once it has been converted.
    """

    alias: str
    path: Path
    revision: str
    folder: Path

    @property
    def converted(self) -> bool:
        """Whether the folder is complete."""
        return (self.folder / CONFIG_NAME).is_file()


def is_alias(name: str | Path) -> bool:
    """Whether a name is meant as one of a released model; a folder of that name comes first."""
    return str(name).startswith(PREFIX) and "/" not in str(name) and not Path(name).exists()


def fetch(
    alias: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Released:
    """Download a released checkpoint, unless the Hub's cache has it.

    Args:
        alias: "fm4npp-m3" to "fm4npp-m6".
        revision: branch, tag or commit of the Hub repository.
        cache_dir: cache to use in place of the default one, for the converted checkpoint too.
        token: Hub token.
        local_files_only: do not ask the network.
        force_download: download even if the cache has it.

    Raises:
        CheckpointError: for a model that was not released, or if the file cannot be had.
    """
    alias = str(alias)
    if alias in UNRELEASED:
        raise CheckpointError(f"{alias}: the authors never released this model; they did {', '.join(RELEASED)}")
    if alias not in RELEASED:
        raise CheckpointError(f"{alias}: no such folder, and no released model; {suggest(alias, tuple(RELEASED))}")
    file = RELEASED[alias]
    try:
        path = huggingface_hub.hf_hub_download(
            REPOSITORY,
            file,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
        )
    except Exception as error:  # the network can fail in any way
        raise CheckpointError(
            f"{alias}: the Hub does not give {file} of {REPOSITORY} ({first_line(error)}); download it by hand, run "
            f"fm4npp convert-checkpoint {file} FOLDER, and load FOLDER"
        ) from error
    home = Path(cache_dir) if cache_dir is not None else Path(constants.HF_HOME)
    commit = Path(path).parent.name
    return Released(alias, Path(path), commit, home / "fm4npp" / f"{alias}-{commit[:16]}")


def read_released(source: Released, *, trust_pickle: bool = False) -> Original:
    """Read a released checkpoint; its configuration says where it is from. See `read`."""
    found = read(source.path, trust_pickle=trust_pickle)
    training = {**found.config.training, "repository": REPOSITORY, "revision": source.revision}
    return replace(found, config=found.config.updated(training=training))


def released_config(
    alias: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
) -> FM4NPPConfig:
    """The configuration of a released checkpoint; see `fetch`."""
    source = fetch(alias, revision=revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only)
    return FM4NPPConfig.load(source.folder) if source.converted else read_released(source).config
