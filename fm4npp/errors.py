"""The errors a user can cause, each one line that says what is wrong, where, and what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import Self


class FM4NPPError(Exception):
    """Base of every error whose message is meant for the user: the command line prints it without a traceback."""


def first_line(error: BaseException) -> str:
    """What an error of somebody else's says, short enough for one of ours; its type if it says nothing."""
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__


class ConfigurationError(FM4NPPError):
    """A configuration, a component specification or a combination of options that cannot work."""


class PluginError(FM4NPPError):
    """A registered component that cannot be found, loaded or trusted to be what it says."""


class NotFittedError(FM4NPPError):
    """A component was used before the fit that it needs."""


class CheckpointError(FM4NPPError):
    """A checkpoint folder that is incomplete, damaged, or belongs to something else."""


class BackendError(FM4NPPError):
    """A backend that is not there, or that computes another function than the reference."""


class DataError(FM4NPPError):
    """Input data that cannot be read exactly.

    Args:
        problem: what is wrong, without the place.
        file: the file it is in.
        event: the event's identifier or index in that file.
        remedy: what the user can do.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str | Path | None = None,
        event: object | None = None,
        remedy: str | None = None,
    ) -> None:
        place = f"{file}: " if file is not None else ""
        place += f"event {event}: " if event is not None else ""
        super().__init__(f"{place}{problem}" + (f"; {remedy}" if remedy else ""))
        self.problem, self.file, self.event, self.remedy = problem, file, event, remedy

    def at(self, *, file: str | Path | None = None, event: object | None = None) -> Self:
        """The same error with the place filled in where it was not known yet."""
        return type(self)(
            self.problem,
            file=self.file if self.file is not None else file,
            event=self.event if self.event is not None else event,
            remedy=self.remedy,
        )


class UnfitError(DataError):
    """Data of which too much is not what its detector's description says."""
