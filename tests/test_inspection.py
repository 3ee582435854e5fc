from __future__ import annotations

import json

import awkward
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
import yaml
from typer.testing import CliRunner

from fm4npp import detectors
from fm4npp.cli import app
from fm4npp.convert import convert
from fm4npp.data import read_events, write_events
from fm4npp.errors import DataError
from fm4npp.event import Event
from fm4npp.inspection import describe, guesses, inspect_events, inspect_scan, propose, read_with
from fm4npp.inspection.names import choices
from fm4npp.inspection.yaml_text import Line, text
from fm4npp.readers import Table
from tests.readers import root_rows_writer, trackml_writer

LAYERS = (3.0, 5.0, 12.0, 26.0, 42.0, 74.0)


def call(*arguments, status=0):
    result = CliRunner().invoke(app, ["inspect", *(str(argument) for argument in arguments)])
    assert result.exit_code == status, result.output
    return result


def summary(*arguments):
    return json.loads(call(*arguments, "--json").stdout.splitlines()[-1])


def hits(count, seed=0, scale=1.0, ids=None):
    """Spacepoints on cylinders around the z axis, in units of cm / scale."""
    generator = np.random.default_rng(seed)
    layer = generator.integers(0, len(LAYERS), count)
    phi, eta = generator.uniform(-np.pi, np.pi, count), generator.uniform(-1.5, 1.5, count)
    radius = np.array(LAYERS)[layer]
    x, y, z = scale * radius * np.cos(phi), scale * radius * np.sin(phi), scale * radius * np.sinh(eta)
    track = generator.integers(1, 9, count) if ids is None else generator.choice(ids, count)
    return {"x": x, "y": y, "z": z, "adc": generator.exponential(200, count).astype(np.int32), "trackID": track} | {
        "layer": layer.astype(np.int32)
    }


def write_tree(path, events, prefix="Hits_", extra=None):
    """A tree with one list a quantity and entry, and single numbers an entry."""
    lists = {prefix + name: awkward.Array([event[name] for event in events]) for name in events[0]}
    columns = lists | (extra or {})
    with uproot.recreate(path) as file:
        file.mktree(
            "T",
            {
                name: values.type.content if isinstance(values, awkward.Array) else values.dtype
                for name, values in columns.items()
            },
        )
        file["T"].extend(columns)


def converted(path, tmp_path, proposal=None):
    """A file's events by the proposal, from a YAML file through the conversion into an events file."""
    proposal = proposal or propose(path)
    (tmp_path / "mine.yaml").write_text(proposal.yaml)
    report = convert([path], tmp_path / "mine.yaml", tmp_path / "mine.parquet")
    assert report.accounting.events_read == report.num_events
    return list(read_events(tmp_path / "mine.parquet"))


@pytest.mark.parametrize(("scale", "unit"), [(1.0, "cm"), (10.0, "mm"), (0.01, "m")])
def test_a_proposal_for_a_tree_converts_it_exactly(tmp_path, scale, unit):
    given = [hits(count, seed, scale) for seed, count in enumerate((300, 0, 1, 400))]
    write_tree(tmp_path / "a b.root", given, extra={"EventNr": np.array([7, 3, 5, 9])})
    proposal = propose(tmp_path / "a b.root")
    assert proposal.spec["type"] == "cylindrical"
    assert proposal.spec["length_unit"] == unit
    names = {"x": "Hits_x", "y": "Hits_y", "z": "Hits_z", "energy": "Hits_adc", "track_id": "Hits_trackID"}
    assert proposal.spec["columns_of"] == names | {"layer": "Hits_layer", "event_id": "EventNr"}
    np.testing.assert_allclose(proposal.spec["layers"], LAYERS, rtol=1e-4)
    assert 0 <= proposal.spec["radius"][0] < 3 < 74 < proposal.spec["radius"][1] < 90
    assert proposal.spec["no_track"] is None
    events = converted(tmp_path / "a b.root", tmp_path, proposal)
    assert [event.event_id for event in events] == [7, 3, 5, 9]
    for event, own in zip(events, given, strict=True):
        expected = np.stack([own[axis] for axis in "xyz"], axis=1)
        expected = {"cm": expected, "mm": expected / 10, "m": expected * 100}[unit]
        np.testing.assert_array_equal(event.positions, expected)
        np.testing.assert_array_equal(event.feature("energy"), own["adc"])
        np.testing.assert_array_equal(event.labels["track_id"], own["trackID"])


