import h5py
import numpy as np
import pytest

from fm4npp import detectors, readers
from fm4npp.data import choose_reader, read_events, write_events
from fm4npp.errors import DataError
from fm4npp.readers import pilarnet
from tests.readers import pilarnet_writer as writer

READER = readers.build("pilarnet-hdf5")
GENERATIONS = ("v1", "v2", "v3", "v3_extra", "packed9", "packed11")
PDG = {-1: 0, 0: 22, 1: 11, 2: 13, 3: 211, 4: 2212, 5: 321}


STRING, FLOATS, INTEGERS = h5py.string_dtype(), h5py.vlen_dtype(np.float32), h5py.vlen_dtype(np.int32)
ONE = np.ones(1)


def read(path, required=("x", "y", "z", "energy")):
    return list(READER.read(path, required, ()))


def per_point(lists, column):
    """A column of `cluster`, cluster by cluster and point by point."""
    return [int(row[column]) for row in lists["cluster"] for _ in range(row[0])]


def check(events, written, generation):
    assert len(events) == len(written)
    for index, (event, lists) in enumerate(zip(events, written, strict=True)):
        assert event["event_id"] == index
        for column, name in enumerate(("x", "y", "z", "energy", "energy_deposit", "time", "num_electrons", "dx")):
            assert event[name].dtype == np.float32
            np.testing.assert_array_equal(event[name], lists["point"][:, column])
        for column, name in enumerate(("cluster_id", "track_id", "interaction_id", "semantic"), 1):
            assert event[name].tolist() == per_point(lists, column)
        assert ("pid" in event) == (generation != "v1")
        if generation != "v1":
            assert event["pid"].tolist() == per_point(lists, 5)
            assert event["pdg"].tolist() == [PDG[pid] for pid in per_point(lists, 5)]


@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_generation(tmp_path, generation):
    path = tmp_path / "a.h5"
    written = writer.write(path, generation)
    assert READER.recognises(path)
    check(read(path), written, generation)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_particles_are_groups_and_their_values_those_of_the_leading_cluster(tmp_path, generation):
    path = tmp_path / "a.h5"
    written = writer.write(path, generation, seed=5)
    for event, lists in zip(read(path), written, strict=True):
        cluster = lists["cluster"]
        groups = sorted({int(group) for group in cluster[:, 2] if group >= 0})
        assert event["particle_track_id"].tolist() == groups
        leading = []
        for group in groups:
            mine = [row for row in range(len(cluster)) if cluster[row, 2] == group]
            own = [row for row in mine if cluster[row, 1] == group]
            leading.append(own[0] if own else max(mine, key=lambda row: cluster[row, 0]))
        assert event["particle_interaction_id"].tolist() == cluster[leading, 3].tolist()
        if generation == "v1":
            assert "particle_mass_mev" not in event
            continue
        names = ("mass_mev", "p", "vtx_x", "vtx_y", "vtx_z")
        for column, name in enumerate(names):
            np.testing.assert_array_equal(event[f"particle_{name}"], lists["cluster_extra"][leading, column])
        assert ("particle_is_primary" in event) == (generation != "v2")
        assert ("particle_px" in event) == (generation in ("v3_extra", "packed9", "packed11"))
        if generation == "packed11":
            np.testing.assert_array_equal(event["particle_parent_pdg"], lists["cluster_extra"][leading, 9])
        if generation == "v3_extra":
            np.testing.assert_array_equal(event["particle_px"], lists["cluster_extra_2"][leading, 0])
            found = event["particle_interaction_vtx_y"]
            np.testing.assert_array_equal(found, np.where(cluster[leading, 3] == 0, np.float32(2.5), np.nan))


def test_a_leading_cluster_is_not_the_first_or_the_largest_but_that_of_the_group():
    cluster = [[9, 5, 4, 0, 0, 1], [2, 4, 4, 1, 0, 2], [1, 8, 7, 0, 1, 3], [3, 9, 7, 1, 1, 4]]
    extra = np.arange(20, dtype=np.float32).reshape(4, 5)
    arrays = {"point": np.zeros(15 * 8, np.float32), "cluster": np.ravel(cluster), "cluster_extra": extra.ravel()}
    event = pilarnet.columns(arrays, pilarnet.Layout(6, 5, False, False, True))
    assert event["particle_track_id"].tolist() == [4, 7]
    assert event["particle_pdg"].tolist() == [13, 2212]  # rows 1 (its own) and 3 (the larger one)
    assert event["particle_mass_mev"].tolist() == [5, 15]


def test_all_events_have_the_same_columns(tmp_path):
    for generation in GENERATIONS:
        writer.write(tmp_path / "a.h5", generation)
        events = read(tmp_path / "a.h5")
        assert len({tuple(sorted((name, np.asarray(v).dtype.str) for name, v in e.items())) for e in events}) == 1


