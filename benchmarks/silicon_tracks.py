"""Tracks in the silicon of sPHENIX as arrays, the real simulation's and ours alike, and what can be compared of them.

The public sample (14,000 events of p+p, GEANT4; `fm4npp.readers.sphenix_silicon`) has five places for hits a track:
three MVTX layers and two INTT barrels. What a track must be to be in it is not written anywhere; looking at all 125,764
of them gives

- transverse momentum above 0.2 GeV/c, sharply;
- pions, kaons, protons and electrons; 10 muons, nothing else;
- from the collision or the decay of a strange, charmed or beautiful hadron: 5 displaced electrons in the 47,000 tracks
  without trigger, where conversions in the beam pipe would give hundreds, and protons only as antiprotons would be;
- crossing the inner INTT barrel: a helix from the vertex reaches r = 7.46 cm within |z| = 23.5 cm for all but 9 tracks;
- a hit in the MVTX: all but some 15 tracks.

`selected` asks the same of ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy.stats import ks_2samp

from fm4npp.event import Event

Array = np.ndarray[Any, Any]

SLOTS = ("MVTX L0", "MVTX L1", "MVTX L2", "INTT inner", "INTT outer")
SLOT_OF_LAYER = np.array([0, 1, 2, 3, 3, 4, 4])
"""sPHENIX layer number to slot: each INTT barrel is two half-layers, which the sample does not tell apart."""
SPECIES = {"pion": 211, "kaon": 321, "proton": 2212, "electron": 11}
HALF_LAYERS = (7.46, 9.97)
"""cm: between the half-layers of each INTT barrel. About half of the hits are on either, so that the median radius of a
barrel may lie on one, on the other, or between."""
BEAM_SPOT = (0.01, 0.01, 6.95)
"""cm: spread of the sample's collisions along x, y and z."""
LOWEST_PT = 0.2
"""GeV/c"""
INTT_RADIUS, INTT_REACH = HALF_LAYERS[0], 23.5
"""cm: where a track has to come by."""
STRANGE = (310, 130, 3122, 3112, 3222, 3312, 3322, 3334)
"""PDG codes of the parents of displaced tracks; those with charm and beauty decay before they are tracked."""
TESLA_CM = 0.299792458e-2
"""GeV/c of transverse momentum for each tesla and cm of radius."""
SAME_PLACE = 1e-4
"""cm: vertices closer than this to the collision are the collision; single precision is 1e-6 at 10 cm."""


@dataclass(frozen=True)
class SiliconTracks:
    """The T particles with hits of E events.

    Attributes:
        event: (T,) int64, index of the event.
        hits: (T, 5, 3) in cm, mean of the track's hits in each slot; NaN where there is none.
        momentum: (T, 3) in GeV/c at production.
        vertex: (T, 3) in cm, of production.
        pdg: (T,) int64.
        parent_pdg: (T,) int64; 0 for none, or not known.
        collision: (E, 3) in cm, where most of the event's particles come from; NaN without any.
        trigger: (E,) int64, 1 for a heavy-flavour event, 0 for none, -1 where unknown.
    """

    event: Array
    hits: Array
    momentum: Array
    vertex: Array
    pdg: Array
    parent_pdg: Array
    collision: Array
    trigger: Array

    def __len__(self) -> int:
        return len(self.event)

    @property
    def pt(self) -> Array:
        """(T,) transverse momentum in GeV/c."""
        return np.hypot(self.momentum[:, 0], self.momentum[:, 1])

    @property
    def seen(self) -> Array:
        """(T, 5) bool: whether a slot has a hit."""
        return np.isfinite(self.hits[:, :, 0])

    def take(self, kept: Array) -> SiliconTracks:
        """Some of the tracks, of the same events."""
        whole = ("collision", "trigger")
        return SiliconTracks(
            **{f.name: getattr(self, f.name)[... if f.name in whole else kept] for f in fields(SiliconTracks)}
        )

    def of_events(self, chosen: Array) -> SiliconTracks:
        """The tracks of some events, (E,) bool; these are counted anew."""
        number = np.cumsum(chosen) - 1
        some = self.take(chosen[self.event])
        columns = {f.name: getattr(some, f.name) for f in fields(SiliconTracks)}
        columns |= {"event": number[some.event], "collision": self.collision[chosen], "trigger": self.trigger[chosen]}
        return SiliconTracks(**columns)