def test_a_box_is_cartesian(tmp_path):
    generator = np.random.default_rng(0)
    given = [{axis: generator.uniform(-100, 100, 500) for axis in ("posX", "posY", "posZ")} for _ in range(4)]
    write_tree(tmp_path / "box.root", given, prefix="")
    proposal = propose(tmp_path / "box.root")
    assert proposal.spec["type"] == "cartesian"
    assert proposal.spec["measured"] == {}
    assert all(
        -120 <= low < -95 and 95 < high <= 120
        for low, high in zip(proposal.spec["low"], proposal.spec["high"], strict=True)
    )
    assert sum(map(len, converted(tmp_path / "box.root", tmp_path))) == 2000


def test_a_proposal_for_rows(tmp_path):
    written = root_rows_writer.write(tmp_path / "svtx.root", sizes=(400, 1, 300))
    proposal = propose(tmp_path / "svtx.root")
    columns = proposal.spec["columns_of"]
    assert columns["x"] == "ntp_cluster/x"
    assert columns["energy"] == "ntp_cluster/adc"
    assert columns["track_id"] == "ntp_cluster/gtrackID"
    assert proposal.spec["nan_is_no_track"]
    assert proposal.spec["negative_tracks"]
    assert "trackID" in proposal.yaml  # the other candidate
    for event, (number, clusters, _) in zip(converted(tmp_path / "svtx.root", tmp_path), written, strict=True):
        assert event.event_id == number
        np.testing.assert_array_equal(event.positions, np.stack([clusters[axis] for axis in "xyz"], axis=1))
        np.testing.assert_array_equal(event.labels["track_id"] < 0, np.isnan(clusters["gtrackID"]))


def test_a_proposal_for_lists_in_parquet(tmp_path):
    given = [hits(count, seed) for seed, count in enumerate((200, 0, 300))]
    table = {f"hit_{name}": [event[name].tolist() for event in given] for name in given[0]}
    pq.write_table(pa.table(table), tmp_path / "hits.parquet")
    assert propose(tmp_path / "hits.parquet").spec["columns_of"]["z"] == "hit_z"
    events = converted(tmp_path / "hits.parquet", tmp_path)
    for event, own in zip(events, given, strict=True):
        np.testing.assert_array_equal(event.positions, np.stack([own[axis] for axis in "xyz"], axis=1))


def test_a_proposal_for_trackml_csv(tmp_path):
    written = trackml_writer.write(tmp_path / "events", sizes=(200, 150))
    proposal = propose(tmp_path / "events")
    assert proposal.spec["length_unit"] == "mm"
    for event, tables in zip(converted(tmp_path / "events", tmp_path), written.values(), strict=True):
        expected = np.stack([np.array(tables["hits"][axis]) / 10 for axis in "xyz"], axis=1)
        np.testing.assert_array_equal(event.positions, expected)


def test_the_command_prints_yaml_alone(tmp_path):
    write_tree(tmp_path / "hits.root", [hits(300), hits(200, 1)])
    result = call(tmp_path / "hits.root", "--propose")
    detector = detectors.build(yaml.safe_load(result.stdout))
    assert detector.name == "my-detector"
    assert summary(tmp_path / "hits.root", "--propose")["spec"] == yaml.safe_load(result.stdout)
    call(tmp_path / "hits.root", "--propose", "--detector", "star-tpc", status=1)


def test_without_positions_the_columns_are_listed(tmp_path):
    write_tree(tmp_path / "objects.root", [{"px": np.ones(3), "py": np.ones(3), "pz": np.ones(3), "e": np.ones(3)}])
    result = call(tmp_path / "objects.root", "--propose", status=1)
    assert result.stdout == ""
    assert "nothing in it looks like positions" in result.stderr
    assert "Hits_px" in result.stderr


