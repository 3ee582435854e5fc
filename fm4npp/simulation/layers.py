"""A detector as the simulation sees it: measuring layers, and everything that particles meet, as rows of numbers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fm4npp.detectors import Detector
from fm4npp.detectors.media import MEDIA, Medium
from fm4npp.detectors.response import Material, Response
from fm4npp.errors import ConfigurationError
from fm4npp.geometry import Geometry

Array = NDArray[Any]
ENERGY = "energy"
"""The one measured quantity that can be simulated."""
_APART = 1e-4
"""cm by which surfaces of the same radius are moved apart, so that each is crossed in its turn."""


@dataclass(frozen=True)
class Layers:
    """The L layers of a detector, subsystem after subsystem in the order of `Detector.subsystems`.

    Attributes:
        energy: whether the detector has the feature `energy`.
        field: solenoid field in tesla.
        media: name of each layer's sensitive medium.
        subsystem: (L,) int16, index into `Detector.subsystems`.
        radius: (L,) in cm.
        planes: (L,) int64, see `Response`; so are the others, each (L,) in the unit given there.
    """

    energy: bool
    field: float
    media: tuple[str, ...]
    subsystem: Array
    radius: Array
    planes: Array
    sectors: Array
    sector_phi: Array
    half_length: Array
    resolution_rphi: Array
    resolution_z: Array
    efficiency: Array
    thickness: Array
    gain: Array
    threshold: Array
    dead_phi: Array
    dead_z: Array
    diffusion_rphi: Array
    diffusion_z: Array
    electrons: Array
    merge_rphi: Array
    merge_z: Array
    longest_rphi: Array
    longest_z: Array
    saturation: Array


@dataclass(frozen=True)
class Surfaces:
    """The S cylinders that particles cross, from the beam outwards: measuring layers and passive material.

    Attributes:
        field: solenoid field in tesla.
        outer_radius: cm, where everything ends.
        outer_half_length: cm, likewise.
        media: the M media of the surfaces.
        radius: (S,) in cm, increasing.
        half_length: (S,) in cm; further along z there is nothing.
        layer: (S,) int64, index into `Layers`; -1 for what measures nothing.
        medium: (S,) int64, index into `media`.
        grams: (S,) g/cm^2 along the radius.
        radiation_lengths: (S,) the same as a share of X0.
        interaction_lengths: (S,) the same as a share of the nuclear interaction length.
        extent: (S,) cm along the radius: of a layer its sensitive medium, of passive material all of it.
    """

    field: float
    outer_radius: float
    outer_half_length: float
    media: tuple[Medium, ...]
    radius: Array
    half_length: Array
    layer: Array
    medium: Array
    grams: Array
    radiation_lengths: Array
    interaction_lengths: Array
    extent: Array

    @functools.cached_property
    def charge_per_mass(self) -> Array:
        """(S,) mean Z/A of the medium, mol/g."""
        return np.array([medium.charge_per_mass for medium in self.media])[self.medium]

    @functools.cached_property
    def depth(self) -> Array:
        """(S,) `extent`, but no more than there is room to the neighbours: whoever came from them met all of it."""
        inside, outside = np.diff(self.radius, prepend=0.0), np.diff(self.radius, append=np.inf)
        depth: Array = np.minimum(self.extent, np.minimum(inside, outside))
        return depth


def layers_of(detector: Detector) -> Layers:
    """The measuring layers of every subsystem of a detector.

    Raises:
        ConfigurationError: if the detector, or a part of it, cannot be simulated.
    """
    _check(detector)
    parts = [(name, *detector.responses[name]) for name in detector.subsystems]
    lengths = [len(geometry.layers) for _, geometry, _ in parts]

    def column(name: str) -> Array:
        return np.concatenate([_per_layer(part, geometry, getattr(r, name), name) for part, geometry, r in parts])

    measures = [ENERGY in detector.subsystem_features[name] for name in detector.subsystems]
    return Layers(
        energy=ENERGY in detector.features,
        field=parts[0][2].field,
        media=tuple(response.medium for (_, _, response), n in zip(parts, lengths, strict=True) for _ in range(n)),
        subsystem=np.repeat(np.arange(len(lengths), dtype=np.int16), lengths),
        radius=np.concatenate([geometry.layers for _, geometry, _ in parts]),
        planes=column("planes").astype(np.int64),
        sectors=column("sectors").astype(np.int64),
        sector_phi=column("sector_phi"),
        half_length=column("half_length"),
        resolution_rphi=column("resolution_rphi"),
        resolution_z=column("resolution_z"),
        efficiency=column("efficiency"),
        thickness=column("thickness"),
        gain=column("gain") * np.repeat(measures, lengths),
        threshold=column("threshold"),
        dead_phi=column("dead_phi"),
        dead_z=column("dead_z"),
        diffusion_rphi=column("diffusion_rphi"),
        diffusion_z=column("diffusion_z"),
        electrons=column("electrons"),
        merge_rphi=column("merge_rphi"),
        merge_z=column("merge_z"),
        longest_rphi=column("longest_rphi"),
        longest_z=column("longest_z"),
        saturation=column("saturation"),
    )


def surfaces_of(detector: Detector) -> Surfaces:
    """The layers of a detector together with all passive material, from the beam outwards.

    Passive material that stands for a subsystem which is simulated (its name, or `<name>/...`) is left out; the same
    name counts once.
    """
    responses = [detector.responses[name] for name in detector.subsystems]
    materials = [material for _, response in responses for material in response.material]
    passive = {m.name: m for m in materials if m.name.split("/")[0] not in detector.subsystems}
    measuring = [row for name in detector.subsystems for row in _layer_rows(name, *detector.responses[name])]
    rows = [(*row, number) for number, row in enumerate(measuring)]
    rows += [(m.radius, m.half_length, m.medium, m.radiation_lengths, _extent(m), -1) for m in passive.values()]
    rows.sort(key=lambda row: row[0])
    radius, half_length, medium, lengths, extent, layer = (np.array(values) for values in zip(*rows, strict=True))
    radius = _apart(radius)
    names = sorted(set(medium.tolist()))
    media = tuple(MEDIA[name] for name in names)
    index = np.array([names.index(name) for name in medium.tolist()])
    grams = lengths * np.array([m.radiation_length for m in media])[index]
    return Surfaces(
        field=responses[0][1].field,
        outer_radius=max([float(radius[-1]) + _APART, *(r.outer_radius or 0.0 for _, r in responses)]),
        outer_half_length=max(r.outer_half_length or r.half_length for _, r in responses),
        media=media,
        radius=radius,
        half_length=half_length,
        layer=layer,
        medium=index,
        grams=grams,
        radiation_lengths=lengths,
        interaction_lengths=grams / np.array([m.interaction_length for m in media])[index],
        extent=extent,
    )


def _layer_rows(name: str, geometry: Geometry, response: Response) -> list[tuple[float, float, str, float, float]]:
    """(radius, half length, medium, share of X0, thickness) of each layer."""
    medium = MEDIA[response.medium]
    thickness = _per_layer(name, geometry, response.thickness, "thickness")
    own = thickness * medium.density / medium.radiation_length
    if response.radiation_lengths is not None:
        own = _per_layer(name, geometry, response.radiation_lengths, "radiation_lengths")
    rows = zip(geometry.layers, own.tolist(), thickness.tolist(), strict=True)
    return [(radius, response.half_length, response.medium, x0, size) for radius, x0, size in rows]


def _extent(material: Material) -> float:
    """Of passive material along the radius, in cm."""
    medium = MEDIA[material.medium]
    return material.radiation_lengths * medium.radiation_length / medium.density


def _apart(radius: Array) -> Array:
    moved = radius.astype(np.float64).copy()
    for inner, outer in pairwise(range(len(moved))):
        moved[outer] = max(moved[outer], moved[inner] + _APART)
    return moved


def _per_layer(name: str, geometry: Geometry, value: float | Sequence[float], field: str) -> Array:
    values = np.asarray(value, dtype=np.float64)
    if values.ndim and len(values) != len(geometry.layers):
        raise ConfigurationError(
            f"{name!r} cannot be simulated: its response has {len(values)} values of {field} for "
            f"{len(geometry.layers)} layers"
        )
    return np.broadcast_to(values, len(geometry.layers))


def _check(detector: Detector) -> None:
    missing = [name for name in detector.subsystems if name not in detector.responses]
    if missing:
        raise ConfigurationError(
            f"detector {detector.name!r} cannot be simulated: {', '.join(missing)} has no response or no layers; "
            "give it the fields `response` and `layers`"
        )
    if unknown := [name for name in detector.features if name != ENERGY]:
        raise ConfigurationError(
            f"detector {detector.name!r} cannot be simulated: no model of the feature {', '.join(unknown)}; "
            f"only {ENERGY!r} has one"
        )
    for name, (geometry, response) in detector.responses.items():
        if geometry.system != "cylindrical" or not geometry.layers or geometry.layers[0] <= 0:
            raise ConfigurationError(
                f"{name!r} cannot be simulated: its layers must be cylinders with a radius above 0"
            )
        if ENERGY in detector.subsystem_features[name] and response.gain == 0:
            raise ConfigurationError(
                f"{name!r} cannot be simulated: it measures {ENERGY!r}, but its response has gain 0"
            )
        if wrong := _impossible(geometry, response):
            raise ConfigurationError(f"{name!r} cannot be simulated: {wrong}")
    if len(fields := {response.field for _, response in detector.responses.values()}) > 1:
        raise ConfigurationError(
            f"detector {detector.name!r} cannot be simulated: its parts have different fields, "
            f"{', '.join(map(str, sorted(fields)))} T; helices need one"
        )


def _impossible(geometry: Geometry, response: Response) -> str:
    """What leaves a detector without any spacepoint, or without a shape; empty if nothing does."""
    if response.outer_radius is not None and response.outer_radius <= geometry.layers[-1]:
        return (
            f"everything ends at outer_radius {response.outer_radius:g} cm, inside the layer at {geometry.layers[-1]:g}"
        )
    if response.dead_z >= response.half_length:
        return f"dead_z {response.dead_z:g} cm leaves nothing of half_length {response.half_length:g} cm"
    if np.any(np.multiply(response.sectors, response.dead_phi) >= 2 * np.pi):
        return "dead_phi around every boundary of sectors covers the whole azimuth"
    if response.planes in (1, 2):
        return f"{response.planes} planes do not surround the beam; at least 3, or 0 for cylinders"
    return ""
