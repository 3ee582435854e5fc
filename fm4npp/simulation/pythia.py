"""Collisions from PYTHIA 8 (C. Bierlich et al., SciPost Phys. Codebases 8 (2022)), with decays inside the detector."""

from __future__ import annotations

import functools
import importlib.metadata
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import model_validator

from fm4npp.errors import ConfigurationError, FM4NPPError
from fm4npp.simulation.facilities import FACILITIES, Facility
from fm4npp.simulation.generator import Generator
from fm4npp.simulation.particles import Particles
from fm4npp.simulation.pythia_record import library, particles_of

_DECAYS = (
    "ParticleDecays:limitCylinder = on",
    "ParticleDecays:xyMax = 10000.",
    "ParticleDecays:zMax = 3000.",
    "13:mayDecay = on",
    "211:mayDecay = on",
    "321:mayDecay = on",
    "130:mayDecay = on",
)
"""In mm. PYTHIA knows no field: in one, particles reach the same z on the same length of path, but curl up across the
beam. So the cylinder is as long as detectors are, and as wide as the longest path that is followed, 10 m."""
_FIXED = ("Print:quiet = on", "Random:setSeed = on", "Random:seed = 1")
_MAX_TRIES = 10.0  # for each event that is wanted
_TABLES = Path(__file__).parent / "tables"
"""Integrals over multiparton interactions of the facilities with diffraction, as PYTHIA writes them (`write_table`): to
make them takes 10 s and more at every start, to read them a third of a second."""


class Pythia8(Generator):
    """PYTHIA 8, set up for a facility.

    Particles are the final ones but neutrinos, and those with c tau > 1 cm that decayed: muons, charged pions and
    kaons, K_S, K_L, strange baryons. What lives shorter (pi0, tau, charm, beauty) is not among them, its decay products
    are, where it decayed. Charges, masses and lifetimes are those of the package `particle`.

    Attributes:
        facility: name of one of `FACILITIES`.
        settings: more settings of PYTHIA, after those of the facility. The random seed is not theirs to set.
        beam_spot: standard deviations of the place of the collision along x, y and z in cm, if not the facility's.
    """

    facility: str
    settings: tuple[str, ...] = ()
    beam_spot: tuple[float, float, float] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.facility not in FACILITIES:
            raise ConfigurationError(f"unknown facility {self.facility!r}; choices: {', '.join(FACILITIES)}")
        if min(self._beam_spot) < 0:
            raise ConfigurationError(f"{self.facility}: beam_spot = {self.beam_spot} must not be negative")
        library("particle")
        _configured((*self._facility.settings, *self.settings))
        return self

    @property
    def _facility(self) -> Facility:
        return FACILITIES[self.facility]

    @property
    def _beam_spot(self) -> tuple[float, float, float]:
        return self._facility.beam_spot if self.beam_spot is None else self.beam_spot

    @property
    def source(self) -> str:
        """Such as "pythia8 8.317 rhic-pp (Detroit tune)", with what was set besides."""
        spot = () if self.beam_spot is None else (f"beam spot {'/'.join(f'{size:g}' for size in self.beam_spot)} cm",)
        return "; ".join([f"pythia8 {_version()} {self.facility} ({self._facility.tune})", *self.settings, *spot])

    def collisions(self, count: int, seed: np.random.SeedSequence) -> Particles:
        """Independent collisions; they depend on the arguments alone, whatever was generated before.

        Args:
            count: how many.
            seed: of all randomness.

        Returns:
            The particles, event after event, parents before their children.

        Raises:
            ConfigurationError: if PYTHIA cannot be initialised with the settings.
            FM4NPPError: if PYTHIA fails in nine of ten attempts to make an event.
        """
        table = None if self.settings or not self._facility.has_table else _table_of(self.facility)
        pythia, resets = _initialised((*self._facility.settings, *self.settings), table)
        rng = np.random.default_rng(seed)
        spots = rng.normal(size=(count, 3)) * self._beam_spot
        for reset in resets:
            pythia.rndm.init(reset)
            pythia.next()
        _seed(pythia, int(rng.integers(1, 900_000_001)), int(rng.integers(0, 16_777_213)))
        try:
            batch = pythia.nextBatch(count, _MAX_TRIES) if count else None
        except Exception as error:
            raise FM4NPPError(f"PYTHIA fails to make {count} {self.facility} events: {error}") from error
        return particles_of(batch, pythia.particleData, spots)


