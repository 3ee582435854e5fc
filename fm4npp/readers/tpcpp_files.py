"""Where the shards of TPCpp-10M lie: in a folder, or in the published zip archive."""

from __future__ import annotations

import re
import zipfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from fm4npp.errors import DataError
from fm4npp.readers import nested_zip, npz
from fm4npp.readers.checks import NEW_COPY, decoding

LABELS = {"track_id": "track_ids", "particle_class": "pid_labels", "is_noise": "noise_tags"}
"""Label -> what stands for "spacepoints" in the name of the file that holds it."""


@dataclass(frozen=True)
class Shards:
    """Spacepoints files and what lies beside them.

    Attributes:
        root: the folder, or the archive.
        names: the spacepoints files, relative to `root`, in order.
        members: all files of the archive; None for a folder.
    """

    root: Path
    names: tuple[str, ...]
    members: frozenset[str] | None = None

    def label(self, name: str, label: str) -> str:
        """Where the label of a spacepoints file would be."""
        path = PurePosixPath(name)
        return str(path.with_name(path.name.replace("spacepoints", LABELS[label], 1)))

    def holds(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.root / name).is_file() if self.members is None else name in self.members

    def open(self, name: str, stack: ExitStack) -> zipfile.ZipFile:
        """A file's arrays.

        Raises:
            DataError: if it is no readable archive.
        """
        path = self.root / name
        if self.members is None:
            return npz.open_archive(path, path)
        with decoding(path, "the member of the archive"):
            return npz.open_archive(nested_zip.open_member(self.root, name, stack), path)

    def splits(self) -> list[Shards]:
        """The shards of each folder of an archive on its own."""
        folders = dict.fromkeys(str(PurePosixPath(name).parent) for name in self.names)
        return [
            replace(self, names=tuple(name for name in self.names if str(PurePosixPath(name).parent) == folder))
            for folder in folders
        ]


def is_shard(name: str) -> bool:
    """Whether a file is one of spacepoints, by its name."""
    return fnmatchcase(PurePosixPath(name).name, "spacepoints*.npz")


def find_shards(path: Path) -> Shards:
    """All shards at a path, those of several splits too, ordered by folder and number; no number comes first.

    Raises:
        DataError: if there is none.
    """
    place, inside = nested_zip.split(path)
    if place.is_dir():
        shards = Shards(place, tuple(sorted((file.name for file in place.glob("spacepoints*.npz")), key=_number)))
    elif place.suffix == ".zip":
        shards = _in_archive(place, inside)
    else:
        shards = Shards(path.parent, (path.name,))
    if not shards.names:
        raise DataError("holds no spacepoints*.npz", file=path, remedy="give the folder or archive of the shards")
    return shards


def _in_archive(archive: Path, inside: str) -> Shards:
    members = nested_zip.names(archive)
    if members is None:
        raise DataError("the zip archive cannot be read", file=archive, remedy=NEW_COPY)
    with decoding(archive, "the zip archive"):
        nested_zip.check_directory(archive)
    names = [name for name in members if is_shard(name)]
    if inside:
        names = [name for name in names if name == inside or name.startswith(f"{inside}/")]
    return Shards(archive, tuple(sorted(names, key=_number)), frozenset(members))


def _number(name: str) -> tuple[str, int, str]:
    path = PurePosixPath(name)
    number = re.search(r"\d+$", path.stem)
    return (str(path.parent), int(number[0]) if number else -1, path.name)
