"""What really happened, as labels of spacepoints and a table of particles for each event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm4npp.event import particle_class
from fm4npp.simulation.measurement import Spacepoints
from fm4npp.simulation.transport import Transported

Array = NDArray[Any]

NOISE_BELOW = 0.06
"""GeV/c: spacepoints of particles produced with less momentum are noise (paper appendix A.3)."""


@dataclass(frozen=True)
class Truth:
    """Labels and particles of a block of events.

    Attributes:
        labels: name -> (N,) of every spacepoint.
        particles: name -> (P,) of every particle, event after event.
        offsets: (B + 1,), where the particles of each event start.
    """

    labels: dict[str, Array]
    particles: dict[str, Array]
    offsets: Array

    def particles_of(self, event: int) -> dict[str, Array]:
        """The table of one event."""
        start, stop = self.offsets[event : event + 2]
        return {name: values[start:stop] for name, values in self.particles.items()}


def truth_of(flown: Transported, spacepoints: Spacepoints, num_events: int) -> Truth:
    """Labels and particles.

    Args:
        flown: all particles of the block.
        spacepoints: N of the block.
        num_events: B.

    Returns:
        Particles: the generated charged ones that came into being, and all that left spacepoints, with their
        ancestors; numbered from 1 in each event.
    """
    table = flown.particles
    num_hits = np.bincount(spacepoints.particle, minlength=len(table))
    kept = np.flatnonzero(_kept(flown, num_hits))
    kept = kept[np.argsort(table.event[kept], kind="stable")]
    offsets = np.searchsorted(table.event[kept], np.arange(num_events + 1))
    track_id = np.zeros(len(table) + 1, np.int64)  # the last one is nobody: the parent -1
    track_id[kept] = np.arange(len(kept)) - offsets[table.event[kept]] + 1
    momentum, vertex = table.momentum[kept].T.astype(np.float32), table.vertex[kept].T.astype(np.float32)
    owner = spacepoints.particle
    return Truth(
        labels={
            "track_id": track_id[owner],
            "pdg": table.pdg[owner],
            "particle_class": particle_class(table.pdg)[owner],
            "is_noise": table.total_momentum[owner] < NOISE_BELOW,
        },
        particles={
            "track_id": track_id[kept],
            "pdg": table.pdg[kept],
            **dict(zip(("px", "py", "pz"), momentum, strict=True)),
            **dict(zip(("vx", "vy", "vz"), vertex, strict=True)),
            "charge": table.charge[kept],
            "parent": track_id[table.parent[kept]],
            "num_hits": num_hits[kept],
        },
        offsets=offsets,
    )


def _kept(flown: Transported, num_hits: Array) -> Array:
    """(P,) bool: generated and charged, or with spacepoints, or an ancestor of these."""
    parent, generated = flown.particles.parent, np.arange(len(num_hits)) < flown.num_generated
    kept: Array = (num_hits > 0) | (generated & flown.born & (flown.particles.charge != 0))
    while (missing := parent[kept & (parent >= 0)]).size and not kept[missing].all():
        kept[missing] = True
    return kept
