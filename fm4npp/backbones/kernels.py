"""The compiled kernels of mamba-ssm and causal-conv1d, where they are installed and the device can run them."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from fm4npp.batch import event_index
from fm4npp.errors import first_line

PACKAGES = {"mamba_ssm": "mamba-ssm", "causal_conv1d": "causal-conv1d"}
"""Module -> distribution."""


@dataclass(frozen=True)
class Kernels:
    """Functions of the two packages, with their own names and arguments.

    Attributes:
        causal_conv1d_fn: depthwise convolution and SiLU, with `seq_idx`.
        mamba_chunk_scan_combined: the SSD of Mamba-2, with `seq_idx`.
        selective_scan_fn: the scan of Mamba-1, one event a row.
        version: of the packages.
    """

    causal_conv1d_fn: Callable[..., Tensor]
    mamba_chunk_scan_combined: Callable[..., Tensor]
    selective_scan_fn: Callable[..., Tensor]
    version: str = ""


@functools.cache
def find() -> Kernels | str:
    """The kernels, or in one line why they cannot be used. The packages are imported once."""
    absent = [name for module, name in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if absent:
        return f"{' and '.join(absent)} not installed"
    try:
        with _importable("mamba_ssm"):
            ssd = importlib.import_module("mamba_ssm.ops.triton.ssd_combined")
            scan = importlib.import_module("mamba_ssm.ops.selective_scan_interface")
        convolution = importlib.import_module("causal_conv1d")
        return Kernels(convolution.causal_conv1d_fn, ssd.mamba_chunk_scan_combined, scan.selective_scan_fn, versions())
    except Exception as error:  # compiled for another torch or another driver, anything can come
        return f"{versions()} cannot be imported ({type(error).__name__}: {first_line(error)})"


def versions() -> str:
    """Names and versions of the installed packages."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES.values())


def unusable(device: torch.device) -> str | None:
    """Why the kernels cannot run on `device`, in one line; None if they can."""
    found = find()
    if isinstance(found, str):
        return found
    return None if device.type == "cuda" else f"the kernels need a CUDA device, not {device.type}"


@contextmanager
def _importable(name: str) -> Iterator[None]:
    """Inside, submodules of a package can be imported even if its own `__init__` fails for reasons of its own."""
    try:
        importlib.import_module(name)
        bare = None
    except Exception:
        spec = importlib.util.find_spec(name)
        bare = ModuleType(name)
        bare.__path__ = list(spec.submodule_search_locations or ()) if spec else []
        sys.modules[name] = bare
    try:
        yield
    finally:
        if bare is not None:
            del sys.modules[name]


@dataclass(frozen=True)
class Sequence:
    """The layout of the kernels: packed tokens as they are, each with the number of its event.

    Attributes:
        offsets: (B + 1,).
        seq_idx: (1, T) int32.
        kernels: that run on it.
    """

    offsets: Tensor
    seq_idx: Tensor
    kernels: Kernels

    @classmethod
    def of(cls, offsets: Tensor) -> Sequence:
        """Lay out events; the kernels must have been found."""
        found = find()
        assert isinstance(found, Kernels)
        return cls(offsets, event_index(offsets).to(torch.int32)[None], found)

    def align(self, packed: Tensor) -> Tensor:
        """(T, W), the same."""
        return packed

    def pack(self, aligned: Tensor) -> Tensor:
        """(T, W), the same."""
        return aligned

    def convolution(self, values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """SiLU of a causal depthwise convolution inside each event.

        Args:
            values: (T, channels).
            weight: (channels, K), the last tap is the present row's.
            bias: (channels,).

        Returns:
            (T, channels).
        """
        # The kernel takes (batch, channels, T) with channels contiguous, and needs its own copy of a slice.
        columns = values.contiguous()[None].transpose(1, 2)
        result = self.kernels.causal_conv1d_fn(columns, weight, bias, seq_idx=self.seq_idx, activation="silu")
        return result[0].t()
