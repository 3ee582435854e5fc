"""What particles meet in sPHENIX between the beam and the calorimeter, as all of its trackers share it.

Dimensions are those of the 2023 simulation: sPHENIX macros (G4_Pipe.C, G4_CEmc_Spacal.C) and coresoftware (g4mvtx:
PHG4MvtxSupport; g4intt: PHG4InttSubsystem; g4tpc: PHG4TpcSubsystem). Shares of the radiation length follow from them;
carbon fibre counts as 21.1 cm a radiation length (70 % carbon, 30 % epoxy, 1.987 g/cm^3), FR4 as 17.7 cm and Nomex
honeycomb as 1430 cm (29 kg/m^3).
"""

from __future__ import annotations

from fm4npp.detectors.media import MEDIA
from fm4npp.detectors.response import Material

FIELD = 1.4
"""Tesla, nominal. The public silicon sample has 1.38 T."""
CALORIMETER = 92.0
"""Inner radius of the electromagnetic calorimeter, cm: what curls back from between it and a tracker is seen again."""
TPC_HALF_LENGTH = 105.5
"""cm. The end caps of the time projection chamber end everything."""

MVTX_RADII = (2.523, 3.336, 4.148)
MVTX_LAYER = 0.0036
"""Share of X0 of a layer of staves: ALICE ITS2 inner barrel, the same staves (arXiv 2503.17233)."""
INTT_RADII = (7.188, 7.732, 9.680, 10.262)
INTT_LAYER = 0.009
"""Share of X0 of a half-layer, averaged over the azimuth; an estimate. Its 12 or 16 ladders cover 60 % with a sensor
(320 um, 0.34 %) and all of it with the readout bus, 3.8 cm wide (37.6 um of copper and 380 um of Kapton, 0.39 %); two
carbon-fibre faces of 0.3 mm (0.2 %), readout chips, foam, glue and water (0.1 %) add to them."""


def _carbon_fibre(thickness: float) -> float:
    return thickness / 21.1


def _gas(length: float) -> float:
    medium = MEDIA["neon-cf4"]
    return length * medium.density / medium.radiation_length


# The beam pipe's beryllium ends 19 cm north and 101 cm south of the middle, aluminium follows; here it is central.
PIPE = Material(name="beam-pipe", radius=2.04, half_length=60.0, medium="beryllium", radiation_lengths=0.0762 / 35.28)
SHELL = Material(  # around the MVTX; its services leave towards the south, beyond |eta| of 1.1 from the centre
    name="mvtx-shell", radius=5.2, half_length=21.0, medium="carbon", radiation_lengths=_carbon_fibre(0.112)
)
SKINS = tuple(
    Material(name=name, radius=radius, half_length=24.85, medium="carbon", radiation_lengths=_carbon_fibre(0.0254))
    for name, radius in (("intt-inner-skin", 6.50), ("intt-outer-skin", 11.76))
)
# Both field cages alike: four layers of copper, two of FR4, Nomex, Kapton. (0.5 mm of the Kapton are meant to be 50 um
# by a comment there, but are 0.5 mm in what was simulated.)
_CAGE = 4 * 0.001735 / 1.436 + 2 * 0.025 / 17.7 + 1.27 / 1430 + (0.2286 + 0.05) / 28.58
CAGES = tuple(
    Material(name=name, radius=radius, half_length=TPC_HALF_LENGTH, medium="kapton", radiation_lengths=_CAGE)
    for name, radius in (("tpc-inner-field-cage", 21.0), ("tpc-outer-field-cage", 77.0))
)
GAS = (
    Material(  # between the inner field cage and the first row
        name="tpc-gas", radius=26.4, half_length=TPC_HALF_LENGTH, medium="neon-cf4", radiation_lengths=_gas(9.5)
    ),
    Material(  # the rows, when the chamber itself is not simulated
        name="sphenix-tpc/rows", radius=53.5, half_length=TPC_HALF_LENGTH, medium="neon-cf4", radiation_lengths=_gas(45)
    ),
)
STAVES = tuple(
    Material(
        name=f"sphenix-mvtx/{index}",
        radius=radius,
        half_length=13.55,
        medium="silicon",
        radiation_lengths=MVTX_LAYER,
    )
    for index, radius in enumerate(MVTX_RADII)
)
LADDERS = tuple(
    Material(
        name=f"sphenix-intt/{index}",
        radius=radius,
        half_length=23.0,
        medium="silicon",
        radiation_lengths=INTT_LAYER,
    )
    for index, radius in enumerate(INTT_RADII)
)
MATERIAL = (PIPE, SHELL, *SKINS, *CAGES, *GAS, *STAVES, *LADDERS)
"""Everything; each tracker leaves out what it is itself (see `Material`)."""
