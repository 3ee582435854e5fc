"""Probes against scikit-learn, and the separation of tracks against definitions written out."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import silhouette_score
from sklearn.preprocessing import StandardScaler

from fm4npp.evaluation import probes
from fm4npp.evaluation.separation import knn_purity, silhouette


def clouds(size=400, width=6, seed=0):
    random = np.random.default_rng(seed)
    labels = random.choice(3, size, p=[0.7, 0.2, 0.1])
    features = random.normal(size=(size, width)) + 1.5 * np.eye(3, width)[labels]
    return probes.standardised(features.astype(np.float32))[0], labels


def test_features_are_standardised_by_the_training_spacepoints():
    random = np.random.default_rng(0)
    train, other = random.normal(3, 7, size=(50, 4)).astype(np.float32), random.normal(size=(5, 4)).astype(np.float32)
    scaler = StandardScaler().fit(train)
    for ours, theirs in zip(probes.standardised(train, other), (train, other), strict=True):
        np.testing.assert_allclose(ours, scaler.transform(theirs), atol=1e-5)
    constant = np.full((50, 1), 1e6, np.float32)
    np.testing.assert_array_equal(probes.standardised(constant, constant + 1)[1], 0)


def test_the_linear_classifier_is_weighted_logistic_regression():
    features, labels = clouds()
    reference = LogisticRegression(C=1 / (2 * probes.RIDGE * len(labels)), class_weight="balanced", tol=1e-8)
    expected = reference.fit(features.astype(np.float64), labels).predict_proba(features)
    np.testing.assert_allclose(probes.classes(features, labels, features, 3, "linear"), expected, atol=5e-3)


def test_a_class_that_never_occurs_is_never_likely():
    features, labels = clouds()
    found = probes.classes(features, labels, features, 4, "linear")
    assert found[:, 3].max() < 0.34
    assert (found.argmax(axis=1) == labels).mean() > 0.7


def test_the_linear_regression_is_ridge():
    features, _ = clouds()
    truth = 3 + 5 * features[:, 0] + np.random.default_rng(1).normal(size=len(features))
    reference = Ridge(alpha=probes.RIDGE * len(features)).fit(features.astype(np.float64), truth)
    np.testing.assert_allclose(
        probes.values(features, truth, features, "linear"), reference.predict(features), atol=1e-3
    )


def test_one_layer_learns_what_no_line_can():
    random = np.random.default_rng(0)
    features = random.normal(size=(2000, 2)).astype(np.float32)
    labels = (features[:, 0] * features[:, 1] > 0).astype(np.int64)
    right = {
        depth: (probes.classes(features, labels, features, 2, depth).argmax(axis=1) == labels).mean()
        for depth in ("linear", "one-layer")
    }
    assert right["linear"] < 0.6
    assert right["one-layer"] > 0.9
    truth = features[:, 0] * features[:, 1]
    error = np.abs(probes.values(features, truth, features, "one-layer") - truth).mean()
    assert error < 0.3 * np.abs(truth - truth.mean()).mean()


def events_of(sizes):
    """Tracks of these sizes in each event; features whose first two columns name the track, the others say nothing."""
    random = np.random.default_rng(0)
    tracks = np.concatenate([np.repeat(np.arange(len(event)), event) for event in sizes])
    offsets = np.concatenate([[0], np.cumsum([sum(event) for event in sizes])])
    angle = tracks + 0.05 * random.normal(size=len(tracks))
    signal = 0.3 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.concatenate([signal, random.normal(size=(len(tracks), 6))], axis=1).astype(np.float32), tracks, offsets


def test_a_triplet_map_finds_the_directions_that_part_tracks():
    features, tracks, offsets = events_of([[20, 25, 30], [40, 10], [15, 15, 15, 15]] * 4)
    mapped = features @ probes.triplet_map(features, tracks, offsets)
    before, after = (
        np.mean([knn_purity(space[a:b], tracks[a:b]) for a, b in itertools.pairwise(offsets)])
        for space in (features, mapped)
    )
    assert before < 0.6
    assert after > 0.9


@given(st.lists(st.lists(st.integers(0, 5), min_size=0, max_size=4), min_size=1, max_size=4), st.integers(0, 9))
def test_triplets_are_of_one_event(sizes, seed):
    tracks = np.concatenate([np.repeat(np.arange(-1, len(event) - 1), event) for event in sizes] or [[]]).astype(int)
    offsets = np.concatenate([[0], np.cumsum([sum(event) for event in sizes])]).astype(int)
    pools = probes._Triplets(tracks, offsets)
    if not len(pools.anchors):
        return
    anchor, partner, strangers = pools.draw(np.random.default_rng(seed), 50)
    event = np.repeat(np.arange(len(sizes)), np.diff(offsets))
    assert (anchor != partner).all()
    assert (tracks[anchor] == tracks[partner]).all()
    assert (event[anchor] == event[partner]).all()
    assert (tracks[anchor][:, None] != tracks[strangers]).all()
    assert (tracks[strangers] >= 0).all()
    assert (event[anchor][:, None] == event[strangers]).all()


def test_without_two_tracks_there_is_nothing_to_part():
    assert not probes.triplet_map(np.ones((4, 3), np.float32), np.zeros(4, int), np.array([0, 4])).any()


def slow_purity(features, tracks, neighbours):
    shares = []
    for here in np.flatnonzero(tracks >= 0):
        distance = np.linalg.norm(features - features[here], axis=1)
        others = [i for i in np.argsort(distance, kind="stable") if i != here and tracks[i] >= 0]
        wanted = min(neighbours, (tracks == tracks[here]).sum() - 1)
        if wanted:
            shares.append(np.mean([tracks[i] == tracks[here] for i in others[:wanted]]))
    return np.mean(shares)


@pytest.mark.parametrize("neighbours", [1, 3, 10, 100])
def test_purity_is_that_of_the_definition(neighbours):
    random = np.random.default_rng(neighbours)
    features, tracks = random.normal(size=(60, 3)), random.integers(-1, 6, 60)
    assert knn_purity(features, tracks, neighbours) == pytest.approx(slow_purity(features, tracks, neighbours))


def test_tracks_that_are_points_are_perfectly_apart():
    tracks = np.repeat(np.arange(4), 5)
    features = np.eye(4)[tracks]
    assert knn_purity(features, tracks) == 1.0
    assert silhouette(features, tracks) == 1.0
    shuffled = np.random.default_rng(0).permutation(20)
    assert knn_purity(features[shuffled], tracks[shuffled]) == 1.0


def test_silhouette_leaves_out_what_has_no_track():
    random = np.random.default_rng(0)
    features, tracks = random.normal(size=(30, 3)), np.array([*([0] * 10), *([1] * 10), *([-1] * 9), 7])
    assert silhouette(features, tracks) == pytest.approx(silhouette_score(features[:20], tracks[:20]))


@pytest.mark.parametrize("tracks", [[], [-1, -1], [3], [3, 3, 3], [1, 2, 3]])
def test_an_event_without_two_tracks_has_no_separation(tracks):
    features = np.random.default_rng(0).normal(size=(len(tracks), 2))
    assert np.isnan(silhouette(features, np.array(tracks, int)))
    assert np.isnan(knn_purity(features, np.array(tracks, int)))
