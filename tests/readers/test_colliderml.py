import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fm4npp import readers
from fm4npp.errors import DataError
from fm4npp.readers import colliderml
from tests.readers import colliderml_writer, writers

READER = readers.build("colliderml-parquet")
XYZ = ("x", "y", "z")
ALL = ("track_id", "time", "true_x", "volume_id", "cell_id", "detector")
LAYOUTS = ("ttbar_v1_tracker_hits.events0-9.parquet", "ttbar_pu0_tracker_hits/train-00000-of-00001.parquet")


def check(event, hits, particles, row):
    """One event's columns against the lists that were written."""
    for name in (*XYZ, *ALL):
        values = hits["particle_id" if name == "track_id" else name][row]
        assert event[name].dtype == values.dtype
        assert event[name].tobytes() == values.tobytes()
    names = {"particle_id": "track_id", "pdg_id": "pdg"}
    given = {f"particle_{names.get(name, name)}": values for name, values in particles.items() if name != "event_id"}
    place = particles["event_id"].index(hits["event_id"][row])
    assert {name for name in event if name.startswith("particle_")} == set(given)
    for name, values in given.items():
        assert event[name].tobytes() == values[place].tobytes()


@pytest.mark.parametrize("rows", [1, 2, 100])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_events_come_back_exactly(tmp_path, layout, rows, monkeypatch):
    monkeypatch.setattr(colliderml, "STEP_BYTES", 100)
    path = tmp_path / layout
    hits, particles = colliderml_writer.write(path, sizes=(7, 0, 1, 30, 2), rows=rows, first=40)
    assert READER.recognises(path)
    assert not readers.build("events-parquet").recognises(path)
    events = writers.read_all(READER, path, XYZ, ALL)
    assert [event["event_id"] for event in events] == hits["event_id"]
    for row, event in enumerate(events):
        check(event, hits, particles, row)


def test_events_are_joined_by_their_id_and_not_by_their_row(tmp_path):
    path = tmp_path / LAYOUTS[0]
    hits, particles = colliderml_writer.write(path, sizes=(4, 4, 4, 4, 4))
    order = [3, 0, 4, 2, 1]
    other = path.with_name("ttbar_v1_particles.events0-9.parquet")
    turned = {name: [values[row] for row in order] for name, values in particles.items()}
    pq.write_table(colliderml_writer.table(turned), other, row_group_size=2)
    for row, event in enumerate(writers.read_all(READER, path, XYZ, ALL)):
        check(event, hits, turned, row)


def test_shards_of_particles_that_are_cut_elsewhere(tmp_path):
    """Each shard of hits finds its events in whichever shard of particles they are."""
    written = [
        colliderml_writer.write(tmp_path / f"x_tracker_hits/train-{i}.parquet", sizes=(2, 2), first=2 * i, seed=i)
        for i in range(3)
    ]
    listed = {name: [v for _, table in written for v in table[name]] for name in written[0][1]}
    for i, rows in enumerate((slice(0, 1), slice(1, 6), slice(6, 6))):
        table = colliderml_writer.table(listed).slice(rows.start, rows.stop - rows.start)
        pq.write_table(table, tmp_path / f"x_particles/train-{i}.parquet")
    events = writers.read_all(READER, tmp_path / "x_tracker_hits", XYZ, ALL)
    assert [event["event_id"] for event in events] == list(range(6))
    for event in events:
        number = event["event_id"]
        check(event, written[number // 2][0], listed, number % 2)
        assert event["source"] == f"train-{number // 2}.parquet"
    (tmp_path / "x_particles/train-2.parquet").write_bytes((tmp_path / "x_particles/train-0.parquet").read_bytes())
    with pytest.raises(DataError) as error:
        writers.read_all(READER, tmp_path / "x_tracker_hits", XYZ)
    writers.assert_one_line(error, "train-2.parquet", "train-0.parquet", "event 0")


def test_particles_of_another_sample_are_not_taken(tmp_path):
    colliderml_writer.write(tmp_path / "ttbar_tracker_hits.parquet", particles=False)
    colliderml_writer.write(tmp_path / "zmumu_tracker_hits.parquet")
    (tmp_path / "zmumu_tracker_hits.parquet").unlink()
    event = writers.read_all(READER, tmp_path / "ttbar_tracker_hits.parquet", XYZ, ALL)[0]
    assert not [name for name in event if name.startswith("particle_")]


@pytest.mark.parametrize("folder", [False, True])
def test_parts_are_the_whole(tmp_path, folder):
    path = tmp_path / LAYOUTS[1]
    colliderml_writer.write(path, sizes=(3, 0, 1, 5, 2), rows=2)
    path = path.parent if folder else path
    parts = READER.parts(path)
    assert parts == [f"train-00000-of-00001.parquet:{group}" for group in range(3)]
    whole = writers.read_all(READER, path, XYZ, ALL)
    pieces = [event for part in parts for event in READER.read_part(path, part, XYZ, ALL)]
    assert [list(event) for event in whole] == [list(event) for event in pieces]
    for first, second in zip(whole, pieces, strict=True):
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])


