import math
from fractions import Fraction
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fm4npp import detectors
from fm4npp.detectors import Detector
from fm4npp.detectors.base import Column, Feature
from fm4npp.detectors.composite import CompositeDetector
from fm4npp.detectors.cylindrical import CylindricalDetector
from fm4npp.detectors.mapped import OTHER_SUBSYSTEM
from fm4npp.detectors.sphenix_tpc import LAYERS
from fm4npp.detectors.units import from_centimetres, in_centimetres
from fm4npp.errors import ConfigurationError, DataError


def cylindrical(**fields):
    return detectors.build({"type": "cylindrical", "name": "mine", "radius": (1.0, 10.0), **fields})


def columns(count=4, radius=4.0, **others):
    """Points near a radius in the file's unit, not far from the middle."""
    random = np.random.default_rng(count)
    phi, r = random.uniform(-3, 3, count), random.uniform(0.9, 1.1, count) * radius
    return {"x": r * np.cos(phi), "y": r * np.sin(phi), "z": random.normal(0, radius, count), **others}


def test_large_values_enter_as_the_limit():
    feature = Feature(mean=10.0, std=2.0, clip=3.0)
    assert feature.scaled(np.array([0.0, 4.0, 10.0, 11.0, 16.1])).tolist() == [-3.0, -3.0, 0.0, 0.5, 3.0]
    assert feature.plausible(np.array([11.0, 1900.0, 1e5])).tolist() == [True, True, False]
    assert feature.restored(np.array([3.0])).tolist() == [16.0]


@given(arrays(np.float64, 5, elements=st.floats(0, 1e4)), st.floats(-10, 10), st.floats(0.1, 100), st.booleans())
def test_features_are_scaled_and_restored(values, mean, std, log):
    feature = Feature(mean=mean, std=std, log=log)
    scaled = feature.scaled(values)
    assert scaled.dtype == np.float32
    expected = [((math.log(1 + value) if log else value) - mean) / std for value in values.tolist()]
    np.testing.assert_allclose(scaled, expected, rtol=1e-6, atol=1e-6 * (1 + abs(mean) / std))
    np.testing.assert_allclose(feature.restored(scaled), values, rtol=1e-4, atol=1e-4)


def test_the_published_numbers_of_the_sphenix_tpc():
    detector = detectors.build("sphenix-tpc")
    geometry = detector.geometry
    assert geometry.low == (-2.0, -math.pi, 31.371997833251953)
    assert geometry.high == (2.0, math.pi, 75.38493347167969)
    assert geometry.group_boundaries == (40.0, 57.0)
    assert detector.features["energy"].scaled(np.array([253.0982, 253.0982 + 268.7093])).tolist() == [0.0, 1.0]
    assert len(LAYERS) == 48
    # The outermost surface is flat: 144 planes around the beam (arXiv 2509.05792 and the geometry of 2023).
    assert LAYERS[-1] / math.cos(math.pi / 144) == pytest.approx(geometry.high[2], abs=2e-4)
    assert LAYERS[0] == pytest.approx(geometry.low[2], abs=1e-5)


def test_columns_have_the_names_of_the_file():
    detector = cylindrical(
        columns_of={"x": "hit_x", "energy": "adc", "track_id": "truth", "px": "mom_x"},
        measured={"energy": {"std": 2.0}},
        length_unit="mm",
        no_track=-7,
    )
    asked = {column.name: column.required for column in detector.columns}
    assert asked["hit_x"]
    assert asked["adc"]
    assert not asked["truth"]
    assert not asked["mom_x"]
    given = columns(radius=40.0)
    given["hit_x"] = given.pop("x")
    event = detector.event({**given, "adc": [1, 2, 3, 4], "truth": [5, -7, 6, 5], "event_id": 3})
    np.testing.assert_array_equal(event.positions[:, 0], given["hit_x"] / 10)
    assert event.feature("energy").tolist() == [1, 2, 3, 4]
    assert event.labels["track_id"].tolist() == [5, -1, 6, 5]
    assert (event.event_id, event.detector, event.subsystems) == (3, "mine", ("mine",))


