"""Events one after the other, whatever their number: shuffled, shared out, able to go on where they stopped."""

from __future__ import annotations

import copy
import hashlib
import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from fm4npp.data.accounting import MAX_REJECTED, Accounting
from fm4npp.data.shards import divided, shards_of
from fm4npp.detectors import Detector
from fm4npp.errors import ConfigurationError, DataError
from fm4npp.event import Event

BUFFER = 1000
"""Events that are shuffled among each other."""
BUFFERED_SPACEPOINTS = 10_000_000
"""Spacepoints in the buffer after which it is full, however few their events: about 400 MB."""
State = dict[str, Any]


class Stream(IterableDataset[Event]):
    """Events of one epoch, in an order that seed, epoch, process and worker decide.

    Every process (`rank` of `world_size`) and every worker of its loader gets its own share; all processes must have
    the same number of workers.

    Attributes:
        detectors: names of detectors.
        rank: of this process.
        world_size: number of processes.
        epoch: see `set_epoch`.
        max_rejected: share of events, and of spacepoints, that may be rejected.
    """

    detectors: tuple[str, ...]
    rank: int
    world_size: int
    epoch: int
    max_rejected: float
    _worker: tuple[int, int] | None = None

    @property
    @abstractmethod
    def accounting(self) -> Accounting:
        """What was read and left out since the epoch began; the buffer is read before it is given."""

    @abstractmethod
    def set_epoch(self, epoch: int) -> None:
        """Start the next iteration at the beginning of an epoch; each has another order, if there is a seed."""

    @abstractmethod
    def state_dict(self) -> State:
        """Where the stream is, as JSON: after the event that was given last."""

    @abstractmethod
    def load_state_dict(self, state: State) -> None:
        """Give, in the next iteration, what was still to come, in the same order.

        Raises:
            ConfigurationError: if it is the state of a stream of other files, settings or processes.
        """

    def assign(self, worker: int, num_workers: int) -> None:
        """Be this worker of so many, whatever the loader's process says."""
        self._worker = (worker, num_workers)

    @property
    def worker(self) -> tuple[int, int]:
        """Number of this worker, and how many there are."""
        if self._worker is not None:
            return self._worker
        info = get_worker_info()
        return (0, 1) if info is None else (info.id, info.num_workers)

    @property
    def share(self) -> tuple[int, int]:
        """Which share of the events this worker of this process gets, and how many shares there are."""
        worker, num_workers = self.worker
        return self.rank * num_workers + worker, self.world_size * num_workers


def check_rank(rank: int, world_size: int) -> None:
    """Refuse a process that does not exist.

    Raises:
        ConfigurationError: if there is no such process.
    """
    if not 0 <= rank < world_size:
        raise ConfigurationError(f"rank {rank} of {world_size} processes does not exist; give 0 to {world_size - 1}")