def test_positions_that_are_all_zero_are_refused(tmp_path):
    write_tree(tmp_path / "zeros.root", [{axis: np.zeros(5) for axis in "xyz"}] * 2)
    with pytest.raises(DataError, match="all positions are zero in Hits_x"):
        propose(tmp_path / "zeros.root")


def test_an_events_file_needs_no_proposal(events_files):
    with pytest.raises(DataError, match="needs no detector"):
        propose(events_files["train"])


@pytest.mark.parametrize("bad", ["length", "fraction", "twice"])
def test_columns_that_do_not_belong_are_left_out_and_named(tmp_path, bad):
    given = [hits(50, seed) for seed in range(3)]
    if bad == "length":
        for event in given:
            event["pdg"] = np.full(7, 211)
    elif bad == "fraction":
        for event in given:
            event["pdg"] = np.full(50, 211.5)
    extra = {}
    if bad == "twice":
        ids = [[1, 1, 2]] * 3
        extra = {f"MCParticle_{name}": awkward.Array(ids) for name in ("id", "pdg")}
    write_tree(tmp_path / "hits.root", given, extra=extra)
    proposal = propose(tmp_path / "hits.root")
    assert {"length": "7 values for 50", "fraction": "pdg cannot be", "twice": "two particles"}[bad] in proposal.yaml
    assert not {"pdg", "particle_track_id"} & proposal.spec["columns_of"].keys()
    assert proposal.accounting.spacepoints_used == 150
    assert len(converted(tmp_path / "hits.root", tmp_path)) == 3


def test_particles_are_mapped(tmp_path):
    given = [hits(50, seed) for seed in range(2)]
    columns = {"trackID": np.arange(1, 9), "PDG": np.full(8, -211), "px": np.full(8, 250.0), "py": np.ones(8)}
    extra = {f"MCParticle_{name}": awkward.Array([values.tolist()] * 2) for name, values in columns.items()}
    write_tree(tmp_path / "hits.root", given, extra=extra)
    proposal = propose(tmp_path / "hits.root")
    assert proposal.spec["energy_unit"] == "MeV"
    event = converted(tmp_path / "hits.root", tmp_path)[0]
    np.testing.assert_array_equal(event.particles["px"], np.full(8, 0.25))
    assert (event.labels["particle_class"] == 1).all()


@pytest.mark.parametrize(
    ("columns", "chosen"),
    [
        (("x", "y", "z", "true_x", "true_y", "true_z"), "x"),
        (("true_x", "true_y", "true_z"), "true_x"),
        (("gx", "gy", "gz", "px", "py", "pz"), "gx"),
        (("fX", "fY", "fZ"), "fX"),
        (("h.position.x", "h.position.y", "h.position.z", "h.mom.x", "h.mom.y", "h.mom.z"), "h.position.x"),
        (("A_x", "A_y", "A_z", "B_x", "B_y", "B_z", "B_adc"), "B_x"),
        (("px", "py", "pz", "vx", "vy", "vz", "ex", "ey", "ez", "Mc_vtx_x", "Mc_vtx_y", "Mc_vtx_z"), None),
        (("x", "y"), None),
    ],
)  # fmt: skip
def test_positions_by_name(columns, chosen):
    found = choices([Table("T", 1, dict.fromkeys(columns, "float[]"))])
    assert (found[0].columns_of["x"] if found else None) == chosen
    assert not found or found[0].true == (chosen in ("true_x", "gx"))


@pytest.mark.parametrize("kind", ["double[]", "std::vector<float>", "list<element: double>", "vector<int32_t>"])
def test_types_of_lists(kind):
    assert choices([Table("T", 1, dict.fromkeys("xyz", kind))])


@pytest.mark.parametrize("kind", ["string", "double[][]", "std::vector<std::vector<float>>", "list<element: string>"])
def test_types_of_no_lists(kind):
    assert not choices([Table("T", 1, dict.fromkeys("xyz", kind))])


