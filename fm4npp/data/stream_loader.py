"""Packed batches of a stream, prepared by workers, able to go on where they stopped."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from fm4npp.data.accounting import Accounting
from fm4npp.data.processes import leave_signals_to_parent, started
from fm4npp.data.stream import State, Stream
from fm4npp.errors import ConfigurationError, DataError, FM4NPPError
from fm4npp.event import Event


def stream_batches(stream: Stream, budget: int) -> Iterator[list[Event]]:
    """The events of a stream, in its order, in lists of at most `budget` spacepoints (at least one event)."""
    return (events for events, _ in _with_states(stream, budget))


def _with_states(stream: Stream, budget: int) -> Iterator[tuple[list[Event], State]]:
    """The lists, each with the state of the stream after its last event."""
    group: list[Event] = []
    size = 0
    after = stream.state_dict()
    for event in stream:
        if group and size + len(event) > budget:
            yield group, after
            group, size = [], 0
        group.append(event)
        size += len(event)
        after = stream.state_dict()
    if group:
        yield group, after


class StreamLoader:
    """Batches of a stream for one epoch after the other; the order depends on nothing but the settings.

    Every worker packs its own share of the stream, and the batches come from the workers in turns.

    Args:
        stream: the events.
        budget: spacepoints a batch; an event above it gets a batch of its own.
        prepare: event to arrays.
        collate: list of what `prepare` gave to a batch.
        num_workers: processes that read and prepare ahead, the same number on every rank; 0 does it here.
    """

    def __init__(
        self,
        stream: Stream,
        budget: int,
        prepare: Callable[[Event], Any],
        collate: Callable[[list[Any]], Any],
        *,
        num_workers: int = 0,
    ) -> None:
        self.stream, self.num_workers = stream, num_workers
        self._work = (budget, prepare, collate)
        self._shares = max(num_workers, 1)
        self.set_epoch(stream.epoch)

    def set_epoch(self, epoch: int) -> None:
        """See `Stream.set_epoch`."""
        self.stream.set_epoch(epoch)
        self._begin()

    def _begin(self) -> None:
        self._states: list[State | None] = [None] * self._shares
        self._counts = [Accounting().as_dict() for _ in range(self._shares)]
        self._next = 0
        self._resumed = False

    @property
    def accounting(self) -> Accounting:
        """What the workers have read and left out since the epoch began, up to a buffer more than was given."""
        total = Accounting()
        for counts in self._counts:
            total.add(Accounting.from_dict(copy.deepcopy(counts)))
        return total

    def state_dict(self) -> State:
        """Where the loader is, as JSON: after the batch that was given last."""
        shares = {"states": list(self._states), "counts": list(self._counts)}
        return {"epoch": self.stream.epoch, "next": self._next, **shares}

    def load_state_dict(self, state: State) -> None:
        """Give, in the next iteration, what was still to come: the same batches in the same order.

        Raises:
            ConfigurationError: if there were more or fewer workers, or (when it iterates) if the stream was another.
        """
        if len(state["states"]) != self._shares:
            raise ConfigurationError(
                f"the state of a loader with {len(state['states'])} workers, not {self._shares}; use as many"
            )
        self.set_epoch(state["epoch"])
        self._states, self._counts, self._next = list(state["states"]), list(state["counts"]), state["next"]
        self._resumed = True

    def __iter__(self) -> Iterator[Any]:
        if not self._resumed:
            self._begin()
        self._resumed = False
        work = _Work(self.stream, self._states, self._next, *self._work)
        loader: DataLoader[Any] = DataLoader(
            work,
            batch_size=None,
            collate_fn=_unchanged,
            num_workers=self.num_workers,
            generator=torch.Generator(),
            worker_init_fn=leave_signals_to_parent,
        )
        finished: set[int] = set()
        for share, batch, state, counts in started(loader):
            if isinstance(batch, FM4NPPError):
                raise batch
            self._states[share], self._counts[share] = state, counts
            if batch is None:
                finished.add(share)
                if len(finished) == self._shares:
                    break
                continue
            self._next = (share + 1) % self._shares
            yield batch
        self.accounting.check(self.stream.max_rejected)


def _unchanged(item: Any) -> Any:
    return item


class _Work(IterableDataset[Any]):
    """What a worker does: (share, batch or None or error, state after it, accounting).

    Batch None says that the share is finished, and is repeated without end: a worker that stops would leave its turns
    to whichever worker is there first. Errors are handed over, because the loader would raise them with a traceback
    in their message.
    """

    def __init__(
        self, stream: Stream, states: list[State | None], first: int, budget: int, prepare: Any, collate: Any
    ) -> None:
        self.stream, self.states, self.first = stream, list(states), first
        self.budget, self.prepare, self.collate = budget, prepare, collate

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        share = 0
        if info is not None:  # here the stream is this worker's own copy
            share = (self.first + info.id) % info.num_workers
            self.stream.assign(share, info.num_workers)
        batch: Any = None
        try:
            if (state := self.states[share]) is not None:
                self.stream.load_state_dict(state)
            for events, after in _with_states(self.stream, self.budget):
                yield share, self._batch(events), after, self._counts()
        except FM4NPPError as error:
            batch = error
        while True:
            yield share, batch, self.stream.state_dict(), self._counts()

    def _batch(self, events: list[Event]) -> Any:
        return self.collate([self._prepared(event) for event in events])

    def _prepared(self, event: Event) -> Any:
        try:
            return self.prepare(event)
        except DataError as error:
            raise error.at(file=event.source or None, event=event.event_id) from error

    def _counts(self) -> dict[str, Any]:
        return copy.deepcopy(self.stream.accounting.as_dict())
