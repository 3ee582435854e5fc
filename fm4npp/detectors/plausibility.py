"""Whether a detector's description fits the events of a file: bounds, layers, units, axes, momenta.

What does not fit is compared with what would: positions in another unit or with two axes exchanged, momenta in another
unit. Everything is judged on the raw positions, before impossible ones are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fm4npp.detectors.base import Array, Columns, Detector
from fm4npp.detectors.composite import CompositeDetector
from fm4npp.detectors.mapped import MappedDetector
from fm4npp.errors import DataError
from fm4npp.event import Event
from fm4npp.geometry import Geometry

MAX_OUTSIDE = 0.2
"""Share of spacepoints outside the bounds from which on a detector is taken to be the wrong one."""
SUSPICIOUS_OUTSIDE = 0.05
"""Share from which on it is worth a word."""
BETTER = 0.2
"""By so much more of the spacepoints another unit or order of axes must fit to be suggested."""
SEEN = 20
"""A layer without a spacepoint means something where there are this many spacepoints for each layer."""
UNITS = {"mm": 0.1, "cm": 1.0, "m": 100.0}
EXCHANGES = {"x and z exchanged": [2, 1, 0], "y and z exchanged": [0, 2, 1], "x and y exchanged": [1, 0, 2]}
GEV_PER_TESLA_CM = 0.00299792458
"""pT = 0.003 B R of a particle of charge 1: R in cm, B in T, pT in GeV/c (PDG review, passage of particles)."""
LEAST_POINTS, MOST_TRACKS = 6, 500
"""Of a track whose curvature is measured; tracks that are."""
CURVED = 0.02
"""Sagitta over chord from which on a curvature is measured well enough."""
OFF = 10.0
"""Momenta that differ from the curvature's by this factor are in another unit."""


@dataclass(frozen=True)
class Fit:
    """How a subsystem's description fits.

    Attributes:
        subsystem: its name.
        num_spacepoints: that were looked at.
        num_outside: of these, outside its bounds, or not finite.
        untouched: nominal places of layers that no spacepoint is nearest to, where there are enough to tell.
        momentum_ratio: median of the particles' transverse momentum over that of their curvature; None where no field
            is known, or too few tracks are curved.
        better: what would fit more of the spacepoints; "" if nothing that was tried.
        suspicions: what looks wrong, one line each, with what to try.
    """

    subsystem: str
    num_spacepoints: int
    num_outside: int
    untouched: tuple[float, ...]
    momentum_ratio: float | None
    better: str
    suspicions: tuple[str, ...]

    @property
    def share_outside(self) -> float:
        """Of the spacepoints."""
        return self.num_outside / self.num_spacepoints if self.num_spacepoints else 0.0


def judge(detector: Detector, sampled: Sequence[Columns]) -> list[Fit]:
    """How well a detector describes events.

    Args:
        detector: mapped, or made of mapped parts; of any other nothing is known.
        sampled: columns of some events, as a reader gives them.
    """
    if not isinstance(detector, MappedDetector | CompositeDetector):
        return []
    parts = detector.parts if isinstance(detector, CompositeDetector) else (detector,)
    events = list(_events(detector, sampled))
    fits = []
    for part in parts:
        placed = [part.placed(columns) for columns in sampled] if part.position_quantities else []
        positions = np.concatenate([*placed, np.empty((0, 3))])
        fits.append(_fit(part, positions, _momentum_ratio(part, events) if len(parts) == 1 else None))
    return fits


def hits_of_layers(outward: Array, layers: Sequence[float]) -> Array:
    """Places on the outward axis (N,) to (L,) numbers of spacepoints that each layer is nearest to."""
    edges = (np.asarray(layers)[:-1] + np.asarray(layers)[1:]) / 2
    return np.bincount(np.searchsorted(edges, outward), minlength=len(layers))


def untouched(counts: Array, layers: Sequence[float]) -> tuple[float, ...]:
    """The layers without a spacepoint; none if there are too few spacepoints to tell.

    Args:
        counts: (L,) of `hits_of_layers`.
        layers: (L,) nominal places.
    """
    if counts.sum() < SEEN * len(layers):
        return ()
    return tuple(float(layer) for layer, count in zip(layers, counts, strict=True) if not count)