def tracks_of(events: Iterable[Event]) -> SiliconTracks:
    """The tracks of events of `sphenix-silicon`, read or simulated: labels `track_id`, `layer`; particles."""
    parts: dict[str, list[Array]] = {name: [] for name in ("event", "pdg", "parent_pdg", "momentum", "vertex", "hits")}
    triggers = []
    for number, event in enumerate(events):
        particles = event.particles
        order = np.argsort(particles["track_id"])
        listed = particles["track_id"][order]
        parts["event"].append(np.full(len(listed), number))
        parts["pdg"].append(particles["pdg"][order])
        parts["parent_pdg"].append(_parents(particles)[order])
        parts["momentum"].append(np.stack([particles[name][order] for name in ("px", "py", "pz")], axis=1))
        parts["vertex"].append(np.stack([particles[name][order] for name in ("vx", "vy", "vz")], axis=1))
        parts["hits"].append(_slots(event, listed))
        triggers.append(int(event.scalars.get("trigger", -1)))
    columns = {name: np.concatenate(values) for name, values in parts.items()}
    collision = collisions(columns["event"], columns["vertex"], len(triggers))
    whole = SiliconTracks(**columns, collision=collision, trigger=np.array(triggers))
    return whole.take(whole.seen.any(axis=1))


def collisions(event: Array, vertex: Array, num_events: int) -> Array:
    """Where the collisions were: the vertex that most particles share, the innermost of several.

    Args:
        event: (P,) index of each particle's event.
        vertex: (P, 3) in cm.
        num_events: E.

    Returns:
        (E, 3) in cm; NaN for an event without particles.
    """
    found = np.full((num_events, 3), np.nan)
    rows, counts = np.unique(np.column_stack([event, vertex]), axis=0, return_counts=True)
    radius = np.hypot(rows[:, 1], rows[:, 2])
    best_last = np.lexsort((-radius, counts, rows[:, 0]))
    found[rows[best_last, 0].astype(int)] = rows[best_last, 1:]  # of several values for a row the last one stays
    return found


def selected(tracks: SiliconTracks) -> SiliconTracks:
    """The tracks that the public sample would hold; see above. All but some of its own pass."""
    collision = tracks.collision[tracks.event]
    displaced = np.linalg.norm(tracks.vertex - collision, axis=1) > SAME_PLACE
    known = np.isin(np.abs(tracks.pdg), list(SPECIES.values()))
    decay = (tracks.parent_pdg == 0) | np.isin(np.abs(tracks.parent_pdg), STRANGE)
    reaches = np.abs(height_at(tracks, INTT_RADIUS)) < INTT_REACH
    in_mvtx = tracks.seen[:, :3].any(axis=1)
    return tracks.take(known & (tracks.pt > LOWEST_PT) & (~displaced | decay) & reaches & in_mvtx)


def height_at(tracks: SiliconTracks, radius: float, field: float = 1.4) -> Array:
    """(T,) z in cm where a helix from near the beam would cross a cylinder; arc length as from the axis."""
    diameter = 2 * tracks.pt / (TESLA_CM * field)
    arc = diameter * np.arcsin(np.minimum(radius / diameter, 1))
    start = np.hypot(tracks.vertex[:, 0], tracks.vertex[:, 1])
    return tracks.vertex[:, 2] + (arc - np.minimum(start, arc)) * tracks.momentum[:, 2] / tracks.pt


def curvature(points: Array) -> Array:
    """Curvature of circles through points, all of the same weight, without iteration.

    V. Karimaki, Nucl. Instrum. Meth. A 305 (1991) 187, equations 4 to 13.

    Args:
        points: (T, N, 2) in cm; NaN where a track has none.

    Returns:
        (T,) in 1/cm, not negative; NaN for tracks with fewer than three points.
    """
    there = np.isfinite(points[:, :, 0])
    x, y = np.where(there[:, :, None], points, 0.0).transpose(2, 0, 1)
    enough = there.sum(axis=1) >= 3
    number = np.maximum(there.sum(axis=1), 1)

    def mean(values: Array) -> Array:
        return (values * there).sum(axis=1) / number

    square = x * x + y * y
    means = mean(x), mean(y), mean(square)
    dx, dy, dr = (values - middle[:, None] for values, middle in zip((x, y, square), means, strict=True))
    xx, xy, yy, xr, yr, rr = (mean(a * b) for a, b in ((dx, dx), (dx, dy), (dy, dy), (dx, dr), (dy, dr), (dr, dr)))
    phi = 0.5 * np.arctan2(2 * (rr * xy - xr * yr), rr * (xx - yy) - xr * xr + yr * yr)
    sine, cosine = np.sin(phi), np.cos(phi)
    with np.errstate(divide="ignore", invalid="ignore"):
        kappa = (sine * xr - cosine * yr) / rr
        delta = -kappa * means[2] + sine * means[0] - cosine * means[1]
        found = 2 * np.abs(kappa) / np.sqrt(1 - 4 * delta * kappa)
    return np.where(enough, found, np.nan)