def test_a_folder_with_both_tables(tmp_path):
    hits, particles = colliderml_writer.write(tmp_path / LAYOUTS[0])
    assert READER.recognises(tmp_path)
    for row, event in enumerate(writers.read_all(READER, tmp_path, XYZ, ALL)):
        check(event, hits, particles, row)
    assert [(table.name, table.rows) for table in READER.describe(tmp_path)] == [
        (LAYOUTS[0], 3),
        ("ttbar_v1_particles.events0-9.parquet", 3),
    ]
    assert READER.describe(tmp_path)[0].columns["x"].startswith("list<")


def test_true_positions_never_stand_in_for_measured_ones(tmp_path):
    path = tmp_path / LAYOUTS[0]
    hits, _ = colliderml_writer.write(path, measured=False)
    with pytest.raises(DataError) as error:
        writers.read_all(READER, path, XYZ)
    writers.assert_one_line(error, path, "no measured positions", "true_x")
    events = writers.read_all(READER, path, ("true_x", "true_y", "true_z"))
    assert events[0]["true_y"].tolist() == hits["true_y"][0].tolist()
    assert "x" not in events[0]


def test_the_table_of_particles_is_no_table_of_hits(tmp_path):
    path = tmp_path / LAYOUTS[0]
    colliderml_writer.write(path)
    with pytest.raises(DataError) as error:
        writers.read_all(READER, path.with_name("ttbar_v1_particles.events0-9.parquet"), XYZ)
    writers.assert_one_line(error, "no positions", "tracker_hits")


LISTS = pa.list_(pa.float64())


@pytest.mark.parametrize(
    ("column", "kind", "values", "expected"),
    [
        ("particle_id", LISTS, [[1.0, 2.0]], [1, 2]),
        ("particle_id", LISTS, [[1.5, 2.0]], None),
        ("particle_id", LISTS, [[2.0**53, 2.0]], None),
        ("particle_id", LISTS, [[None, 2.0]], None),
        ("particle_id", pa.list_(pa.uint64()), [[2**63, 2]], None),
        ("particle_id", pa.list_(pa.int16()), [[7, 2]], [7, 2]),
        ("particle_id", pa.list_(pa.int64()), [[None, 2]], None),
        ("particle_id", pa.large_list(pa.int64()), [[7, 2]], [7, 2]),
        ("particle_id", pa.list_(pa.int64(), 2), [[7, 2]], [7, 2]),
        ("x", LISTS, [[None, 2.0]], [float("nan"), 2.0]),
        ("x", LISTS, [None], None),
        ("x", pa.list_(pa.float32()), [[0.1, 2.0]], [float(np.float32(0.1)), 2.0]),
        ("x", pa.list_(LISTS), [[[1.0], [2.0]]], None),
        ("x", pa.float64(), [1.0], None),
        ("x", pa.list_(pa.string()), [["1", "2"]], None),
        ("event_id", pa.float64(), [3.0], 3),
        ("event_id", pa.float64(), [3.5], None),
        ("event_id", pa.int64(), [None], None),
    ],
)
def test_columns_of_other_types_are_exact_or_refused(tmp_path, column, kind, values, expected):
    path = tmp_path / LAYOUTS[0]
    hits, _ = colliderml_writer.make(sizes=(2,))
    table = colliderml_writer.table({**hits, column: values}, {column: kind})
    pq.write_table(table, path)
    if expected is None:
        with pytest.raises(DataError) as error:
            writers.read_all(READER, path, XYZ, ("track_id",))
        writers.assert_one_line(error, path, column)
        return
    (event,) = writers.read_all(READER, path, XYZ, ("track_id",))
    np.testing.assert_array_equal(event["track_id" if column == "particle_id" else column], expected)


