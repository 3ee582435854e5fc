"""How good found tracks are: adjusted Rand index, efficiency, purity, and what is wrong with the others.

Everywhere, a track id below 0 means that a spacepoint is unassigned: it is in no track.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fm4npp.errors import DataError
from fm4npp.metrics.binning import (
    EDGES,
    MULTIPLICITY,
    EfficiencyBin,
    PurityBin,
    checked_edges,
    count_tracks,
    efficiency_bin,
    efficiency_bins,
    places,
    purity_bins,
)
from fm4npp.metrics.contingency import Contingency, PairCounts, adjusted_rand_index, contingency, pair_counts
from fm4npp.metrics.counting import NO_TRACKS, Matching, TrackCounts, match_tracks, track_counts
from fm4npp.metrics.selection import EVERY_TRACK, MOMENTUM, TrackSelection, quantities_of, selected
from fm4npp.metrics.uncertainty import CONFIDENCE, Interval, bootstrap, clopper_pearson

Array = NDArray[Any]


class TracksOfEvent(NamedTuple):
    """What is known and found of the tracks of one event; a plain tuple of the first two, or more, will do.

    Attributes:
        true: (N,) track ids; below 0: unassigned.
        predicted: (N,) track ids; below 0: unassigned.
        particles: name -> (P,) truth of the particles, as `Event.particles`: `track_id`, `px`, `py`, `pz` in GeV/c.
        weights: (N,) of the spacepoints in the TrackML score, as in the files of that challenge.
    """

    true: ArrayLike
    predicted: ArrayLike
    particles: Mapping[str, ArrayLike] | None = None
    weights: ArrayLike | None = None


@dataclass(frozen=True)
class TrackingMetrics:
    """Metrics of a set of events; a ratio that is not defined, for want of events or tracks, is None.

    Attributes:
        ari_per_event_mean: adjusted Rand index, the mean over events with spacepoints, an event of one spacepoint
            scoring 1; the unassigned spacepoints of an event are one cluster, whatever the selection.
        ari_pooled: adjusted Rand index of all spacepoints at once, the clusters of different events being distinct.
        efficiency: matched / true tracks of the whole set (recall).
        purity: matched / found tracks of the whole set (precision).
        fake_rate: found tracks that belong to no true track / found tracks.
        duplicate_rate: found tracks beyond the first that belongs to the same true track / found tracks.
        split_rate: true tracks that two or more found tracks belong to / true tracks.
        merge_rate: found tracks with more than half of each of two or more true tracks / found tracks.
        hit_efficiency: share of a true track's spacepoints that its match has, the mean over matches.
        hit_purity: share of a found track's spacepoints that its match has, the mean over matches.
        trackml_score: weight of the spacepoints shared by matches / weight of those of true tracks, the mean over
            events that have any (Amrouche et al. 2020); a match needs a majority of spacepoints, not of weight.
        hit_weights: weights of spacepoints in the TrackML score: "equal", or "given" with the events.
        efficiency_against: quantity -> efficiency in bins of it: transverse momentum `pt` (GeV/c) and pseudorapidity
            `eta` of the true particle, `multiplicity` (all true tracks of the event).
        efficiency_where_unknown: quantity of the particle -> efficiency of the true tracks of which it is not known.
        purity_against: `multiplicity` (all true tracks of the event) -> purity and fake rate in bins of it.
        intervals: metric -> its interval, or None: of rates that of Clopper and Pearson, of the others the bootstrap
            over events.
        confidence: confidence level of the intervals.
        num_events: all events, empty ones too.
        num_empty_events: events without spacepoints; they enter no mean.
        num_single_hit_events: events of one spacepoint.
        num_hits: spacepoints of all events.
        num_true_tracks: true tracks that pass the selection.
        num_predicted_tracks: found tracks, but for those that belong to a true track outside the selection.
        num_matched: pairs of a true and a found track by the double-majority rule.
        num_true_tracks_left_out: true tracks outside the selection.
        num_predicted_tracks_left_out: found tracks that belong to a true track outside the selection.
        num_true_tracks_of_unknown_momentum: true tracks that are long enough, and outside the selection only because
            their momentum is not known.
        selection: which true tracks count: fewest spacepoints, bounds of pT (GeV/c) and of |eta|.
    """

    ari_per_event_mean: float | None
    ari_pooled: float | None
    efficiency: float | None
    purity: float | None
    fake_rate: float | None
    duplicate_rate: float | None
    split_rate: float | None
    merge_rate: float | None
    hit_efficiency: float | None
    hit_purity: float | None
    trackml_score: float | None
    hit_weights: Literal["equal", "given"]
    efficiency_against: dict[str, tuple[EfficiencyBin, ...]]
    efficiency_where_unknown: dict[str, EfficiencyBin]
    purity_against: dict[str, tuple[PurityBin, ...]]
    intervals: dict[str, Interval | None]
    confidence: float
    num_events: int
    num_empty_events: int
    num_single_hit_events: int
    num_hits: int
    num_true_tracks: int
    num_predicted_tracks: int
    num_matched: int
    num_true_tracks_left_out: int
    num_predicted_tracks_left_out: int
    num_true_tracks_of_unknown_momentum: int
    selection: TrackSelection


def evaluate_tracks(
    events: Iterable[TracksOfEvent | tuple[ArrayLike, ArrayLike]],
    selection: TrackSelection | int = EVERY_TRACK,
    *,
    edges: Mapping[str, Sequence[float]] = EDGES,
) -> TrackingMetrics:
    """Tracking metrics of a set of events, read once and one by one.

    Args:
        events: for every event the true and the predicted track ids, each (N,), below 0: unassigned; and, if there
            are any, its particles and the weights of its spacepoints, see `TracksOfEvent`.
        selection: which true tracks count, but for the Rand index; a number is `min_hits` alone.
        edges: quantity -> increasing edges of its bins: `multiplicity`, columns of the particles, and what
            `fm4npp.truth.DERIVED` makes of them.

    Raises:
        DataError: if an event's lengths differ, or some events have weights and others have not.
        ConfigurationError: if edges do not increase.
    """
    chosen = TrackSelection(min_hits=selection) if isinstance(selection, int) else selection
    sums = _Sums(chosen, checked_edges(edges))
    for index, event in enumerate(events):
        try:
            sums.add(TracksOfEvent(*event))
        except DataError as error:
            raise error.at(event=index) from None
    return sums.metrics()


MEANS = ("ari_per_event_mean", "ari_pooled", "hit_efficiency", "hit_purity", "trackml_score")
"""What `_means` computes."""


class _Sums:
    """What events add up to, read one by one."""

    def __init__(self, selection: TrackSelection, edges: dict[str, Array]) -> None:
        self.selection, self.edges = selection, edges
        self.quantities = {*MOMENTUM, *edges} - {MULTIPLICITY}
        self.counts = {name: np.zeros((len(values) + 2, 2), np.int64) for name, values in edges.items()}
        self.found = {name: np.zeros((len(edges[name]) + 2, 4), np.int64) for name in {MULTIPLICITY} & edges.keys()}
        self.sizes: list[int] = []
        self.pairs: list[PairCounts] = []
        self.tracks: list[TrackCounts] = []
        self.left_out = np.zeros(3, dtype=np.int64)
        self.weighted: bool | None = None

    def add(self, event: TracksOfEvent) -> None:
        if self.weighted not in (None, event.weights is not None):
            raise DataError("some events have weights of spacepoints and others have not", remedy="give all or none")
        self.weighted = event.weights is not None
        table = contingency(event.true, event.predicted, event.weights)
        quantities = quantities_of(table.true_ids, event.particles, self.quantities)
        counting, unknown = selected(table, self.selection, quantities)
        matching = match_tracks(table, counting)
        counts = track_counts(table, matching)
        self.sizes.append(int(table.true_sizes.sum()))
        self.pairs.append(pair_counts(table))
        self.tracks.append(counts)
        num_true, num_found = ((ids >= 0).sum() for ids in (table.true_ids, table.predicted_ids))
        self.left_out += (num_true - counts.true, num_found - counts.predicted, unknown.sum())
        self._bin(table, matching, counts, {**quantities, MULTIPLICITY: np.full(len(counting), float(num_true))})

    def _bin(
        self, table: Contingency, matching: Matching, counts: TrackCounts, quantities: Mapping[str, Array]
    ) -> None:
        matched = np.zeros_like(matching.true)
        matched[table.row[matching.matches]] = True
        for name, edges in self.edges.items():
            place = places(quantities[name][matching.true], edges)
            self.counts[name] += count_tracks(place, matched[matching.true], len(edges) + 2)
        for name, found in self.found.items():
            place = places([int((table.true_ids >= 0).sum())], self.edges[name])
            found[place] += (1, counts.matched, counts.fake, counts.predicted)

    def metrics(self) -> TrackingMetrics:
        total = TrackCounts(*(sum(values) for values in zip(*self.tracks, strict=True))) if self.tracks else NO_TRACKS
        rates = _rates(total)
        sums = _event_sums(self.sizes, self.pairs, self.tracks)
        intervals = {name: clopper_pearson(*counts) for name, counts in rates.items()}
        intervals |= zip(MEANS, bootstrap(sums, _means), strict=True)
        means = zip(MEANS, _means(sums.sum(axis=0)).tolist(), strict=True)
        return TrackingMetrics(
            **{name: part / whole if whole else None for name, (part, whole) in rates.items()},
            **{name: None if np.isnan(mean) else mean for name, mean in means},
            hit_weights="given" if self.weighted else "equal",
            efficiency_against={
                name: efficiency_bins(counts[:-1], self.edges[name]) for name, counts in self.counts.items()
            },
            efficiency_where_unknown={
                name: efficiency_bin(counts[-1]) for name, counts in self.counts.items() if name != MULTIPLICITY
            },
            purity_against={name: purity_bins(counts[:-1], self.edges[name]) for name, counts in self.found.items()},
            intervals=intervals,
            confidence=CONFIDENCE,
            num_events=len(self.sizes),
            num_empty_events=self.sizes.count(0),
            num_single_hit_events=self.sizes.count(1),
            num_hits=sum(self.sizes),
            num_true_tracks=total.true,
            num_predicted_tracks=total.predicted,
            num_matched=total.matched,
            num_true_tracks_left_out=int(self.left_out[0]),
            num_predicted_tracks_left_out=int(self.left_out[1]),
            num_true_tracks_of_unknown_momentum=int(self.left_out[2]),
            selection=self.selection,
        )


def _rates(total: TrackCounts) -> dict[str, tuple[int, int]]:
    """Rate -> its part and whole."""
    return {
        "efficiency": (total.matched, total.true),
        "purity": (total.matched, total.predicted),
        "fake_rate": (total.fake, total.predicted),
        "duplicate_rate": (total.duplicate, total.predicted),
        "split_rate": (total.split, total.true),
        "merge_rate": (total.merged, total.predicted),
    }


def _event_sums(sizes: list[int], pairs: list[PairCounts], tracks: list[TrackCounts]) -> Array:
    """(E, 11) numbers of which all means are functions of the sums."""
    rows = [
        (
            adjusted_rand_index(counts) if size else 0.0,
            bool(size),
            *counts[:3],
            size,
            event.shared_of_true,
            event.shared_of_predicted,
            event.matched,
            event.matched_weight / event.true_weight if event.true_weight else 0.0,
            bool(event.true_weight),
        )
        for size, counts, event in zip(sizes, pairs, tracks, strict=True)
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, 11)


def _means(sums: Array) -> Array:
    """(..., 11) sums to (..., 5) `MEANS`, NaN where there is nothing to take the mean of."""
    ari, filled, both, true, predicted, size, of_true, of_predicted, matched, score, with_tracks = np.moveaxis(
        sums, -1, 0
    )
    expected = true * predicted
    all_pairs = size * (size - 1) / 2
    spread = (true + predicted) * all_pairs - 2 * expected
    with np.errstate(divide="ignore", invalid="ignore"):
        pooled = np.where(spread != 0, 2 * (both * all_pairs - expected) / spread, np.where(size > 0, 1.0, np.nan))
        ratios = [ari / filled, pooled, of_true / matched, of_predicted / matched, score / with_tracks]
    return np.stack(ratios, axis=-1)
