"""Which true tracks count: by their spacepoints and, where it is known, by their particle's momentum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fm4npp.errors import ConfigurationError
from fm4npp.metrics.contingency import Contingency
from fm4npp.truth import PARTICLE, missing, particle_quantity

Array = NDArray[Any]

MOMENTUM = ("pt", "eta")
"""Quantities that a selection may ask for."""


@dataclass(frozen=True)
class TrackSelection:
    """Which true tracks count; a found track that belongs to one that does not is neither right nor wrong.

    Attributes:
        min_hits: fewest spacepoints of a true track that counts.
        pt_min: lowest transverse momentum of a true track that counts, GeV/c; None: any.
        pt_max: highest transverse momentum of a true track that counts, GeV/c; None: any.
        abs_eta_max: largest absolute pseudorapidity of a true track that counts; None: any.

    Raises:
        ConfigurationError: if no track can pass.
    """

    min_hits: int = 1
    pt_min: float | None = None
    pt_max: float | None = None
    abs_eta_max: float | None = None

    def __post_init__(self) -> None:
        low, high = self.pt_min or 0.0, np.inf if self.pt_max is None else self.pt_max
        eta = np.inf if self.abs_eta_max is None else self.abs_eta_max
        # Not a comparison the other way round: NaN must fail, too.
        if not (self.min_hits >= 1 and 0 <= low <= high and eta >= 0):
            raise ConfigurationError(
                f"no track can be selected by: {self}; take min_hits >= 1, 0 <= pt_min <= pt_max, abs_eta_max >= 0"
            )

    @property
    def uses_momentum(self) -> bool:
        """Whether tracks of unknown momentum cannot pass."""
        return not (self.pt_min is None and self.pt_max is None and self.abs_eta_max is None)

    def __str__(self) -> str:
        parts = [f"true tracks of at least {self.min_hits} spacepoint{'s' if self.min_hits != 1 else ''}"]
        parts += [f"pT >= {self.pt_min:g} GeV/c"] if self.pt_min is not None else []
        parts += [f"pT <= {self.pt_max:g} GeV/c"] if self.pt_max is not None else []
        parts += [f"|eta| <= {self.abs_eta_max:g}"] if self.abs_eta_max is not None else []
        return ", ".join(parts)


EVERY_TRACK = TrackSelection()


def selected(
    table: Contingency, selection: TrackSelection, quantities: Mapping[str, Array] | None = None
) -> tuple[Array, Array]:
    """Which true clusters are tracks that count.

    Args:
        table: of the event.
        selection: what a track must be to count; it may be exactly at a bound.
        quantities: `pt` (GeV/c) and `eta` of every true cluster, (R,) each, NaN where unknown; None: all unknown.

    Returns:
        (R,) bool, whether it counts; (R,) bool, whether it is long enough and does not count only because the
        selection asks for a momentum that is not known.
    """
    long: Array = (table.true_ids >= 0) & (table.true_sizes >= selection.min_hits)
    if not selection.uses_momentum:
        return long, np.zeros_like(long)
    unknown = np.full(len(long), np.nan)
    pt, eta = ((quantities or {}).get(name, unknown) for name in MOMENTUM)
    passes, known = np.ones_like(long), np.ones_like(long)
    for values, low, high in (
        (pt, selection.pt_min, selection.pt_max),
        (np.abs(eta), None, selection.abs_eta_max),
    ):
        if low is not None or high is not None:
            known &= ~np.isnan(values)
            passes &= (values >= (low or 0.0)) & (values <= (np.inf if high is None else high))
    return long & known & passes, long & ~known


def quantities_of(ids: Array, particles: Mapping[str, ArrayLike] | None, names: Iterable[str]) -> dict[str, Array]:
    """What is known of the particles behind tracks.

    Args:
        ids: (R,) int64, ids of tracks.
        particles: name -> (P,) of an event's particles: `track_id` and others, such as `px`, `py`, `pz` in GeV/c, from
            which `fm4npp.truth.DERIVED` makes `pt`, `eta` and more. The first of two of one `track_id` counts.
        names: quantities.

    Returns:
        Name -> (R,) float64, NaN where it is not known.
    """
    table = {name: np.asarray(values) for name, values in (particles or {}).items()}
    known, first = np.unique(table.get("track_id", np.zeros(0, np.int64)), return_index=True)
    place = np.searchsorted(known, ids).clip(max=max(len(known) - 1, 0))
    mine = known[place] == ids if len(known) else np.zeros(len(ids), dtype=bool)
    quantities = {name: np.full(len(ids), np.nan) for name in names}
    for name, values in quantities.items():
        if len(known) and not missing([PARTICLE + name], ("track_id",), table, ()):
            values[mine] = particle_quantity(table, name)[first[place[mine]]]
    return quantities
