import itertools
import json

import numpy as np
import pytest
import torch
from hilbertcurve.hilbertcurve import HilbertCurve
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fm4npp import serializers
from fm4npp.errors import ConfigurationError, DataError, NotFittedError
from fm4npp.geometry import Geometry
from fm4npp.serializers.radial import outwards
from fm4npp.serializers.raster_scan import RasterScan, boxes, equal_count_edges, gap_middle, share
from fm4npp.serializers.space_filling import NUM_BITS, cells, hilbert_transpose, interleave

TPC = Geometry(low=(-2, -np.pi, 30), high=(2, np.pi, 80), group_boundaries=(40, 57))
BARE = Geometry(low=(-2, -np.pi, 30), high=(2, np.pi, 80))
CARTESIAN = Geometry(
    system="cartesian", low=(0, 0, 0), high=(1, 1, 1), periodic=(False,) * 3, causal_axis=0, group_boundaries=(0.5,)
)


def uniform_edges(*num_bins):
    return tuple(tuple(np.linspace(0, 1, bins + 1).tolist()) for bins in num_bins)


def three_groups(count, seed=0):
    """Hits on three groups of layers with gaps around 40 and 57 cm, the gaps not centred there."""
    random = np.random.default_rng(seed)
    radius = np.concatenate([random.uniform(*limits, count // 3) for limits in ((31, 39), (40.5, 56), (57.2, 75))])
    points = np.stack(
        [random.normal(0.5, 0.2, len(radius)), random.beta(2, 3, len(radius)), (radius - 30) / 50], axis=1
    )
    return random.permutation(np.clip(points, 0, 1).astype(np.float32))


def on_grid(steps, max_size=30):
    """Coordinates on a coarse grid, so that ties and duplicates are common; some lie out of bounds."""
    values = st.integers(-1, steps + 1).map(lambda step: step / steps)
    return st.integers(0, max_size).flatmap(lambda n: arrays(np.float32, (n, 3), elements=values))


@pytest.mark.parametrize(("geometry", "slowest_first"), [(TPC, (2, 1, 0)), (CARTESIAN, (0, 2, 1))])
@pytest.mark.parametrize("num_bins", [(8, 8, 6), (2, 3, 4), (1, 1, 1)])
def test_raster_scan_visits_boxes_causal_axis_slowest(geometry, slowest_first, num_bins):
    scan = RasterScan(num_bins=num_bins, edges=uniform_edges(*num_bins))
    expected = []
    for indices in itertools.product(*(range(num_bins[axis]) for axis in slowest_first)):
        point = [0.0] * 3
        for axis, index in zip(slowest_first, indices, strict=True):
            point[axis] = (index + 0.5) / num_bins[axis]
        expected.append(point)
    expected = np.array(expected, dtype=np.float32)
    given = np.random.default_rng(0).permutation(expected)
    np.testing.assert_array_equal(given[scan.order(given, geometry)], expected)


def test_raster_scan_orders_a_box_by_r_then_phi_then_eta():
    scan = RasterScan(num_bins=(1, 1, 2), edges=((0, 1), (0, 1), (0, 0.5, 1)))
    expected = np.array(
        [[0.9, 0.9, 0.1], [0.3, 0.2, 0.2], [0.4, 0.2, 0.2], [0.1, 0.3, 0.2], [0.0, 0.0, 0.6], [0.0, 0.0, 0.7]]
    ).astype(np.float32)
    for permutation in itertools.permutations(range(len(expected))):
        given = expected[list(permutation)]
        np.testing.assert_array_equal(given[scan.order(given, TPC)], expected)


@given(on_grid(8))
@settings(deadline=None)
def test_boxes_bin_like_right_closed_bucketize(coordinates):
    edges = uniform_edges(4, 2, 8)
    place = [
        torch.bucketize(torch.from_numpy(coordinates[:, axis].astype(float)), torch.tensor(edges[axis]).double()) - 1
        for axis in range(3)
    ]
    eta, phi, r = (p.clamp(0, len(e) - 2).numpy() for p, e in zip(place, edges, strict=True))
    np.testing.assert_array_equal(boxes(coordinates, edges, 2), (r * 2 + phi) * 4 + eta)


def test_points_on_an_edge_belong_below_and_points_outside_to_the_nearest_box():
    edges = ((0.0, 1.0), (0.0, 1.0), (0.2, 0.4, 0.6))
    r = np.array([-5, 0.1, 0.2, 0.3, 0.4, 0.4000001, 0.6, 7])
    coordinates = np.stack([np.full_like(r, 0.5), np.full_like(r, 0.5), r], axis=1)
    assert boxes(coordinates, edges, 2).tolist() == [0, 0, 0, 0, 0, 1, 1, 1]


def test_fit_places_boundaries_in_the_gaps_and_splits_at_equal_counts():
    points = three_groups(3000)
    edges = RasterScan().fit([points], TPC).edges
    r = np.sort(points[:, 2].astype(float))
    inner, middle, outer = r[:1000], r[1000:2000], r[2000:]
    assert edges[2] == pytest.approx(
        [
            inner[0],
            np.median(inner),
            (inner[-1] + middle[0]) / 2,
            np.median(middle),
            (middle[-1] + outer[0]) / 2,
            np.median(outer),
            outer[-1],
        ],
        abs=1e-15,
    )
    for axis in (0, 1):
        assert (edges[axis][0], edges[axis][-1]) == (0, 1)
        counts = np.histogram(points[:, axis], bins=edges[axis])[0]
        assert len(counts) == 8
        assert np.ptp(counts) <= 2
    in_boxes = np.bincount(boxes(points, edges, 2) // 64, minlength=6)
    assert in_boxes.tolist() == [500] * 6


def test_fit_without_groups_splits_the_causal_axis_at_equal_counts():
    points = three_groups(3000)
    edges = RasterScan().fit([points], BARE).edges
    assert (edges[2][0], edges[2][-1]) == (points[:, 2].min(), points[:, 2].max())
    assert np.bincount(boxes(points, edges, 2) // 64).tolist() == [500] * 6


def test_fit_on_another_causal_axis():
    points = np.random.default_rng(0).uniform(0, 1, (1000, 3))
    points[:, 0] = np.where(points[:, 0] > 0.5, points[:, 0] + 0.2, points[:, 0])
    edges = RasterScan(num_bins=(4, 2, 3)).fit([points], CARTESIAN).edges
    x = np.sort(points[:, 0])
    below = x[x <= 0.5]
    assert edges[0][2] == pytest.approx((below[-1] + x[len(below)]) / 2)
    assert edges[0][1] == pytest.approx(np.median(below))
    assert [len(edge) for edge in edges] == [5, 3, 4]


def test_fit_streams_and_does_not_depend_on_how_events_are_cut():
    points = three_groups(999)
    whole = RasterScan().fit([points], TPC)
    assert RasterScan().fit(iter(np.array_split(points, 7)), TPC) == whole
    assert RasterScan().fit((points[i : i + 1] for i in np.random.default_rng(0).permutation(999)), TPC) == whole
    assert whole.fit([points], TPC) == whole


@pytest.mark.parametrize(
    ("num_bins", "groups", "shares"), [(6, 3, [2, 2, 2]), (7, 3, [3, 2, 2]), (3, 3, [1, 1, 1]), (5, 1, [5])]
)
def test_bins_are_shared_out_evenly(num_bins, groups, shares):
    assert share(num_bins, groups) == shares


def test_every_group_has_a_bin():
    fitted = RasterScan(num_bins=(8, 8, 2)).fit([three_groups(30)], TPC)
    assert fitted.num_bins == (8, 8, 3)
    assert [len(edges) for edges in fitted.edges] == [9, 9, 4]
    assert RasterScan().fit([three_groups(30)], TPC).num_bins == (8, 8, 6)


@pytest.mark.parametrize("events", [[], [np.empty((0, 3))], [np.empty((0, 3)), np.full((1, 3), 0.5)]])
def test_fit_on_too_little_is_an_error(events):
    with pytest.raises(DataError, match="cannot be fitted to [01] spacepoints"):
        RasterScan().fit(events, TPC)


def test_fit_on_infinite_coordinates_is_an_error():
    with pytest.raises(DataError, match="not finite"):
        RasterScan().fit([np.array([[np.inf, 0, 0], [0, 0, 0]])], TPC)


@pytest.mark.parametrize("limits", [(31, 39), (41, 56), (58, 75), (90, 95)])
def test_fit_with_empty_groups_keeps_valid_edges(limits):
    random = np.random.default_rng(0)
    points = random.uniform(0, 1, (100, 3))
    points[:, 2] = (random.uniform(*limits, 100) - 30) / 50
    edges = RasterScan().fit([points], TPC).edges
    assert len(edges[2]) == 7
    assert list(edges[2]) == sorted(edges[2])
    occupied = np.unique(boxes(points, edges, 2) // 64)
    assert len(occupied) == 2


def test_gap_middle():
    values = np.array([1.0, 2.0, 4.0])
    assert gap_middle(values, 2.5) == 3
    assert gap_middle(values, 2.0) == 3  # a value on the boundary is below it
    assert gap_middle(values, 0.5) == 0.5
    assert gap_middle(values, 4.0) == 4.0


def test_edges_stay_inside_when_most_points_are_outside():
    edges = equal_count_edges(np.array([-3.0, -2, -1, 0.5, 5]), 4, 0.0, 1.0)
    assert edges == (0, 0, 0, 0.5, 1)


@given(on_grid(2))
@settings(deadline=None)
def test_few_distinct_values_do_not_break_the_order(coordinates):
    scan = RasterScan(num_bins=(5, 7, 9)).fit([coordinates, np.zeros((2, 3))], TPC)
    assert sorted(scan.order(coordinates, TPC)) == list(range(len(coordinates)))


def test_raster_scan_must_be_fitted():
    with pytest.raises(NotFittedError, match=r"processor\.fit.* never refitted silently"):
        RasterScan().order(np.zeros((1, 3)), TPC)


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        (uniform_edges(8, 8, 5), "edges: 6 on axis 2 for 6 bins, 7 are needed"),
        (((0, 1), *uniform_edges(8, 6)), "axis 0 for 8 bins"),
        ((*uniform_edges(8, 8), (0, 1, 2, 1, 4, 5, 6)), "decrease on axis 2"),
        (uniform_edges(8, 8), "edges"),
    ],
)
def test_wrong_edges_are_an_error(edges, message):
    with pytest.raises(ConfigurationError, match=message):
        serializers.build({"type": "raster-scan", "edges": edges})


@pytest.mark.parametrize("name", serializers.names())
def test_json_round_trip(name):
    serializer = serializers.build(name).fit([three_groups(600)], TPC)
    restored = serializers.build(json.loads(json.dumps(serializer.spec())))
    assert restored == serializer
    points = three_groups(900, seed=1)
    np.testing.assert_array_equal(restored.order(points, TPC), serializer.order(points, TPC))


@pytest.mark.parametrize("geometry", [TPC, CARTESIAN])
@pytest.mark.parametrize("name", serializers.names())
@given(coordinates=on_grid(4), seed=st.integers(0, 100))
@settings(deadline=None, max_examples=40)
def test_the_sequence_does_not_depend_on_the_order_of_the_input(name, geometry, coordinates, seed):
    serializer = serializers.build(name).fit([three_groups(60)], geometry)
    order = serializer.order(coordinates, geometry)
    assert order.dtype == np.int64
    assert sorted(order) == list(range(len(coordinates)))
    shuffled = np.random.default_rng(seed).permutation(coordinates)
    np.testing.assert_array_equal(shuffled[serializer.order(shuffled, geometry)], coordinates[order])


def test_radial_goes_outwards():
    points = three_groups(300)
    r = points[serializers.build("radial").order(points, TPC)][:, 2]
    assert (np.diff(r) >= 0).all()


@pytest.mark.parametrize("geometry", [TPC, CARTESIAN])
@given(
    coordinates=st.one_of(
        on_grid(2),
        on_grid(30),
        st.integers(0, 9).flatmap(
            lambda n: arrays(np.float32, (n, 3), elements=st.floats(-(2.0**60), 2.0**60, width=32))
        ),
    ),
    dtype=st.sampled_from([np.float32, np.float64]),
)
@settings(deadline=None, max_examples=200)
def test_outwards_is_the_causal_order(geometry, coordinates, dtype):
    coordinates = coordinates.astype(dtype)
    np.testing.assert_array_equal(outwards(coordinates, geometry), geometry.causal_order(coordinates))


@pytest.mark.parametrize("num_bins", [(8, 8, 6), (1, 40, 2), (300, 3, 100)])
def test_few_edges_and_many_give_the_boxes_of_a_search(num_bins):
    points = three_groups(900)
    edges = RasterScan(num_bins=num_bins).fit([points], BARE).edges
    points[:6] = [[edge[len(edge) // 2] for edge in edges]] * 6  # on an edge, as far as float32 can be
    eta, phi, r = (np.searchsorted(edge[1:-1], points[:, axis], side="left") for axis, edge in enumerate(edges))
    expected = (r * num_bins[1] + phi) * num_bins[0] + eta
    np.testing.assert_array_equal(boxes(points, edges, 2), expected)


@given(arrays(np.int64, (3, 5), elements=st.integers(0, 2**NUM_BITS - 1)))
@settings(deadline=None)
def test_interleave_is_morton_order(axes):
    expected = [
        sum(((int(axes[axis, i]) >> bit) & 1) << (3 * bit + 2 - axis) for bit in range(NUM_BITS) for axis in range(3))
        for i in range(5)
    ]
    assert interleave(axes).tolist() == expected


@given(arrays(np.int64, (5, 3), elements=st.integers(0, 2**NUM_BITS - 1)))
@settings(deadline=None)
def test_hilbert_distances_equal_another_implementation(points):
    expected = HilbertCurve(NUM_BITS, 3).distances_from_points(points.tolist())
    assert interleave(hilbert_transpose(points.T)).tolist() == expected


def test_hilbert_curve_goes_to_a_neighbouring_cell_every_step():
    cube = np.stack(np.meshgrid(*[np.arange(16)] * 3, indexing="ij")).reshape(3, -1)
    distance = interleave(hilbert_transpose(cube))
    assert sorted(distance) == list(range(16**3))
    assert (np.abs(np.diff(cube[:, np.argsort(distance)], axis=1)).sum(axis=0) == 1).all()


def test_cells_have_the_causal_axis_last_and_end_where_the_curve_ends():
    coordinates = np.array([[0.00015, 0.5, 1.0], [-1, 6.5534, 7], [np.inf, -np.inf, 6.5535]])
    assert cells(coordinates, TPC).T.tolist() == [[1, 5000, 10000], [0, 65534, 65535], [65535, 0, 65535]]
    assert cells(coordinates[:1], CARTESIAN).T.tolist() == [[5000, 10000, 1]]


@pytest.mark.parametrize("name", ["hilbert", "z-order"])
def test_points_of_one_cell_go_outwards(name):
    coordinates = np.array([[0.5, 0.5, 0.50003], [0.5, 0.50004, 0.50001], [0.50002, 0.5, 0.50001], [0.5, 0.5, 0.50002]])
    order = serializers.build(name).order(coordinates.astype(np.float32), TPC)
    assert order.tolist() == [2, 1, 3, 0]
