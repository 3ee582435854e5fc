from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fm4npp.errors import ConfigurationError, DataError, FM4NPPError
from fm4npp.event import Event
from fm4npp.geometry import Geometry
from fm4npp.plotting import draw_event
from fm4npp.plotting.colours import GREY, PALETTE, colours_of_tracks, double_majority
from fm4npp.plotting.panels import panels_of, views_of

GEOMETRY = Geometry(low=(-2, -np.pi, 30), high=(2, np.pi, 76), layers=(31.0, 40.0, 50.0, 75.0))
PIXELS = Geometry(system="cartesian", low=(-30, -60, 0), high=(30, 60, 250), periodic=(False,) * 3)


def made(tracks=4, hits=20, noise=1, labelled=True):
    """Straight tracks from the origin, the last `noise` of them noise, spacepoints in random order."""
    rng = np.random.default_rng(tracks)
    radius = np.tile(np.linspace(31, 75, hits), tracks)
    phi = np.repeat(rng.uniform(-np.pi, np.pi, tracks), hits)
    slope = np.repeat(rng.uniform(-1, 1, tracks), hits)
    track = np.repeat(np.arange(tracks), hits)
    labels = {"track_id": track, "is_noise": track >= tracks - noise} if labelled else {}
    event = Event(
        positions=np.stack([radius * np.cos(phi), radius * np.sin(phi), radius * slope], axis=1),
        features=np.empty((tracks * hits, 0)),
        labels=labels,
        detector="toy-tracker",
        event_id=17,
        source="made by hand",
    )
    return event.take(rng.permutation(tracks * hits))


def drawn(tmp_path, *args, **options):
    """The display as SVG text."""
    return draw_event(*args, output=tmp_path / "event.svg", **options).read_text(encoding="utf-8")


def size_of_png(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(data[16:20]), int.from_bytes(data[20:24])


@pytest.mark.parametrize(
    ("tracks", "predicted", "geometry"),
    [
        (0, False, None),
        (0, True, PIXELS),
        (1, False, PIXELS),
        (1, True, None),
        (16, False, GEOMETRY),
        (500, False, PIXELS),
        (500, True, GEOMETRY),
    ],
)
def test_every_size_of_event_becomes_a_picture(tmp_path, tracks, predicted, geometry):
    event = made(tracks, hits=1 if tracks == 1 else 20)
    predictions = event.labels["track_id"] // 2 if predicted else None
    path = draw_event(event, predictions, output=tmp_path / "folder" / "event.png", geometry=geometry)
    width, height = size_of_png(path)
    assert min(width, height) > 300
    assert max(width, height) < 4000
    assert [file.name for file in path.parent.iterdir()] == ["event.png"]


@pytest.mark.parametrize("suffix", ["PNG", "pdf", "svg"])
def test_the_same_event_gives_the_same_bytes(tmp_path, suffix):
    event = made()
    paths = [
        draw_event(event, event.labels["track_id"], output=tmp_path / f"{name}.{suffix}", geometry=GEOMETRY)
        for name in "ab"
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    other = draw_event(event, event.labels["track_id"] * 0, output=tmp_path / f"c.{suffix}", geometry=GEOMETRY)
    assert other.read_bytes() != paths[0].read_bytes()


def test_the_display_says_what_it_shows(tmp_path):
    event = made(tracks=4)
    predictions = event.labels["track_id"].copy()
    predictions[predictions == 0] = 1  # merged: as many of either, so nobody has the majority
    predictions[np.flatnonzero(predictions == 2)[:3]] = -1
    text = drawn(tmp_path, event, predictions, geometry=GEOMETRY)
    for words in (
        "toy-tracker, event 17",
        "Truth: 80 spacepoints, 4 tracks",
        "Prediction: 3 tracks, 2 of 4 tracks found",
        "noise (truth)",
        "in no track",
        "predicted track without a true partner",
        "x (cm)",
        "y (cm)",
        "z (cm)",
        "r sign(y) (cm)",
        "made by hand",
    ):
        assert words in text, words
    assert "no spacepoints" not in text
    plain = drawn(tmp_path, made(noise=0), title="my own title")
    assert "my own title" in plain
    assert not any(words in plain for words in ("noise", "in no track", "partner", "Prediction"))


def test_an_empty_event_says_so(tmp_path):
    empty = made().take(np.arange(0))
    assert drawn(tmp_path, empty, geometry=GEOMETRY).count("no spacepoints") == 2
    assert drawn(tmp_path, empty, np.empty(0), geometry=GEOMETRY).count("no spacepoints") == 4


def test_an_event_without_truth_shows_the_prediction_or_plain_spacepoints(tmp_path):
    event = made(labelled=False)
    assert "80 spacepoints, no truth" in drawn(tmp_path, event)
    text = drawn(tmp_path, event, np.arange(80) % 3)
    assert "Prediction: 80 spacepoints, 3 tracks" in text
    assert "Truth" not in text


def test_a_matched_prediction_has_the_colour_of_its_true_track():
    event = made(tracks=6, noise=0)
    truth = event.labels["track_id"]
    predicted = 100 + truth
    predicted[truth == 1] = 100  # merged into 0: neither has a majority
    predicted[np.flatnonzero(truth == 2)[:8]] = 200  # split 12 to 8: the larger part is the partner
    predicted[np.flatnonzero(truth == 3)[:5]] = -1
    shown, compared = panels_of(event, predicted)
    for track in (2, 3, 4, 5):
        mine = predicted == 100 + track
        assert mine.any()
        np.testing.assert_array_equal(compared.colours[mine], shown.colours[mine])
    np.testing.assert_array_equal(compared.hollow, np.isin(predicted, [100, 200]))
    np.testing.assert_array_equal(compared.colours[predicted < 0], np.tile(GREY, (5, 1)))
    assert "4 of 6 tracks found" in compared.heading


def test_colours_do_not_depend_on_the_order_and_neighbours_differ():
    event = made(tracks=12, noise=0)
    colours = colours_of_tracks(event.labels["track_id"], event.positions)
    index = np.random.default_rng(0).permutation(len(event))
    again = colours_of_tracks(event.labels["track_id"][index], event.positions[index])
    np.testing.assert_array_equal(again, colours[index])
    assert len(np.unique(colours, axis=0)) == 12
    distance = np.linalg.norm(PALETTE[:, None] - PALETTE, axis=2) + np.eye(len(PALETTE))
    assert distance.min() > 0.15
    assert np.linalg.norm(PALETTE - GREY, axis=1).min() > 0.2


def test_spacepoints_of_no_track_are_grey():
    event = made()
    track = np.where(event.labels["track_id"] == 0, -1, event.labels["track_id"])
    colours = colours_of_tracks(track, event.positions)
    np.testing.assert_array_equal((colours == GREY).all(axis=1), track < 0)


@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 3)), max_size=40))
def test_double_majority_is_that_of_a_brute_force_search(hits):
    predicted, truth = np.array(hits, dtype=np.int64).reshape(-1, 2).T
    expected = {
        p: t
        for p in range(4)
        for t in range(4)
        if 2 * sum(hit == (p, t) for hit in hits) > max(sum(h[0] == p for h in hits), sum(h[1] == t for h in hits))
    }
    assert double_majority(predicted, truth) == expected