@pytest.mark.parametrize("step", [1, 2, 100])
def test_parts_give_what_the_whole_gives(tmp_path, monkeypatch, step):
    monkeypatch.setattr(pilarnet, "STEP_EVENTS", step)
    for name in ("b.h5", "a.h5"):
        writer.write(tmp_path / name, "v3", seed=len(name))
    writer.write_parquet(tmp_path / "c.parquet", "v3")
    whole = read(tmp_path)
    parts = READER.parts(tmp_path)
    assert [event["source"] for event in whole] == ["a.h5"] * 5 + ["b.h5"] * 5 + ["c.parquet"] * 5
    assert [event["event_id"] for event in whole] == [0, 1, 2, 3, 4] * 3
    pieces = [event for part in parts for event in READER.read_part(tmp_path, part, ("x",), ())]
    np.testing.assert_equal(pieces, whole)


def test_parquet(tmp_path):
    path = tmp_path / "train.parquet"
    written = writer.write_parquet(path)
    assert choose_reader(path).registered_name == "pilarnet-hdf5"
    check(read(path), written, "v2")
    (table,) = READER.describe(path)
    assert table.rows == 5
    assert set(table.columns) == {"point", "cluster", "cluster_extra"}


def test_an_empty_file_and_a_compressed_one(tmp_path):
    with h5py.File(tmp_path / "none.h5", "w") as file:
        for name, dtype in {"point": "f4", "cluster": "i4", "cluster_extra": "f4"}.items():
            file.create_dataset(name, (0,), h5py.vlen_dtype(dtype), maxshape=(None,), chunks=(8,))
    assert read(tmp_path / "none.h5") == []
    assert len(READER.parts(tmp_path / "none.h5")) == 1
    written = writer.write(tmp_path / "zip.h5", "v2", chunks=(2,), compression="gzip")
    check(read(tmp_path / "zip.h5"), written, "v2")


def test_description(tmp_path):
    writer.write(tmp_path / "a.h5", "v1")
    tables = {table.name: (table.rows, dict(table.columns)) for table in READER.describe(tmp_path / "a.h5")}
    assert tables == {"point": (5, {"": "list<float32>"}), "cluster": (5, {"": "list<int32>"})}


def test_tpcpp_in_this_layout_is_not_taken_for_voxels(tmp_path):
    path = tmp_path / "tpcpp10m_test.h5"
    written = writer.write_tpcpp(path)
    events = read(path, ("x_cm", "y_cm", "z_cm", "energy"))
    for event, lists in zip(events, written, strict=True):
        np.testing.assert_array_equal(event["x_cm"], lists["point"][:, 0])
        assert event["particle_class"].tolist() == per_point(lists, 5)
        assert event["is_noise"].tolist() == [semantic == 4 for semantic in per_point(lists, 4)]
        assert event["track_id"].tolist() == per_point(lists, 2)
        assert not {"x", "pdg", "particle_mass_mev"} & event.keys()
    with pytest.raises(DataError, match="no column 'x', 'y', 'z'"):
        list(read_events(path, detectors.build("lartpc")))
    columns_of = {axis: f"{axis}_cm" for axis in "xyz"}
    tpc = detectors.build({"type": "sphenix-tpc", "columns_of": columns_of})
    (first, *_) = read_events(path, tpc)
    np.testing.assert_array_equal(first.labels["is_noise"], events[0]["is_noise"][first.places])


def test_placeholder_labels_are_not_given(tmp_path):
    source, scheme = "TPCpp-10M unlabeled (Zenodo)", "unlabeled(pid=-1 ignore)"
    writer.write_tpcpp(tmp_path / "a.h5", scheme, source)
    for event in read(tmp_path / "a.h5", ("x_cm",)):
        assert not {"track_id", "pdg", "is_noise", "particle_track_id"} & event.keys()


def damage(name, change, generation="v2"):
    def damaged(path):
        lists = writer.events(generation)
        lists[0][name] = change(np.ravel(lists[0][name]).copy())
        return writer.write_lists(path, lists)

    return damaged


def setting(place, value):
    def change(values):
        values[place] = value
        return values

    return change


