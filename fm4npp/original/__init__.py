"""The released files of the FM4NPP authors, read without running what is in them.

Facts marked "the released code" are of the authors' public repository (github.com/FM4NPP/PP_collision); the released
checkpoints are files of the Hub repository of the same name.
"""

from __future__ import annotations

from fm4npp.original.bin_edges import RELEASED_BIN_EDGES, read_bin_edges
from fm4npp.original.ckpt import Original, read
from fm4npp.original.released import RELEASED, fetch, is_alias, read_released, released_config

__all__ = [
    "RELEASED",
    "RELEASED_BIN_EDGES",
    "Original",
    "fetch",
    "is_alias",
    "read",
    "read_bin_edges",
    "read_released",
    "released_config",
]
