"""The assignment of least total cost between queries and true tracks (Kuhn 1955), on the host."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fm4npp.errors import ConfigurationError

Matcher = Literal["scipy", "lap"]
Costs = NDArray[np.float64]
Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


def assign(cost: Tensor, num_tracks: Sequence[int], matcher: Matcher = "scipy") -> Tensor:
    """The best one-to-one pairs of each event at each level; one transfer to the host for all of them.

    Args:
        cost: (L, K, Q), of matching each of the K tracks of all events, one event after the other, with each query.
        num_tracks: B numbers of tracks, which add up to K.
        matcher: `scipy.optimize.linear_sum_assignment`, or `lap.lapjv` of the distribution lapx.

    Returns:
        (3, P) int64: level, track and query of each pair. An event has min(Q, its number of tracks) pairs at every
        level; no query and no track is in two of them.

    Raises:
        ConfigurationError: if lap is asked for and cannot be imported.
    """
    solve = MATCHERS[matcher]()
    # Diverged logits make the loss not a number, which the training loop reports; a solver would fail without a hint.
    table = torch.nan_to_num(cost.detach(), posinf=0.0, neginf=0.0).cpu().double().numpy()
    events = list(pairwise(accumulate(num_tracks, initial=0)))
    problems = [(level, first, last) for level in range(len(table)) for first, last in events if last > first]
    solutions = _solved(solve, [table[level, first:last] for level, first, last in problems])
    pairs = [
        np.stack([np.full_like(track, level), track + first, query])
        for (level, first, _), (track, query) in zip(problems, solutions, strict=True)
    ]
    return torch.from_numpy(np.concatenate([np.zeros((3, 0), dtype=np.int64), *pairs], axis=1)).to(cost.device)


def _solved(solve: Callable[[Costs], Pairs], problems: Sequence[Costs]) -> list[Pairs]:
    """In as many threads as torch uses: SciPy's solver lets other threads run."""
    num_threads = min(torch.get_num_threads(), len(problems))
    if num_threads <= 1:
        return [solve(cost) for cost in problems]
    with ThreadPoolExecutor(num_threads) as pool:
        return list(pool.map(solve, problems))


def _scipy() -> Callable[[Costs], Pairs]:
    return linear_sum_assignment


def _lap() -> Callable[[Costs], Pairs]:
    try:
        lap: Any = importlib.import_module("lap")
    except ImportError as error:
        raise ConfigurationError(
            f"the matcher 'lap' needs lapx, which cannot be imported ({error}); pip install lapx, or choose 'scipy'"
        ) from error

    def solve(cost: Costs) -> Pairs:
        _, found, _ = lap.lapjv(cost, extend_cost=True)  # the query of each track, -1 for none
        query = np.asarray(found, dtype=np.int64)
        return np.flatnonzero(query >= 0), query[query >= 0]

    return solve


MATCHERS: Mapping[Matcher, Callable[[], Callable[[Costs], Pairs]]] = {"scipy": _scipy, "lap": _lap}