@pytest.mark.parametrize(("unit", "scale"), [("cm", 1.0), ("mm", 0.1), ("m", 100.0), (0.3, 0.3)])
def test_length_units(unit, scale):
    event = cylindrical(length_unit=unit, radius=(0.1 * scale, 10 * scale)).event({"x": [1.0], "y": [2.0], "z": [3.0]})
    np.testing.assert_allclose(event.positions, [[1.0 * scale, 2.0 * scale, 3.0 * scale]], rtol=1e-7)


def test_labels_are_derived_where_the_file_has_none():
    truth = {"pdg": [211, -11, 13, 2212], "px": [0.03, 0.05, 0.0, -0.06], "py": [0.04, 0.04, 0.0, 0.0]}
    labels = cylindrical().event(columns(4, **truth)).labels
    assert labels["particle_class"].tolist() == [1, 4, 0, 3]
    assert labels["is_noise"].tolist() == [True, False, True, False]
    assert set(labels) == {"particle_class", "is_noise"}
    stored = {"particle_class": [0, 0, 1, 1], "is_noise": [True, True, False, False]}
    labels = cylindrical().event(columns(4, **truth, **stored)).labels
    assert labels["particle_class"].tolist() == [0, 0, 1, 1]
    assert labels["is_noise"].tolist() == [True, True, False, False]
    assert cylindrical(noise_below_pt=1.0).event(columns(4, **truth)).labels["is_noise"].all()


def test_particles_and_scalars_are_told_by_their_prefix():
    event = cylindrical().event(
        columns(2, particle_pdg=[11, 22, 13], particle_px=[1.0, 2.0, 3.0], particle_class=[1, 2], event_trigger=1)
    )
    assert set(event.particles) == {"pdg", "px"}
    assert event.scalars == {"trigger": 1}
    assert event.labels["particle_class"].tolist() == [1, 2]


def test_a_column_that_is_mapped_is_no_particle_quantity():
    detector = cylindrical(columns_of={"track_id": "particle_id", "particle_pdg": "mc_pdg", "event_weight": "w"})
    event = detector.event(columns(3, particle_id=[1, 2, 1], particle_px=[1.0], mc_pdg=[11], w=0.5))
    assert {name: values.tolist() for name, values in event.particles.items()} == {"px": [1.0], "pdg": [11]}
    assert event.labels["track_id"].tolist() == [1, 2, 1]
    assert event.scalars == {"weight": 0.5}


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"y": np.zeros(3)}, "3 values in 'y' for 4 positions"),
        ({"track_id": np.zeros(5)}, "5 values in 'track_id'"),
        ({"px": np.ones(1), "py": np.ones(4)}, "1 values in 'px'"),
        ({"px": np.full(4, np.nan), "py": np.ones(4)}, "not finite for 4 spacepoints"),
        ({"pdg": np.array([1.0, 2.5, 3.0, 4.0])}, "pdg"),
        ({"x": np.ones((4, 2))}, "'x'"),
        ({"x": np.array(["a", "b", "c", "d"])}, "'x'"),
        ({"x": np.array([1, None, 2, 3], dtype=object)}, "'x'"),
    ],
)
def test_what_does_not_fit_is_refused(others, words):
    with pytest.raises(DataError, match=words):
        cylindrical().event({**columns(4), **others})


