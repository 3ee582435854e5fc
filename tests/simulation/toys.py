"""Small detectors and particles for tests."""

import numpy as np

from fm4npp.detectors.cylindrical import CylindricalDetector
from fm4npp.detectors.response import Material, Response
from fm4npp.simulation.layers import surfaces_of
from fm4npp.simulation.particles import SPECIES, particles

RADII = (20.0, 33.0, 50.0, 71.0)


def toy(layers=RADII, material=(), radiation_lengths=0.0, **response):
    """A tracker; without material unless given."""
    measured = {"energy": {}} if response.get("gain") else {}
    chosen = Response(radiation_lengths=radiation_lengths, material=material, **{"half_length": 100.0, **response})
    return CylindricalDetector(name="toy", radius=(1.0, 100.0), layers=layers, measured=measured, response=chosen)


def vacuum(layers=RADII, **response):
    """Layers without matter."""
    return surfaces_of(toy(layers, **response))


def slab(radius=10.0, medium="silicon", radiation_lengths=0.02, field=0.0, outside=(20.0,)):
    """One cylinder of matter, and empty layers around it."""
    material = (Material(name="slab", radius=radius, half_length=500.0, medium=medium,
                         radiation_lengths=radiation_lengths),)  # fmt: skip
    return surfaces_of(toy(outside, material, field=field, half_length=500.0))


def shots(name, momentum, vertex=None, event=None):
    """Particles of one species; momentum (P, 3) in GeV/c."""
    momentum = np.asarray(momentum, float).reshape(-1, 3)
    count = len(momentum)
    return particles(
        np.zeros(count, int) if event is None else event,
        np.full(count, SPECIES[name].pdg),
        momentum,
        np.zeros((count, 3)) if vertex is None else np.broadcast_to(vertex, (count, 3)),
    )
