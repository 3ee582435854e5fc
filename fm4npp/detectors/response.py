"""What the fast simulation needs to know of a detector beyond its layers: how it measures, and what is in the way."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from fm4npp.detectors.media import MEDIA

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]


def _known(medium: str) -> str:
    if medium not in MEDIA:
        raise ValueError(f"unknown medium {medium!r}; choices: {', '.join(MEDIA)}")
    return medium


class Material(BaseModel):
    """A thin cylinder around the beam that measures nothing: beam pipe, support, field cage.

    Attributes:
        name: for people. What stands for a subsystem carries its name, or `<name>/...` where it takes several
            cylinders, and is left out when that subsystem is simulated itself. What several subsystems list under the
            same name counts once.
        radius: cm.
        half_length: cm.
        medium: name in `MEDIA`.
        radiation_lengths: thickness along the radius as a share of the radiation length X0 of the medium.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: str
    radius: Positive
    half_length: Positive
    medium: str
    radiation_lengths: Positive

    _medium = field_validator("medium")(_known)


class Response(BaseModel):
    """How the layers of a detector measure, and what particles meet on the way to them.

    Where a field is `float | tuple`, it is one number for all layers, or one for each.

    Attributes:
        field: solenoid field along z, in tesla.
        half_length: |z| of the sensitive volume, in cm; drift is towards both ends.
        resolution_rphi: single-point resolution along r-phi without diffusion, in cm, standard deviation.
        resolution_z: the same along z.
        efficiency: probability that a crossing of a sensitive place makes a spacepoint.
        medium: sensitive medium, a name in `MEDIA`.
        thickness: of the sensitive medium along the radius in one layer, in cm.
        radiation_lengths: thickness of one layer along the radius, sensor, cooling and support together, as a share of
            the radiation length; None for the sensitive medium alone.
        gain: unit of the feature `energy` per keV deposited; 0 for a detector that records none.
        threshold: smallest deposit that makes a spacepoint, in keV.
        saturation: largest that a spacepoint can record, in keV; 0 for no limit.
        planes: number of flat surfaces that make up each layer, tangent to its cylinder; 0 for a cylinder.
        sectors: number of equal sectors in azimuth; 0 for none.
        sector_phi: azimuth of one boundary of sectors, in radians.
        dead_phi: insensitive azimuth around each boundary of sectors, in radians, its full width.
        dead_z: |z| below which nothing is measured (a central membrane), in cm.
        diffusion_rphi: transverse diffusion of an electron, in cm per square root of cm of drift.
        diffusion_z: the same along the drift.
        electrons: number of ionisation electrons per cm of path that share the diffusion.
        merge_rphi: spacepoints of one layer closer than this along r-phi, in cm, and than `merge_z` are one.
        merge_z: in cm.
        longest_rphi: largest extent of a spacepoint along r-phi, in cm; a longer trail of charge, of an inclined track
            or a curler, makes several. 0 for no limit.
        longest_z: the same along z.
        material: what else is there, each under its own name.
        outer_radius: where everything ends (a calorimeter), in cm; None for the outermost layer or material.
        outer_half_length: |z| where everything ends, in cm, `half_length` or more; None for the largest half length.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    field: float = 1.4
    half_length: Positive = 105.5
    resolution_rphi: Positive | tuple[Positive, ...] = 0.015
    resolution_z: Positive | tuple[Positive, ...] = 0.05
    efficiency: Share | tuple[Share, ...] = 1.0
    medium: str = "argon"
    thickness: Positive | tuple[Positive, ...] = 1.0
    radiation_lengths: NotNegative | tuple[NotNegative, ...] | None = None
    gain: NotNegative = 0.0
    threshold: NotNegative = 0.0
    saturation: NotNegative = 0.0
    planes: Count = 0
    sectors: Count | tuple[Count, ...] = 0
    sector_phi: float | tuple[float, ...] = 0.0
    dead_phi: NotNegative | tuple[NotNegative, ...] = 0.0
    dead_z: NotNegative = 0.0
    diffusion_rphi: NotNegative = 0.0
    diffusion_z: NotNegative = 0.0
    electrons: Positive = 100.0
    merge_rphi: NotNegative | tuple[NotNegative, ...] = 0.0
    merge_z: NotNegative = 0.0
    longest_rphi: NotNegative | tuple[NotNegative, ...] = 0.0
    longest_z: NotNegative = 0.0
    material: tuple[Material, ...] = ()
    outer_radius: Positive | None = None
    outer_half_length: Positive | None = None

    _medium = field_validator("medium")(_known)

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = Counter(material.name for material in self.material)
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"material: {', '.join(twice)} is listed twice; give each cylinder its own name")
        if self.outer_half_length is not None and self.outer_half_length < self.half_length:
            raise ValueError(
                f"outer_half_length: everything ends at |z| {self.outer_half_length:g} cm, inside half_length "
                f"{self.half_length:g} cm"
            )
        return self
