import itertools

import numpy as np
import pytest
import uproot
from hypothesis import given
from hypothesis import strategies as st

from fm4npp import detectors
from fm4npp.data import read_events, write_events
from fm4npp.data.reading import Source
from fm4npp.detectors.objects import momenta, pseudo_positions
from fm4npp.errors import ConfigurationError, DataError
from fm4npp.event import particle_class
from fm4npp.testing.detectors import check_detector, made_columns
from tests.readers import aleph_writer, delphi_writer, opal_writer, zeus_writer


def objects(**fields):
    return detectors.build({"type": "objects", "name": "mine", **fields})


def columns(count=5, seed=0, **others):
    values = np.random.default_rng(seed).normal(0, 3, (3, count)).astype(np.float32)
    return {**dict(zip(("px", "py", "pz"), values, strict=True)), **others}


def stored(events, folder):
    """The events after they were written and read again."""
    write_events(events, folder / "events.parquet")
    return list(read_events(folder / "events.parquet"))


def check_momenta(event, px, py, pz):
    """Positions by another way than the detector's: spherical trigonometry on the momenta."""
    np.testing.assert_array_equal(event.features[:, :3], np.stack([px, py, pz], axis=1))
    assert event.positions.dtype == np.float64
    p = np.stack([px, py, pz]).astype(np.float64)
    rho, phi = 100 / (1 + np.sqrt(p[0] ** 2 + p[1] ** 2)), np.arctan2(p[1], p[0])
    theta = np.arctan2(np.sqrt(p[0] ** 2 + p[1] ** 2), p[2])
    expected = np.stack([rho * np.cos(phi), rho * np.sin(phi), rho / np.tan(theta)], axis=1)
    np.testing.assert_allclose(event.positions, expected, rtol=1e-12, atol=1e-12)


def test_hard_objects_are_inside_and_soft_ones_outside():
    px = np.array([0.001, 0.1, 1.0, 10.0, 1000.0])
    radius = np.hypot(*pseudo_positions(px, np.zeros(5), px).T[:2])
    assert (np.diff(radius) < 0).all()
    np.testing.assert_allclose(radius, 100 / (1 + px), rtol=1e-15)
    assert ((radius > 0) & (radius <= 100)).all()


@given(st.lists(st.tuples(*[st.floats(-500, 500)] * 3), min_size=1, max_size=20))
def test_positions_are_inverted(rows):
    momentum = np.array([row for row in rows if np.hypot(row[0], row[1]) > 1e-3]).reshape(-1, 3)
    pt = np.hypot(momentum[:, 0], momentum[:, 1])
    found = momenta(pseudo_positions(*momentum.T))
    size = np.abs(momentum).max(axis=1, initial=0)
    assert (np.abs(found - momentum).max(axis=1, initial=0) <= 1e-14 * (1 + pt) / pt * size * 10).all()


def test_the_direction_is_kept():
    given = columns(50)
    event = objects().event(given)
    coordinates = objects().geometry.natural(event.positions)
    p = np.stack([given[name].astype(np.float64) for name in ("px", "py", "pz")])
    np.testing.assert_allclose(coordinates[:, 0], np.arctanh(p[2] / np.linalg.norm(p, axis=0)), rtol=1e-9)
    np.testing.assert_allclose(coordinates[:, 1], np.arctan2(p[1], p[0]), rtol=1e-12)


def test_momenta_survive_bit_for_bit():
    given = columns(200)
    event = objects().event(given)
    for name in ("px", "py", "pz"):
        assert event.feature(name).tobytes() == given[name].tobytes()
    np.testing.assert_allclose(event.feature("pt"), np.hypot(given["px"], given["py"]), rtol=1e-6)


def test_objects_along_the_beam_and_impossible_ones_are_left_out():
    given = columns(7)
    for name, values in {"px": [1, 0, 0, np.nan, np.inf, 1e-9, 1], "py": [1, 0, 0, 1, 1, 0, 1]}.items():
        given[name] = np.array(values, np.float32)
    given["pz"] = np.array([1, 5, 0, 1, 1, 100, -1], np.float32)
    event = objects().event(given)
    assert event.places.tolist() == [0, 6]
    assert {reason: places.tolist() for reason, places in event.left_out.items()} == {
        "on the beam axis (r = 0)": [1, 2],
        "px is not finite": [3, 4],
        "eta is out of range": [5],
    }