def measured_field(tracks: SiliconTracks) -> Array:
    """(C,) in tesla, of the tracks with all hits: true transverse momentum x curvature of the circle through them."""
    complete = tracks.take(tracks.seen.all(axis=1))
    return complete.pt * curvature(complete.hits[:, :, :2]) / TESLA_CM


def distributions(tracks: SiliconTracks) -> dict[str, Array]:
    """Name -> values, of what is compared."""
    radius = np.hypot(tracks.hits[:, :, 0], tracks.hits[:, :, 1])
    momentum = np.linalg.norm(tracks.momentum, axis=1)
    found = {
        "tracks an event": np.bincount(tracks.event, minlength=len(tracks.trigger)),
        "hits a track": tracks.seen.sum(axis=1),
        "pT (GeV/c)": tracks.pt,
        "p (GeV/c)": momentum,
        "eta": np.arctanh(tracks.momentum[:, 2] / momentum),
        "vertex z (cm)": tracks.collision[np.unique(tracks.event), 2],
        "field (T)": measured_field(tracks),
    }
    return found | {f"r {name} (cm)": radius[tracks.seen[:, slot], slot] for slot, name in enumerate(SLOTS)}


def figures(tracks: SiliconTracks) -> dict[str, float]:
    """Name -> number, of what is compared."""
    values = distributions(tracks)
    displaced = np.linalg.norm(tracks.vertex - tracks.collision[tracks.event], axis=1) > SAME_PLACE
    low, high = np.nanquantile(tracks.collision, [0.1587, 0.8413], axis=0)  # few tracks may miss their collision
    spread = (high - low) / 2
    found = {
        "tracks an event": float(values["tracks an event"].mean()),
        "events without tracks": float((values["tracks an event"] == 0).mean()),
        "hits a track": float(values["hits a track"].mean()),
        "complete tracks": float((values["hits a track"] == len(SLOTS)).mean()),
        "median pT (GeV/c)": float(np.median(values["pT (GeV/c)"])),
        "mean pT (GeV/c)": float(values["pT (GeV/c)"].mean()),
        "median p (GeV/c)": float(np.median(values["p (GeV/c)"])),
        "|eta| of 90 %": float(np.quantile(np.abs(values["eta"]), 0.9)),
        "displaced tracks": float(displaced.mean()),
        "positive tracks": float(_positive(tracks.pdg).mean()),
        "vertex sigma x (cm)": float(spread[0]),
        "vertex sigma y (cm)": float(spread[1]),
        "vertex sigma z (cm)": float(spread[2]),
        "median field (T)": float(np.nanmedian(values["field (T)"])),
    }
    found |= {f"{name}s": float((np.abs(tracks.pdg) == code).mean()) for name, code in SPECIES.items()}
    found |= {f"missing {name}": float(1 - tracks.seen[:, slot].mean()) for slot, name in enumerate(SLOTS)}
    found |= {
        f"{name} on its inner half": float((values[f"r {name} (cm)"] < middle).mean())
        for name, middle in zip(SLOTS[3:], HALF_LAYERS, strict=True)
    }
    return found | {f"median r {name} (cm)": float(np.median(values[f"r {name} (cm)"])) for name in SLOTS}


def distances(ours: dict[str, Array], theirs: dict[str, Array]) -> dict[str, float]:
    """Name -> two-sample Kolmogorov-Smirnov distance, the largest difference of the cumulative distributions."""
    return {name: float(ks_2samp(ours[name], values).statistic) for name, values in theirs.items()}


def _parents(particles: Any) -> Array:
    """(P,) PDG code of each particle's parent; 0 without one, or where the file does not tell."""
    if "parent" not in particles:
        return np.zeros(len(particles["track_id"]), np.int64)
    codes = dict(zip(particles["track_id"].tolist(), particles["pdg"].tolist(), strict=True))
    return np.array([codes.get(parent, 0) for parent in particles["parent"].tolist()], np.int64)


def _slots(event: Event, track_ids: Array) -> Array:
    """(P, 5, 3) mean positions of the hits of particles, whose ids are sorted, in each slot."""
    track, slot = event.labels["track_id"], SLOT_OF_LAYER[event.labels["layer"]]
    listed = np.isin(track, track_ids)
    place = np.searchsorted(track_ids, track[listed]) * len(SLOTS) + slot[listed]
    size = len(track_ids) * len(SLOTS)
    number = np.bincount(place, minlength=size)
    sums = [np.bincount(place, weights=axis, minlength=size) for axis in event.positions[listed].T.astype(float)]
    with np.errstate(invalid="ignore"):
        means = np.stack(sums, axis=1) / number[:, None]
    return means.reshape(len(track_ids), len(SLOTS), 3)


def _positive(pdg: Array) -> Array:
    """(T,) bool: a code above 0 is a positive hadron, or a negative lepton."""
    return (pdg > 0) ^ np.isin(np.abs(pdg), (11, 13))
