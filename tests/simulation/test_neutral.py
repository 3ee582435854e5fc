"""Thin surfaces are one for neutral particles: where they are joined, and that as much is met."""

import numpy as np
import pytest

from fm4npp.detectors import load
from fm4npp.simulation.interactions import JOINED, for_neutral
from fm4npp.simulation.layers import surfaces_of
from fm4npp.simulation.transport import transport
from tests.simulation.toys import shots, toy, vacuum


@pytest.mark.parametrize("name", ["sphenix-tpc", "sphenix-silicon", "sphenix", "star-tpc"])
def test_as_much_is_met(name):
    surfaces = surfaces_of(load(name))
    times = for_neutral(surfaces)
    met = times * surfaces.radiation_lengths
    assert met.sum() == pytest.approx(surfaces.radiation_lengths.sum(), rel=1e-12)
    thick = surfaces.radiation_lengths > JOINED
    np.testing.assert_array_equal(times[thick], 1.0)
    assert (met[~thick] <= JOINED * (1 + 1e-12)).all()
    assert np.count_nonzero(times) < len(times) / 2 or name == "sphenix-silicon"


def test_surfaces_of_different_length_stay_apart():
    surfaces = vacuum((20.0, 33.0, 50.0, 71.0))
    assert np.count_nonzero(for_neutral(surfaces)) == 1
    surfaces.half_length[:2] = 30.0
    np.testing.assert_array_equal(for_neutral(surfaces) > 0, [True, False, True, False])


def test_photons_convert_as_often_in_thin_rows_as_in_one_thick_one():
    count, rows = 40_000, 100
    surfaces = surfaces_of(toy(tuple(10 + 0.5 * np.arange(rows)), radiation_lengths=2e-4, field=0.0))
    assert np.count_nonzero(for_neutral(surfaces)) == rows / 2
    result = transport(shots("gamma", np.tile([5.0, 0, 0], (count, 1))), surfaces, np.random.default_rng(3))
    born = result.particles.take(np.flatnonzero(np.arange(len(result.particles)) >= count))
    pairs = np.unique(born.parent[(born.pdg == -11) & (born.parent < count)])
    expected = -np.expm1(-7 / 9 * rows * 2e-4)
    assert len(pairs) / count == pytest.approx(expected, abs=5 * np.sqrt(expected / count))
    radii = np.hypot(*born.vertex[born.pdg == -11][:, :2].T)
    assert np.quantile(radii, 0.25) == pytest.approx(22.5, abs=3)  # evenly along the way
    assert np.quantile(radii, 0.75) == pytest.approx(47.5, abs=3)
