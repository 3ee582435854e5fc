"""Who is in the table of particles, and in which order."""

from dataclasses import replace

import numpy as np

from fm4npp.simulation.crossings import Crossings
from fm4npp.simulation.measurement import Spacepoints
from fm4npp.simulation.particles import concatenate
from fm4npp.simulation.transport import Transported
from fm4npp.simulation.truth import truth_of
from tests.simulation.toys import shots

NO_CROSSINGS = Crossings(*(np.empty(0),) * 5)


def labelled(table, num_generated, born, owner, num_events):
    count = len(owner)
    points = Spacepoints(table.event[owner], np.zeros(count, int), owner, np.zeros((count, 3)), np.zeros(count))
    return truth_of(Transported(table, num_generated, born, NO_CROSSINGS), points, num_events)


def test_all_ancestors_of_what_leaves_spacepoints_are_kept():
    """Photon, electron, photon, electron: only the last is seen. Another photon does nothing."""
    names = ["gamma", "e-", "gamma", "e-", "gamma", "pi+"]
    table = concatenate([shots(name, [[1.0, 0, 0]]) for name in names])
    table = replace(table, parent=np.array([-1, 0, 1, 2, -1, -1]))
    truth = labelled(table, 1, np.ones(6, bool), np.array([3, 3]), 1)
    assert truth.particles["pdg"].tolist() == [22, 11, 22, 11]
    assert truth.particles["parent"].tolist() == [0, 1, 2, 3]
    assert truth.particles["num_hits"].tolist() == [0, 0, 0, 2]
    assert truth.particles["charge"].tolist() == [0, -1, 0, -1]
    assert truth.labels["track_id"].tolist() == [4, 4]


def test_generated_charged_particles_that_were_born_are_kept():
    table = concatenate([shots("pi+", [[1.0, 0, 0]] * 3), shots("gamma", [[1.0, 0, 0]]), shots("p", [[1.0, 0, 0]])])
    truth = labelled(table, 4, np.array([True, False, True, True, True]), np.empty(0, int), 2)
    assert truth.particles["pdg"].tolist() == [211, 211]  # neither the unborn, the photon, nor the secondary
    assert truth.offsets.tolist() == [0, 2, 2]


def test_particles_of_an_event_keep_their_order():
    """So parents come before their children, however many there are."""
    rng = np.random.default_rng(1)
    table = shots("mu-", rng.normal(size=(3000, 3)), event=rng.integers(0, 7, 3000))
    truth = labelled(table, 3000, np.ones(3000, bool), np.empty(0, int), 7)
    expected = np.concatenate([np.flatnonzero(table.event == event) for event in range(7)])
    np.testing.assert_array_equal(truth.particles["px"], table.momentum[expected, 0].astype(np.float32))
    assert truth.particles_of(3)["track_id"].tolist() == list(range(1, (table.event == 3).sum() + 1))
