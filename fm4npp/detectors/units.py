"""The one place where units of files become ours: lengths in cm, energies and momenta in GeV."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

Array = NDArray[Any]
LengthUnit = Literal["cm", "mm", "m"] | Annotated[float, Field(gt=0)]
AngleUnit = Literal["rad", "deg"]
EnergyUnit = Literal["GeV", "MeV", "keV", "eV"]

DIVISORS: Mapping[str, float] = {"GeV": 1, "MeV": 1e3, "keV": 1e6, "eV": 1e9}


def in_centimetres(values: Array, unit: LengthUnit) -> Array:
    """Lengths to cm: as they are if they are in cm, else computed in double precision.

    So nothing of a file in single precision is lost: converted back and rounded, every value is the file's. Values in
    double precision are rounded once, correctly, which may change the last bit of one that is converted back.

    Args:
        values: (N,).
        unit: of the values; a number is its length in cm.

    Returns:
        (N,), in the precision of the values if they are in cm, else float64.
    """
    values = _floating(values)
    if unit == "cm":
        return values
    values = values.astype(np.float64)
    converted: Array = values / 10 if unit == "mm" else values * (100 if unit == "m" else float(unit))
    return converted


def from_centimetres(values: Array, unit: LengthUnit) -> Array:
    """The inverse of `in_centimetres`, float64."""
    values = np.asarray(values, dtype=np.float64)
    if unit == "cm":
        return values
    converted: Array = values * 10 if unit == "mm" else values / (100 if unit == "m" else float(unit))
    return converted


def in_radians(values: Array, unit: AngleUnit) -> Array:
    """Angles to radians, float64."""
    values = np.asarray(values, dtype=np.float64)
    return np.deg2rad(values) if unit == "deg" else values


def from_polar(r: Array, phi: Array, z: Array) -> Array:
    """Places around the beam in Cartesian coordinates.

    Args:
        r: (N,) in cm.
        phi: (N,) in radians.
        z: (N,) in cm.

    Returns:
        (N, 3) float64 x, y, z in cm; NaN where |phi| is above two turns: such values are in another unit.
    """
    angle = np.where(np.abs(phi) <= 4 * np.pi, phi, np.nan)
    return np.stack([r * np.cos(angle), r * np.sin(angle), np.asarray(z, dtype=np.float64)], axis=1)


def in_gev(values: Array, unit: EnergyUnit) -> Array:
    """Energies, momenta or masses to GeV: as they are if they are in GeV, else computed in double precision."""
    values = _floating(values)
    converted: Array = values if unit == "GeV" else values.astype(np.float64) / DIVISORS[unit]
    return converted


def _floating(values: Array) -> Array:
    values = np.asarray(values)
    return values if values.dtype.kind == "f" else values.astype(np.float64)