def test_members_of_classes():
    found = choices([Table("T", 1, {"hits": "vector<TVector3>", "edep": "vector<float>"})])
    assert found[0].columns_of["x"] == "hits.fX"


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([1, 2, 2, 3], None),
        ([0] * 9 + [1, 2, 3], 0),
        ([0, 0, 1, 1, 2], None),
        ([-1, 1, 2], -1),
        ([0, 0], None),
        ([-1, -2, -5, 3, 3], None),
    ],
)
def test_which_id_means_no_track(ids, expected):
    assert guesses.no_track(np.array(ids)) == expected


def test_the_only_id_of_every_event_is_a_particle(tmp_path):
    ids = [[0], [0], [1], [0], [0], [0]]
    write_tree(tmp_path / "one.root", [hits(50, seed, ids=own) for seed, own in enumerate(ids)])
    assert propose(tmp_path / "one.root").spec["no_track"] is None
    write_tree(tmp_path / "noise.root", [hits(90, seed, ids=[0, 0, 0, 0, 1, 2, 3]) for seed in range(6)])
    assert propose(tmp_path / "noise.root").spec["no_track"] == 0


def test_scales():
    generator = np.random.default_rng(0)
    values = generator.normal(50, 5, 10_000)
    scale = guesses.scale(values)
    assert (scale.log, scale.factor) == (False, 1)
    assert scale.mean == pytest.approx(values.mean(), rel=1e-3)
    long = guesses.scale(generator.lognormal(0, 2, 10_000) * 1e-6)
    assert (long.log, long.factor) == (True, 1e6)
    assert guesses.scale(np.ones(5)).std == 1


@pytest.mark.parametrize("width", [1e-3, 1.0, 3e4])
def test_bounds_are_a_little_wider_and_ignore_far_outliers(width):
    values = np.append(np.random.default_rng(0).uniform(-width, width, 50_000), 1e7)
    low, high = guesses.bounds(values)
    assert -1.1 * width < low <= values.min()
    assert np.sort(values)[-2] <= high < 1.1 * width
    assert guesses.bounds(np.full(3, 5.0))[0] < 5 < guesses.bounds(np.full(3, 5.0))[1]


def test_layers_are_seen_by_the_gaps_between_them():
    random = np.random.default_rng(3)
    radii = np.concatenate([random.normal(radius, 0.1, 300) for radius in (5.0, 8.0, 12.0)] + [[30.0]])
    assert guesses.layers_between_gaps(radii) == pytest.approx((5.0, 8.0, 12.0), abs=0.03)
    assert guesses.layers_between_gaps(random.uniform(30, 75, 1000)) is None
    assert guesses.layers_between_gaps(np.array([1.0, 2.0, 3.0])) is None
    assert guesses.layers_between_gaps(np.empty(0)) is None


def test_layers_that_overlap_are_none():
    radii = np.array([3.0, 3.1, 5.0, 5.1])
    assert guesses.layers(np.array([1, 1, 0, 0]), radii) == (3.05, 5.05)
    assert guesses.layers(np.array([0, 1, 0, 1]), radii) is None
    assert guesses.layers(np.zeros(4), radii) is None


def test_yaml_reads_back_as_it_was():
    values = {"a": 1e-7, "b": 1e22, "c": "no", "d": "T/x[0]", "e": None, "f": [1, 2.5], "g": {"log": True}, "h": "1.5"}
    lines = [Line(name, value, "why # not") for name, value in values.items()]
    assert yaml.safe_load(text(lines)) == values


def star_like(path, scale=1.0, broken=False):
    """A tree with the branches of the detector star-tpc; returns the events' own columns."""
    generator = np.random.default_rng(0)
    given = []
    for count in (60, 0, 90):
        radius, phi = generator.uniform(60, 190, count), generator.uniform(-np.pi, np.pi, count)
        event = {"x": radius * np.cos(phi), "y": radius * np.sin(phi), "z": generator.uniform(-60, 60, count)}
        event = {name: scale * values for name, values in event.items()}
        given.append(event | {"adc": generator.integers(20, 900, count), "IdTruth": np.ones(count, np.int32)})
    if broken:
        given[0]["x"][3] = np.nan
    write_tree(path, given, prefix="TPCHits_")
    return given