FAULTS = {
    "x is not finite": {"x": [np.nan, 1.0, 1.0, 1.0]},
    "z is not finite": {"z": [np.inf, 1.0, 1.0, 1.0]},
    "on the beam axis (r = 0)": {"x": [0.0, 3.0, 3.0, 3.0], "y": [0.0, 1.0, 1.0, 1.0]},
    "r is out of range": {"x": [24.0, 3.0, 3.0, 3.0], "y": [0.0, 1.0, 1.0, 1.0], "z": np.zeros(4)},
    "eta is out of range": {"z": [1e5, 1.0, 1.0, 1.0]},
    "r is out of range ": {"x": [1e308, 3.0, 3.0, 3.0], "y": [1e308, 1.0, 1.0, 1.0], "z": np.zeros(4)},
    "energy is not finite": {"energy": [-np.inf, 1.0, 1.0, 1.0]},
    "energy is out of range": {"energy": [-0.5, 1.0, 1.0, 1.0]},
    "particle_class is out of range": {"particle_class": [5, -1, 0, 4]},
    "is_noise is out of range": {"is_noise": [2, 1, 0, 1]},
    "track_id is not finite": {"track_id": [np.nan, 1.0, 2.0, 3.0]},
}


@pytest.mark.parametrize("reason", FAULTS)
def test_an_impossible_spacepoint_is_left_out_and_said_to_be(reason):
    detector = cylindrical(measured={"energy": {"low": 0.0}})
    given = {"track_id": np.arange(4), "layer": np.arange(4), "energy": np.ones(4)}
    given = columns(4, **{**given, **{name: np.asarray(values) for name, values in FAULTS[reason].items()}})
    event = detector.event(given)
    assert {why: places.tolist() for why, places in event.left_out.items()} == {reason.strip(): [0]}
    assert event.labels["layer"].tolist() == [1, 2, 3]
    assert event.positions[:, 1].tolist() == given["y"][1:].tolist()
    assert np.isfinite(detector.geometry.coordinates(event.positions)).all()


def test_the_energy_of_a_spacepoint_cannot_be_a_thousand_deviations_off():
    detector = cylindrical(measured={"energy": {"mean": 5.0, "std": 2.0}})
    event = detector.event(columns(4, energy=[2004.0, 2006.0, -1994.0, -1996.0]))
    assert {why: places.tolist() for why, places in event.left_out.items()} == {"energy is out of range": [1, 3]}


@pytest.mark.parametrize("name", ["sphenix-tpc", "star-tpc"])
def test_no_charge_is_negative(name):
    detector = detectors.build(name)
    given = {
        detector.columns_of.get(quantity, quantity): values for quantity, values in columns(3, radius=70.0).items()
    }
    event = detector.event({**given, detector.columns_of.get("energy", "energy"): [5.0, -5.0, 0.0]})
    assert {why: places.tolist() for why, places in event.left_out.items()} == {"energy is out of range": [1]}


def test_particles_give_their_spacepoints_classes():
    table = {"particle_track_id": [7, 3, 5], "particle_pdg": [211, 11, 2212], "particle_px": [1.0, 0.01, 0.2]}
    table |= {"particle_py": [0.0, 0.01, 0.0], "particle_vx": [1.0, 2.0, 3.0]}
    given = columns(4, track_id=np.array([5, 3, 9, 3]), **table)
    labels = cylindrical().event(given).labels
    assert labels["particle_class"].tolist() == [3, 4, -1, 4]
    assert set(labels) == {"track_id", "particle_class"}
    noise = cylindrical(unlisted="noise").event(given).labels["is_noise"]
    assert noise.tolist() == [False, True, True, True]
    empty = {name: [] for name in table}
    assert cylindrical().event({**given, **empty}).labels["particle_class"].tolist() == [-1] * 4
    with pytest.raises(DataError, match="one track_id"):
        cylindrical().event({**given, "particle_track_id": [7, 3, 3]})


def test_energies_and_vertices_of_particles_have_units():
    table = {"particle_px": [1500.0], "particle_vx": [25.0], "particle_pdg": [11]}
    event = cylindrical(energy_unit="MeV", length_unit="mm").event(columns(2, radius=40.0, **table))
    assert {name: values.tolist() for name, values in event.particles.items()} == {
        "px": [1.5],
        "vx": [2.5],
        "pdg": [11],
    }


