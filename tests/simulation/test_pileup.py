"""Several collisions in one event."""

import math

import numpy as np
import pytest

from fm4npp.errors import ConfigurationError
from fm4npp.simulation.generator import Generator
from fm4npp.simulation.gun import ParticleGun
from fm4npp.simulation.particles import particles
from fm4npp.simulation.pileup import overlay


def seed(number=3):
    return np.random.SeedSequence(number)


class Chains(Generator):
    """Each collision is a chain of three particles, parent to child; the collisions are interleaved in the table.

    Momenta are (number of the collision, place in the chain, 1).
    """

    @property
    def source(self):
        return "chains"

    def collisions(self, count, seed):
        event = np.tile(np.arange(count), 3)
        link = np.repeat(np.arange(3), count)
        momentum = np.stack([event, link, np.ones(3 * count)], axis=1)
        parent = np.where(link > 0, np.arange(3 * count) - count, -1)
        return particles(event, np.full(3 * count, 211), momentum, np.zeros((3 * count, 3)), parent)


def equal(one, two):
    return all(getattr(one, name).tobytes() == getattr(two, name).tobytes() for name in vars(one))


def test_without_pileup_the_events_are_the_collisions():
    gun = ParticleGun()
    assert equal(overlay(gun, 20, 0.0, seed()), gun.collisions(20, seed()))


def test_number_of_collisions_is_one_and_a_poisson_number():
    num_events, mean = 3000, 4.0
    given = overlay(ParticleGun(number=1), num_events, mean, seed())
    further = np.bincount(given.event, minlength=num_events) - 1
    assert further.min() >= 0
    assert abs(further.mean() - mean) < 5 * math.sqrt(mean / num_events)
    assert abs(further.var() - mean) < 5 * math.sqrt((mean + 2 * mean**2) / num_events)


def test_every_collision_has_its_own_vertex_and_events_are_in_order():
    given = overlay(ParticleGun(number=5, vertex_sigma_z=5.0), 200, 3.0, seed())
    z = given.vertex[:, 2].reshape(-1, 5)
    assert (z == z[:, :1]).all()
    assert len(np.unique(z)) == len(z)
    assert abs(z[:, 0].std() / 5 - 1) < 5 / math.sqrt(2 * len(z))
    assert (np.diff(given.event) >= 0).all()
    assert set(given.event) == set(range(200))


def test_parents_follow_their_children():
    given = overlay(Chains(), 50, 2.0, seed())
    collision, link = given.momentum[:, 0], given.momentum[:, 1]
    assert (np.diff(given.event) >= 0).all()
    born = np.flatnonzero(link > 0)
    parent = given.parent[born]
    assert (given.parent[link == 0] == -1).all()
    assert (parent < born).all()
    assert (given.event[parent] == given.event[born]).all()
    assert (collision[parent] == collision[born]).all()
    assert (link[parent] == link[born] - 1).all()


def test_the_seed_alone_decides():
    gun, same = ParticleGun(), seed()
    first = overlay(gun, 30, 1.5, same)
    assert equal(first, overlay(gun, 30, 1.5, same))
    assert equal(first, overlay(gun, 30, 1.5, seed()))
    assert not np.array_equal(first.event, overlay(gun, 30, 1.5, seed(4)).event)


def test_no_events():
    assert len(overlay(ParticleGun(), 0, 2.0, seed())) == 0


@pytest.mark.parametrize("pileup", [-1.0, math.nan, math.inf])
def test_impossible_pileup(pileup):
    with pytest.raises(ConfigurationError, match="pileup"):
        overlay(ParticleGun(), 3, pileup, seed())
