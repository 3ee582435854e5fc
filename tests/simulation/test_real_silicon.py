"""The real silicon sample as the validation reads it: its selection, its layers and its field."""

from __future__ import annotations

import importlib.util
import io
import sys
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fm4npp.data import read_events
from fm4npp.event import Event

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
EVENTS = 600
MVTX_RADII = (2.505, 3.311, 4.125)
"""cm: medians over all 14,000 events."""
INNER = (0.5266, 0.5260)
"""Share of the hits of each INTT barrel on its inner half-layer, likewise."""
MISSING = (0.0208, 0.0272, 0.0455, 0.0546, 0.1834)
"""Share of selected tracks without a hit in a slot, of all 14,000 events."""


def load(name):
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def silicon():
    if not FOLDER.exists():
        pytest.skip("the benchmarks are not part of the installed package")
    module = load("silicon_tracks")
    yield module
    del sys.modules[module.__name__]


@pytest.fixture(scope="module")
def archive():
    path = Path(__file__).resolve().parents[3] / "shared/data/sphenix_silicon/test.tar.xz"
    if not path.exists():
        pytest.skip("the detector files are not beside the project")
    return path


@pytest.fixture(scope="module")
def tracks(silicon, archive):
    return silicon.tracks_of(islice(read_events(archive, detector="sphenix-silicon"), EVENTS))


def five_sigma(share, number):
    return 5 * np.sqrt(share * (1 - share) / number)


@pytest.mark.shared_data
def test_nearly_all_tracks_pass_what_we_take_for_the_selection(silicon, tracks):
    assert tracks.pt.min() >= silicon.LOWEST_PT
    assert set(np.abs(tracks.pdg)) <= {11, 13, 211, 321, 2212}
    assert np.abs(silicon.height_at(tracks, silicon.INTT_RADIUS)).max() < 25
    assert len(silicon.selected(tracks)) / len(tracks) > 0.99


@pytest.mark.shared_data
def test_layers_and_missing_hits(silicon, tracks):
    found = silicon.figures(silicon.selected(tracks))
    medians = [found[f"median r {name} (cm)"] for name in silicon.SLOTS[:3]]
    np.testing.assert_allclose(medians, MVTX_RADII, atol=0.01)
    for name, share in zip(silicon.SLOTS[3:], INNER, strict=True):
        assert found[f"{name} on its inner half"] == pytest.approx(share, abs=five_sigma(share, 0.8 * len(tracks)))
    for name, share in zip(silicon.SLOTS, MISSING, strict=True):
        assert found[f"missing {name}"] == pytest.approx(share, abs=five_sigma(share, len(tracks)))


@pytest.mark.shared_data
def test_the_field(silicon, tracks):
    """1.382 T; a track gives it to 12 % (scattering), their median to 1.25 x 12 % / sqrt of their number."""
    field = silicon.measured_field(silicon.selected(tracks))
    assert np.median(field) == pytest.approx(1.382, rel=5 * 1.25 * 0.12 / np.sqrt(len(field)))


@pytest.mark.shared_data
def test_events_of_both_kinds_and_their_collisions(silicon, tracks, archive):
    assert np.bincount(tracks.trigger).tolist() == [np.sum(tracks.trigger == value) for value in (0, 1)]
    assert abs((tracks.trigger == 1).mean() - 0.5) < five_sigma(0.5, EVENTS)
    with tarfile.open(archive) as tar:
        members = (member for member in tar if member.name.endswith(".npz"))
        given_points = [np.load(io.BytesIO(tar.extractfile(member).read()))["ip"] for member in islice(members, EVENTS)]
    wrong = np.linalg.norm(tracks.collision - np.array(given_points), axis=1) > 1e-4
    many = np.bincount(tracks.event, minlength=EVENTS) >= 6
    assert wrong[many].mean() < 0.02
    heavy, light = (silicon.figures(tracks.of_events(tracks.trigger == value)) for value in (1, 0))
    assert heavy["displaced tracks"] > 3 * light["displaced tracks"]
    assert heavy["tracks an event"] > 1.3 * light["tracks an event"]


