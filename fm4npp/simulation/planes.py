"""Where particles are on the sensitive surfaces of layers: on cylinders, or on the flat surfaces around them.

A layer of n flat surfaces is a regular polygon around its cylinder of radius R: surface k is tangent at the azimuth
(k + 1/2) 2 pi / n, so one edge of the polygon is at azimuth 0 and its radius goes from R to R / cos(pi / n).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm4npp.simulation.helix import TESLA_CM

Array = NDArray[Any]

_WEAKEST = 1e-9  # tesla times charge; a weaker force bends nothing that a tracker could see
_TINY = 1e-300  # keeps a quotient of two zeros finite


@dataclass(frozen=True)
class Places:
    """N places on sensitive surfaces.

    Attributes:
        phi: (N,) azimuth in (-pi, pi].
        radius: (N,) distance from the beam, in cm.
        z: (N,) in cm.
        cosine: (N,) |cos| of the angle between the transverse momentum and the normal of the surface.
        gap: (N,) by how much a path that turns back falls short of its surface, in cm; 0 for all others.
    """

    phi: Array
    radius: Array
    z: Array
    cosine: Array
    gap: Array


def on_cylinders(position: Array, momentum: Array) -> Places:
    """Places on cylinders around the beam.

    Args:
        position: (N, 3) in cm, away from the axis.
        momentum: (N, 3) in GeV/c.
    """
    x, y, z = position.T
    px, py, _ = momentum.T
    radius = np.sqrt(x * x + y * y)
    cosine = np.abs(x * px + y * py) / np.maximum(radius * np.sqrt(px * px + py * py), _TINY)
    return Places(np.arctan2(y, x), radius, z, cosine, np.zeros(len(radius)))


def on_planes(
    position: Array, momentum: Array, charge: Array, radius: Array, num_planes: Array, field: float
) -> Places:
    """Move particles along their helices from a cylinder to the flat surfaces around it.

    One on its way out moves forwards, one on its way in backwards, to the surface at its azimuth. Where the path meets
    that surface beyond its edge, or not at all, it is a neighbour's, because the polygon is convex. A path that turns
    back before it gets there is kept at its closest point, put on the surface, with `gap` telling how far away it
    stays.

    Args:
        position: (N, 3) in cm, on the cylinders.
        momentum: (N, 3) in GeV/c.
        charge: (N,) in units of the positron's.
        radius: (N,) of the cylinders, in cm.
        num_planes: (N,) flat surfaces of each cylinder, at least 3.
        field: along z, in tesla.
    """
    width = 2 * np.pi / num_planes
    centre = (np.floor(np.arctan2(position[:, 1], position[:, 0]) / width) + 0.5) * width
    (x, y, _), (px, py, _) = position.T, momentum.T
    way = np.where(x * px + y * py < 0, -1.0, 1.0)
    edge = radius * np.tan(width / 2)
    found = _moved(position, momentum, charge, radius, way, centre, field)
    missed = np.flatnonzero(_miss(found, edge) > 0)
    if len(missed):
        x, y, px, py, way = x[missed], y[missed], px[missed], py[missed], way[missed]
        beyond = found[0][missed] / edge[missed]
        passed = (np.abs(beyond) > 1) & (np.abs(beyond) < 3)  # what is further is no neighbour, but half a turn away
        side = np.where(passed, beyond, way * (x * py - y * px))
        neighbour = centre[missed] + np.copysign(width[missed], side)
        again = _moved(position[missed], momentum[missed], charge[missed], radius[missed], way, neighbour, field)
        better = _miss(again, edge[missed]) < _miss(found, edge)[missed]
        for old, new in zip((centre, *found), (neighbour, *again), strict=True):
            old[missed[better]] = new[better]
    along, z, cosine, gap = found
    along = np.clip(along, -edge, edge)
    return Places(
        phi=wrapped(centre + np.arctan(along / radius)),
        radius=np.sqrt(radius * radius + along * along),
        z=z,
        cosine=np.abs(cosine),
        gap=gap,
    )


def surface_radius(phi: Array, radius: Array, num_planes: Array) -> Array:
    """(N,) distance in cm from the beam to the surface of a layer at an azimuth.

    Args:
        phi: (N,) azimuth.
        radius: (N,) of the layer's cylinder, in cm.
        num_planes: (N,) flat surfaces around it, 0 for the cylinder itself.
    """
    width = 2 * np.pi / np.maximum(num_planes, 1)
    off = phi / width
    off = (off - np.floor(off) - 0.5) * width
    flat = num_planes > 0
    distance: Array = np.where(flat, radius / np.cos(np.where(flat, off, 0.0)), radius)
    return distance


def wrapped(phi: Array) -> Array:
    """(N,) the same angles in (-pi, pi]."""
    angle: Array = phi - 2 * np.pi * np.ceil(phi / (2 * np.pi) - 0.5)
    return angle


def _miss(found: tuple[Array, Array, Array, Array], edge: Array) -> Array:
    """(N,) by how many cm paths miss their planes within the edges."""
    along, _, _, gap = found
    miss: Array = gap + np.maximum(np.abs(along) - edge, 0.0)
    return miss


def _moved(
    position: Array, momentum: Array, charge: Array, radius: Array, way: Array, centre: Array, field: float
) -> tuple[Array, Array, Array, Array]:
    """Helices to the planes x cos(centre) + y sin(centre) = radius, forwards (way 1) or backwards (way -1).

    With theta the angle of the transverse momentum to the normal, s its sense of rotation and R the radius of the
    circle, a move towards the plane by d needs sin(theta') - sin(theta) = s d / R. Along the plane it is
    d (sin(theta') + sin(theta)) / (cos(theta') + cos(theta)), accurate for straight tracks, or else
    s R (cos(theta) - cos(theta')), accurate where the cosines have opposite signs.

    Returns:
        along: (N,) position along the plane from its middle, counted counter-clockwise, in cm.
        z: (N,) in cm.
        cosine: (N,) cos(theta').
        gap: (N,) distance from the plane at the closest point, in cm; 0 for those that get there. Those that would have
            to go the other way stay where they are.
    """
    x, y, z = position.T
    px, py, pz = momentum.T
    normal_x, normal_y = np.cos(centre), np.sin(centre)
    transverse = np.maximum(np.sqrt(px * px + py * py), _TINY)
    cosine = (px * normal_x + py * normal_y) / transverse
    sine = (py * normal_x - px * normal_y) / transverse
    force = charge * field
    sense = np.where(force > 0, -1.0, 1.0)
    circle = sense * transverse / (TESLA_CM * np.maximum(np.abs(force), _WEAKEST))
    distance = radius - x * normal_x - y * normal_y
    aimed = sine + distance / circle
    turned = np.clip(aimed, -1.0, 1.0)
    cosine_there = way * np.sqrt(1 - turned * turned)
    same = cosine * way >= 0
    wrong = ~same & ((turned * cosine - cosine_there * sine) * circle * way < 0)
    gap = np.where(wrong, np.abs(distance), np.abs((aimed - turned) * circle))
    distance = np.copysign(np.abs(distance) - gap, distance)
    total = way * np.maximum(np.abs(cosine + cosine_there), _TINY)
    aside = np.where(same, distance * (turned + sine) / total, circle * (cosine - cosine_there))
    aside[wrong], cosine_there[wrong] = 0.0, cosine[wrong]
    chord = np.sqrt(distance * distance + aside * aside)
    arc = way * np.copysign(2 * circle * np.arcsin(np.minimum(chord / np.abs(2 * circle), 1.0)), distance)
    return y * normal_x - x * normal_y + aside, z + pz / transverse * arc, cosine_there, gap