def test_ids_that_do_not_join_are_an_error(tmp_path):
    path = tmp_path / LAYOUTS[0]
    hits, particles = colliderml_writer.write(path)
    other = path.with_name("ttbar_v1_particles.events0-9.parquet")
    for columns, words in (
        ({**particles, "event_id": [0, 1, 7]}, "no particles of 1 events (the first: 2)"),
        ({**particles, "event_id": [0, 1, 1]}, "event_id twice"),
        ({name: values for name, values in particles.items() if name != "event_id"}, "'event_id'"),
        ({**particles, "mass": particles["px"][1:] + particles["px"][:1]}, "different lengths"),
    ):
        pq.write_table(colliderml_writer.table(columns), other)
        with pytest.raises(DataError) as error:
            writers.read_all(READER, path, XYZ)
        writers.assert_one_line(error, other, words)
    other.unlink()
    pq.write_table(colliderml_writer.table({**hits, "event_id": [0, 1, 1]}), path)
    with pytest.raises(DataError) as error:
        writers.read_all(READER, path, XYZ)
    writers.assert_one_line(error, path, "event_id twice")


def test_any_parquet_file_with_lists(tmp_path):
    path = tmp_path / "mine.parquet"
    lists = {"pos_x": [[1.5, 2.5], []], "adc": [[1, 2], []], "nested": [[[1]], []], "label": [["a"], ["b"]]}
    pq.write_table(pa.table({**lists, "weight": [0.5, 2.0], "run": [7, 8]}), path)
    assert READER.recognises(path)
    events = writers.read_all(READER, path, ("pos_x",), ("adc", "weight", "run", "nested", "label", "absent"))
    assert [event["pos_x"].tolist() for event in events] == lists["pos_x"]
    assert [event["adc"].tolist() for event in events] == lists["adc"]
    assert [(event["weight"], event["run"], event["event_id"]) for event in events] == [(0.5, 7, 0), (2.0, 8, 1)]
    assert not {"nested", "label", "absent"} & events[0].keys()
    with pytest.raises(DataError) as error:
        writers.read_all(READER, path, ("pos_x", "pos_y"))
    writers.assert_one_line(error, path, "'pos_y'", "pos_x, run, weight")


def test_other_parquet_files_are_not_recognised(tmp_path):
    ours = pa.table({"x": [[1.0]]}).replace_schema_metadata({"fm4npp": "{}"})
    pq.write_table(ours, tmp_path / "events.parquet")
    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "flat.parquet")
    (tmp_path / "damaged_tracker_hits.parquet").write_bytes(b"PAR1")
    (tmp_path / "hits.txt").write_text("x")
    for path in tmp_path.iterdir():
        assert not READER.recognises(path), path


def test_a_truncated_file_is_an_error(tmp_path):
    path = tmp_path / LAYOUTS[0]
    colliderml_writer.write(path)
    for file in (path, path.with_name("ttbar_v1_particles.events0-9.parquet")):
        for _ in writers.truncations(file, 20):
            with pytest.raises(DataError) as error:
                writers.read_all(READER, path, XYZ)
            writers.assert_one_line(error, file)


@pytest.mark.shared_data
def test_real_events(shared_data):
    path = shared_data / "colliderml/ttbar_v1_tracker_hits.events0-9.parquet"
    hits = pq.read_table(path).to_pylist()
    particles = pq.read_table(path.with_name("ttbar_v1_particles.events0-9.parquet")).to_pylist()
    events = writers.read_all(READER, path, XYZ, ("track_id", "time", "cell_id"))
    assert len(events) == len(hits) == 10
    assert (sum(len(event["x"]) for event in events), min(len(row["x"]) for row in hits)) == (34950, 1481)
    for event, row in zip(events, hits, strict=True):
        assert event["event_id"] == row["event_id"]
        for name in (*XYZ, "time", "cell_id"):
            assert event[name].tolist() == row[name]
        assert event["track_id"].tolist() == row["particle_id"]
        (listed,) = (other for other in particles if other["event_id"] == row["event_id"])
        assert event["particle_track_id"].tolist() == listed["particle_id"]
        assert event["particle_pdg"].tolist() == listed["pdg_id"]
        assert event["particle_px"].tolist() == listed["px"]
