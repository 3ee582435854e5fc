"""Events files: what they hold, what they say of themselves, and whether the two agree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fm4npp import detectors
from fm4npp.data import Accounting
from fm4npp.data.specifications import specification
from fm4npp.data.writing import ContentHash
from fm4npp.detectors import Detector
from fm4npp.errors import DataError, FM4NPPError
from fm4npp.files import read_json, sha256
from fm4npp.inspection.statistics import Statistics
from fm4npp.readers import events_parquet, events_schema
from fm4npp.readers.checks import NEW_COPY, decoding

Summary = dict[str, Any]


def inspect_events(path: str | Path, progress: Callable[[int], None] = lambda num_events: None) -> Summary:
    """Counts, ranges and labels of an events file or a folder of them; the content is compared with what was written.

    Args:
        path: file, folder with a manifest, or URL.
        progress: called with the number of events so far.

    Returns:
        A JSON object.

    Raises:
        DataError: if a file is damaged, or its content, or that of the folder, is not what was written.
    """
    metadata = events_parquet.read_metadata(path)
    detector = _detector(metadata)
    statistics = Statistics(detector.geometry, detector.subsystem_features) if detector else Statistics()
    files = events_parquet.files(path)
    stored = [_verified(file, metadata, statistics, progress) for file in files]
    accounting = Accounting()
    for summary in stored:
        with decoding(path, "the summary"):
            accounting.add(Accounting.from_dict(summary["accounting"]))
    many = not events_parquet.is_url(path) and Path(path).is_dir()
    if many:
        _check_manifest(Path(path), stored)
    single = not many and not events_parquet.is_url(path)
    return {
        "kind": "folder of events files" if many else "events file",
        "path": str(path),
        **({"files": len(files)} if many else {}),
        **({"sha256": sha256(path)} if single else {}),
        **{key: metadata[key] for key in ("detector", "version", "features", "labels", "particles", "scalars")},
        **statistics.as_dict(),
        "accounting": accounting.as_dict(),
        "content": stored[0]["content"] if len(stored) == 1 else [summary["content"] for summary in stored],
        "content_verified": True,
    }


def _detector(metadata: dict[str, Any]) -> Detector | None:
    """That of a file, by its name or by what the file holds of it; None if neither is enough."""
    try:
        return detectors.build(specification(metadata["detector"], [metadata]))
    except FM4NPPError:
        return None


def _verified(
    file: str | Path, metadata: dict[str, Any], statistics: Statistics, progress: Callable[[int], None]
) -> Summary:
    """The summary stored in one file, after its events were read and compared with it."""
    stored = events_parquet.read_summary(file)
    content, events, spacepoints = ContentHash(), statistics.events, statistics.spacepoints
    for batch in events_parquet.batches(file):
        content.update(batch)
        for outcome in events_schema.events(batch, metadata, file):
            if isinstance(outcome, DataError):
                raise outcome.at(file=file)
            statistics.add(outcome)
        progress(statistics.events)
    found = {
        "events": statistics.events - events,
        "spacepoints": statistics.spacepoints - spacepoints,
        "content": content.hexdigest(),
    }
    for name, value in found.items():
        if stored.get(name) != value:
            what = "the hash of its content" if name == "content" else f"the number of {name}"
            problem = f"{what} is {value}, but {stored.get(name)} was written"
            raise DataError(problem, file=file, remedy=NEW_COPY)
    return stored


def _check_manifest(folder: Path, stored: list[Summary]) -> None:
    """Compare what the files of a folder say of themselves with what its manifest says of them."""
    manifest = folder / events_parquet.MANIFEST
    shards = read_json(manifest, DataError)["shards"]
    for shard, summary in zip(shards, stored, strict=True):
        if shard.get("content") != summary["content"]:
            problem = f"lists {shard['file']} with another content than the file has"
            raise DataError(problem, file=manifest, remedy="the files come from different conversions, convert again")
