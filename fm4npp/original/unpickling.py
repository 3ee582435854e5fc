"""Pickles of other people, read so that nothing in them runs.

A pickle is a program. Of all it may ask for, NumPy's numbers and arrays are admitted, and even those not as NumPy's own
classes, whose state a file could forge, but as stand-ins that keep what they are given.
"""

from __future__ import annotations

import io
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fm4npp.errors import CheckpointError, first_line

Array = NDArray[Any]

NUMPY_MODULES = ("numpy.core", "numpy._core")
"""The private module's name before and since NumPy 2."""


class Recorded:
    """Stands for an object of a pickle: keeps the arguments and the state that it would have been made of."""

    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        """Keep the state, which pickle gives after the arguments."""
        self.state = state


def _stand_in(module: str, name: str) -> type[Recorded]:
    return type(name, (Recorded,), {"__module__": module, "__qualname__": name})


STAND_INS = {
    (module, name): _stand_in(module, name)
    for module, name in [
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        *((f"{core}.multiarray", name) for core in NUMPY_MODULES for name in ("_reconstruct", "scalar")),
        *((f"{core}.numeric", "_frombuffer") for core in NUMPY_MODULES),
    ]
}


class RestrictedUnpickler(pickle.Unpickler):
    """Reads plain values and stand-ins of NumPy's numbers and arrays; refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of a name that is admitted.

        Raises:
            pickle.UnpicklingError: for any other name.
        """
        if (module, name) not in STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {f'{module}.{name}'[:100]!r}")
        return STAND_INS[module, name]


def read_plain(path: Path, max_size: int) -> Any:
    """The value in a pickle of plain values, NumPy numbers and NumPy arrays, the latter two as `Recorded`.

    Args:
        path: the file.
        max_size: bytes that it may have at most.

    Raises:
        CheckpointError: if it cannot be read, is too large, is damaged, or asks for anything else.
    """
    try:
        with path.open("rb") as handle:
            content = handle.read(max_size + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(content) > max_size:
        raise CheckpointError(f"{path}: is larger than {max_size:,} bytes, so it is not what is asked for")
    try:
        return RestrictedUnpickler(io.BytesIO(content)).load()
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(
            f"{path}: is refused, for {first_line(error)}; only plain values and NumPy arrays are read from a pickle"
        ) from error


def numbers(value: Any) -> Array:
    """A list of numbers, or a NumPy array of one axis as `read_plain` gives it, to (M,) float64.

    Raises:
        ValueError: saying what it is instead; a forged state can raise anything else.
    """
    if isinstance(value, Recorded):
        return _array(value).astype(np.float64)
    if not isinstance(value, list | tuple):
        raise ValueError(f"{type(value).__name__}, no list or array")
    return np.array([_number(item) for item in value], dtype=np.float64)


def _number(value: Any) -> float:
    if isinstance(value, Recorded) and type(value).__name__ == "scalar":
        dtype, content = value.arguments
        return float(np.frombuffer(content, _dtype(dtype), count=1)[0])
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"a list that holds {type(value).__name__}, not numbers")
    return float(value)


def _array(value: Recorded) -> Array:
    """What NumPy's own `_reconstruct` and `_frombuffer` would make, of plain numbers along one axis."""
    kind = type(value).__name__
    if kind == "_reconstruct":
        _, shape, dtype, _, content = value.state
    elif kind == "_frombuffer":
        content, dtype, shape, _ = value.arguments
    else:
        raise ValueError(f"numpy.{kind}, no list or array")
    numeric = _dtype(dtype)
    if not isinstance(content, bytes | bytearray):
        raise ValueError(f"an array whose content is {type(content).__name__}, not bytes")
    array = np.frombuffer(content, numeric)
    if tuple(shape) != array.shape:
        raise ValueError(f"an array of shape {tuple(shape)}, not of one axis")
    return array


def _dtype(value: Any) -> np.dtype[Any]:
    """A stand-in of a dtype to the dtype, if it is of plain numbers."""
    code = value.arguments[0] if isinstance(value, Recorded) and value.arguments else None
    if not isinstance(code, str) or not re.fullmatch(r"f[248]|[iu][1248]", code):
        raise ValueError(f"an array of dtype {str(code)[:20]!r}, not of numbers")
    order = value.state[1] if value.state else "="
    return np.dtype({"<": "<", ">": ">"}.get(order, "=") + code)


def load_torch(path: Path, trust_pickle: bool) -> Any:
    """What `torch.save` wrote: tensors and plain values, with NumPy's numbers and arrays as `Recorded`.

    Args:
        path: the file.
        trust_pickle: unpickle a file that holds more in full, which runs whatever is in it.

    Raises:
        CheckpointError: if it is no such file, is damaged, or holds more and is not trusted.
    """
    mapped = zipfile.is_zipfile(path)  # files from before PyTorch 1.6 are not, and cannot be mapped into memory
    with warnings.catch_warnings(), torch.serialization.safe_globals(list(STAND_INS.values())):
        warnings.simplefilter("ignore", UserWarning)  # the protocol of a pickle that is no checkpoint
        try:
            return torch.load(path, weights_only=True, map_location="cpu", mmap=mapped)
        except Exception as error:  # a damaged file can raise anything
            wanted = _wanted(path, error)
            if not wanted:
                raise CheckpointError(
                    f"{path}: is truncated, damaged or no checkpoint of PyTorch ({first_line(error)})"
                ) from error
            if not trust_pickle:
                raise CheckpointError(
                    f"{path}: holds more than tensors and plain values ({', '.join(wanted)[:200]}), and unpickling "
                    "that runs whatever code is in the file; if you trust where it comes from, ask for it: "
                    "trust_pickle=True, or fm4npp convert-checkpoint --trust-pickle"
                ) from error
    try:
        return torch.load(path, weights_only=False, map_location="cpu", mmap=mapped)
    except Exception as error:
        raise CheckpointError(f"{path}: cannot be unpickled ({first_line(error)})") from error


def _wanted(path: Path, error: Exception) -> list[str]:
    """The names that a checkpoint asks for and PyTorch's restricted unpickler does not admit."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # not a zip archive, or of another protocol: all there is to go by is the refusal
        return re.findall(r"GLOBAL ([\w.]+)", str(error))