def test_momenta_in_other_units():
    given = columns(6)
    thousands = {name: values.astype(np.float64) * 1000 for name, values in given.items()}
    factors = dict.fromkeys(("px", "py", "pz"), 0.001)
    event, expected = objects(energy_unit="MeV", factors=factors).event(thousands), objects().event(given)
    np.testing.assert_allclose(event.positions, expected.positions, rtol=1e-12)
    np.testing.assert_allclose(event.features, expected.features, rtol=1e-6)


def test_measured_momenta_are_no_truth():
    event = objects().event(columns(3, px=np.array([0.01, 0.01, 1])))
    assert dict(event.labels) == {}
    labels = objects().event(columns(3, pdg=np.array([211, 0, 13]))).labels
    assert labels["particle_class"].tolist() == [1, -1, 0]


MISSING = {
    "measured": {
        "px": {},
        "py": {},
        "pz": {},
        "d0": {"mean": 2.0, "std": 3.0},
        "n": {"mean": 0.5, "log": True},
        "no": {},
    },
    "missing": {"no": {"d0": [-1, -999], "n": [-1]}},
}


def test_what_is_missing_is_the_mean_and_a_flag():
    detector = objects(**MISSING)
    given = columns(5, d0=np.array([-1.0, -1.0, -999.0, 0.5, -999.0]), n=np.array([-1, 4, -1, 3, -1], np.int16))
    event = detector.event(given)
    assert event.feature("no").tolist() == [1, 0, 1, 0, 1]
    assert event.feature("d0").tolist() == [2, -1, 2, 0.5, 2]
    for name in ("d0", "n"):
        scaled = detector.features[name].scaled(event.feature(name))
        np.testing.assert_allclose(scaled[[0, 2, 4]], 0, atol=1e-6)
    assert event.feature("n")[[1, 3]].tolist() == [4, 3]
    assert "no" not in {column.name for column in detector.columns}


def test_a_factor_does_not_apply_to_what_is_missing():
    event = objects(**MISSING, factors={"d0": 0.1}).event(columns(2, d0=np.array([-1.0, 5.0]), n=np.array([-1, 1])))
    np.testing.assert_allclose(event.feature("d0"), [2, 0.5])


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ({"other": {"d0": [-1]}}, "other"),
        ({"no": {"z0": [-1]}}, "z0"),
        ({"no": {"d0": [-1]}, "n": {"d0": [-2]}}, "d0"),
        ({"no": {"no": [1]}}, "no"),
        ({"no": {}}, "every flag"),
        ({"no": {"d0": []}}, "every flag"),
    ],
)
def test_a_flag_that_means_nothing_is_refused(missing, words):
    with pytest.raises(ConfigurationError, match=words):
        objects(**{**MISSING, "missing": missing})


def test_the_class_of_an_object_is_a_label():
    detector = objects(columns_of={"object_class": "flag"})
    for flags in (np.array([0, 4, 5], np.int16), np.array([0.0, 4.0, 5.0], np.float32)):
        event = detector.event(columns(3, flag=flags))
        assert event.labels["object_class"].tolist() == [0, 4, 5]
        assert event.labels["object_class"].dtype == np.int64
    event = detector.event(columns(3, flag=np.array([np.nan, 0.5, 5.0])))
    assert event.labels["object_class"].tolist() == [5]
    assert event.left_out["object_class is no whole number"].tolist() == [0, 1]
    with pytest.raises(DataError, match="2 values in 'flag' for 3 objects"):
        detector.event(columns(3, flag=np.zeros(2)))


def test_objects_by_place_in_the_table():
    detector = objects(particles_by_place=True, no_track=-1)
    given = columns(3, track_id=np.array([2, -1, 0]), particle_pdg=np.array([211, 22, -11]))
    event = detector.event(given)
    assert event.labels["particle_class"].tolist() == [4, -1, 1]
    assert event.particles["track_id"].tolist() == [0, 1, 2]
    with pytest.raises(DataError, match="particle 3 of 3"):
        detector.event({**given, "track_id": np.array([3, 0, 0])})


