"""Charged particles on helices in a solenoid field, and where they cross cylinders; exact, vectorised.

Everything is measured by the turning angle `turn` (radians, never negative) of the transverse momentum since
production. Angles around a circle are counted from its perigee, the point closest to the beam, because then each
formula stays accurate for tracks of any momentum, straight ones included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

TESLA_CM = 0.299792458e-2
"""Transverse momentum in GeV/c of a unit charge on a circle of 1 cm radius in 1 T (the speed of light)."""

_WEAKEST_FIELD = 1e-9  # tesla; a weaker field bends nothing that a tracker could see


@dataclass(frozen=True)
class Helices:
    """The paths of P particles.

    Attributes:
        vertex: (P, 3) starting points in cm.
        phi: (P,) azimuth of the starting direction.
        radius: (P,) of the circle in the transverse plane, in cm.
        sense: (P,) +1 where the particle turns counter-clockwise seen against the z axis, else -1.
        slope: (P,) pz / pT.
    """

    vertex: Array
    phi: Array
    radius: Array
    sense: Array
    slope: Array

    @property
    def stretch(self) -> Array:
        """(P,) length of path per length of its transverse projection, p / pT."""
        ratio: Array = np.sqrt(1.0 + self.slope**2)
        return ratio


def helices(vertex: Array, momentum: Array, charge: Array, field: float) -> Helices:
    """The paths of particles with pT > 0 in a uniform field along z.

    The force q v x B turns a positive particle clockwise in a field along +z. R = pT / (0.3 |B|), in metres for
    GeV/c and tesla (Particle Data Group review, "Particle detectors at accelerators", momentum measurement).

    Args:
        vertex: (P, 3) in cm.
        momentum: (P, 3) in GeV/c.
        charge: (P,) +1 or -1.
        field: in tesla.
    """
    transverse = np.hypot(momentum[:, 0], momentum[:, 1])
    return Helices(
        vertex=vertex,
        phi=np.arctan2(momentum[:, 1], momentum[:, 0]),
        radius=transverse / (TESLA_CM * max(abs(field), _WEAKEST_FIELD)),
        sense=np.where(charge * field > 0, -1.0, 1.0),
        slope=momentum[:, 2] / transverse,
    )


def points(paths: Helices, particle: Array, turn: Array) -> Array:
    """Places on helices.

    Args:
        paths: P helices.
        particle: (C,) index of a helix.
        turn: (C,) turning angle since production.

    Returns:
        (C, 3) in cm.
    """
    half = turn / 2
    chord = 2 * paths.radius[particle] * np.sin(half)
    direction = paths.phi[particle] + paths.sense[particle] * half
    step = (
        chord * np.cos(direction),
        chord * np.sin(direction),
        paths.slope[particle] * paths.radius[particle] * turn,
    )
    places: Array = paths.vertex[particle] + np.stack(step, axis=1)
    return places


def turn_limit(paths: Helices, outer_radius: float, half_length: float, max_path: Array) -> Array:
    """How far particles fly: until they leave a cylinder through its mantle or its ends, or their path is used up.

    Args:
        paths: P helices that start inside the cylinder.
        outer_radius: of the cylinder, in cm; what lies outside absorbs.
        half_length: of the cylinder, in cm.
        max_path: (P,) longest path, in cm.

    Returns:
        (P,) largest turning angle.
    """
    outward = _turns(paths, np.array([outer_radius]))[:, 0, 0]
    with np.errstate(divide="ignore"):
        lengthwise = (half_length - np.sign(paths.slope) * paths.vertex[:, 2]) / np.abs(paths.slope)
    along = np.minimum(lengthwise, max_path / paths.stretch) / paths.radius
    limit: Array = np.fmin(outward, along)
    return limit


def crossings(paths: Helices, radii: Array, limit: Array) -> tuple[Array, Array, Array]:
    """Every crossing of P helices with L cylinders around the z axis, outward and inward, in all turns.

    Args:
        paths: P helices.
        radii: (L,) of the cylinders, in cm.
        limit: (P,) largest turning angle.

    Returns:
        particle: (C,) int64, index of the helix.
        layer: (C,) int64, index of the cylinder.
        turn: (C,) turning angle.
    """
    first = _turns(paths, radii)
    left = limit[:, None, None] - first
    particle, layer, way = np.nonzero(left >= 0)  # NaN, a cylinder out of reach, is not
    repeats = (left[particle, layer, way] / (2 * np.pi)).astype(np.int64) + 1
    start = np.cumsum(repeats) - repeats
    lap = np.arange(repeats.sum()) - np.repeat(start, repeats)
    turn = np.repeat(first[particle, layer, way], repeats) + 2 * np.pi * lap
    return np.repeat(particle, repeats), np.repeat(layer, repeats), turn


def _turns(paths: Helices, radii: Array) -> Array:
    """(P, L, 2) turning angle in [0, 2 pi) of the first outward and the first inward crossing, NaN if there is none.

    A circle of radius R with its centre at distance d from the axis crosses radius r at the angles +a and -a from its
    perigee, with sin^2(a / 2) = (r^2 - (d - R)^2) / (4 d R), from the law of cosines.
    """
    x, y = paths.vertex[:, 0], paths.vertex[:, 1]
    normal_x, normal_y = -paths.sense * np.sin(paths.phi), paths.sense * np.cos(paths.phi)  # towards the centre
    along, across = x * normal_x + y * normal_y, x * normal_y - y * normal_x
    distance = np.hypot(x + paths.radius * normal_x, y + paths.radius * normal_y)
    # d - R without the cancellation that a large R brings
    perigee = (x**2 + y**2 + 2 * paths.radius * along) / (distance + paths.radius)
    start = paths.sense * np.arctan2(across, paths.radius + along)
    with np.errstate(divide="ignore", invalid="ignore"):
        square = (radii**2 - perigee[:, None] ** 2) / (4 * distance * paths.radius)[:, None]
        angle = 2 * np.arcsin(np.sqrt(square))
    turns: Array = np.mod(np.stack([angle, -angle], axis=2) - start[:, None, None], 2 * np.pi)
    return turns
