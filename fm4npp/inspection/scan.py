"""How much of what an objective asks for the scan has passed already."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from fm4npp import detectors, objectives, serializers
from fm4npp.data import Source
from fm4npp.errors import ConfigurationError, DataError
from fm4npp.objectives.neighbours import exists, passed_share
from fm4npp.readers import events_parquet

SCANNED_EVENTS = 200
"""Events that the serializer is fitted to and the share is measured on."""


def inspect_scan(
    path: str | Path,
    objective: str,
    serializer: str = "raster-scan",
    detector: str | None = None,
    reader: str = "auto",
    events: int | None = None,
) -> dict[str, Any]:
    """The share of an objective's targets that lie before the spacepoint they are targets of, in the scan's order.

    A causal model has seen those and can copy them. The serializer is fitted to the same events.

    Args:
        path: events file, or a file of any known format.
        objective: registered name.
        serializer: registered name.
        detector: what the columns of the file mean; an events file of a registered detector says so itself.
        reader: a registered format, in place of recognising it.
        events: how many of the first events to take; 200 by default.

    Raises:
        ConfigurationError: if the objective has no spacepoints as targets.
        DataError: if the file cannot be read, or has no spacepoints.
    """
    from fm4npp.processing import settle_ties  # imports torch

    source = Source.of(path, detector, reader=reader)
    name = detector or events_parquet.read_metadata(path)["detector"]
    geometry = (source.detector or detectors.load(name)).geometry
    found, rejected = [], 0
    for outcome in islice(source.outcomes(), events or SCANNED_EVENTS):
        rejected += isinstance(outcome, DataError)
        if not isinstance(outcome, DataError):
            found.append((geometry.coordinates(outcome.positions), outcome.features))
    if not any(len(points) for points, _ in found):
        raise DataError("no spacepoints in the first events", file=path, remedy="choose the detector that wrote it")
    scan = serializers.build(serializer).fit([points for points, _ in found], geometry)
    goal = objectives.build(objective)
    indices = []
    for points, features in found:
        index = goal.indices(points[settle_ties(scan.order(points, geometry), points, features)], geometry)
        if index is None:
            raise ConfigurationError(f"the targets of {objective!r} are not spacepoints that a scan could have passed")
        indices.append(index)
    targets = np.concatenate([exists(index).sum(axis=1) for index in indices])
    return {
        "kind": "scan",
        "path": str(path),
        "detector": name,
        "objective": {key: value for key, value in goal.spec().items() if value is not None},
        "serializer": serializer,
        "events": len(found),
        "rejected_events": rejected,
        "spacepoints": len(targets),
        "targets_per_spacepoint": float(targets.mean()),
        "spacepoints_without_target": int((targets == 0).sum()),
        "passed_share": passed_share(indices),
    }