def test_a_yaml_file_of_objects(tmp_path):
    (tmp_path / "tracks.yaml").write_text(
        "type: objects\nname: zeus-tracks\n"
        "columns_of: {px: Trk_px, py: Trk_py, pz: Trk_pz, charge: Trk_charge, event_id: Eventnr, event_run: Runnr}\n"
        "measured: {px: {std: 5}, py: {std: 5}, pz: {std: 5}, pt: {mean: 0.6, std: 0.5, log: true}, charge: {}}\n"
    )
    branches = zeus_writer.write(tmp_path / "zeus.root")
    events = list(read_events(tmp_path / "zeus.root", tmp_path / "tracks.yaml"))
    for index, event in enumerate(events):
        check_momenta(event, *(branches[f"Trk_p{axis}"][index] for axis in "xyz"))
        np.testing.assert_array_equal(event.feature("charge"), branches["Trk_charge"][index])


@pytest.mark.parametrize("name", ["objects", "aleph", "delphi", "opal", "opal-events", "zeus"])
def test_the_contract_of_detectors(name):
    detector = detectors.build(name)
    others = {
        column for quantity, column in detector.columns_of.items() if quantity.startswith(("event_", "particle_"))
    }
    made = {column: values for column, values in made_columns(detector).items() if column not in others}
    check_detector(detector, made)


@pytest.mark.parametrize(
    ("pwflag", "absent"), [(np.int16, (-999.0, -127)), (np.int32, (-1.0, -1)), (np.float32, (-999.0, -127))]
)
def test_aleph_trees(tmp_path, pwflag, absent):
    expected = aleph_writer.write_tree(tmp_path / "mit.root", pwflag=pwflag, absent=absent)
    events = stored(read_events(tmp_path / "mit.root", "aleph"), tmp_path)
    assert len(events) == len(expected)
    for event, values in zip(events, expected, strict=True):
        check_momenta(event, values["px"], values["py"], values["pz"])
        assert (event.event_id, event.scalars["run"]) == (values["event_id"], values["event_run"])
        assert event.scalars["ecm"] == np.float32(values["event_ecm"])
        assert event.scalars["vertex_x"] == np.float32(values["event_vertex_x"])
        neutral = values["charge"] == 0
        np.testing.assert_array_equal(event.feature("track_missing"), neutral)
        for name in ("d0", "z0", "ntpc", "nitc", "nvdet"):
            np.testing.assert_array_equal(event.feature(name)[~neutral], values[name][~neutral])
        for name in ("mass", "charge"):
            np.testing.assert_array_equal(event.feature(name), values[name])
        np.testing.assert_array_equal(event.labels["object_class"], values["pwflag"])


def test_a_track_at_minus_one_centimetre_is_a_track():
    given = {name: np.ones(2) for name in ("px", "py", "pz", "mass", "charge", "z0", "ntpc", "nitc", "nvdet")}
    event = detectors.build("aleph").event({**given, "d0": np.array([-1.0, 0.5])})
    assert event.feature("d0").tolist() == [-1, 0.5]
    assert event.feature("track_missing").tolist() == [0, 0]
    event = detectors.build("aleph").event({**given, "d0": np.array([-999.0, 0.5])})
    assert list(event.left_out) == ["d0 is out of range"]


@pytest.mark.parametrize("rntuple", [True, False])
@pytest.mark.parametrize("simulated", [True, False])
def test_delphi(tmp_path, rntuple, simulated):
    branches = delphi_writer.write(tmp_path / "delphi.root", rntuple=rntuple, simulated=simulated)
    events = stored(read_events(tmp_path / "delphi.root", "delphi"), tmp_path)
    assert [event.event_id for event in events] == branches["Event_evtNumber"].tolist()
    vector = "Part_fourMomentum.fCoordinates.f"
    for index, event in enumerate(events):
        check_momenta(event, *(branches[vector + axis][index] for axis in "XYZ"))
        np.testing.assert_array_equal(event.feature("energy"), branches[vector + "T"][index])
        np.testing.assert_array_equal(event.feature("charge"), branches["Part_charge"][index])
        np.testing.assert_array_equal(event.labels["object_class"], branches["Part_pdgId"][index])
        assert (event.scalars["run"], event.scalars["ecm"]) == (48758, np.float32(91.2))
        if not simulated:
            assert "track_id" not in event.labels
            continue
        links, pdg = branches["Part_simIdx"][index], branches["SimPart_pdgId"][index]
        np.testing.assert_array_equal(event.labels["track_id"], links)
        expected = [-1 if link < 0 else particle_class(pdg[link : link + 1])[0] for link in links]
        assert event.labels["particle_class"].tolist() == expected
        np.testing.assert_array_equal(event.particles["px"], branches["Sim" + vector + "X"][index])


