from pathlib import Path

import numpy as np
import pytest

from fm4npp import detectors
from fm4npp.detectors.composite import CompositeDetector
from fm4npp.detectors.media import MEDIA
from fm4npp.detectors.response import Material, Response
from fm4npp.errors import ConfigurationError
from fm4npp.simulation.ionisation import stopping_power
from fm4npp.simulation.layers import layers_of, surfaces_of
from fm4npp.testing.detectors import check_detector

EXAMPLES = Path(__file__).parent.parent / "examples/detectors"
FILES = sorted(path.name for path in EXAMPLES.glob("*_tracker.yaml"))
REGISTERED = ("sphenix-tpc", "sphenix-mvtx", "sphenix-intt", "sphenix-silicon", "sphenix", "star-tpc")


def load(name):
    return detectors.load(EXAMPLES / name if name.endswith(".yaml") else name)


def crossed(name, radius):
    """Share of X0 that a track at right angles crosses before a radius."""
    surfaces = surfaces_of(load(name))
    return float(surfaces.radiation_lengths[surfaces.radius < radius - 1e-3].sum())


def test_there_is_a_file_for_every_facility():
    assert set(FILES) >= {f"{name}_tracker.yaml" for name in ("aleph", "delphi", "eic", "opal", "zeus")}


@pytest.mark.parametrize("name", [*REGISTERED, *FILES])
def test_layers_and_surfaces(name):
    detector = load(name)
    layers, surfaces = layers_of(detector), surfaces_of(detector)
    assert (np.diff(surfaces.radius) > 0).all()
    assert surfaces.outer_radius > surfaces.radius[-1]
    assert surfaces.outer_half_length >= surfaces.half_length[surfaces.layer >= 0].max()
    assert sorted(surfaces.layer[surfaces.layer >= 0]) == list(range(len(layers.radius)))
    np.testing.assert_allclose(surfaces.radius[np.argsort(surfaces.layer)][-len(layers.radius) :], layers.radius)
    for values in (surfaces.grams, surfaces.radiation_lengths, surfaces.interaction_lengths, layers.electrons):
        assert (values > 0).all()
    assert (layers.dead_phi * layers.sectors < 2 * np.pi).all()
    assert layers.energy == any("energy" in part for part in detector.subsystem_features.values())
    assert ((layers.gain > 0) <= layers.energy).all()


@pytest.mark.parametrize("name", [*REGISTERED, *FILES])
def test_the_layers_of_a_part_are_within_its_bounds(name):
    for geometry, _ in load(name).responses.values():
        assert (np.diff(geometry.layers) > 0).all()
        assert geometry.low[2] <= geometry.layers[0] <= geometry.layers[-1] <= geometry.high[2]
        assert all(geometry.low[2] < boundary < geometry.high[2] for boundary in geometry.group_boundaries)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        # Sums of what G4_Pipe and PHG4TpcSubsystem, PHG4MvtxSupport, PHG4InttSubsystem describe:
        # 0.2 % pipe, 1.1 % + 0.5 % MVTX, 3.6 % + 0.2 % INTT, 1.8 % field cage, 0.1 % gas.
        ("sphenix-tpc", 0.07, 0.08),
        # NIM A 499 (2003) 659: 0.62 % field cage; with 0.28 % beam pipe, air and gas.
        ("star-tpc", 0.0090, 0.0125),
    ],
)
def test_what_is_in_front_of_the_first_row(name, low, high):
    assert low < crossed(name, load(name).geometry.layers[0]) < high


@pytest.mark.parametrize("name", ["sphenix-mvtx", "sphenix-intt", "sphenix-silicon", "sphenix-tpc"])
def test_every_tracker_of_sphenix_has_the_same_material(name):
    """A subsystem that is simulated takes the place of the material that stands for it."""
    for radius in (2.3, 5.5, 12.0, 31.0):
        assert crossed(name, radius) == pytest.approx(crossed("sphenix", radius), rel=1e-6)
    # the chamber's gas is one cylinder of 45 cm, or the rows, which do not touch
    assert crossed(name, 92.0) == pytest.approx(crossed("sphenix", 92.0), abs=3e-4)


def test_material_that_stands_for_a_subsystem_is_left_out():
    tpc = detectors.build("sphenix-tpc")
    material = [("sphenix-tpc", 20.0), ("sphenix-tpc/front", 21.0), ("sphenix-tpcx", 22.0), ("other/sphenix-tpc", 23.0)]
    listed = tuple(
        Material(name=name, radius=radius, half_length=10.0, medium="carbon", radiation_lengths=0.01)
        for name, radius in material
    )
    response = tpc.response.model_copy(update={"material": listed})
    surfaces = surfaces_of(tpc.replace(response=response.model_dump()))
    assert surfaces.radius[surfaces.layer < 0].tolist() == [22.0, 23.0]


