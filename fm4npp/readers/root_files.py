"""What the readers of ROOT files share: opening one, and its trees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uproot
import xxhash

from fm4npp.errors import DataError
from fm4npp.readers.base import Table
from fm4npp.readers.checks import NEW_COPY, decoding, one_line

TREES = ("TTree", "TNtuple", "RNTuple")
MAGIC = b"root"
"""First bytes of every ROOT file (ROOT reference, class TFile)."""


def is_root(path: Path) -> bool:
    """Whether a path is a file that is named .root or begins like one."""
    if not path.is_file():
        return False
    if path.suffix == ".root":
        return True
    with path.open("rb") as handle:
        return handle.read(len(MAGIC)) == MAGIC


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The directory of a ROOT file that is all there.

    Raises:
        DataError: if it is cut short or cannot be decoded.
    """
    with decoding(path, "the ROOT file"), uproot.open(path) as file:
        if (size := path.stat().st_size) < file.file.fEND:
            raise DataError(f"has {size} of {file.file.fEND} bytes", file=path, remedy=NEW_COPY)
        yield file


def trees(file: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """Name and tree, of every TTree and RNTuple at its highest cycle."""
    for name, kind in file.classnames(cycle=False).items():
        if any(tree in kind for tree in TREES):
            with decoding(path, f"the tree {name!r}"):
                tree = file[name]
                check_page_lists(tree)
            yield name, tree


def check_page_lists(tree: Any) -> None:
    """Check where an RNTuple says its pages are: uproot checks its other envelopes, and reads on for minutes if wrong.

    An envelope ends with the XXH3 hash of what precedes it, 8 bytes, little-endian (ROOT, RNTuple binary format).
    """
    for record in tree.footer.cluster_group_records if hasattr(tree, "footer") else ():
        link = record.page_list_link
        chunk, _ = tree.read_locator(link.locator, link.env_uncomp_size)
        envelope = bytes(chunk.raw_data)
        if xxhash.xxh3_64_intdigest(envelope[:-8]) != int.from_bytes(envelope[-8:], "little"):
            raise ValueError("the list of its pages does not have its checksum")


def describe(path: Path) -> list[Table]:
    """Every tree with its branches and their types."""
    with opened(path) as file:
        return [
            Table(name, int(tree.num_entries), {key: _typename(tree[key]) for key in tree.keys()})  # noqa: SIM118
            for name, tree in trees(file, path)
        ]


def _typename(branch: Any) -> str:
    try:
        return str(branch.typename) or "record"
    except Exception as error:  # uproot documents no closed set; the other branches are still worth listing
        return f"unreadable ({one_line(error)})"
