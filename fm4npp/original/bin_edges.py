"""The bin edges of the authors' raster scan, which the released code keeps in a pickle outside the checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fm4npp.errors import CheckpointError, first_line
from fm4npp.original.unpickling import Recorded, numbers, read_plain
from fm4npp.serializers.raster_scan import Edges, RasterScan

RELEASED_BIN_EDGES = "4e603255647c012d76feb1109d397c8b755e3ccb6cb384f4f0e7c561df0c6bf0"
"""SHA-256 of the authors' `bin_edges_v3_nbins_8_8_6.pkl`."""
MAX_SIZE = 10_000_000
"""Bytes of a file that could be one of bin edges; the authors' has 25 numbers."""
AXES = {"eta": 0, "phi": 1, "r": 2, "radius": 2}
"""What an axis may be called; the released code writes Eta, Phi and Radius."""
SLACK = 0.01
"""How far outside [0, 1] a normalised edge may lie."""


def read_bin_edges(path: str | Path) -> RasterScan:
    """The raster scan with the edges in a file, 8 x 8 x 6 boxes of normalised eta, phi and r.

    Args:
        path: a pickle of three lists or arrays in this order, or of a mapping that names them.

    Returns:
        A fitted serializer. Its edges are rounded to single precision, in which the released code compares with them.

    Raises:
        CheckpointError: if the file asks for more than lists, numbers and NumPy arrays (nothing in it is run), is
            damaged, or holds something else.
    """
    path = Path(path)
    content = read_plain(path, MAX_SIZE)
    num_bins = RasterScan().num_bins
    try:
        edges = [_edges(values, bins) for values, bins in zip(_three(content), num_bins, strict=True)]
    except Exception as error:  # a forged state can raise anything
        boxes = " x ".join(map(str, num_bins))
        raise CheckpointError(
            f"{path}: holds no bin edges of {boxes} boxes in eta, phi and r: {first_line(error)}"
        ) from error
    return RasterScan(edges=(edges[0], edges[1], edges[2]))


def _three(content: Any) -> Sequence[Any]:
    """The values of the three axes, in the order eta, phi, r."""
    if isinstance(content, dict):
        places = {AXES.get(str(key).lower()): value for key, value in content.items()}
        if len(content) != 3 or set(places) != {0, 1, 2}:
            raise ValueError(
                f"found a mapping of {', '.join(repr(key)[:20] for key in list(content)[:8]) or 'nothing'}"
            )
        return [places[axis] for axis in range(3)]
    if not isinstance(content, list | tuple) or len(content) != 3:
        number = f" of {len(content)}" if isinstance(content, list | tuple | str | bytes) else ""
        kind = "numpy" if isinstance(content, Recorded) else type(content).__name__
        raise ValueError(f"found {kind}{number}")
    return content


def _edges(values: Any, num_bins: int) -> Edges:
    """One axis, checked."""
    edges = numbers(values).astype(np.float32).astype(np.float64)
    if len(edges) != num_bins + 1:
        raise ValueError(f"found {len(edges)} numbers where {num_bins + 1} are needed")
    if not np.isfinite(edges).all() or not (np.diff(edges) > 0).all():
        raise ValueError("found edges that do not increase")
    if edges[0] < -SLACK or edges[-1] > 1 + SLACK:
        raise ValueError(f"found edges from {edges[0]:g} to {edges[-1]:g}, not normalised to [0, 1]")
    return tuple(edges.tolist())
