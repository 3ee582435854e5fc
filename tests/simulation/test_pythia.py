"""Collisions from PYTHIA, against published numbers and conservation laws."""

import functools
import math
import pickle
import subprocess
import sys
from dataclasses import fields
from functools import partial
from hashlib import sha256

import numpy as np
import pytest

from fm4npp.data.processes import results
from fm4npp.errors import ConfigurationError, FM4NPPError
from fm4npp.simulation import pythia
from fm4npp.simulation.facilities import FACILITIES
from fm4npp.simulation.particles import Particles
from fm4npp.simulation.pythia import Pythia8, write_table

FAST = ("lep-z", "hera-ep", "eic-ep")  # initialised in half a second
NEUTRINOS = (12, 14, 16)
TRACKED = {13, 211, 321, 130, 310, 3122, 3112, 3222, 3312, 3322, 3334}  # c tau > 1 cm (PDG)
K_SHORT, LAMBDA = 310, 3122
MADE_LATE = (211, 321, 13, 130)  # their products are not counted as the collision's (LEP: decays within 0.3 ns are)


@functools.cache
def generator(facility, **fields):
    return Pythia8(facility=facility, **fields)


def block(facility, seed, count=60, **fields):
    return generator(facility, **fields).collisions(count, np.random.SeedSequence(seed))


@functools.cache
def sample(facility):
    return block(facility, 1, {"rhic-pp": 2000, "lep-z": 1000}.get(facility, 800))


def digest(particles):
    content = b"".join(getattr(particles, field.name).tobytes() for field in fields(Particles))
    return sha256(content).hexdigest()


def energies(particles):
    return np.sqrt((particles.momentum**2).sum(axis=1) + particles.mass**2)


def primary_charged(particles):
    """Charged particles of the collision, with the products of K_S and strange baryons."""
    parents = np.where(particles.parent >= 0, np.abs(particles.pdg[particles.parent]), 0)
    charged = np.isin(np.abs(particles.pdg), (11, 13, 211, 321, 2212))
    return charged & ~np.isin(parents, MADE_LATE)


def pairs(particles, mother, one, other):
    """Rows of the decays into just these two: mother, one product and the other."""
    children = np.bincount(particles.parent[particles.parent >= 0], minlength=len(particles))
    first = np.flatnonzero((particles.pdg == one) & (particles.parent >= 0))
    second = np.flatnonzero((particles.pdg == other) & (particles.parent >= 0))
    mothers = np.intersect1d(particles.parent[first], particles.parent[second])
    mothers = mothers[(particles.pdg[mothers] == mother) & (children[mothers] == 2)]
    rows = [dict(zip(particles.parent[side].tolist(), side.tolist(), strict=True)) for side in (first, second)]
    return mothers, *(np.array([side[row] for row in mothers.tolist()]) for side in rows)


@pytest.mark.parametrize("facility", [*FAST, "rhic-pp"])
def test_the_table_is_consistent(facility):
    given = sample(facility)
    assert np.array_equal(np.unique(given.event), np.arange(given.event[-1] + 1))
    assert (np.diff(given.event) >= 0).all()
    child = np.flatnonzero(given.parent >= 0)
    parent = given.parent[child]
    assert (parent < child).all()
    assert (given.event[parent] == given.event[child]).all()
    decays = np.flatnonzero(np.isfinite(given.flight))
    assert set(parent.tolist()) <= set(decays.tolist())
    assert {abs(code) for code in given.pdg[decays].tolist()} <= TRACKED
    assert not np.isin(np.abs(given.pdg), (*NEUTRINOS, 111, 15, 411, 421, 511, 521)).any()
    direction = given.momentum[parent] / given.total_momentum[parent, None]
    end = given.vertex[parent] + given.flight[parent, None] * direction
    apart = np.abs(given.vertex[child] - end).max(axis=1)
    assert apart[np.isin(np.abs(given.pdg[child]), (13, 211, 2212))].max() < 1e-6
    assert apart.max() < 0.05  # products of a pi0: it flies 25 nm times its Lorentz factor
    assert (given.charge[given.pdg == 2212] == 1).all()
    assert (given.charge[given.pdg == -211] == -1).all()


def test_number_of_events_is_exact_and_none_is_possible():
    assert len(set(block("lep-z", 3, 37).event.tolist())) == 37
    assert len(block("lep-z", 3, 0)) == 0


def test_charged_multiplicity_at_the_z():
    """20.76 +- 0.16 (Particle Data Group, average hadron multiplicities in hadronic Z decays)."""
    numbers = np.bincount(sample("lep-z").event[primary_charged(sample("lep-z"))])
    assert abs(numbers.mean() - 20.76) < 0.4 + 5 * numbers.std() / math.sqrt(len(numbers))


