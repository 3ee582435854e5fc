"""Colliders and what collides there, as settings of PYTHIA 8."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Facility:
    """Beams, process and tune, and where collisions happen.

    The crossing angle of the beams is neglected: they run along z, the first one (the proton, if only one is) to +z,
    as at HERA and the EIC.

    Attributes:
        description: of beams and process, one line.
        tune: name of PYTHIA's parameters.
        settings: of PYTHIA, in order.
        beam_spot: standard deviations of the place of a collision along x, y and z, cm; Gaussian, around the origin.
        has_table: whether PYTHIA's start is shortened by a table that comes with the package (`pythia.write_table`).
        has_pileup: whether several collisions in one crossing, or one readout window, are usual there.
    """

    description: str
    tune: str
    settings: tuple[str, ...]
    beam_spot: tuple[float, float, float]
    has_table: bool = False
    has_pileup: bool = False


_DETROIT = (
    "PDF:pSet = 17",
    "MultipartonInteractions:bProfile = 2",
    "MultipartonInteractions:ecmRef = 200.",
    "MultipartonInteractions:pT0Ref = 1.40",
    "MultipartonInteractions:ecmPow = 0.135",
    "MultipartonInteractions:coreRadius = 0.56",
    "MultipartonInteractions:coreFraction = 0.78",
    "ColourReconnection:range = 5.4",
)
"""M. R. Aguilar et al., Phys. Rev. D 105 (2022) 016011: a tune to data of RHIC and the Tevatron; on top of Monash."""

_DEEP_INELASTIC = (
    "Beams:frameType = 2",
    "Beams:idA = 2212",
    "WeakBosonExchange:ff2ff(t:gmZ) = on",
    "PhaseSpace:pTHatMinDiverge = 0.5",
    "SpaceShower:dipoleRecoil = on",
    "SpaceShower:pTmaxMatch = 2",
    "PDF:lepton = off",
    "TimeShower:QEDshowerByL = off",
)
"""Neutral-current scattering as in PYTHIA's example main341 (once main36): photon and Z, recoil within dipoles, no
photons from the lepton. `pTHatMinDiverge` is as low as PYTHIA allows; it leaves Q^2 (1 - y) > 0.25 GeV^2. Each facility
lowers `mHatMin` to its smallest Q: as Q^2 = y mHat^2, the default of 4 GeV would leave y < Q^2 / 16 GeV^2 only."""

FACILITIES: dict[str, Facility] = {
    # SoftQCD:inelastic (with diffraction) as sPHENIX has it for its minimum-bias sample, with this tune:
    # Generators/phpythia8_detroit_minBias.cfg of github.com/sPHENIX-Collaboration/calibrations. Beam spot for pp of
    # sPHENIX's macros before the data of 2024 (G4_Input.C; sPH-TRG-2022-001, figure B.3); then 16 cm along z, measured.
    "rhic-pp": Facility(
        "proton-proton at 200 GeV, minimum bias (inelastic, with diffraction)",
        "Detroit tune",
        ("Beams:eCM = 200.", "SoftQCD:inelastic = on", *_DETROIT),
        (0.012, 0.012, 10.0),
        has_table=True,
        has_pileup=True,
    ),
    # Beams of 200 um x 5 um (RMS; T. Adye, PhD thesis, University of Oxford (1998), section 2.1) and about 1 cm long:
    # two Gaussian beams of equal size overlap in a region smaller by sqrt(2). The length is an estimate.
    # No radiation from the beams, as for corrected LEP data: on the peak it changes little.
    "lep-z": Facility(
        "electron-positron at 91.188 GeV, hadronic decays of the Z",
        "Monash tune",
        (
            "Beams:idA = 11",
            "Beams:idB = -11",
            "Beams:eCM = 91.188",
            "WeakSingleBoson:ffbar2gmZ = on",
            "23:onMode = off",
            "23:onIfAny = 1 2 3 4 5",
            "PDF:lepton = off",
        ),
        (0.014, 0.00035, 0.7),
    ),
    # An estimate from the design of HERA II: matched beams of 112 um x 30 um overlap in a region smaller by sqrt(2);
    # proton bunches of 19 cm meet short positron bunches within half their length.
    "hera-ep": Facility(
        "proton (920 GeV) - positron (27.5 GeV), neutral-current scattering with Q^2 > 5 GeV^2",
        "Monash tune",
        (
            *_DEEP_INELASTIC,
            "Beams:eA = 920.",
            "Beams:idB = -11",
            "Beams:eB = 27.5",
            "PhaseSpace:Q2Min = 5.",
            "PhaseSpace:mHatMin = 2.2",
        ),
        (0.0079, 0.0021, 9.5),
    ),
    # Overlap of the beams of the EIC Conceptual Design Report (2021), table 1.1, as sPHENIX's macros (G4_Input.C,
    # ApplyEICBeamParameter) take it from there: protons sqrt(80 cm * 11.3 nm), sqrt(7.2 cm * 1 nm), 6 cm; electrons
    # sqrt(45 cm * 20 nm), sqrt(5.6 cm * 1.3 nm), 2 cm.
    "eic-ep": Facility(
        "proton (275 GeV) - electron (18 GeV), neutral-current scattering with Q^2 > 1 GeV^2",
        "Monash tune",
        (
            *_DEEP_INELASTIC,
            "Beams:eA = 275.",
            "Beams:idB = 11",
            "Beams:eB = 18.",
            "PhaseSpace:Q2Min = 1.",
            "PhaseSpace:mHatMin = 1.",
        ),
        (0.0067, 0.0006, 3.16),
    ),
    # Beam spot measured by CMS in 2022, run 355100 (github.com/cms-sw/cmssw, VtxSmearedParameters_cfi.py).
    "lhc-pp": Facility(
        "proton-proton at 13.6 TeV, minimum bias (inelastic, with diffraction)",
        "Monash tune",
        ("Beams:eCM = 13600.", "SoftQCD:inelastic = on"),
        (0.00088, 0.00101, 3.82),
        has_table=True,
        has_pileup=True,
    ),
}
