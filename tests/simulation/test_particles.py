"""Charges and masses of the few species that need no table of particles."""

import numpy as np
import pytest

from fm4npp.simulation.particles import SPECIES, charges_and_masses


def test_every_species_has_its_own():
    wanted = list(SPECIES.values())
    charge, mass = charges_and_masses(np.array([species.pdg for species in wanted]))
    assert charge.tolist() == [species.charge for species in wanted]
    assert mass.tolist() == [species.mass for species in wanted]
    assert (charge.dtype, mass.dtype) == (np.int64, np.float64)


@pytest.mark.parametrize("code", [-10_000, 0, 12, 111, 2213, 10_000])
def test_another_species_is_named(code):
    with pytest.raises(KeyError, match=str(code)):
        charges_and_masses(np.array([211, code]))


def test_of_nothing():
    assert [len(values) for values in charges_and_masses(np.array([]))] == [0, 0]
