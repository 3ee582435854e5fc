"""Events of several detectors, in given proportions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

from fm4npp.data.accounting import Accounting
from fm4npp.data.stream import State, Stream
from fm4npp.errors import ConfigurationError
from fm4npp.event import Event

Stop = Literal["first", "all"]


class Mixture(Stream):
    """Several streams, of which a seeded draw decides before every event which one gives it.

    The mixing is done on events: `datasets.interleave_datasets` needs the same columns everywhere, and detectors
    measure different ones.

    Args:
        streams: of the same process and number of processes.
        probabilities: one a stream, above 0; they are divided by their sum. By default all are equal.
        seed: of the draws.
        stop: "first" ends the epoch when the stream that is drawn has no event left, so that the proportions hold to
            the end; "all" goes on with the others, so that every event is given. Each process ends on its own.

    Attributes:
        detectors: names of the detectors.

    Raises:
        ConfigurationError: if there is no stream, the probabilities do not fit, or the processes differ.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        probabilities: Sequence[float] | None = None,
        *,
        seed: int = 0,
        stop: Stop = "first",
    ) -> None:
        _check(streams, probabilities, stop)
        self.streams = tuple(streams)
        weights = np.ones(len(streams)) if probabilities is None else np.asarray(probabilities, dtype=np.float64)
        self.probabilities = (weights / weights.sum()).tolist()
        self.seed, self.stop, self.epoch = seed, stop, 0
        self.rank, self.world_size = streams[0].rank, streams[0].world_size
        self.max_rejected = max(stream.max_rejected for stream in streams)
        self.detectors = tuple(dict.fromkeys(name for stream in streams for name in stream.detectors))
        self._draws: State | None = None
        self._resumed = False

    @property
    def accounting(self) -> Accounting:
        """The sum over the streams."""
        total = Accounting()
        for stream in self.streams:
            total.add(stream.accounting)
        return total

    def set_epoch(self, epoch: int) -> None:
        """See `Stream.set_epoch`."""
        self.epoch, self._draws, self._resumed = epoch, None, False
        for stream in self.streams:
            stream.set_epoch(epoch)

    def assign(self, worker: int, num_workers: int) -> None:
        """See `Stream.assign`."""
        super().assign(worker, num_workers)
        for stream in self.streams:
            stream.assign(worker, num_workers)

    def state_dict(self) -> State:
        """See `Stream.state_dict`."""
        streams = [stream.state_dict() for stream in self.streams]
        return {"mixture": self._identity(), "epoch": self.epoch, "draws": self._draws, "streams": streams}

    def load_state_dict(self, state: State) -> None:
        """See `Stream.load_state_dict`."""
        if state.get("mixture") != self._identity():
            raise ConfigurationError("the state of a mixture of other streams, probabilities or seed")
        for stream, inner in zip(self.streams, state["streams"], strict=True):
            stream.load_state_dict(inner)
        self.epoch, self._draws, self._resumed = state["epoch"], state["draws"], True

    def __iter__(self) -> Iterator[Event]:
        if not self._resumed:
            self.set_epoch(self.epoch)
        self._resumed = False
        return self._events()

    def _events(self) -> Iterator[Event]:
        generator = np.random.default_rng([3, self.seed, self.epoch, self.share[0]])
        left = [True] * len(self.streams)
        if self._draws is not None:
            generator.bit_generator.state, left = self._draws["generator"], list(self._draws["left"])
        iterators = [iter(stream) for stream in self.streams]
        while any(left):
            chosen = self._draw(generator, left)
            event = next(iterators[chosen], None)
            if event is None:
                left = [on and self.stop == "all" and place != chosen for place, on in enumerate(left)]
            self._draws = {"generator": generator.bit_generator.state, "left": list(left)}
            if event is not None:
                yield event

    def _draw(self, generator: np.random.Generator, left: Sequence[bool]) -> int:
        weights = np.where(left, self.probabilities, 0.0)
        edges = np.cumsum(weights)
        return int(np.searchsorted(edges, generator.random() * edges[-1], side="right"))

    def _identity(self) -> list[Any]:
        return [self.probabilities, self.seed, self.stop]


def _check(streams: Sequence[Stream], probabilities: Sequence[float] | None, stop: str) -> None:
    if not streams:
        raise ConfigurationError("a mixture of no streams")
    if probabilities is not None:
        if len(probabilities) != len(streams):
            raise ConfigurationError(
                f"{len(probabilities)} probabilities for {len(streams)} streams; give one for each"
            )
        if not all(0 < probability < np.inf for probability in probabilities):
            raise ConfigurationError("probabilities must be above 0; leave out what is not to be drawn")
    if stop not in ("first", "all"):
        raise ConfigurationError(f"stop={stop!r}; choose 'first' or 'all'")
    if len({(stream.rank, stream.world_size) for stream in streams}) > 1:
        raise ConfigurationError("the streams of a mixture belong to different processes; give all the same rank")
