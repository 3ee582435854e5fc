"""The batches of every optimizer step: which events, in which order, on which process; able to go on anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import tee
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fm4npp.batch import EventBatch, PreparedEvent, collate
from fm4npp.data import EventDataset, StreamLoader, loader, token_budget_batches
from fm4npp.data.stream import Stream
from fm4npp.errors import DataError
from fm4npp.event import Event

Indices = NDArray[np.int64]
Prepare = Callable[..., PreparedEvent]
Stored = Callable[[int], Mapping[str, Any]]
State = dict[str, Any]
Item = TypeVar("Item")


class Batch(NamedTuple):
    """What one process runs at once.

    Attributes:
        events: packed.
        names: of the events, for messages.
        counts: False for a batch that another process runs too: it keeps this one in step, and adds nothing.
    """

    events: EventBatch
    names: tuple[str, ...]
    counts: bool = True


class Batches(Protocol):
    """The batches of one optimizer step after the other, without end."""

    def __iter__(self) -> Iterator[list[Batch]]:
        """From the position on; at least one batch a step."""

    def state_dict(self) -> State:
        """The position, as JSON: after the step that was given last."""

    def load_state_dict(self, state: State) -> None:
        """Go on after that step.

        Raises:
            ConfigurationError: if it is the position in other data.
        """

    @property
    def epoch(self) -> float:
        """How often the events were gone through."""


# ---- by index


def epoch_order(parts: Sequence[Indices], weights: Sequence[float] | None, seed: int, epoch: int) -> Indices:
    """The order of the events of one epoch, which nothing else decides than the arguments.

    Args:
        parts: indices of the events of each detector.
        weights: one a part, how often its events come; by default every event comes once. The number of events of an
            epoch is the same with weights; each part is gone through in passes that go on from epoch to epoch, so
            that its events come equally often.
        seed: of the run.
        epoch: from 0.

    Returns:
        (N,), N being the number of all events.
    """
    total = sum(len(part) for part in parts)
    if weights is None:
        chosen = np.concatenate(parts)
    else:
        chosen = np.concatenate(
            [
                _passes(part, epoch * count, count, [1, seed, place])
                for place, (part, count) in enumerate(zip(parts, _shares(total, weights), strict=True))
            ]
        )
    np.random.default_rng([seed, epoch]).shuffle(chosen)
    return chosen


def _shares(total: int, weights: Sequence[float]) -> list[int]:
    """`total` divided in proportion to weights, by largest remainders."""
    exact = np.asarray(weights, dtype=np.float64) / sum(weights) * total
    counts = np.floor(exact).astype(int)
    largest = np.argsort(counts - exact, kind="stable")[: total - counts.sum()]
    counts[largest] += 1
    return [int(count) for count in counts]


def _passes(part: Indices, start: int, count: int, seed: Sequence[int]) -> Indices:
    """`count` numbers from `start` on of an endless sequence of shuffled copies of `part`."""
    first, last = start // len(part), (start + count) // len(part)
    copies = [np.random.default_rng([*seed, number]).permutation(part) for number in range(first, last + 1)]
    return np.concatenate(copies)[start - first * len(part) :][:count]


def step_batches(
    order: Indices, lengths: Indices, tokens: int, events: int | None, processes: int
) -> list[list[Indices]]:
    """Share the events of an epoch out over steps, and those of a step over batches.

    With `events` the batches do not depend on the number of processes, so neither does what a step computes.

    Args:
        order: (N,) indices.
        lengths: spacepoints of every event.
        tokens: spacepoints of a batch, at most; a longer event is a batch of its own.
        events: of a step; the last one may have fewer. None makes a step of one batch for each process.
        processes: number of processes.

    Returns:
        Steps of batches of indices; every event is in exactly one.
    """
    if events is None:
        everything = packed(order, lengths, tokens)
        return [everything[start : start + processes] for start in range(0, len(everything), processes)]
    return [packed(order[start : start + events], lengths, tokens) for start in range(0, len(order), events)]


def packed(order: Indices, lengths: Indices, tokens: int) -> list[Indices]:
    """Events, in order, in batches of at most `tokens` spacepoints (at least one event)."""
    return [order[places] for places in token_budget_batches(lengths[order], tokens)]


def dealt(batches: Sequence[Item], rank: int, processes: int) -> list[tuple[Item, bool]]:
    """The batches that one process runs, as many as every other, and whether each counts.

    Where they do not come out even, some processes run a batch again that another one counts: all must take part in
    the exchange of gradients.
    """
    rounds = -(-len(batches) // processes)
    places = [number * processes + rank for number in range(rounds)]
    return [(batches[min(place, len(batches) - 1)], place < len(batches)) for place in places]


class IndexedBatches:
    """The events of files, every one once an epoch, or as often as the weight of its detector says.

    Args:
        dataset: the events.
        prepare: event to arrays.
        tokens: spacepoints of a batch, at most.
        events: of a step, see `step_batches`.
        seed: of the order.
        weights: detector -> weight; empty for every event once an epoch.
        num_workers: processes that prepare events.
        stored: index of an event to further arguments of `prepare`.
        rank: of this process.
        processes: number of processes.
    """

    def __init__(
        self,
        dataset: EventDataset,
        prepare: Prepare,
        *,
        tokens: int,
        events: int | None = None,
        seed: int = 0,
        weights: Mapping[str, float] | None = None,
        num_workers: int = 0,
        stored: Stored | None = None,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.dataset, self._prepare = dataset, prepare
        self._tokens, self._events, self._seed = tokens, events, seed
        self._rank, self._processes = rank, processes
        self._options: dict[str, Any] = {"num_workers": num_workers, "stored": stored}
        self._parts = list(by_detector(dataset).values())
        self._weights = [weights.get(name, 0.0) for name in by_detector(dataset)] if weights else None
        self._position = (0, 0)
        self._steps = lru_cache(maxsize=2)(self._steps_of)

    @property
    def epoch(self) -> float:
        """See `Batches.epoch`."""
        return self._position[0] + self._position[1] / max(len(self._steps(self._position[0])), 1)

    def state_dict(self) -> State:
        """See `Batches.state_dict`."""
        return {"epoch": self._position[0], "step": self._position[1]}

    def load_state_dict(self, state: State) -> None:
        """See `Batches.load_state_dict`."""
        self._position = (int(state["epoch"]), int(state["step"]))

    def __iter__(self) -> Iterator[list[Batch]]:
        plan, ahead = tee(self._plan(*self._position))
        indices = (batch for _, step in ahead for batch, _ in step)
        batches = load(self.dataset, indices, self._prepare, **self._options)
        for position, step in plan:
            given = [next(batches)._replace(counts=counts) for _, counts in step]
            self._position = position
            yield given

    def _plan(self, epoch: int, done: int) -> Iterator[tuple[tuple[int, int], list[tuple[Indices, bool]]]]:
        """The position after each step, and what this process runs in it."""
        while True:
            steps = self._steps(epoch)
            for number in range(done, len(steps)):
                yield (epoch, number + 1), dealt(steps[number], self._rank, self._processes)
            epoch, done = epoch + 1, 0

    def _steps_of(self, epoch: int) -> list[list[Indices]]:
        order = epoch_order(self._parts, self._weights, self._seed, epoch)
        return step_batches(order, self.dataset.lengths, self._tokens, self._events, self._processes)


def by_detector(dataset: EventDataset) -> dict[str, Indices]:
    """Detector -> indices of its events."""
    found: dict[str, list[Indices]] = {}
    for part, (start, stop) in enumerate(zip(dataset.starts, dataset.starts[1:], strict=False)):
        found.setdefault(dataset.detector(part), []).append(np.arange(start, stop))
    return {name: np.concatenate(indices) for name, indices in found.items()}


def load(
    dataset: EventDataset,
    indices: Iterator[Indices],
    prepare: Prepare,
    *,
    num_workers: int = 0,
    stored: Stored | None = None,
) -> Iterator[Batch]:
    """Batches of given events, in order.

    Raises:
        DataError: if an event cannot be read or prepared.
    """
    wanted = (batch.tolist() for batch in indices)
    yield from loader(dataset, wanted, _Named(prepare), _collated, num_workers=num_workers, stored=stored)


class _Named:
    """`prepare`, with the name of the event."""

    def __init__(self, prepare: Prepare) -> None:
        self.prepare = prepare

    def __call__(self, event: Event, **stored: Any) -> tuple[str, PreparedEvent]:
        name = f"{event.source}: event {event.event_id}" if event.source else f"event {event.event_id}"
        return name, self.prepare(event, **stored)


def _collated(named: Sequence[tuple[str, PreparedEvent]]) -> Batch:
    return Batch(collate([prepared for _, prepared in named]), tuple(name for name, _ in named))


# ---- one after the other


class StreamedBatches:
    """The events of a stream, this process's share of them, epoch after epoch.

    Args:
        stream: of this process.
        prepare: event to arrays.
        tokens: spacepoints of a batch, at most.
        events: of a step on this process, at least; None makes a step of one batch.
        num_workers: processes that read and prepare events.
    """

    def __init__(
        self, stream: Stream, prepare: Prepare, *, tokens: int, events: int | None = None, num_workers: int = 0
    ) -> None:
        self._loader = StreamLoader(stream, tokens, _Named(prepare), _collated, num_workers=num_workers)
        self._events = events or 1

    @property
    def epoch(self) -> float:
        """See `Batches.epoch`; only whole ones, as nobody knows how long a stream is."""
        return float(self._loader.stream.epoch)

    def state_dict(self) -> State:
        """See `Batches.state_dict`."""
        return self._loader.state_dict()

    def load_state_dict(self, state: State) -> None:
        """See `Batches.load_state_dict`."""
        self._loader.load_state_dict(state)

    def __iter__(self) -> Iterator[list[Batch]]:
        step: list[Batch] = []
        empty = 0
        while True:
            empty += 1
            for batch in self._loader:
                empty = 0
                step.append(batch)
                if sum(len(one.names) for one in step) >= self._events:
                    yield step
                    step = []
            if empty > 1:  # one may be what was left of an epoch
                raise DataError(
                    "a stream without events", remedy="check data.train, and that every process has a share"
                )
            self._loader.set_epoch(self._loader.stream.epoch + 1)