@pytest.mark.shared_data
def test_the_circles_are_those_of_the_sample(silicon, archive):
    """The test archive gives each track's radius in metres, fitted to the same hits by its makers."""
    hits, radii = [], []
    with tarfile.open(archive) as tar:
        for member in islice((member for member in tar if member.name.endswith(".npz")), 100):
            content = np.load(io.BytesIO(tar.extractfile(member).read()))
            complete = content["complete_flags"]
            if complete.any():
                hits.append(content["track_vector"][complete].reshape(-1, 5, 3))
                radii.append(content["r"][complete, 0])
    ours = 0.01 / silicon.curvature(np.concatenate(hits)[:, :, :2])
    ratio = ours / np.concatenate(radii)
    assert np.median(ratio) == pytest.approx(1, abs=0.01)
    assert np.mean(np.abs(ratio - 1) < 0.1) > 0.9


@given(
    radius=st.floats(30, 5000),
    phi=st.floats(-3, 3),
    offset=st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
    missing=st.sampled_from([None, 0, 3, 4]),
)
def test_curvature_of_exact_circles(silicon, radius, phi, offset, missing):
    turns = np.array([2.5, 3.3, 4.1, 7.2, 9.7]) / radius
    x, y = radius * np.sin(turns), radius * (1 - np.cos(turns))
    points = np.stack([x * np.cos(phi) - y * np.sin(phi), x * np.sin(phi) + y * np.cos(phi)], axis=1) + offset
    if missing is not None:
        points[missing] = np.nan
    assert silicon.curvature(points[None])[0] == pytest.approx(1 / radius, rel=1e-4)


def test_curvature_of_two_points_is_unknown(silicon):
    points = np.full((1, 5, 2), np.nan)
    points[0, :2] = [[1, 0], [2, 0]]
    assert np.isnan(silicon.curvature(points)).all()


def simulated_event():
    """A kaon from the collision, a pion of a K_S, an electron of a photon, and hits in both INTT half-layers."""
    positions = [[2.5, 0, 0], [7.2, 0, 1], [7.8, 0, 3], [2.5, 1, 0], [7.3, 0, 1], [2.5, 2, 0]]
    return Event(
        positions=np.array(positions, float),
        features=np.empty((6, 0)),
        labels={"track_id": np.array([4, 4, 4, 2, 2, 3]), "layer": np.array([0, 3, 4, 0, 4, 0])},
        particles={
            "track_id": np.array([4, 1, 2, 3, 5, 6]),
            "pdg": np.array([321, 310, 211, 11, 22, -211]),
            "parent": np.array([0, 0, 1, 5, 0, 0]),
            "px": np.full(6, 0.5),
            "py": np.zeros(6),
            "pz": np.zeros(6),
            "vx": np.array([0, 0, 1.0, 2.0, 0, 0]),
            "vy": np.zeros(6),
            "vz": np.full(6, 3.0),
        },
    )


def test_simulated_events_are_read_and_cut_alike(silicon):
    tracks = silicon.tracks_of([simulated_event(), simulated_event()])
    assert tracks.pdg.tolist() == [211, 11, 321] * 2
    assert tracks.parent_pdg.tolist() == [310, 22, 0] * 2
    np.testing.assert_array_equal(tracks.collision, [[0, 0, 3], [0, 0, 3]])
    np.testing.assert_allclose(tracks.hits[2, 3], [7.5, 0, 2])  # mean of the two half-layers
    assert tracks.seen.sum(axis=1).tolist() == [2, 1, 2] * 2
    assert silicon.selected(tracks).pdg.tolist() == [211, 321] * 2


def test_selection_cuts_what_is_soft_or_misses_the_intt(silicon):
    event = simulated_event()
    for name, value, left in (("px", 0.19, 0), ("pz", 0.5 * 3.5, 0), ("pz", 0.5 * 2.0, 2)):
        changed = {**event.particles, name: np.full(6, value)}
        moved = Event(positions=event.positions, features=event.features, labels=dict(event.labels), particles=changed)
        assert len(silicon.selected(silicon.tracks_of([moved]))) == left


def test_a_straight_track_rises_as_its_slope(silicon):
    tracks = silicon.tracks_of([simulated_event()])
    stiff = silicon.SiliconTracks(
        **{**vars(tracks), "momentum": np.tile([1000.0, 0, 1000.0], (3, 1)), "vertex": np.zeros((3, 3))}
    )
    np.testing.assert_allclose(silicon.height_at(stiff, 7.46), 7.46, rtol=1e-6)
