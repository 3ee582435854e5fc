"""Momenta from spacepoints: a circle in the transverse plane, a line along it."""

import numpy as np
from scipy.optimize import least_squares

TESLA_CM = 0.299792458e-2


def circle(x, y):
    """Centre and radius of the circle through points: algebraic start (Kasa), then least squares of distances."""
    design = np.stack([x, y, np.ones_like(x)], axis=1)
    a, b, c = np.linalg.lstsq(design, x * x + y * y, rcond=None)[0]
    start = a / 2, b / 2, np.sqrt(c + a * a / 4 + b * b / 4)
    fit = least_squares(lambda p: np.hypot(x - p[0], y - p[1]) - p[2], start)
    return fit.x


def track(points, field):
    """A fitted helix: what `momentum_at` wants.

    Args:
        points: (N, 3) spacepoints of one outgoing arm, cm.
        field: tesla.
    """
    points = points[np.argsort(np.hypot(*points[:, :2].T))].astype(float)
    x0, y0, radius = circle(*points[:, :2].T)
    angle = np.unwrap(np.arctan2(points[:, 1] - y0, points[:, 0] - x0))
    sense = np.sign(angle[-1] - angle[0])  # +1: counter-clockwise
    slope = np.polyfit(sense * (angle - angle[0]) * radius, points[:, 2], 1)[0]
    return x0, y0, sense, TESLA_CM * field * radius, slope


def momentum_at(helix, place):
    """(3,) momentum in GeV/c where a fitted helix passes closest to a place (cm); and the sign of its charge."""
    x0, y0, sense, transverse, slope = helix
    phi = np.arctan2(place[1] - y0, place[0] - x0) + sense * np.pi / 2
    return transverse * np.array([np.cos(phi), np.sin(phi), slope]), -sense
