"""What became of everything that was read: read = used + left out, by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from fm4npp.detectors.mapped import OTHER_SUBSYSTEM
from fm4npp.errors import DataError, UnfitError
from fm4npp.event import Event
from fm4npp.readers.events_schema import EARLIER

MAX_REJECTED = 0.001
"""Share of events, and of spacepoints, that may be rejected before reading stops."""
ENOUGH = 1000
"""Events after which the share means something before everything has been read."""


@dataclass
class Accounting:
    """Counts of events and spacepoints.

    Attributes:
        events_used: events that were handed on.
        empty_events: of these, events without a spacepoint.
        spacepoints_used: spacepoints that were handed on.
        rejected_events: reason -> events that cannot be read exactly.
        rejected_spacepoints: reason -> spacepoints with impossible values.
        other_subsystems: spacepoints that nothing is wrong with but that the detector did not measure.
        left_out_earlier: spacepoints that an events file says were left out when it was made.
        examples: reason -> where it was met first.
    """

    events_used: int = 0
    empty_events: int = 0
    spacepoints_used: int = 0
    rejected_events: Counter[str] = field(default_factory=Counter)
    rejected_spacepoints: Counter[str] = field(default_factory=Counter)
    other_subsystems: int = 0
    left_out_earlier: int = 0
    examples: dict[str, str] = field(default_factory=dict)
    _first: DataError | None = None

    @property
    def events_read(self) -> int:
        """Used and rejected."""
        return self.events_used + self.rejected_events.total()

    @property
    def spacepoints_read(self) -> int:
        """Used, rejected, and of other subsystems; without those of rejected events, or left out earlier."""
        return self.spacepoints_used + self.rejected_spacepoints.total() + self.other_subsystems

    def use(self, event: Event) -> None:
        """Count an event that is handed on, and what was left out of it."""
        self.events_used += 1
        self.empty_events += not len(event)
        self.spacepoints_used += len(event)
        for reason, places in event.left_out.items():
            if reason == OTHER_SUBSYSTEM:
                self.other_subsystems += len(places)
            elif reason == EARLIER:
                self.left_out_earlier += len(places)
            else:
                self.rejected_spacepoints[reason] += len(places)
                place = f"{event.source}: " if event.source else ""
                self.examples.setdefault(reason, f"{place}event {event.event_id}: spacepoint {places[0]}")

    def reject(self, error: DataError) -> None:
        """Count an event that cannot be read exactly."""
        self._first = self._first or error
        self.rejected_events[error.problem] += 1
        self.examples.setdefault(error.problem, str(error))

    def add(self, other: Accounting) -> None:
        """Count what another one counted after this one."""
        self.events_used += other.events_used
        self.empty_events += other.empty_events
        self.spacepoints_used += other.spacepoints_used
        self.rejected_events.update(other.rejected_events)
        self.rejected_spacepoints.update(other.rejected_spacepoints)
        self.other_subsystems += other.other_subsystems
        self.left_out_earlier += other.left_out_earlier
        self.examples = {**other.examples, **self.examples}

    def check(self, max_rejected: float) -> None:
        """Stop if too much was rejected.

        Args:
            max_rejected: largest share, of events and of spacepoints, that may be.

        Raises:
            UnfitError: naming the most frequent reason and where it was met first; where not a single event could be
                read, why the first could not.
        """
        if self._first is not None and not self.events_used and self.events_read > max_rejected * self.events_read:
            raise self._first
        measured = self.spacepoints_read - self.other_subsystems
        for what, rejected, read in (
            ("events", self.rejected_events, self.events_read),
            ("spacepoints", self.rejected_spacepoints, measured),
        ):
            if rejected.total() > max_rejected * read:
                reason, count = rejected.most_common(1)[0]
                raise UnfitError(
                    f"{rejected.total()} of {read} {what} rejected, more than {max_rejected:.2%} "
                    f"({count} of them: {reason}; first: {self.examples[reason]})",
                    remedy="repair the input, choose the right detector and units, or allow more with --max-rejected",
                )

    def screen(
        self, outcomes: Iterable[Event | DataError], max_rejected: float = MAX_REJECTED, *, at_the_end: bool = True
    ) -> Iterator[Event]:
        """Count a stream of events and of errors that stand in the place of events; hand on the events.

        Args:
            outcomes: the stream.
            max_rejected: see `check`, which is called every 1,000 events.
            at_the_end: whether to check once more at the end.

        Raises:
            DataError: of `check`.
        """
        for outcome in outcomes:
            if isinstance(outcome, DataError):
                self.reject(outcome)
            else:
                self.use(outcome)
                yield outcome
            if self.events_read % ENOUGH == 0:
                self.check(max_rejected)
        if at_the_end:
            self.check(max_rejected)

    def as_dict(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "events_read": self.events_read,
            "events_used": self.events_used,
            "empty_events": self.empty_events,
            "rejected_events": dict(self.rejected_events),
            "spacepoints_read": self.spacepoints_read,
            "spacepoints_used": self.spacepoints_used,
            "rejected_spacepoints": dict(self.rejected_spacepoints),
            "other_subsystems": self.other_subsystems,
            "left_out_earlier": self.left_out_earlier,
            "examples": self.examples,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Accounting:
        """The inverse of `as_dict`."""
        reasons = {"rejected_events", "rejected_spacepoints"}
        names = {item.name for item in fields(cls) if not item.name.startswith("_")} - reasons
        return cls(
            **{name: values[name] for name in names},
            rejected_events=Counter(values["rejected_events"]),
            rejected_spacepoints=Counter(values["rejected_spacepoints"]),
        )

    def lines(self) -> list[str]:
        """What was left out, for people; nothing if nothing was."""
        text = []
        for what, rejected in (("events", self.rejected_events), ("spacepoints", self.rejected_spacepoints)):
            for reason, count in rejected.most_common():
                text.append(f"{count} {what} rejected: {reason} (first: {self.examples[reason]})")
        if self.other_subsystems:
            text.append(f"{self.other_subsystems} spacepoints left out: {OTHER_SUBSYSTEM}")
        if self.left_out_earlier:
            text.append(f"{self.left_out_earlier} spacepoints more were {EARLIER}")
        return text