def test_the_rows_of_the_sphenix_tpc():
    """The geometry of 2023: thickness 0.534, 0.595, 1.012, 1.088 cm; pads of 1.64 to 2.26 mm."""
    layers = layers_of(load("sphenix-tpc"))
    assert layers.thickness[[0, 1, 14, 15, 16, 31, 32, 47]].tolist() == [
        *[0.534, 0.595] * 2,
        *[1.012] * 2,
        *[1.088] * 2,
    ]
    pitch = layers.merge_rphi / 2 * 10
    expected = [1.71, 2.18, 1.70, 2.33, 1.61, 2.06]  # 2 pi r / pads; the inner edges of the groups are 1.64, 1.66, 1.56
    assert pitch[[0, 15, 16, 31, 32, 47]] == pytest.approx(expected, abs=0.006)
    assert layers.dead_phi[[0, 16, 32]] == pytest.approx(np.pi / 6 - np.array([0.5024, 0.5087, 0.5097]), abs=5e-5)
    assert (layers.planes == 144).all()


def test_the_rows_of_the_star_tpc():
    """The outermost row is 144 pads of 6.7 mm on the straight side of a 12-gon."""
    layers = layers_of(load("star-tpc"))
    side = 2 * layers.radius * np.tan(np.pi / 12)
    active = 2 * layers.radius * np.tan(np.pi / 12 - layers.dead_phi / 2)
    assert active[-1] == pytest.approx(144 * 0.67)
    assert active[0] == pytest.approx(88 * 0.335)
    assert ((side - active > 1.4) & (side - active < 5)).all()
    assert layers.radius[-1] / np.cos(np.pi / 12) < load("star-tpc").radius[1]


@pytest.mark.parametrize("name", FILES)
def test_a_minimum_ionising_particle_leaves_an_energy_of_one(name):
    layers = layers_of(load(name))
    which = np.flatnonzero(layers.gain > 0)
    if not len(which):
        assert not layers.energy
        return
    (name,) = {layers.media[layer] for layer in which}
    # Knock-on electrons above 1 MeV fly on their own; 3.5 is the beta gamma of the minimum.
    loss = stopping_power(np.array([3.5]), MEDIA[name], cut=1e6)[0] * MEDIA[name].density * 1e3  # keV/cm
    np.testing.assert_allclose(loss * layers.thickness[which] * layers.gain[which], 1.0, rtol=0.03)
    assert (layers.threshold[which] * layers.gain[which] < 0.2).all()


@pytest.mark.parametrize("name", FILES)
def test_a_file_keeps_the_contract_and_its_layers_follow_each_other(name):
    detector = load(name)
    assert isinstance(detector, CompositeDetector)
    check_detector(detector)
    first = 0
    for part in detector.parts:
        assert part.layer_range == (first, first + len(part.layers) - 1)
        first += len(part.layers)
    assert detectors.build(detector.spec()) == detector


@pytest.mark.parametrize(
    ("name", "field", "counts"),
    [
        ("aleph_tracker.yaml", 1.5, (2, 8, 21)),
        ("delphi_tracker.yaml", 1.2, (3, 24, 16, 5)),
        ("eic_tracker.yaml", 1.7, (3, 1, 1, 1, 1, 1)),
        ("opal_tracker.yaml", 0.435, (2, 18, 159)),
        ("zeus_tracker.yaml", 1.43, (3, 72)),
    ],
)
def test_published_fields_and_numbers_of_layers(name, field, counts):
    detector = load(name)
    layers = layers_of(detector)
    assert layers.field == field
    assert tuple(np.bincount(layers.subsystem)) == counts


@pytest.mark.parametrize(
    ("parts", "words"), [([], "needs parts"), (["sphenix-mvtx", "sphenix-mvtx"], "names a subsystem twice")]
)
def test_parts_need_names_of_their_own(parts, words):
    with pytest.raises(ConfigurationError, match=words):
        detectors.build({"type": "composite", "parts": parts})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("{material: [%(pipe)s, %(pipe)s]}", "response: material: beam-pipe is listed twice"),
        (
            "{half_length: 50, outer_half_length: 49.9}",
            "response: outer_half_length: .* 49.9 cm, inside half_length 50",
        ),
    ],
)
def test_a_response_that_contradicts_itself_is_one_line(tmp_path, fields, said):
    pipe = "{name: beam-pipe, radius: 2, half_length: 60, medium: beryllium, radiation_lengths: 0.002}"
    path = tmp_path / "mine.yaml"
    path.write_text(f"type: cylindrical\nradius: [1, 10]\nlayers: [3, 4]\nresponse: {fields % {'pipe': pipe}}\n")
    with pytest.raises(ConfigurationError, match=rf"mine\.yaml: .*{said}") as error:
        detectors.load(path)
    assert "\n" not in str(error.value)


def test_a_response_may_end_where_it_measures():
    assert Response(half_length=50.0, outer_half_length=50.0).outer_half_length == 50.0
