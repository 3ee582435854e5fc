"""One step of particles on helices in a uniform field along z, from where they are to the next cylinder; exact.

Angles around a circle are counted from its perigee, the point closest to the beam, because then each formula stays
accurate for tracks of any momentum, straight ones included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

TESLA_CM = 0.299792458e-2
"""Transverse momentum in GeV/c of a unit charge on a circle of 1 cm radius in 1 T (the speed of light)."""
_WEAKEST = 1e-9  # tesla times charge; a weaker force bends nothing that a tracker could see
_SMALLEST = 1e-12  # pT in units of p; keeps a particle along the beam from having no helix


@dataclass(frozen=True)
class Helices:
    """The paths of A particles, and their phase.

    Attributes:
        transverse: (A,) pT in GeV/c.
        radius: (A,) of the circle in the transverse plane, in cm.
        sense: (A,) +1 where the particle turns counter-clockwise seen against the z axis, else -1.
        distance: (A,) of the circle's centre from the axis, in cm.
        perigee: (A,) distance minus radius.
        start: (A,) angle from the perigee to the particle, in the direction of flight.
    """

    transverse: Array
    radius: Array
    sense: Array
    distance: Array
    perigee: Array
    start: Array


def helices(position: Array, momentum: Array, charge: Array, field: float) -> Helices:
    """The paths of particles in a uniform field along z.

    The force q v x B turns a positive particle clockwise in a field along +z. R = pT / (0.3 |q B|), in metres for
    GeV/c and tesla (Particle Data Group review, "Particle detectors at accelerators", momentum measurement). Neutral
    particles fly on circles too large to be told from straight lines.

    Args:
        position: (A, 3) in cm.
        momentum: (A, 3) in GeV/c.
        charge: (A,) in units of the positron's.
        field: in tesla.
    """
    x, y, _ = position.T
    px, py, pz = momentum.T
    transverse = np.maximum(np.sqrt(px * px + py * py), _SMALLEST * np.abs(pz))
    force = charge * field
    radius = transverse / (TESLA_CM * np.maximum(np.abs(force), _WEAKEST))
    sense = np.where(force > 0, -1.0, 1.0)
    towards_x, towards_y = -sense * py / transverse, sense * px / transverse  # the centre
    along, across = x * towards_x + y * towards_y, x * towards_y - y * towards_x
    distance = np.hypot(x + radius * towards_x, y + radius * towards_y)
    # d - R without the cancellation that a large R brings
    perigee = (x * x + y * y + 2 * radius * along) / (distance + radius)
    return Helices(transverse, radius, sense, distance, perigee, sense * np.arctan2(across, radius + along))


def turn_to(paths: Helices, radius: Array, outward: bool) -> Array:
    """How far particles turn until they cross a cylinder around the beam.

    A circle of radius R with its centre at distance d from the axis crosses radius r at the angles +a and -a from its
    perigee, with sin^2(a / 2) = (r^2 - (d - R)^2) / (4 d R), from the law of cosines.

    Args:
        paths: of A particles.
        radius: (A,) of the cylinders, in cm; NaN for none.
        outward: whether crossings from inside to outside are meant, or those from outside to inside.

    Returns:
        (A,) turning angle in (0, 2 pi], NaN where the cylinder is out of reach. Who is there already goes all the way
        round: what touches a cylinder would cross it for ever.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        square = (radius * radius - paths.perigee * paths.perigee) / (4 * paths.distance * paths.radius)
        angle = 2 * np.arcsin(np.sqrt(square))
        turn: Array = np.mod((angle if outward else -angle) - paths.start, 2 * np.pi)
    turn[turn == 0] = 2 * np.pi
    return turn


def advanced(position: Array, momentum: Array, paths: Helices, turn: Array) -> tuple[Array, Array]:
    """Where particles are, and where they head, after turning.

    Args:
        position: (A, 3) in cm.
        momentum: (A, 3) in GeV/c.
        paths: their helices.
        turn: (A,) turning angle.

    Returns:
        position (A, 3) in cm, momentum (A, 3) in GeV/c, its length unchanged.
    """
    px, py, pz = momentum.T
    half = turn / 2
    sine, cosine = paths.sense * np.sin(half), np.cos(half)
    chord = 2 * paths.radius * paths.sense * sine / paths.transverse
    moved, turned = np.empty_like(position), np.empty_like(momentum)
    moved[:, 0] = position[:, 0] + chord * (px * cosine - py * sine)
    moved[:, 1] = position[:, 1] + chord * (px * sine + py * cosine)
    moved[:, 2] = position[:, 2] + paths.radius * turn / paths.transverse * pz
    cosine, sine = 1 - 2 * sine * sine, 2 * sine * cosine
    turned[:, 0] = px * cosine - py * sine
    turned[:, 1] = px * sine + py * cosine
    turned[:, 2] = pz
    return moved, turned