def test_projections_are_x_y_and_r_z():
    event = made(tracks=9)
    x, y, z = event.positions.T.astype(float)
    front, side = views_of(event, GEOMETRY)
    np.testing.assert_array_equal(front.points, np.stack([x, y], axis=1))
    np.testing.assert_array_equal(side.points[:, 0], z)
    np.testing.assert_allclose(side.points[:, 1], np.sqrt(x**2 + y**2) * np.sign(y))
    for view in (front, side):
        assert view.layers == GEOMETRY.layers
        for values, (low, high) in zip(view.points.T, view.limits, strict=True):
            assert (values > low).all()
            assert (values < high).all()
    front, side = views_of(event, PIXELS)
    np.testing.assert_array_equal(side.points, np.stack([z, y], axis=1))
    assert side.limits[0] == (min(0.0, z.min()), 250.0)
    assert front.layers == ()


def test_the_users_matplotlib_is_left_alone(tmp_path):
    import matplotlib as mpl

    event = made()
    expected = draw_event(event, output=tmp_path / "a.png").read_bytes()
    backend = mpl.rcParams._get_backend_or_none()
    with mpl.rc_context({"lines.linewidth": 7.0, "axes.facecolor": "pink", "font.size": 30, "savefig.dpi": 30}):
        before = mpl.rcParams.copy()  # reading all of rcParams itself would choose a backend
        assert draw_event(event, output=tmp_path / "b.png").read_bytes() == expected
        assert mpl.rcParams.copy() == before
    assert mpl.rcParams._get_backend_or_none() == backend
    assert "matplotlib.pyplot" not in sys.modules


def test_importing_costs_neither_matplotlib_nor_the_simulation():
    code = "import sys, fm4npp.plotting; print([m for m in sys.modules if m in ('matplotlib', 'fm4npp.simulation')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(FM4NPPError, match=r"pip install fm4npp\[plot\]"):
        draw_event(made(), output=tmp_path / "event.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("predictions", [np.zeros(79, dtype=int), np.zeros(80), np.zeros((80, 2), dtype=int)])
def test_predictions_that_do_not_fit_are_refused(tmp_path, predictions):
    with pytest.raises(DataError, match="event 17") as caught:
        draw_event(made(), predictions, output=tmp_path / "event.png")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_format_or_place_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"\.gif"):
        draw_event(made(), output=tmp_path / "event.gif")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(FM4NPPError, match="cannot be written"):
        draw_event(made(), output=tmp_path / "folder.png")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_a_small_event_in_a_large_box_is_shown_from_near():
    positions = np.array([[1.0, 2.0, 3.0], [2.0, 2.5, 5.0]])
    event = Event(positions=positions, features=np.empty((2, 0)))
    near, far = views_of(event, PIXELS)
    np.testing.assert_allclose(far.limits, ((2.8, 5.2), (1.05, 3.45)))
    np.testing.assert_allclose(near.limits, ((0.3, 2.7), (1.05, 3.45)))
    wide = Event(positions=positions * [1, 20, 40], features=np.empty((2, 0)))
    assert views_of(wide, PIXELS)[1].limits == ((0.0, 250.0), (-60.0, 60.0))
