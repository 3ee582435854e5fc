"""The particle gun: what it shoots, and the text it is made from."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats

from fm4npp.errors import ConfigurationError
from fm4npp.simulation.gun import ParticleGun
from fm4npp.simulation.particles import SPECIES


def shot(gun, count=2000, seed=1):
    return gun.collisions(count, np.random.SeedSequence(seed))


def transverse(particles):
    return np.hypot(*particles.momentum.T[:2])


def test_numbers_are_poisson_or_exact():
    poisson = np.bincount(shot(ParticleGun(mean_primaries=3.0), 4000).event, minlength=4000)
    assert abs(poisson.mean() - 3) < 5 * math.sqrt(3 / 4000)
    assert abs(poisson.var() - 3) < 5 * math.sqrt((3 + 2 * 9) / 4000)  # the fourth moment is 3 mu^2 + mu
    assert np.array_equal(shot(ParticleGun(number=7), 5).event, np.repeat(np.arange(5), 7))
    assert len(shot(ParticleGun(), 0)) == len(shot(ParticleGun(number=0), 9)) == 0


def test_exponential_spectrum():
    low, high, slope = 0.2, 2.0, 0.26
    pt = transverse(shot(ParticleGun(pt=(low, high), inverse_slope=slope)))
    spectrum = stats.gamma(2, scale=slope)  # x exp(-x / T)
    below, above = spectrum.cdf([low, high])
    assert stats.kstest(pt, lambda x: (spectrum.cdf(x) - below) / (above - below)).pvalue > 1e-6
    assert low <= pt.min()
    assert pt.max() <= high


def test_uniform_spectrum_and_directions():
    particles = shot(ParticleGun(pt=(0.5, 3.0), spectrum="uniform", eta=(-0.4, 1.7)))
    pt = transverse(particles)
    eta, phi = np.arcsinh(particles.momentum[:, 2] / pt), np.arctan2(*particles.momentum.T[1::-1])
    for values, low, high in ((pt, 0.5, 3.0), (eta, -0.4, 1.7), (phi, -np.pi, np.pi)):
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-6


def test_primaries_of_an_event_share_a_vertex_on_the_beam_line():
    particles = shot(ParticleGun(number=3, vertex_sigma_z=8.0))
    z = particles.vertex[:, 2].reshape(-1, 3)
    assert (z == z[:, :1]).all()
    assert not particles.vertex[:, :2].any()
    assert abs(z[:, 0].std() / 8 - 1) < 5 / math.sqrt(2 * len(z))
    assert abs(z[:, 0].mean()) < 5 * 8 / math.sqrt(len(z))
    assert (particles.parent == -1).all()
    assert np.isinf(particles.flight).all()


def test_species_are_as_frequent_as_asked_for():
    particles = shot(ParticleGun(number=10, species={"pion": 6, "p": 3, "e-": 1, "kaon": 0}))
    expected = {211: 0.3, -211: 0.3, 2212: 0.3, 11: 0.1}
    codes, counts = np.unique(particles.pdg, return_counts=True)
    assert set(codes.tolist()) == set(expected)
    for code, count in zip(codes.tolist(), counts.tolist(), strict=True):
        share, total = expected[code], len(particles)
        assert abs(count / total - share) < 5 * math.sqrt(share * (1 - share) / total)
    for name, (pdg, charge, mass) in SPECIES.items():
        one = shot(ParticleGun(number=1, species={name: 1}), 3)
        assert (one.pdg == pdg).all()
        assert (one.charge == charge).all()
        assert (one.mass == mass).all()


def test_the_seed_alone_decides():
    gun = ParticleGun()
    seed = np.random.SeedSequence(5)
    first, other = gun.collisions(50, seed), shot(gun, 50, seed=6)
    again = gun.collisions(50, seed)
    assert all(getattr(first, name).tobytes() == getattr(again, name).tobytes() for name in vars(first))
    assert len(first) != len(other) or (first.momentum != other.momentum).any()


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("pi+", {"species": {"pi+": 1.0}, "number": 1}),
        ("pt=0.2..2", {"pt": (0.2, 2.0), "spectrum": "uniform", "number": 1}),
        ("pi+,pt=0.2..2", {"species": {"pi+": 1.0}, "pt": (0.2, 2.0), "spectrum": "uniform", "number": 1}),
        (
            " pi+ , K- ,pt=1,eta = -1..1,number=10,spectrum=uniform",
            {"species": {"pi+": 1.0, "K-": 1.0}, "pt": (1, 1), "eta": (-1, 1), "number": 10, "spectrum": "uniform"},
        ),
        ("mix", {}),
        ("mix,number=40", {"number": 40}),
        ("mix,pt=1..3", {"pt": (1.0, 3.0), "spectrum": "uniform"}),
        ("electron,mean_primaries=4", {"species": {"electron": 1.0}, "mean_primaries": 4.0}),
        ("p,pt=1..9,inverse_slope=0.5", {"species": {"p": 1.0}, "pt": (1.0, 9.0), "inverse_slope": 0.5, "number": 1}),
        ("p,pt=1..9,spectrum=exponential", {"species": {"p": 1.0}, "pt": (1.0, 9.0), "number": 1}),
    ],
)
def test_text(text, fields):
    assert ParticleGun.parse(text) == ParticleGun(**fields)


def test_a_single_value_is_exact():
    particles = shot(ParticleGun.parse("mu-,pt=1.5,eta=0.5"), 20)
    assert np.allclose(transverse(particles), 1.5, rtol=1e-14, atol=0)
    assert np.allclose(particles.momentum[:, 2], 1.5 * math.sinh(0.5), rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "names no particle"),
        (" , ", "names no particle"),
        ("pi", "unknown species pi; choices: pi+, pi-, K+"),
        ("mix,pi+", "unknown species mix"),
        ("pi+,energy=3", "unknown setting 'energy'; choices: number, mean_primaries, pt"),
        ("pi+,species=3", "unknown setting 'species'"),
        ("pi+,pt=2..1", "pt must be"),
        ("pi+,pt=0..1", "pt must be"),
        ("pi+,pt=a..b", "pt: Input should be a valid number"),
        ("pi+,pt=1..2..3", "pt: Input should be a valid number"),
        ("pi+,pt=", "pt: Input should be a valid number"),
        ("pi+,pt=nan", "pt: Input should be a finite number"),
        ("pi+,number=-1", "number: Input should be greater"),
        ("pi+,number=1.5", "number: Input should be a valid integer"),
        ("pi+,spectrum=flat", "spectrum: Input should be 'exponential' or 'uniform'"),
    ],
)
def test_bad_text(text, complaint):
    with pytest.raises(ConfigurationError, match=r"^gun ") as error:
        ParticleGun.parse(text)
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


@given(st.text(alphabet="pi+-Kmx=.,0129 ten", max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_gun_or_one_clear_error(text):
    message = "one line"
    try:
        gun = ParticleGun.parse(text)
    except ConfigurationError as error:
        message = str(error)
    else:
        assert np.isfinite(shot(gun.model_copy(update={"number": 2}), 2).momentum).all()
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize(
    "fields",
    [{"pt": (2, 1)}, {"pt": (0, 1)}, {"eta": (1, -1)}, {"species": {"tau": 1}}, {"species": {}}, {"mean_curlers": 1}],
)
def test_bad_fields(fields):
    with pytest.raises(ValidationError):
        ParticleGun(**fields)


def test_source_names_what_is_not_default():
    assert ParticleGun().source == "particle-gun"
    assert ParticleGun.parse("pi+,pt=0.2..2").source == (
        "particle-gun number=1 pt=(0.2, 2.0) spectrum=uniform species={'pi+': 1.0}"
    )
