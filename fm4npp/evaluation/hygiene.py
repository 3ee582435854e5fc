"""Whether a model was trained or chosen on the very events that it is to be evaluated on.

An events file is known by the hash of its content, which its summary holds: copies and renamed files are recognised.
Events that were packaged otherwise, into another file or with others, are not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fm4npp.checkpoint import resolve
from fm4npp.errors import CheckpointError, DataError
from fm4npp.files import read_json
from fm4npp.pretrained import HEAD_CONFIG_NAME
from fm4npp.readers.events_parquet import is_url, read_metadata, read_summary

Values = Mapping[str, Any]

LEVEL = "file"
NOT_CAUGHT = (
    "Files are compared by the hash of their whole content: a copy or a renamed file is recognised, events that were "
    "written into another file, alone or with others, are not."
)
"""What reports say of the check."""


UNKNOWN: Values = {"data": None}
"""Training of weights of which nothing is told."""


@dataclass(frozen=True)
class Origin:
    """What made some of the weights.

    Attributes:
        what: "the backbone", or "the head NAME".
        where: folder or Hub id it was loaded from.
        training: of `config.json` or `head.json`; empty: nothing was trained.
    """

    what: str
    where: str
    training: Values


def identified(paths: Sequence[str | Path]) -> list[dict[str, Any]]:
    """What identifies events files: path, detector, content hash.

    Args:
        paths: of events files; one on the Hub is identified by its URL, and has no content hash.

    Raises:
        DataError: if a file cannot be read, or two are the same.
    """
    files: dict[str, dict[str, Any]] = {}
    for path in paths:
        content = None if is_url(path) else str(read_summary(path)["content"])
        known = files.setdefault(content or str(path), {"path": str(path), "content": content})
        if "detector" in known:
            raise DataError(f"has the same content as {known['path']}", file=path, remedy="give each file once")
        known["detector"] = str(read_metadata(path)["detector"])
    return list(files.values())


def origins(
    model: str | Path, training: Values, heads: Mapping[str, str | Path], names: Collection[str] = ()
) -> list[Origin]:
    """Where all weights of a model come from.

    Args:
        model: folder or Hub id it was loaded from.
        training: of the model's configuration.
        heads: name -> folder or Hub id of a head that was loaded onto it.
        names: all heads of the model; of those that came with it, its configuration may say nothing.

    Raises:
        CheckpointError: if a head's description cannot be read.
    """
    found = [Origin("the backbone", str(model), training)]
    adapted = training.get("adapted", {})  # heads that were trained together with the backbone
    for name in dict.fromkeys([*adapted, *(name for name in names if name not in heads)]):
        found.append(Origin(f"the head {name!r}", str(model), adapted.get(name) or UNKNOWN))
    for name, place in heads.items():
        description = read_json(resolve(place, marker=HEAD_CONFIG_NAME) / HEAD_CONFIG_NAME, CheckpointError)
        found.append(Origin(f"the head {name!r}", str(place), description.get("training") or UNKNOWN))
    return found


def check(files: Sequence[Values], origins: Sequence[Origin], *, force: bool = False) -> list[str]:
    """Refuse events that a model was trained or chosen on.

    Args:
        files: to evaluate on, see `identified`.
        origins: of the model's weights.
        force: do not refuse but warn.

    Returns:
        Warnings for the report: which files were seen in training, and what could not be checked.

    Raises:
        DataError: naming the first such file and the run, unless `force`.
    """
    warned: list[str] = []
    for origin in origins:
        for file, split in _overlaps(files, origin.training.get("data") or ()):
            problem = f"is among the {split} events of {origin.what} ({origin.where})"
            if not force:
                raise DataError(problem, file=file, remedy="evaluate on other events, or use --force")
            warned.append(f"{file} {problem}: these numbers say little about new events")
    return warned + _unchecked(files, origins)


def seen(files: Sequence[Values], origins: Sequence[Origin]) -> bool:
    """Whether any file was among the training or validation files of a run."""
    return any(True for origin in origins for _ in _overlaps(files, origin.training.get("data") or ()))


def _overlaps(files: Sequence[Values], seen: Sequence[Values]) -> Iterator[tuple[str, str]]:
    """Path and split of every file that was seen."""
    splits = {_key(file): str(file.get("split", "training")) for file in reversed(seen)}
    names = {"train": "training"}
    for file in files:
        if split := splits.get(_key(file)):
            yield str(file["path"]), names.get(split, split)


def _key(file: Values) -> str:
    """Content, or the URL of a file that has none."""
    return str(file.get("content") or file.get("path"))


def _unchecked(files: Sequence[Values], origins: Sequence[Origin]) -> list[str]:
    """What is not known of the files and of the weights."""
    silent = [
        f"{origin.what} ({origin.where}) does not say which events it was trained on: that it has not seen these could "
        "not be checked"
        for origin in origins
        if origin.training and not origin.training.get("data")
    ]
    remote = [
        f"{file['path']} was read from a URL: whether its events were seen in training could be checked by this "
        "address only"
        for file in files
        if file["content"] is None
    ]
    return silent + remote