def test_charged_density_at_rhic():
    """Inelastic pp at 200 GeV: 2.25 +0.37 -0.30 at eta = 0 (PHOBOS, Phys. Rev. C 83 (2011) 024913)."""
    given = sample("rhic-pp")
    central = np.abs(given.momentum[:, 2]) < math.sinh(0.5) * np.hypot(*given.momentum.T[:2])
    assert 1.95 < (primary_charged(given) & central & (given.parent < 0)).sum() / 2000 < 2.62


def test_energy_of_a_z_decay_is_conserved():
    given = sample("lep-z")
    primary = given.parent < 0
    total = np.bincount(given.event[primary], energies(given)[primary])
    momentum = [np.bincount(given.event[primary], given.momentum[primary, axis]) for axis in range(3)]
    assert total.max() < 91.188 * (1 + 1e-4)  # PYTHIA's masses are not exactly the tabulated ones
    whole = total > 91.188 * (1 - 1e-4)  # no neutrino
    assert 0.5 < whole.mean() < 0.9
    assert np.abs(np.array(momentum)[:, whole]).max() < 0.02


@pytest.mark.parametrize(
    ("mother", "first", "second", "mass", "c_tau"),
    [(K_SHORT, 211, -211, 0.497611, 2.6844), (LAMBDA, 2212, -211, 1.115683, 7.846)],
)
def test_decays_in_flight(mother, first, second, mass, c_tau):
    """Masses in GeV/c^2 and c tau in cm of the Particle Data Group."""
    given = sample("lep-z")
    parent, one, two = pairs(given, mother, first, second)
    assert len(parent) > 100
    assert np.abs(given.momentum[one] + given.momentum[two] - given.momentum[parent]).max() < 1e-6
    energy = energies(given)[one] + energies(given)[two]
    found = np.sqrt(energy**2 - (given.momentum[parent] ** 2).sum(axis=1))
    assert np.abs(found - mass).max() < 1e-3
    chosen = np.flatnonzero((np.abs(given.pdg) == mother) & (given.total_momentum < 5))
    assert np.isfinite(given.flight[chosen]).all()  # 3 m are more than eight mean decay lengths
    proper = given.flight[chosen] * mass / given.total_momentum[chosen]
    assert abs(proper.mean() / c_tau - 1) < 5 / math.sqrt(len(chosen))


def test_pions_and_kaons_decay_in_flight():
    given = sample("lep-z")
    for code, mass, c_tau in ((211, 0.13957, 780.45), (321, 0.493677, 371.1)):
        slow = (np.abs(given.pdg) == code) & (given.parent < 0) & (given.total_momentum < 1)
        reach = np.minimum(1000 / np.hypot(*given.momentum.T[:2]), 300 / np.abs(given.momentum[:, 2]))[slow] * mass
        share, expected = np.isfinite(given.flight[slow]), -np.expm1(-reach / c_tau)
        assert abs(share.sum() - expected.sum()) < 5 * math.sqrt((expected * (1 - expected)).sum()) + 0.01 * len(share)


@pytest.mark.parametrize(
    ("facility", "proton", "lepton", "code", "lowest"), [("hera-ep", 920, 27.5, -11, 5), ("eic-ep", 275, 18, 11, 1)]
)
def test_scattered_leptons(facility, proton, lepton, code, lowest):
    """Q^2 = 2 E E' (1 + cos theta), the angle from the proton beam, of the most energetic lepton."""
    given = sample(facility)
    energy = energies(given)
    rows = np.flatnonzero((given.pdg == code) & (given.parent < 0))
    rows = rows[np.lexsort((-energy[rows], given.event[rows]))]
    events, first = np.unique(given.event[rows], return_index=True)
    assert len(events) == 800
    rows = rows[first]
    squared = 2 * lepton * energy[rows] * (1 + given.momentum[rows, 2] / given.total_momentum[rows])
    assert (squared > lowest * 0.999).mean() > 0.99
    assert np.median(squared) < 4 * lowest
    total = np.bincount(given.event, np.where(given.parent < 0, energy, 0.0))
    along = np.bincount(given.event, np.where(given.parent < 0, given.momentum[:, 2], 0.0))
    assert total.max() < (proton + lepton) * 1.001
    assert np.median(total) == pytest.approx(proton + lepton, rel=1e-3)
    assert np.median(along) == pytest.approx(proton - lepton, rel=2e-3)


@pytest.mark.parametrize("facility", FAST)
def test_vertices_are_spread_as_the_beam_spot(facility):
    given = sample(facility)
    rows = np.unique(given.event[given.parent < 0], return_index=True)[1]
    places = given.vertex[given.parent < 0][rows]
    for axis, size in enumerate(FACILITIES[facility].beam_spot):
        spread = np.median(np.abs(places[:, axis])) / 0.67449  # some start where charm or beauty decayed
        assert abs(spread / size - 1) < 0.25 or size < 1e-3


def test_the_beam_spot_can_be_another():
    usual, wide = (block("lep-z", 1, beam_spot=spot) for spot in (None, (0.0, 0.0, 20.0)))
    shift = (wide.vertex - usual.vertex)[np.unique(usual.event, return_index=True)[1]]
    assert np.allclose(shift[:, 2].std(), 19.3, rtol=0.5)
    assert np.abs(shift[:, :2]).max() < 0.06


