"""What every reader says in the same words when a file is not what it should be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fm4npp.errors import DataError, FM4NPPError

NEW_COPY = "the file is damaged or incomplete, copy or download it again"
MANY = 12
"""Names that a message lists before it says how many more there are."""


def one_line(error: BaseException) -> str:
    """The message of any exception on one line of at most 160 characters, what cannot be printed as an escape."""
    text = printable(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= 160 else text[:157] + "..."


def printable(text: str) -> str:
    """Text out of a file, which may be damaged, as it can be shown: control characters become escapes."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def listing(names: Iterable[str]) -> str:
    """The first dozen of some names, sorted, separated by commas."""
    ordered = sorted(names)
    more = len(ordered) - MANY
    return printable(", ".join(ordered[:MANY])) + (f" and {more} more" if more > 0 else "") or "none"


@contextmanager
def decoding(
    file: str | Path, what: str = "it", *, event: object | None = None, remedy: str = NEW_COPY
) -> Iterator[None]:
    """Turn whatever a library raises on damaged bytes into one `DataError`.

    Libraries document no closed set of exceptions for damaged input, so all are caught; our own pass unchanged.

    Args:
        file: the file being decoded.
        what: the part of it, for the message.
        event: the event being decoded.
        remedy: what the user can do.

    Raises:
        DataError: for every exception that is not ours.
    """
    try:
        yield
    except FM4NPPError:
        raise
    except Exception as error:
        raise DataError(f"{what} cannot be read ({one_line(error)})", file=file, event=event, remedy=remedy) from error


def check_required(required: Iterable[str], found: Iterable[str], file: str | Path) -> None:
    """Refuse a file that lacks columns.

    Args:
        required: columns that must be there.
        found: columns that are there.
        file: the file, for the message.

    Raises:
        DataError: naming the columns that are absent and those that are there.
    """
    found = set(found)
    if missing := [name for name in required if name not in found]:
        raise DataError(
            f"no column {listing(map(repr, missing))} (found: {listing(found)})",
            file=file,
            remedy="choose the detector that this file belongs to",
        )