def test_noise_can_be_what_belongs_to_no_track():
    labels = cylindrical(no_track=0, noise="no-track").event(columns(3, track_id=[0, 4, 0])).labels
    assert labels["is_noise"].tolist() == [True, False, True]
    assert labels["track_id"].tolist() == [-1, 4, -1]


def test_a_format_changes_what_its_reader_needs():
    formats = {"root-tree": {"columns_of": {"x": "hit_x"}, "length_unit": "mm"}}
    detector = cylindrical(formats=formats)
    assert detector.reading("tpcpp-npz") == detector
    reading = detector.reading("root-tree")
    assert (reading.columns_of, reading.length_unit, reading.name) == ({"x": "hit_x"}, "mm", "mine")
    assert detectors.build(detector.spec()) == detector
    for wrong in ({"colums_of": {}}, {"length_unit": "inch"}, {"name": "other"}):
        with pytest.raises(ConfigurationError):
            cylindrical(formats={"root-tree": wrong})


@given(st.floats(-(2.0**100), 2.0**100, width=32), st.sampled_from(["mm", "m", 0.3]))
def test_lengths_in_single_precision_survive_the_change_of_unit(value, unit):
    values = np.array([value], np.float32)
    assert from_centimetres(in_centimetres(values, unit), unit).astype(np.float32) == values
    assert in_centimetres(values, "cm").dtype == np.float32


@given(st.floats(-1e300, 1e300))
def test_lengths_in_double_precision_are_rounded_once(value):
    assert Fraction(value) / 10 == 0 or in_centimetres(np.array([value]), "mm")[0] == float(Fraction(value) / 10)