def test_a_file_is_described_with_the_detector_that_reads_it(tmp_path):
    given = star_like(tmp_path / "star.root")
    found = describe(tmp_path / "star.root")
    assert found["reader"] == "root-tree"
    assert found["tables"][0]["name"] == "T"
    assert found["tables"][0]["columns"]["TPCHits_adc"] == "int64_t[]"
    assert [trial["detector"] for trial in found["detectors"]] == ["star-tpc"]
    trial = found["detectors"][0]
    assert (trial["events"], trial["spacepoints"], trial["labels"]) == (3, 150, ["track_id"])
    x = np.concatenate([event["x"] for event in given])
    assert trial["ranges"]["x"] == [x.min(), x.max()]
    printed = call(tmp_path / "star.root").stdout
    assert "--detector star-tpc" in printed
    assert "--propose" in printed


def test_a_detector_whose_spacepoints_are_rejected_is_not_listed(tmp_path):
    star_like(tmp_path / "mm.root", scale=10.0)
    assert describe(tmp_path / "mm.root")["detectors"] == []
    assert "star-tpc" in describe(tmp_path / "mm.root", seconds=-1)["not_tried"]


def test_the_nearest_detector_says_what_it_lacks(tmp_path):
    write_tree(tmp_path / "near.root", [{name: np.ones(5) for name in ("x", "y", "z")}], prefix="TPCHits_")
    near = describe(tmp_path / "near.root", seconds=60)["nearest"][0]
    assert near["detector"] == "star-tpc"
    assert "TPCHits_adc" in near["error"]
    assert "The nearest is star-tpc" in call(tmp_path / "near.root").stdout


def test_many_columns_are_cut(tmp_path):
    with uproot.recreate(tmp_path / "wide.root") as file:
        file.mktree("T", {f"branch{i}": np.float32 for i in range(300)})
        file["T"].extend({f"branch{i}": np.zeros(2, np.float32) for i in range(300)})
    printed = call(tmp_path / "wide.root").stdout
    assert len(printed.splitlines()) < 30
    assert "and 288 more" in printed
    assert len(summary(tmp_path / "wide.root")["tables"][0]["columns"]) == 300


def test_reading_all_with_a_detector_counts_what_is_left_out(tmp_path):
    star_like(tmp_path / "star.root", broken=True)
    found = summary(tmp_path / "star.root", "--detector", "star-tpc")
    assert found["accounting"]["rejected_spacepoints"] == {"x is not finite": 1}
    assert (found["spacepoints"], found["accounting"]["spacepoints_read"]) == (149, 150)
    assert found["share_outside_bounds"] == 0
    assert "149 used + 1 rejected" in call(tmp_path / "star.root", "--detector", "star-tpc").stdout
    assert summary(tmp_path / "star.root", "--detector", "star-tpc", "--events", 2)["events"] == 2
    assert read_with(tmp_path / "star.root", "star-tpc", events=1)["spacepoints"] == 59


def later_neighbours(points, k):
    """The k nearest later points of every point, in the order of the scan, by a loop."""
    geometry = detectors.build("sphenix-tpc").geometry
    rank = geometry.causal_rank(points)
    distance = np.linalg.norm(points[:, None].astype(np.float64) - points[None], axis=2)
    for i in range(len(points)):
        later = np.flatnonzero(rank > rank[i])
        yield later[np.lexsort((rank[later], distance[i, later]))][:k]


@pytest.mark.parametrize("serializer", ["radial", "raster-scan"])
def test_the_share_that_the_scan_has_passed(tmp_path, events, serializer):
    from fm4npp import serializers

    small = [event for event in events if len(event) < 400][:3]
    write_events(small, tmp_path / "few.parquet")
    found = inspect_scan(tmp_path / "few.parquet", "k-nnn", serializer)
    geometry = detectors.build("sphenix-tpc").geometry
    coordinates = [geometry.coordinates(event.positions) for event in small]
    scan = serializers.build(serializer).fit(coordinates, geometry)
    passed = targets = without = 0
    for points in coordinates:
        ordered = points[scan.order(points, geometry)]
        for i, neighbours in enumerate(later_neighbours(ordered, 30)):
            passed, targets = passed + int((neighbours < i).sum()), targets + len(neighbours)
            without += not len(neighbours)
    assert found["passed_share"] == passed / targets
    assert (found["passed_share"] > 0) == (serializer == "raster-scan")
    assert found["targets_per_spacepoint"] == pytest.approx(targets / sum(map(len, small)))
    assert found["spacepoints_without_target"] == without
    assert "have none" in call(tmp_path / "few.parquet", "--objective", "k-nnn", "--serializer", serializer).stdout