@pytest.mark.parametrize("facility", FAST)
def test_a_block_depends_on_its_seed_alone(facility):
    first = [digest(block(facility, seed)) for seed in range(5)]
    assert len(set(first)) == 5
    block("hera-ep" if facility == "lep-z" else "lep-z", 99)
    assert [digest(block(facility, seed)) for seed in reversed(range(5))] == first[::-1]


def test_diffraction_leaves_no_memory():
    first = [digest(block("rhic-pp", seed, 64)) for seed in range(40)]
    assert [digest(block("rhic-pp", seed, 64)) for seed in reversed(range(40))] == first[::-1]


def test_a_fresh_process_makes_the_same():
    code = f"import sys; from {__name__} import *; sys.stdout.write(digest(block('lep-z', 4)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == digest(block("lep-z", 4))  # and nothing else is printed


def test_the_same_seed_object_twice():
    one, seed = generator("eic-ep"), np.random.SeedSequence(3)
    first = digest(one.collisions(20, seed))
    assert digest(one.collisions(20, seed)) == first
    assert digest(pickle.loads(pickle.dumps(one)).collisions(20, seed)) == first


def test_nothing_is_printed(capfd):
    for facility in FAST:
        block(facility, 5, 200)
    assert capfd.readouterr() == ("", "")


def test_source():
    assert Pythia8(facility="rhic-pp").source == "pythia8 8.317 rhic-pp (Detroit tune)"
    more = Pythia8(facility="lep-z", settings=("23:onIfAny = 5",), beam_spot=(0, 0, 1)).source
    assert more == "pythia8 8.317 lep-z (Monash tune); 23:onIfAny = 5; beam spot 0/0/1 cm"


def test_settings_change_the_physics():
    muons = block("lep-z", 1, settings=("23:onMode = off", "23:onIfAny = 13"))
    hard = (np.abs(muons.pdg) == 13) & (energies(muons) > 1)
    assert np.bincount(muons.event[hard], minlength=60).tolist() == [2] * 60
    assert (muons.parent[hard] == -1).all()
    assert np.isinf(muons.flight[hard]).mean() > 0.9


@pytest.mark.parametrize("facility", FACILITIES)
def test_presets_are_accepted(facility):
    assert Pythia8(facility=facility).source.startswith("pythia8 8.317 " + facility)
    assert FACILITIES[facility].description
    assert min(FACILITIES[facility].beam_spot) > 0


@pytest.mark.parametrize(
    "setting", ["nonsense", "No:such = 1", "Beams:eCM = warm", "", "! a comment", "Random:seed = 7"]
)
def test_refused_settings(setting):
    with pytest.raises(ConfigurationError) as error:
        Pythia8(facility="lep-z", settings=(setting,))
    assert repr(setting) in str(error.value)
    assert "\n" not in str(error.value)


def test_impossible_configurations():
    with pytest.raises(ConfigurationError, match="'rhic'; choices: rhic-pp, lep-z, hera-ep, eic-ep, lhc-pp"):
        Pythia8(facility="rhic")
    with pytest.raises(ConfigurationError, match="beam_spot"):
        Pythia8(facility="lep-z", beam_spot=(0, 0, -1))
    with pytest.raises(ConfigurationError, match="cannot be initialised with .*Beams:idA = 12"):
        block("lep-z", 1, settings=("Beams:idA = 12",))
    with pytest.raises(FM4NPPError, match="fails to make 5 lep-z events"):
        block("lep-z", 1, 5, settings=("Check:epTolErr = 1e-18", "Check:epTolWarn = 1e-18"))


@pytest.mark.parametrize("missing", ["pythia8mc", "particle"])
def test_without_the_extra(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigurationError) as error:
        Pythia8(facility="lep-z")
    assert str(error.value) == f'the package {missing} is not installed: pip install "fm4npp[simulation]"'


@pytest.mark.slow
def test_the_tables_are_what_pythia_writes(tmp_path):
    facilities = [name for name, facility in FACILITIES.items() if facility.has_table]
    assert facilities == ["rhic-pp", "lhc-pp"]
    for facility in results(partial(written, folder=tmp_path), facilities, 2):
        assert (tmp_path / facility).read_text() == pythia._table_of(facility).read_text()


def written(facility, folder):
    """In a process of its own: each table takes seconds."""
    write_table(facility, folder / facility)
    return facility


def test_a_table_of_another_version_is_not_used(monkeypatch):
    monkeypatch.setattr(pythia, "_version", lambda: "8.316")
    with pytest.raises(ConfigurationError, match=r"8\.316.*is missing; install fm4npp again") as caught:
        Pythia8(facility="rhic-pp").collisions(1, np.random.SeedSequence(1))
    assert "\n" not in str(caught.value)