def test_opal_tracks(tmp_path):
    for simulated in (True, False):
        branches = opal_writer.write(tmp_path / "opal.root", simulated=simulated)
        events = stored(read_events(tmp_path / "opal.root", "opal"), tmp_path)
        assert [event.event_id for event in events] == branches["Ievnt"].tolist()
        for index, event in enumerate(events):
            check_momenta(event, *branches["Ptrk"][index].T)
            np.testing.assert_array_equal(event.feature("charge"), np.where(branches["Ichg"][index] == 1, 1, -1))
            for name, branch in (("d0", "D0"), ("z0", "Z0"), ("dedx", "Dedx"), ("num_hits", "Nhcj")):
                np.testing.assert_array_equal(event.feature(name), branches[branch][index])
            if simulated:
                pdg = branches["Iluc"][index]
                expected = np.where(pdg == 0, -1, particle_class(pdg))
                np.testing.assert_array_equal(event.labels["particle_class"], expected)
            else:
                assert not event.labels


@pytest.mark.parametrize("capitals", [True, False])
def test_zeus(tmp_path, capitals):
    branches = zeus_writer.write(tmp_path / "zeus.root", capitals=capitals)
    events = stored(read_events(tmp_path / "zeus.root", "zeus"), tmp_path)
    branches = {name.capitalize(): values for name, values in branches.items()}
    assert [event.event_id for event in events] == branches["Eventnr"].tolist()
    for index, event in enumerate(events):
        check_momenta(event, *branches["Zufo"][index][:, :3].T)
        np.testing.assert_array_equal(event.feature("energy"), branches["Zufo"][index][:, 3])
        np.testing.assert_array_equal(event.feature("calorimeter_energy"), branches["Zufoecal"][index])
        np.testing.assert_array_equal(event.labels["object_class"], branches["Tufo"][index][:, 0])
        assert event.scalars["vertex_z"] == branches["Zvtx"][index]


def check_course(event, branches, index):
    assert len(event) == 1
    assert event.positions.tolist() == [[50, 0, 0]]
    assert event.scalars["number"] == branches["event"][index]
    assert {"run", "event", "E_lep"}.isdisjoint({*event.feature_names, *event.scalars})
    for name in ("Ncharged", "Pcharged", "E_ecal", "E_hcal"):
        assert event.feature(name)[0] == branches[name][index]
    for name in ("cos_thru", "cos_thet"):
        value = branches[name][index]
        assert event.feature(f"{name}_missing")[0] == (value == 999)
        assert event.feature(name)[0] == (0 if value == 999 else value)


def test_opal_course_ntuples(tmp_path):
    branches = opal_writer.write_course(tmp_path / "course.root")
    events = stored(read_events(tmp_path / "course.root", "opal-events"), tmp_path)
    assert [event.event_id for event in events] == list(range(50))
    for index, event in enumerate(events):
        check_course(event, branches, index)


@pytest.mark.shared_data
@pytest.mark.parametrize(("name", "count"), [("ee", 93_802), ("mm", 94_381), ("qq", 98_563), ("tt", 79_214)])
def test_the_opal_samples(shared_data, name, count):
    path = shared_data / "ee" / f"opal_{name}.root"
    source = Source.of(path, "opal-events")
    with uproot.open(path) as file:
        branches = file["myTTree"].arrays(library="np")
    assert len(branches["run"]) == count
    last = source.parts[-1]
    assert list(source.reader.read_part(path, last, ("Ncharged",), ()))[-1]["event_id"] == count - 1
    for event in (*itertools.islice(source.outcomes(), 300), *itertools.islice(source.outcomes(last), 300)):
        check_course(event, branches, event.event_id)
    # What is judged in whole files, event by event, would take minutes: no value is one that is left out.
    detector = detectors.build("opal-events")
    for feature in ("Ncharged", "Pcharged", "E_ecal", "E_hcal", "cos_thru", "cos_thet"):
        values = branches[feature]
        values = values[values != 999] if feature.startswith("cos") else values
        assert detector.features[feature].plausible(values).all()