def _seed(pythia: Any, first: int, second: int) -> None:
    """Seed PYTHIA's generator (G. Marsaglia, A. Zaman, W. W. Tsang, Statist. Probab. Lett. 9 (1990) 35).

    It takes 9e8 seeds: too few for blocks never to share one. The start of its second, arithmetic sequence is free as
    well, from 0 to 16777212 in units of 2^-24.
    """
    pythia.rndm.init(first)
    state = pythia.rndm.getState()
    state.c = second / 2**24
    pythia.rndm.setState(state)


def _configured(settings: tuple[str, ...]) -> Any:
    """PYTHIA with settings, not initialised yet."""
    pythia = library("pythia8mc").Pythia("", False)
    for setting in (*_DECAYS, *settings, *_FIXED):
        if setting.strip().lower().startswith("random:") and setting not in _FIXED:
            raise ConfigurationError(f"PYTHIA setting {setting!r}: the seed is set with the events, not here")
        if not setting.strip()[:1].isalnum() or not pythia.readString(setting, False):
            raise ConfigurationError(f"PYTHIA does not accept the setting {setting!r}; write 'Group:name = value'")
    return pythia


def write_table(facility: str, path: Path) -> None:
    """Write the table of multiparton interactions of a facility, for the version of PYTHIA that is installed."""
    pythia = _configured(FACILITIES[facility].settings)
    _use_table(pythia, path, mode=1)
    if not pythia.init():
        raise ConfigurationError(f"PYTHIA cannot be initialised for {facility}")


def _table_of(facility: str) -> Path:
    path = _TABLES / f"{facility}-{_version()}.txt"
    if not path.is_file():
        raise ConfigurationError(f"{path}: is missing; install fm4npp again, with the PYTHIA of its extra `simulation`")
    return path


def _use_table(pythia: Any, path: Path, mode: int) -> None:
    pythia.settings.mode("MultipartonInteractions:reuseInit", mode)  # 1 writes, 2 reads
    pythia.settings.word("MultipartonInteractions:initFile", str(path))


def _version() -> str:
    return importlib.metadata.version("pythia8mc").removesuffix(".0")


@functools.cache
def _initialised(settings: tuple[str, ...], table: Path | None) -> tuple[Any, tuple[int, ...]]:
    """PYTHIA ready to run, and the seeds of events that bring it into a known state."""
    pythia = _configured(settings)
    if table is not None:
        _use_table(pythia, table, mode=2)
    if not pythia.init():
        raise ConfigurationError(f"PYTHIA cannot be initialised with {'; '.join(settings)}")
    return pythia, _resets(pythia)


_MAX_RESETS = 10_000
_SAME_MASS = 1.03
_DIFFRACTIVE = {
    3: ("all", "inelastic", "singleDiffractive", "singleDiffractiveXB", "doubleDiffractive"),
    4: ("all", "inelastic", "singleDiffractive", "singleDiffractiveAX", "doubleDiffractive"),
    5: ("all", "inelastic", "centralDiffractive"),
}
"""Place of a diffractive system in the event record -> SoftQCD processes that make one there."""


def _resets(pythia: Any) -> tuple[int, ...]:
    """Seeds of events after which the next event does not depend on those before.

    Almost nothing of an event is remembered. But a diffractive system whose mass is within 1 % of that of the last one
    in the same place takes over that one's parameters of multiparton interactions. Two systems in each place, one after
    the other, whose masses differ by more than that leave nothing of what was before them.
    """
    last: dict[int, float] = {}
    seeds: list[int] = []
    missing = _diffractive_places(pythia)
    for seed in range(1, _MAX_RESETS):
        if not missing:
            return tuple(seeds)
        pythia.rndm.init(seed)
        systems = _diffractive_systems(pythia.event) if pythia.next() else {}
        wanted = missing & systems.keys()
        if wanted and all(_differs(systems[place], last.get(place)) for place in wanted):
            missing -= last.keys() & wanted
            last.update(systems)
            seeds.append(seed)
    raise ConfigurationError(
        "PYTHIA: diffraction is too rare with these settings for reproducible events; switch it off"
    )


def _diffractive_places(pythia: Any) -> set[int]:
    places = {place for place, names in _DIFFRACTIVE.items() if any(pythia.flag(f"SoftQCD:{name}") for name in names)}
    return places - {5} if pythia.flag("SigmaTotal:zeroAXB") else places


def _diffractive_systems(event: Any) -> dict[int, float]:
    """Places and masses (GeV/c^2) of the systems in which a Pomeron scatters on partons of a proton."""
    pomerons = (event[i] for i in range(3, event.size()) if event[i].id() == 990 and event[i].status() == -13)
    return {pomeron.mother1(): event[pomeron.mother1()].m() for pomeron in pomerons}


def _differs(mass: float, other: float | None) -> bool:
    return other is None or max(mass / other, other / mass) > _SAME_MASS
