"""A folder of events files that is written part by part, and goes on where it was after an interruption.

Until everything is there the folder holds its plan, which is all that its content depends on, and a record of every
finished part. A manifest takes their place at the end, and makes events of the folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fm4npp.errors import ConfigurationError
from fm4npp.files import read_json, write_json
from fm4npp.readers.events_parquet import MANIFEST, PLAN

Record = dict[str, Any]
GO_ON = "Run the same command again, with fewer --workers, to go on"
"""What to do when a process that writes a folder was killed."""


def finished(folder: Path, plan: Record, what: str) -> Record | None:
    """The manifest of a folder that has nothing left to do; None if there is something.

    Args:
        folder: which.
        plan: a JSON object.
        what: "conversion", say; for the message.

    Raises:
        ConfigurationError: if it was made by another plan.
    """
    if not (folder / MANIFEST).is_file():
        return None
    manifest: Record = read_json(folder / MANIFEST)
    if manifest.get("plan") != plan:
        raise ConfigurationError(f"{folder}: holds the finished {what} of something else; choose another folder")
    return manifest


def start(folder: Path, plan: Record, what: str) -> None:
    """Make a folder, or take up what was interrupted in it; arguments as of `finished`.

    Raises:
        ConfigurationError: if it holds anything else.
    """
    if (folder / PLAN).is_file():
        if (before := read_json(folder / PLAN)) != plan:
            different = ", ".join(key for key in plan if before.get(key) != plan[key])
            raise ConfigurationError(
                f"{folder}: holds an unfinished {what} of other {different}; remove the folder, or choose another"
            )
        for leftover in folder.glob(".events-*.tmp*"):
            leftover.unlink()
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"{folder}: exists and is no {what}; choose another folder")
    write_json(folder / PLAN, plan)


def keep(folder: Path, part: str, record: Record) -> None:
    """Record that a part is finished.

    Args:
        folder: which.
        part: its name, which its files start with: `events-...`.
        record: a JSON object; `files` lists them, each with `file` and `bytes`.
    """
    write_json(place(folder, part), record)


def kept(folder: Path, part: str) -> Record | None:
    """The record of a part, if it is finished and its files are there, of the recorded size."""
    if not place(folder, part).is_file():
        return None
    record: Record = read_json(place(folder, part))
    paths = [(folder / file["file"], file["bytes"]) for file in record["files"]]
    return record if all(path.is_file() and path.stat().st_size == size for path, size in paths) else None


def finish(folder: Path, plan: Record, parts: Iterable[str], entries: Record, files: Sequence[Record]) -> None:
    """Write the manifest, and remove what was there for going on.

    Args:
        folder: which.
        plan: a JSON object.
        parts: all of them.
        entries: of the manifest, beside the plan and the files.
        files: in the order of their events.
    """
    names = {file["file"] for file in files}
    for leftover in folder.glob("events-*.parquet"):
        if leftover.name not in names:
            leftover.unlink()
    write_json(folder / MANIFEST, {"plan": plan, **entries, "shards": list(files)})
    for path in (folder / PLAN, *(place(folder, part) for part in parts)):
        path.unlink(missing_ok=True)


def place(folder: Path, part: str) -> Path:
    """The file of a part's record."""
    return folder / f".{part}.json"