def test_an_objective_without_neighbours_has_no_passed_share(events_files):
    result = call(events_files["train"], "--objective", "next-spacepoint", status=1)
    assert "not spacepoints that a scan could have passed" in result.stderr


def test_an_events_file_is_verified(tmp_path, events):
    written = [event.with_source("here") for event in events] * 60  # more than one batch and one row group
    write_events(written, tmp_path / "events.parquet")
    found = summary(tmp_path / "events.parquet")
    assert found["content_verified"]
    assert found["events"] == len(written) > 500
    assert found["accounting"]["spacepoints_used"] == sum(map(len, written))
    assert "content verified" in call(tmp_path / "events.parquet").stdout
    table = pq.read_table(tmp_path / "events.parquet")
    footer = pq.read_metadata(tmp_path / "events.parquet").metadata
    place = table.schema.get_field_index("energy")
    energy = table["energy"].combine_chunks()
    values = energy.values.to_numpy().copy()
    values[-1] += 1
    changed = pa.ListArray.from_arrays(energy.offsets, pa.array(values), type=energy.type)
    with pq.ParquetWriter(tmp_path / "changed.parquet", table.schema) as writer:
        writer.write_table(table.set_column(place, table.schema.field(place), changed))
        writer.add_key_value_metadata({key: footer[key] for key in footer if key.startswith(b"fm4npp.")})
    assert "hash of its content" in call(tmp_path / "changed.parquet", status=1).stderr


def test_a_folder_of_events_files_is_verified(tmp_path, events_files):
    star_like(tmp_path / "star.root")
    convert([tmp_path / "star.root"] * 2, "star-tpc", tmp_path / "folder", events_per_file=2)
    found = inspect_events(tmp_path / "folder")
    assert (found["kind"], found["files"], found["events"], found["spacepoints"]) == (
        "folder of events files",
        4,
        6,
        300,
    )
    manifest = json.loads((tmp_path / "folder" / "manifest.json").read_text())
    first, second = (tmp_path / "folder" / manifest["shards"][place]["file"] for place in (0, 1))
    first.write_bytes(second.read_bytes())
    with pytest.raises(DataError, match="another content"):
        inspect_events(tmp_path / "folder")


def test_events_of_somebody_elses_detector(tmp_path):
    event = Event(positions=np.ones((2, 3)), features=np.empty((2, 0)), detector="theirs")
    write_events([event], tmp_path / "events.parquet")
    assert "share_outside_bounds" not in inspect_events(tmp_path / "events.parquet")


@pytest.mark.shared_data
def test_star(shared_data, tmp_path):
    path = shared_data / "star" / "star_tpc_test_100events.root"
    assert [trial["detector"] for trial in describe(path, seconds=60)["detectors"]] == ["star-tpc"]
    found = read_with(path, "star-tpc")
    assert (found["events"], found["spacepoints"], found["empty_events"]) == (100, 5165, 1)
    tree = uproot.open(path)["T"]
    for event, x in zip(converted(path, tmp_path), tree["TPCHits_x"].array(), strict=True):
        np.testing.assert_array_equal(event.positions[:, 0], x.to_numpy())


@pytest.mark.shared_data
def test_colliderml(shared_data, tmp_path):
    path = shared_data / "colliderml" / "ttbar_v1_tracker_hits.events0-9.parquet"
    assert describe(path, seconds=60)["detectors"][0]["detector"] == "colliderml"
    events = converted(path, tmp_path)
    for event, z in zip(events, pq.read_table(path)["z"].to_pylist(), strict=True):
        np.testing.assert_array_equal(event.positions[:, 2], np.array(z) / 10)
