"""Names that users choose from, for code that must not wait for torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

Backend = Literal["auto", "torch", "mamba-ssm"]
"""What computes a backbone: PyTorch, which runs everywhere; mamba-ssm's compiled kernels; or the better of them."""
BACKENDS: tuple[str, ...] = get_args(Backend)
WIDTHS: Mapping[str, int] = {"m1": 64, "m2": 128, "m3": 256, "m4": 512, "m5": 1024, "m6": 1536}
"""Model widths of the paper's Table 1."""
