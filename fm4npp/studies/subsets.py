"""Events drawn from files without replacement: smaller subsets lie within larger ones of the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm4npp import detectors
from fm4npp.data import EventDataset, EventWriter
from fm4npp.errors import DataError

Array = NDArray[Any]
AT_ONCE = 500
"""Events read at once."""


def drawn(num_events: int, count: int, seed: int) -> Array:
    """The indices of `count` of `num_events` events, increasing; those of a smaller count are among them."""
    order: Array = np.sort(np.random.default_rng([seed, num_events]).permutation(num_events)[:count])
    return order


def check_enough(dataset: EventDataset, counts: Sequence[int], what: str) -> None:
    """Refuse to draw more events than there are.

    Args:
        dataset: to draw from.
        counts: numbers of events.
        what: option that asks for them.

    Raises:
        DataError: naming the files.
    """
    if max(counts) > len(dataset):
        files = ", ".join(str(path) for path in dataset.paths)
        remedy = f"ask for fewer with {what}, or give more files"
        raise DataError(
            f"holds {len(dataset):,} events, of which {max(counts):,} are wanted", file=files, remedy=remedy
        )


def write_subset(dataset: EventDataset, count: int, seed: int, folder: Path) -> list[str]:
    """Write a subset as events files, one for each detector, unless it is there.

    Args:
        dataset: to draw from.
        count: events, of all detectors together.
        seed: of the draw.
        folder: of the files.

    Returns:
        The files.

    Raises:
        DataError: if an event cannot be read.
    """
    chosen = drawn(len(dataset), count, seed)
    names = np.array([dataset.detector(dataset.part(index)) for index in chosen.tolist()])
    files = []
    for name, specification in zip(dataset.detectors, dataset.specifications, strict=True):
        own = chosen[names == name].tolist()
        if own:
            files.append(folder / f"{name}-{count}-{seed}.parquet")
            if not files[-1].exists():
                _write(dataset, own, files[-1], specification)
    return [str(file) for file in files]


def _write(dataset: EventDataset, indices: Sequence[int], file: Path, specification: str | dict[str, Any]) -> None:
    known = None if isinstance(specification, str) else detectors.build(specification)
    with EventWriter(file, detector=known) as writer:
        for start in range(0, len(indices), AT_ONCE):
            for event in dataset.__getitems__(indices[start : start + AT_ONCE]):
                writer.write(event)