@pytest.mark.parametrize("fault", [None, np.nan, 1e9])
@pytest.mark.parametrize("labels", [{}, {"track_id": np.arange(30) // 3, "is_noise": np.arange(30) % 2}])
def test_many_events_at_once_are_the_same_as_one_by_one(fault, labels):
    detector = cylindrical(measured={"energy": {"low": 0.0}}, no_track=2)
    given = columns(30, energy=np.ones(30), **labels)
    offsets, ids = np.array([0, 4, 4, 11, 30]), np.array([7, 3, 3, 9])
    if fault is not None:
        given["y"][[2, 5, 10, 29]] = fault
        given["energy"][[2, 3]] = -1
    together = list(detector.events(given, offsets, ids, "a.npz"))
    alone = list(Detector.events(detector, given, offsets, ids, "a.npz"))
    assert len(together) == len(alone) == 4
    for first, second in zip(together, alone, strict=True):
        assert first.positions.tobytes() == second.positions.tobytes()
        assert first.features.tobytes() == second.features.tobytes()
        for name in ("labels", "left_out"):
            a, b = getattr(first, name), getattr(second, name)
            assert {k: (v.dtype, v.tolist()) for k, v in a.items()} == {k: (v.dtype, v.tolist()) for k, v in b.items()}
        assert (first.event_id, first.source, first.detector) == (second.event_id, second.source, second.detector)
        assert not first.positions.flags.writeable
        assert first.ids.dtype == np.int16


@pytest.mark.parametrize("run", [np.repeat([5, 6, 7], 3), np.repeat([5.5, 6, np.nan], 3), np.arange(9)])
def test_of_many_events_each_has_its_own_quantities(run):
    detector = cylindrical(columns_of={"event_run": "run"})
    given = columns(9, run=run, event_weight=np.repeat([1, 2, 3], 3))
    arguments = (given, np.array([0, 3, 6, 9]), np.array([10, 11, 12]), "a.root")
    together, alone = list(detector.events(*arguments)), list(Detector.events(detector, *arguments))
    for first, second in zip(together, alone, strict=True):
        if isinstance(second, DataError):
            assert str(first) == str(second)
        else:
            assert repr(sorted(first.scalars.items())) == repr(sorted(second.scalars.items()))
            assert first.positions.tobytes() == second.positions.tobytes()


def test_many_events_are_made_in_one_go(monkeypatch):
    calls, original = [], CylindricalDetector.event
    monkeypatch.setattr(CylindricalDetector, "event", lambda self, c: calls.append(c) or original(self, c))
    labels = {"particle_class": np.arange(9) % 5, "track_id": np.arange(9), "is_noise": np.arange(9) > 3}
    given = columns(9, **labels, event_weight=np.repeat([1, 2, 3], 3))
    assert len(list(cylindrical().events(given, np.array([0, 3, 6, 9]), np.arange(3), "a.npz"))) == 3
    assert len(calls) == 1


def test_of_many_events_only_the_wrong_one_is_refused():
    detector = cylindrical()
    given = columns(9, track_id=np.array([1, 2, 3, 4, 5.5, 6, 7, 8, 9]))
    outcomes = list(detector.events(given, np.array([0, 3, 6, 9]), np.array([10, 11, 12]), "a.npz"))
    assert [isinstance(outcome, DataError) for outcome in outcomes] == [False, True, False]
    assert "event 11" in str(outcomes[1])


def test_a_layer_range_selects_and_needs_the_layer():
    detector = detectors.build("sphenix-mvtx")
    given = columns(6, layer=np.array([0, 3, 2, 55, 1, -1]), track_id=np.arange(6))
    event = detector.event(given)
    assert event.labels["track_id"].tolist() == [0, 2, 4]
    assert event.labels["layer"].tolist() == [0, 2, 1]
    np.testing.assert_array_equal(event.positions[:, 2], given["z"][[0, 2, 4]])
    assert {reason: places.tolist() for reason, places in event.left_out.items()} == {OTHER_SUBSYSTEM: [1, 3, 5]}
    assert (event.num_read, event.places.tolist()) == (6, [0, 2, 4])
    with pytest.raises(DataError, match="'layer'"):
        detector.event(columns(6))


def test_a_quantity_of_the_event_may_be_given_for_every_spacepoint():
    detector = cylindrical(columns_of={"event_run": "run", "event_id": "evt"})
    event = detector.event(columns(3, run=np.full(3, 7.0), evt=np.full(3, 5, np.float32)))
    assert (event.scalars, event.event_id) == ({"run": 7.0}, 5)
    with pytest.raises(DataError, match="2 values of run"):
        detector.event(columns(3, run=np.array([7.0, 8.0, 7.0])))


def both(count=30):
    layers = np.random.default_rng(1).integers(0, 7, count)
    return columns(
        count, radius=6.0, layer=layers, track_id=np.arange(count), event_trigger=1, particle_pdg=[11], event_id=4
    )


def test_a_composite_keeps_the_order_of_the_file():
    given = both()
    event = detectors.build("sphenix-silicon").event(given)
    np.testing.assert_array_equal(event.positions, np.stack([given[axis] for axis in "xyz"], 1))
    assert event.labels["track_id"].tolist() == list(range(30))
    assert not event.left_out
    assert event.ids.tolist() == (given["layer"] >= 3).astype(int).tolist()
    assert event.subsystems == ("sphenix-mvtx", "sphenix-intt")
    assert (event.detector, event.event_id, event.scalars) == ("sphenix-silicon", 4, {"trigger": 1})
    assert event.particles["pdg"].tolist() == [11]


def test_the_geometry_of_a_composite_holds_its_parts():
    detector = detectors.build("sphenix-silicon")
    geometry = detector.geometry
    assert (geometry.low[2], geometry.high[2]) == (2.0, 11.0)
    assert geometry.layers == (2.523, 3.336, 4.148, 7.188, 7.732, 9.680, 10.262)
    assert geometry.group_boundaries == (2.93, 3.74, (4.148 + 7.188) / 2, 8.7)
    assert set(detector.responses) == set(detector.subsystems)


class TwoScales(CompositeDetector):
    registered_name: ClassVar[str] = "two-scales"
    parts: tuple[CylindricalDetector, ...] = (
        CylindricalDetector(name="in", radius=(1, 3), layer_range=(0, 0), measured={"time": Feature()}),
        CylindricalDetector(name="out", radius=(2, 4), layer_range=(1, 1), measured={"energy": Feature()}),
    )


def test_parts_have_one_system_of_coordinates():
    box = {"type": "cartesian", "name": "box", "low": [0, 0, 0], "high": [1, 1, 1]}
    with pytest.raises(ConfigurationError, match="one system of coordinates and one outward axis"):
        detectors.build({"type": "composite", "parts": ["sphenix-mvtx", box]})
    shells = [
        {"type": "spherical", "name": n, "distance": [d, d + 10], "layer_range": [d, d]}
        for n, d in (("a", 90), ("b", 100))
    ]
    geometry = detectors.build({"type": "composite", "parts": shells}).geometry
    assert (geometry.system, geometry.low[2], geometry.high[2]) == ("spherical", 90, 110)


def test_each_part_of_a_composite_has_its_own_features():
    detector = TwoScales()
    assert detector.subsystem_features == {"in": ("time",), "out": ("energy",)}
    given = columns(4, radius=2.5, layer=np.array([1, 0, 1, 0]), time=np.arange(4) + 1.0, energy=np.arange(4) + 10.0)
    event = detector.event(given)
    assert event.feature_names == ("time", "energy")
    assert event.features.tolist() == [[0, 10], [2, 0], [0, 12], [4, 0]]


def test_a_composite_is_specified_by_names_or_fields():
    spec = {"type": "sphenix-silicon", "name": "vertex", "parts": ["sphenix-mvtx", {"type": "sphenix-intt"}]}
    assert detectors.build(spec) == detectors.build("sphenix-silicon").replace(name="vertex")
    for parts in (["nothing"], 5, ["sphenix-silicon"], [{"radius": [1, 2]}]):
        with pytest.raises(ConfigurationError):
            detectors.build({**spec, "parts": parts})


def test_a_yaml_file_is_a_detector(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("type: cylindrical\nname: mine\nradius: [1, 10]\nmeasured: {energy: {std: 2}}\n")
    detector = detectors.load(path)
    assert detector == cylindrical(measured={"energy": Feature(std=2)})
    assert Column("energy") in detector.columns
    assert detectors.load("star-tpc") == detectors.build("star-tpc")
    for text in ("type: cylindrical\nradios: [1, 2]", "a: [", "3", ""):
        path.write_text(text)
        with pytest.raises(ConfigurationError, match=r"mine\.yaml") as error:
            detectors.load(path)
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigurationError, match=r"absent\.yaml"):
        detectors.load(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("radius: [50, 10]", "every low must lie below its high"),
        ("radius: [1, 10]\nlayers: [3, 2]", "layers must increase"),
        ("radius: [1, 10]\ngroup_boundaries: [2, 2]", "group_boundaries must increase"),
        ("radius: [1, 10]\nformats: {trackml: {radius: [9, 3]}}", "every low must lie below its high"),
    ],
)
def test_a_yaml_file_without_a_geometry_is_one_line(tmp_path, fields, said):
    path = tmp_path / "mine.yaml"
    path.write_text(f"type: cylindrical\n{fields}\n")
    with pytest.raises(ConfigurationError, match=rf"mine\.yaml: .*{said}") as error:
        detectors.load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("fields", [{"low": [0, 0, 0], "high": [1, 0, 1]}, {"layers": [2, 1]}])
def test_a_box_without_a_geometry_is_one_line(fields):
    with pytest.raises(ConfigurationError, match="every low must|layers must") as error:
        detectors.build({"type": "cartesian", "low": [0, 0, 0], "high": [1, 1, 1], **fields})
    assert "\n" not in str(error.value)