class EventStream(Stream):
    """The events of any number of files, without loading any of them: memory does not grow with their number.

    Args:
        paths: events files, folders of them, URLs; with a detector, also files of other formats.
        detector: what the columns of files of other formats mean. Going on in the middle of such a file reads it again
            from the start of its part.
        seed: shuffle with this seed: the files, and the events among `buffer` consecutive ones; None keeps the order.
        buffer: events that are shuffled among each other; fewer if they are large (`BUFFERED_SPACEPOINTS`).
        rank: of this process.
        world_size: number of processes.
        max_rejected: share of events, and of spacepoints, that may be rejected before reading stops.

    Attributes:
        detectors: names of the detectors of the first file of every path.

    Raises:
        DataError: if a path holds no events file, or its first file cannot be read.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        *,
        detector: Detector | None = None,
        seed: int | None = None,
        buffer: int = BUFFER,
        rank: int = 0,
        world_size: int = 1,
        max_rejected: float = MAX_REJECTED,
    ) -> None:
        check_rank(rank, world_size)
        if buffer < 1 or (seed is not None and seed < 0):
            raise ConfigurationError("a buffer holds at least one event, and a seed is not negative")
        found = [shards_of(path, detector) for path in paths]
        self.shards = tuple(shard for shards in found for shard in shards)
        names = [shards[0].detector_name for shards in found if shards]
        self.detectors = tuple(dict.fromkeys(names))
        self.seed, self.buffer, self.max_rejected = seed, buffer, max_rejected
        self.rank, self.world_size, self.epoch = rank, world_size, 0
        self._position: State = _beginning()
        self._resumed = False
        self._accounting = Accounting()
        self._identities: dict[tuple[int, int], str] = {}

    @property
    def accounting(self) -> Accounting:
        """See `Stream.accounting`. Workers of a loader count for themselves; `StreamLoader` adds them up."""
        return self._accounting

    def set_epoch(self, epoch: int) -> None:
        """See `Stream.set_epoch`."""
        self.epoch, self._position, self._resumed = epoch, _beginning(), False
        self._accounting = Accounting()

    def state_dict(self) -> State:
        """See `Stream.state_dict`."""
        return {"stream": self._identity(), "epoch": self.epoch, **self._position, "counted": _counts(self._accounting)}

    def load_state_dict(self, state: State) -> None:
        """See `Stream.load_state_dict`."""
        if state.get("stream") != self._identity():
            raise ConfigurationError("the state of a stream of other files, settings, processes or workers")
        self.epoch, self._resumed = state["epoch"], True
        self._position = {key: state[key] for key in _beginning()}
        self._accounting = Accounting.from_dict(copy.deepcopy(state["counted"]))

    def __iter__(self) -> Iterator[Event]:
        if not self._resumed:
            self._position = _beginning()
        self._resumed = False
        return self._events(self._position)

    def _events(self, position: State) -> Iterator[Event]:
        place = [position["shard"], position["event"]]
        self._accounting = Accounting.from_dict(copy.deepcopy(position["accounting"]))
        # A share may be too small to judge; whoever adds them up does it.
        alone = self.worker[1] == 1
        outcomes = self._outcomes(place)
        screened = self._accounting.screen(outcomes, self.max_rejected, at_the_end=alone)
        done, count = position["given"], 1
        while count:
            start = {"shard": place[0], "event": place[1], "accounting": _counts(self._accounting)}
            count = 0
            for count, event in enumerate(self._block(screened, place), 1):
                if count > done:
                    self._position = {**start, "given": count}
                    yield event
            done = 0
        self._position = {**start, "given": 0}

    def _block(self, events: Iterator[Event], place: Sequence[int]) -> Iterator[Event]:
        """The next events: a buffer of them, shuffled; or as they come."""
        if self.seed is None:
            return islice(events, self.buffer)
        generator = np.random.default_rng([2, self.seed, self.epoch, self.share[0], *place])
        block: list[Event] = []
        size = 0
        for event in events:
            block.append(event)
            size += len(event)
            if len(block) >= self.buffer or size >= BUFFERED_SPACEPOINTS:
                break
        return (block[index] for index in generator.permutation(len(block)).tolist())

    def _outcomes(self, place: list[int]) -> Iterator[Event | DataError]:
        """All of this share from a place on (shard of the share, event of the shard), which is kept up to date."""
        order = np.arange(len(self.shards))
        if self.seed is not None:
            np.random.default_rng([1, self.seed, self.epoch]).shuffle(order)  # 1, 2, 3: other numbers for every use
        mine = divided(len(order), *self.share)
        while place[0] < len(mine):
            index, step, offset = mine[place[0]]
            for outcome in self.shards[order[index]].outcomes(step, offset, place[1]):
                place[1] += 1
                yield outcome
            place[:] = [place[0] + 1, 0]

    def _identity(self) -> str:
        """Says which share of which stream a state belongs to; folders may move."""
        if self.share in self._identities:
            return self._identities[self.share]
        names = [[Path(str(shard.path)).name, Path(shard.part).name] for shard in self.shards]
        detector = [shard.detector.spec() for shard in self.shards[:1] if shard.detector is not None]
        text = json.dumps([names, detector, self.seed, self.buffer, *self.share])
        self._identities[self.share] = hashlib.sha256(text.encode()).hexdigest()
        return self._identities[self.share]


def _beginning() -> State:
    return {"shard": 0, "event": 0, "given": 0, "accounting": Accounting().as_dict()}


def _counts(accounting: Accounting) -> State:
    counts = accounting.as_dict()
    return {**counts, "examples": dict(counts["examples"])}
