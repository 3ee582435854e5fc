"""What a serializer or an objective may know of a detector: its coordinates, bounds and outward axis."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

Array = NDArray[Any]
Bounds = tuple[float, float, float]

AXES: dict[str, tuple[str, str, str]] = {
    "cylindrical": ("eta", "phi", "r"),
    "cartesian": ("x", "y", "z"),
    "spherical": ("theta", "phi", "distance"),
}


def cylindrical(positions: Array) -> Array:
    """(x, y, z) to (pseudorapidity, azimuth, radius).

    Args:
        positions: (N, 3) in cm; the beam is the z axis.

    Returns:
        (N, 3) float64: eta = arsinh(z / r), phi = atan2(y, x) in (-pi, pi], r in cm (paper B.2). On the beam
        axis eta is infinite.
    """
    x, y, z = np.asarray(positions, dtype=np.float64).reshape(-1, 3).T
    radius = np.hypot(x, y)
    with np.errstate(divide="ignore", invalid="ignore"):
        eta = np.arcsinh(z / radius)
    return np.stack([eta, np.arctan2(y, x), radius], axis=1)


def cartesian(points: Array) -> Array:
    """The inverse of `cylindrical`: (N, 3) eta, phi, r to (N, 3) x, y, z in cm, float64."""
    eta, phi, radius = np.asarray(points, dtype=np.float64).reshape(-1, 3).T
    return np.stack([radius * np.cos(phi), radius * np.sin(phi), radius * np.sinh(eta)], axis=1)


def spherical(positions: Array) -> Array:
    """(x, y, z) to (polar angle, azimuth, distance).

    Args:
        positions: (N, 3) in cm; the beam is the z axis, the collision at the origin.

    Returns:
        (N, 3) float64: theta in [0, pi], phi = atan2(y, x) in (-pi, pi], distance from the origin in cm.
    """
    x, y, z = np.asarray(positions, dtype=np.float64).reshape(-1, 3).T
    across = np.hypot(x, y)
    return np.stack([np.arctan2(across, z), np.arctan2(y, x), np.hypot(across, z)], axis=1)


def from_spherical(points: Array) -> Array:
    """The inverse of `spherical`: (N, 3) theta, phi, distance to (N, 3) x, y, z in cm, float64."""
    theta, phi, distance = np.asarray(points, dtype=np.float64).reshape(-1, 3).T
    across = distance * np.sin(theta)
    return np.stack([across * np.cos(phi), across * np.sin(phi), distance * np.cos(theta)], axis=1)


class Geometry(BaseModel):
    """The coordinate system of a detector, as a value.

    Attributes:
        system: "cylindrical" gives (eta, phi, r), "cartesian" (x, y, z), "spherical" (theta, phi, distance).
        low: lower bound of each axis (cm, radians or dimensionless), mapped to 0.
        high: upper bound of each axis, mapped to 1. Nothing is clipped: a point outside maps outside [0, 1].
        periodic: axes whose two bounds are the same place; phi unless given. Whether a distance wraps there is
            the objective's choice; the paper's does not.
        causal_axis: index of the axis along which particles fly outwards.
        group_boundaries: places on the causal axis (its unit) that separate groups of layers; a fitted
            serializer moves each to the middle of the empty gap around it.
        layers: nominal positions of the layers on the causal axis (its unit), increasing; may be empty.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    system: Literal["cylindrical", "cartesian", "spherical"] = "cylindrical"
    low: Bounds
    high: Bounds
    periodic: tuple[bool, bool, bool] = Field(
        default_factory=lambda values: (False, values.get("system") != "cartesian", False)
    )
    causal_axis: Annotated[int, Field(ge=0, le=2)] = 2
    group_boundaries: tuple[float, ...] = ()
    layers: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Geometry:
        if any(low >= high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError(f"every low must lie below its high, but low = {self.low} and high = {self.high}")
        for name in ("group_boundaries", "layers"):
            values = getattr(self, name)
            if list(values) != sorted(set(values)):
                raise ValueError(f"{name} must increase")
        return self

    @property
    def axes(self) -> tuple[str, str, str]:
        """The names of the three axes."""
        return AXES[self.system]

    def natural(self, positions: Array) -> Array:
        """(N, 3) positions in cm to (N, 3) float64 in this system's own units, not normalised."""
        if self.system == "cylindrical":
            return cylindrical(positions)
        if self.system == "spherical":
            return spherical(positions)
        return np.asarray(positions, dtype=np.float64).reshape(-1, 3)

    def coordinates(self, positions: Array) -> Array:
        """Positions to normalised coordinates.

        Args:
            positions: (N, 3) in cm.

        Returns:
            (N, 3) float32, `low` at 0 and `high` at 1, computed in float64.
        """
        low, high = np.asarray(self.low), np.asarray(self.high)
        normalised: Array = (self.natural(positions) - low) / (high - low)
        return normalised.astype(np.float32)

    def contains(self, positions: Array, margin: float = 0.0) -> Array:
        """Whether positions lie within the bounds; without the logarithms and angles of `coordinates`.

        Args:
            positions: (N, 3) in cm.
            margin: how far outside is still within, as a share of the width of each axis.

        Returns:
            (N,) bool; false for what is not finite, and on the beam axis of a cylindrical system.
        """
        low, high = np.asarray(self.low), np.asarray(self.high)
        low, high = low - margin * (high - low), high + margin * (high - low)
        x, y, z = np.array(np.asarray(positions).reshape(-1, 3).T, dtype=np.float64, order="C")
        with np.errstate(invalid="ignore", over="ignore"):
            if self.system != "cylindrical":
                axes = (x, y, z) if self.system == "cartesian" else spherical(np.stack([x, y, z], axis=1)).T
                inside = [(low[i] <= values) & (values <= high[i]) for i, values in enumerate(axes)]
            else:  # phi is within its bounds if they are the whole circle, which every detector around the beam has
                radius = np.sqrt(x * x + y * y)
                inside = [(radius > 0) & (radius >= low[2]) & (radius <= high[2])]
                inside += [z >= np.sinh(low[0]) * radius, z <= np.sinh(high[0]) * radius]
                if high[1] - low[1] < 2 * np.pi:
                    phi = np.arctan2(y, x)
                    inside += [(low[1] <= phi) & (phi <= high[1])]
        return np.asarray(np.logical_and.reduce(inside))

    def positions(self, coordinates: Array) -> Array:
        """The inverse of `coordinates`: (N, 3) normalised to (N, 3) float64 in cm."""
        low, high = np.asarray(self.low), np.asarray(self.high)
        points = np.asarray(coordinates, dtype=np.float64).reshape(-1, 3) * (high - low) + low
        if self.system == "spherical":
            return from_spherical(points)
        return cartesian(points) if self.system == "cylindrical" else points

    def outward(self, coordinates: Array) -> Array:
        """(N, 3) normalised coordinates to (N,) float64: how far out each is, on the causal axis in its own unit."""
        axis = self.causal_axis
        along = np.asarray(coordinates, dtype=np.float64).reshape(-1, 3)[:, axis]
        distance: Array = along * (self.high[axis] - self.low[axis]) + self.low[axis]
        return distance

    def normalised(self, value: float, axis: int) -> float:
        """One value on `axis`, in its unit, as a normalised coordinate."""
        return (value - self.low[axis]) / (self.high[axis] - self.low[axis])

    def causal_order(self, coordinates: Array) -> Array:
        """The permutation that sorts points outwards.

        Args:
            coordinates: (N, 3), normalised.

        Returns:
            (N,) int64. Points at equal depth are ordered by the next axis down (cylindrical: r, then phi, then
            eta), so the sequence does not depend on the order of the input; identical points keep theirs.
        """
        coordinates = np.asarray(coordinates).reshape(-1, 3)
        keys = [coordinates[:, (self.causal_axis + 1 + i) % 3] for i in range(3)]
        return np.lexsort(keys)

    def causal_rank(self, coordinates: Array) -> Array:
        """(N, 3) normalised coordinates to (N,) int64: each point's place in `causal_order`."""
        order = self.causal_order(coordinates)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        return rank