def _fit(part: MappedDetector, positions: Array, ratio: float | None) -> Fit:
    geometry = part.geometry
    outside = int((~geometry.contains(positions)).sum())
    empty = untouched(_hits(positions, geometry), geometry.layers) if geometry.layers else ()
    found, better = [], ""
    if len(positions) and outside > SUSPICIOUS_OUTSIDE * len(positions):
        better = _better(part, positions)
        hint = f"; {better}" if better else ""
        found.append(f"{outside / len(positions):.1%} of the spacepoints lie outside the bounds{hint}")
    if empty:
        found.append(f"no spacepoint near {len(empty)} of {len(geometry.layers)} layers: {_listed(empty)} cm")
    if ratio is not None and not 1 / OFF < ratio < OFF:
        found.append(
            f"transverse momenta are {ratio:.3g} times those of the curvature in {part.response.field:g} T: "  # type: ignore[union-attr]
            "is energy_unit right?"
        )
    return Fit(part.name, len(positions), outside, empty, ratio, better, tuple(found))


def _hits(positions: Array, geometry: Geometry) -> Array:
    inside = positions[geometry.contains(positions)]
    return hits_of_layers(geometry.natural(inside)[:, geometry.causal_axis], geometry.layers)


def _listed(values: Sequence[float]) -> str:
    shown = ", ".join(f"{value:.4g}" for value in values[:5])
    return shown + (", ..." if len(values) > 5 else "")


def _better(part: MappedDetector, positions: Array) -> str:
    """What would fit more of the spacepoints, or nothing."""
    geometry = part.geometry
    tried: dict[str, Array] = {}
    if type(part).positions is MappedDetector.positions:
        now = UNITS.get(str(part.length_unit)) or float(part.length_unit)
        tried = {f"length_unit: {unit}": positions * (size / now) for unit, size in UNITS.items() if size != now}
        tried |= {told: positions[:, axes] for told, axes in EXCHANGES.items()}
    inside = {told: _share_inside(moved, geometry) for told, moved in tried.items()}
    best = max(inside, key=lambda told: inside[told], default="")
    if not best or inside[best] < _share_inside(positions, geometry) + BETTER:
        return ""
    return f"with {best}, {inside[best]:.1%} of them would lie inside"


def _share_inside(positions: Array, geometry: Geometry) -> float:
    return float(geometry.contains(positions).mean()) if len(positions) else 1.0


def _events(detector: Detector, sampled: Sequence[Columns]) -> Iterator[Event]:
    """Those that can be made."""
    for columns in sampled:
        try:
            yield detector.event(columns)
        except DataError:
            continue


def _momentum_ratio(part: MappedDetector, events: Sequence[Event]) -> float | None:
    """Median over curved tracks of the true transverse momentum over that of the circle through the spacepoints."""
    if part.response is None or part.geometry.system != "cylindrical" or not part.response.field:
        return None
    ratios: list[float] = []
    for event in events:
        ratios += _ratios(event, part.response.field)
        if len(ratios) >= MOST_TRACKS:
            break
    return float(np.median(ratios)) if len(ratios) >= LEAST_POINTS else None


def _ratios(event: Event, field: float) -> Iterator[float]:
    particles: Mapping[str, Any] = event.particles
    if "track_id" not in event.labels or not {"track_id", "px", "py"} <= set(particles):
        return
    momentum = dict(
        zip(particles["track_id"].tolist(), np.hypot(particles["px"], particles["py"]).tolist(), strict=True)
    )
    tracks = event.labels["track_id"]
    for track in np.unique(tracks[tracks >= 0]).tolist():
        points = event.positions[tracks == track, :2]
        radius = curvature_radius(points) if len(points) >= LEAST_POINTS else None
        if radius is not None and momentum.get(track):
            yield momentum[track] / (GEV_PER_TESLA_CM * field * radius)


def curvature_radius(points: Array) -> float | None:
    """Radius in cm of the circle through a track.

    Args:
        points: (N, 2) in cm.

    Returns:
        By least squares of the algebraic distance (I. Kasa, IEEE Trans. Instrum. Meas. 25 (1976) 8); None if the track
        is not curved enough to tell.
    """
    centred = points - points.mean(axis=0)
    matrix = np.column_stack([2 * centred, np.ones(len(centred))])
    square = np.square(centred).sum(axis=1)
    solution, _, rank, _ = np.linalg.lstsq(matrix, square, rcond=None)
    if rank < 3:
        return None
    radius = float(np.sqrt(max(solution[2] + solution[0] ** 2 + solution[1] ** 2, 0.0)))
    chord = 2 * float(np.sqrt(square.max()))
    return radius if chord > 0 and chord / (8 * radius) > CURVED else None