def without(path, name):
    lists = [{key: value for key, value in event.items() if key != name} for event in writer.events("v2")]
    return writer.write_lists(path, lists)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (damage("point", lambda values: values[:-1]), "event 0: 'point' has 135 numbers, not 8 a row"),
        (damage("point", lambda values: values[:-8]), "17 points in all, but there are 16"),
        (damage("cluster", lambda values: values[:-1]), "'cluster_extra' has 6.25 numbers|'cluster' has 29"),
        (damage("cluster", lambda values: values[:-1], "v1"), "'cluster' has 24 numbers, not 5 a row"),
        (damage("cluster", setting(0, -5)), "points in all"),
        (damage("cluster", setting(0, 2**31 - 1)), "points in all"),
        (damage("cluster", setting(11, 6)), "no particle has the pid 6"),
        (damage("cluster_extra", lambda values: values[:-5]), "'cluster_extra' has 4 numbers a cluster"),
        (damage("cluster_extra_2", lambda v: v[:-5], "v3_extra"), "'cluster_extra_2' has 4 rows for 5"),
        (damage("interaction_extra", lambda v: np.tile(v, 2), "v3_extra"), "lists an interaction twice"),
        (lambda path: without(path, "point"), "no data set 'point'"),
        (lambda path: without(path, "cluster_extra"), "not 5 a row|points in all"),
    ],
)
def test_damage_is_one_clear_error(tmp_path, make, message):
    path = make(tmp_path / "generic_v2_5_v2.h5")
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_types_and_lengths_are_refused(tmp_path):
    def write(**dtypes):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            for name, (dtype, length, value) in dtypes.items():
                file.create_dataset(name, (length,), dtype)[0] = value

    for point, cluster, message in [
        ((FLOATS, 3, ONE), (FLOATS, 3, ONE), "'cluster' does not hold lists of int64s but float32"),
        ((np.float32, 3, 1.0), (INTEGERS, 3, ONE), "but None"),
        ((FLOATS, 3, ONE), (INTEGERS, 4, ONE), "different numbers of events"),
        ((STRING, 3, "1"), (INTEGERS, 3, ONE), "does not hold lists"),
    ]:
        write(point=point, cluster=cluster)
        with pytest.raises(DataError, match=message):
            read(tmp_path / "a.h5")


def test_a_column_that_is_not_there(tmp_path):
    writer.write(tmp_path / "a.h5", "v1")
    with pytest.raises(DataError, match="no column 'pdg'"):
        read(tmp_path / "a.h5", ("x", "pdg"))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_recognised_by_name_and_refused(tmp_path, share):
    path = tmp_path / "generic_v2_5_v2.h5"
    writer.write(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert READER.recognises(path)
    with pytest.raises(DataError, match=path.name):
        read(path)


FREE = bytes(8) + (16).to_bytes(8, "little") + bytes(16)
"""Two objects of a heap, of index 0: 16 bytes of free space, and nothing."""


@pytest.mark.timeout(60)
@pytest.mark.parametrize("header", [bytes(16), b"\xff" * 16, bytes(8) + b"\xf0" + b"\xff" * 7, FREE])
def test_a_heap_that_sends_the_library_in_circles(tmp_path, header):
    path = tmp_path / "generic_v2_5_v2.h5"
    writer.write(path)
    content = bytearray(path.read_bytes())
    first = content.index(b"GCOL") + 16  # after the header of the heap, that of its first object
    content[first : first + len(header)] = header
    path.write_bytes(content)
    with pytest.raises(DataError, match="heap at byte"):
        read(path)


@pytest.mark.parametrize("count", [2**31, 200])
def test_a_list_that_is_longer_than_what_is_stored(tmp_path, count):
    path = tmp_path / "generic_v2_5_v2.h5"
    writer.write(path)
    with h5py.File(path) as file:
        place = file["point"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[place : place + 4] = count.to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"event 0: a list of {count} numbers of /point is not in the file"):
        read(path)


def test_other_files_are_not_recognised(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["point"] = [1.0]
    (tmp_path / "b.h5").write_bytes(b"junk")
    (tmp_path / "c.txt").write_text("pilarnet")
    assert not any(READER.recognises(path) for path in (tmp_path, *tmp_path.iterdir()))


def test_to_events_and_back(tmp_path):
    source, target = tmp_path / "generic_v2_5_v2.h5", tmp_path / "events.parquet"
    written = writer.write(source, "v2")
    write_events(read_events(source, "lartpc"), target)
    for event, lists in zip(read_events(target), written, strict=True):
        point = lists["point"]
        np.testing.assert_array_equal((event.positions / 0.3 + 384).astype(np.float32), point[:, :3])
        np.testing.assert_array_equal(event.positions, (point[:, :3].astype(float) - 384) * 0.3)
        np.testing.assert_array_equal(event.feature("energy"), point[:, 3])
        assert event.labels["track_id"].tolist() == per_point(lists, 2)
        classes = {211: 1, 321: 2, 2212: 3, 11: 4}
        assert event.labels["particle_class"].tolist() == [classes.get(PDG[p], 0) for p in per_point(lists, 5)]
        assert "is_noise" not in event.labels
        assert set(event.labels["track_id"]) - {-1} <= set(event.particles["track_id"])
