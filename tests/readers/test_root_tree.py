import awkward
import numpy as np
import pytest
import uproot

from fm4npp import detectors, readers
from fm4npp.errors import DataError
from fm4npp.readers import root_columns, root_tree
from tests.readers import root_writer, writers

READER = readers.build("root-tree")
SIZES = (3, 0, 1, 6)


def jagged(seed=0, sizes=SIZES, dtype=np.float64):
    generator = np.random.default_rng(seed)
    return [generator.normal(0, 50, n).astype(dtype) for n in sizes]


@pytest.fixture
def tree():
    """Branches of one tree: positions, integers, one number an entry, and one fixed array an entry."""
    return {
        "x": jagged(1),
        "y": jagged(2, dtype=np.float32),
        "z": jagged(3),
        "adc": jagged(4, dtype=np.int32),
        "run": np.arange(len(SIZES)),
    }


def check(events, branches, names, start=0):
    for index, event in enumerate(events):
        assert set(event) == {*names, "event_id"}
        assert event["event_id"] == start + index
        for name in names:
            if isinstance(branches[name], list):
                assert event[name].dtype == branches[name][index].dtype
            np.testing.assert_array_equal(event[name], branches[name][index])


def test_an_entry_is_an_event(tmp_path, tree):
    path = writers.root_tree(tmp_path / "hits.root", {"T": tree})
    events = writers.read_all(READER, path, ("x", "y", "z"), ("adc", "absent", "run"))
    assert len(events) == len(SIZES)
    check(events, tree, ("x", "y", "z", "adc", "run"))
    assert [type(event["run"]) for event in events] == [int] * len(SIZES)


@pytest.mark.parametrize("step_bytes", [1, 100, 1000])
def test_steps_change_nothing(tmp_path, monkeypatch, step_bytes):
    monkeypatch.setattr(root_columns, "STEP_BYTES", step_bytes)
    sizes = np.random.default_rng(0).integers(0, 9, 50)
    tree = {"x": jagged(1, sizes), "n": jagged(2, sizes, np.int64)}
    path = writers.root_tree(tmp_path / "hits.root", {"T": tree})
    check(writers.read_all(READER, path, ("x", "n")), tree, ("x", "n"))


def test_the_tree_with_the_branches_is_chosen(tmp_path, tree):
    other = {"energy": jagged(9), "x": jagged(8)}
    path = writers.root_tree(tmp_path / "hits.root", {"meta": {"run": np.arange(2)}, "T": tree, "truth": other})
    check(writers.read_all(READER, path, ("x", "y")), tree, ("x", "y"))
    with pytest.raises(DataError) as error:
        writers.read_all(READER, path, ("x",))
    writers.assert_one_line(error, path, "T, truth")


def test_the_highest_cycle_is_read(tmp_path, tree):
    path = tmp_path / "hits.root"
    writers.root_tree(path, {"T": {"x": jagged(9)}})
    with uproot.update(path) as file:
        file.mktree("T", {"x": "var * float64"})

        file["T"].extend({"x": awkward.Array(tree["x"])})
    with uproot.open(path) as file:
        assert sorted(file.keys()) == ["T;1", "T;2"]
    check(writers.read_all(READER, path, ("x",)), tree, ("x",))


def test_branches_in_folders_and_groups(tmp_path):

    points = awkward.Array([[{"x": 1.0, "y": 2.0}], [], [{"x": 3.0, "y": 4.0}, {"x": 5.0, "y": 6.0}]])
    with uproot.recreate(tmp_path / "hits.root") as file:
        file.mktree("folder/T", {"hits": points.type.content})
        file["folder/T"].extend({"hits": points})
    events = writers.read_all(READER, tmp_path / "hits.root", ("hits_x", "hits_y"))
    assert [event["hits_x"].tolist() for event in events] == [[1.0], [], [3.0, 5.0]]


def test_an_rntuple_is_read_too(tmp_path, tree):

    with uproot.recreate(tmp_path / "hits.root") as file:
        file.mkrntuple("T", {name: awkward.Array(tree[name]) for name in ("x", "z", "run")})
    check(writers.read_all(READER, tmp_path / "hits.root", ("x", "z"), ("run",)), tree, ("x", "z", "run"))


def test_no_entries_and_no_trees(tmp_path, tree):
    with uproot.recreate(tmp_path / "hits.root") as file:
        file.mktree("T", {"x": "var * float64"})
    assert writers.read_all(READER, tmp_path / "hits.root", ("x",)) == []
    with uproot.recreate(tmp_path / "none.root") as file:
        file["note"] = "nothing here"
    with pytest.raises(DataError, match="no tree") as error:
        writers.read_all(READER, tmp_path / "none.root", ("x",))
    writers.assert_one_line(error, tmp_path / "none.root")


def test_a_missing_branch_is_named_with_what_is_there(tmp_path, tree):
    many = {f"branch{i:02d}": values for i, values in enumerate([jagged()] * 20)}
    path = writers.root_tree(tmp_path / "hits.root", {"T": tree, "many": many})
    with pytest.raises(DataError) as error:
        writers.read_all(READER, path, ("x", "y", "w"))
    writers.assert_one_line(error, path, "w, x, y", "'T' has adc", "branch00", "more")
    assert len(str(error.value)) < 600


def test_a_required_branch_without_a_list_is_an_error(tmp_path, tree):
    path = writers.root_tree(tmp_path / "hits.root", {"T": tree})
    with pytest.raises(DataError) as error:
        writers.read_all(READER, path, ("x", "run"))
    writers.assert_one_line(error, path, "'run'")


def test_a_flat_ntuple_is_an_error(tmp_path):
    points = {name: np.arange(5.0) for name in "xyz"}
    rows = {"event": np.array([1, 1, 2, 2, 3]), "r": points["x"]}
    for tree, required in ((rows | points, ("x", "y", "z")), (rows, ("r",))):
        path = writers.root_tree(tmp_path / "hits.root", {"ntp": tree})
        with pytest.raises(DataError, match="root-rows") as error:
            writers.read_all(READER, path, required)
        writers.assert_one_line(error, path, repr(required[0]))


def test_one_number_an_entry_is_given_as_a_number(tmp_path):
    path = writers.root_tree(tmp_path / "events.root", {"T": {"event": np.arange(3), "energy": np.array([1.5, 2, 3])}})
    assert writers.read_all(READER, path, ("energy",), ("event",))[0] == {"energy": 1.5, "event": 0, "event_id": 0}


@pytest.mark.parametrize("rntuple", [False, True])
def test_every_kind_of_branch(tmp_path, rntuple):
    path = tmp_path / "orange.root"
    written = root_writer.write(path, rntuple=rntuple)
    zufo = [f"Zufo[{component}]" for component in (0, 3) if rntuple]
    events = writers.read_all(READER, path, ("tiny", *zufo), ("p", "p[1]", "Runnr", "EVENTNR", "tiny", "flag", "big"))
    assert len(events) == len(written["Runnr"])
    for index, event in enumerate(events):
        for name, dtype in (("tiny", np.int8), ("flag", np.bool_), ("big", np.uint64)):
            assert event[name].dtype == dtype
            np.testing.assert_array_equal(event[name], written[name][index])
        for name in zufo:
            assert event[name].dtype == np.float32
            np.testing.assert_array_equal(event[name], written["Zufo"][index][:, int(name[5])])
        np.testing.assert_array_equal(event["p"], written["p"][index])
        assert event["p[1]"] == written["p"][index][1]
        assert (event["Runnr"], event["EVENTNR"]) == (written["Runnr"][index], written["Eventnr"][index])


def test_a_fixed_number_of_values_needs_an_index(tmp_path):
    path = tmp_path / "orange.root"
    root_writer.write(path, rntuple=True)
    for name in ("Zufo", "Zufo[4]"):
        with pytest.raises(DataError, match=r"4 numbers for each spacepoint, \[0\] to \[3\]") as error:
            writers.read_all(READER, path, ("tiny", name))
        writers.assert_one_line(error, path, repr(name))


def test_names_that_differ_in_capitals_only_are_told_apart(tmp_path):
    tree = {"px": jagged(1), "Px": jagged(2), "Trk_Pz": jagged(3)}
    path = writers.root_tree(tmp_path / "hits.root", {"T": tree})
    check(writers.read_all(READER, path, ("px", "Px")), tree, ("px", "Px"))
    (event, *_) = writers.read_all(READER, path, ("TRK_PZ",))
    np.testing.assert_array_equal(event["TRK_PZ"], tree["Trk_Pz"][0])
    with pytest.raises(DataError, match="no tree with the branches PX"):
        writers.read_all(READER, path, ("PX",))


def test_members_of_records_at_any_depth(tmp_path):
    path = tmp_path / "hits.root"
    hits = [
        [{"position": {"fX": 1.0, "fY": 2.0}, "layer": 3}, {"position": {"fX": 4.0, "fY": 5.0}, "layer": 6}],
        [],
        [{"position": {"fX": 7.0, "fY": 8.0}, "layer": 9}],
    ]
    with uproot.recreate(path) as file:
        file.mkrntuple(
            "T", {"hits": awkward.Array(hits), "vertex": awkward.Array([{"z": 1.0}, {"z": 2.0}, {"z": 3.0}])}
        )
    events = writers.read_all(READER, path, ("hits.position.fX", "fY"), ("layer", "vertex.z"))
    assert [event["hits.position.fX"].tolist() for event in events] == [[1.0, 4.0], [], [7.0]]
    assert [event["fY"].tolist() for event in events] == [[2.0, 5.0], [], [8.0]]
    assert [event["layer"].tolist() for event in events] == [[3, 6], [], [9]]
    assert [event["vertex.z"] for event in events] == [1.0, 2.0, 3.0]
    with pytest.raises(DataError, match="objects with layer, position"):
        writers.read_all(READER, path, ("hits",))


def test_members_of_objects_that_are_stored_whole():
    """As uproot gives a branch of unsplit TVector3, which it cannot write itself."""
    points = awkward.Array([[{"fX": 1.0, "fY": 2.0}], [], [{"fX": 3.0, "fY": 4.0}]])

    class Branch:
        num_entries = 3

        def array(self, entry_start=0, entry_stop=None, library=None):
            return points[entry_start:entry_stop]

    class Tree(dict):
        num_entries = 3

    names = root_columns.Names("T", Tree(pos=Branch()))
    assert names.find("pos.fZ") is None
    _, leaf = names.find("pos.fX")
    assert root_columns.kind_of(leaf, "pos.fX", "file") == "list"
    entries = root_columns.entries_of(leaf, 0, 3, "pos.fX", "file")
    assert [entries[index].tolist() for index in range(3)] == [[1.0], [], [3.0]]


def test_lists_of_lists_and_text_are_refused(tmp_path):
    path = tmp_path / "hits.root"
    with uproot.recreate(path) as file:
        columns = {"x": [[1.0]], "ids": [[[1, 2]]], "name": ["a"], "names": [["a", "b"]]}
        file.mkrntuple("T", {name: awkward.Array(values) for name, values in columns.items()})
    assert writers.read_all(READER, path, ("x",))[0]["x"].tolist() == [1.0]
    for name, words in (("ids", "doubly jagged"), ("name", "text"), ("names", "text")):
        with pytest.raises(DataError, match=words) as error:
            writers.read_all(READER, path, ("x",), (name,))
        writers.assert_one_line(error, path, repr(name))


def test_unsigned_numbers_beyond_signed_ones_are_an_error(tmp_path):
    path = tmp_path / "hits.root"
    with uproot.recreate(path) as file:
        file.mktree("T", {"x": "var * uint64"})
        file["T"].extend({"x": awkward.unflatten(np.array([1, 2**63], np.uint64), [2])})
    with pytest.raises(DataError) as error:
        writers.read_all(READER, path, ("x",))
    writers.assert_one_line(error, path, "'x' holds 9223372036854775808")


def test_the_tree_may_be_named(tmp_path, tree):
    other = {name: jagged(9) for name in "xyz"}
    path = writers.root_tree(tmp_path / "hits.root", {"folder/truth": other, "folder/T": tree})
    events = writers.read_all(READER, path, ("folder/T/x", "folder/T/z"), ("adc",))
    for event, x, adc in zip(events, tree["x"], tree["adc"], strict=True):
        np.testing.assert_array_equal(event["folder/T/x"], x)
        np.testing.assert_array_equal(event["adc"], adc)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_the_parts_are_the_whole(tmp_path, monkeypatch, tree, size):
    monkeypatch.setattr(root_tree, "PART_ENTRIES", size)
    path = writers.root_tree(tmp_path / "hits.root", {"T": tree, "meta": {"run": np.arange(9)}})
    whole = writers.read_all(READER, path, ("x", "y"), ("run", "adc"))
    parts = READER.parts(path)
    assert len(parts) == -(-9 // size)
    again = [event for part in parts for event in READER.read_part(path, part, ("x", "y"), ("run", "adc"))]
    assert len(again) == len(whole)
    for event, other in zip(again, whole, strict=True):
        assert list(event) == list(other)
        for name in event:
            np.testing.assert_array_equal(event[name], other[name])


def test_it_lists_trees_and_branches(tmp_path, tree):
    path = writers.root_tree(tmp_path / "hits.root", {"T": tree, "meta": {"run": np.arange(9)}})
    tables = {table.name: table for table in READER.describe(path)}
    assert {name: table.rows for name, table in tables.items()} == {"T": 4, "meta": 9}
    assert tables["T"].columns["y"] == "float[]"
    assert tables["meta"].columns == {"run": "int64_t"}


def test_a_truncated_file_is_an_error(tmp_path, tree):
    path = writers.root_tree(tmp_path / "hits.root", {"T": tree})
    for _ in writers.truncations(path, 30):
        with pytest.raises(DataError) as error:
            writers.read_all(READER, path, ("x",))
        writers.assert_one_line(error, path)
        assert READER.recognises(path)


def test_a_damaged_list_of_pages_is_an_error(tmp_path):
    path = tmp_path / "hits.root"
    root_writer.write(path, rntuple=True)
    content = path.read_bytes()
    with uproot.open(path) as file:
        (record,) = file["orange"].footer.cluster_group_records
    locator = record.page_list_link.locator
    for place in range(locator.offset, locator.offset + locator.num_bytes, 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 64]) + content[place + 1 :])
        with pytest.raises(DataError, match="the tree 'orange'") as error:
            writers.read_all(READER, path, ("tiny",))
        writers.assert_one_line(error, path)


def test_damaged_baskets_are_an_error(tmp_path):
    sizes = np.full(200, 30)
    tree = {"x": jagged(1, sizes), "y": jagged(2, sizes)}
    path = writers.root_tree(tmp_path / "hits.root", {"T": tree})
    with uproot.open(path) as file:
        branch = file["T"]["y"]
        start, size = int(branch.member("fBasketSeek")[0]), int(branch.member("fBasketBytes")[0])
    content = bytearray(path.read_bytes())
    content[start + size // 2 : start + size - 8] = bytes(size - 8 - size // 2)
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        writers.read_all(READER, path, ("x", "y"))
    writers.assert_one_line(error, path, "'y'")


@pytest.mark.parametrize("content", [b"", b"root", b"this is text and no ROOT file\n" * 30])
def test_another_file_named_root_is_an_error(tmp_path, content):
    path = tmp_path / "hits.root"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        writers.read_all(READER, path, ("x",))
    writers.assert_one_line(error, path)


def test_recognises_root_files_only(tmp_path):
    (tmp_path / "folder.root").mkdir()
    assert not READER.recognises(tmp_path / "folder.root")
    writers.tpcpp(tmp_path)
    assert not READER.recognises(tmp_path / "spacepoints_000.npz")


@pytest.mark.shared_data
def test_the_star_sample(shared_data):
    path = shared_data / "star" / "star_tpc_test_100events.root"
    detector = detectors.build("star-tpc")
    required = [column.name for column in detector.columns if column.required]
    optional = [column.name for column in detector.columns if not column.required]
    events = [detector.event(columns) for columns in READER.read(path, required, optional)]
    assert (len(events), sum(map(len, events)), sum(len(event) == 0 for event in events)) == (100, 5165, 1)
    with uproot.open(path) as file:
        plain = file["T"].arrays(library="np")
    for index, event in enumerate(events):
        axes = [plain[f"TPCHits_{axis}"][index].astype(np.float32) for axis in "xyz"]
        np.testing.assert_array_equal(event.positions, np.stack(axes, axis=1))
        np.testing.assert_array_equal(event.feature("energy"), plain["TPCHits_adc"][index])
        np.testing.assert_array_equal(event.labels["track_id"], plain["TPCHits_IdTruth"][index])


@pytest.mark.shared_data
def test_lists_of_lists_of_a_real_file(shared_data):
    path = shared_data / "eic" / "EICrecon_test_sim.edm4hep.root"
    with pytest.raises(DataError, match="doubly jagged"):
        writers.read_all(READER, path, ("runs/GPIntValues",))
    with pytest.raises(DataError, match=r"6 numbers for each spacepoint, \[0\] to \[5\]"):
        writers.read_all(READER, shared_data / "ee" / "test_FCC_Winter2023.root", ("TrackerHits.covMatrix",))


@pytest.mark.shared_data
def test_a_fixed_number_of_values_of_a_real_file(shared_data):
    path = shared_data / "ee" / "test_FCC_Winter2023.root"
    names = [f"TrackerHits.covMatrix[{component}]" for component in range(6)]
    events = writers.read_all(READER, path, names)
    with uproot.open(path) as file:
        lists = file["events"]["TrackerHits.covMatrix[6]"].array(library="ak")
    assert sum(len(event[names[0]]) for event in events) == 8481
    for event, values in zip(events, lists, strict=True):
        np.testing.assert_array_equal(np.stack([event[name] for name in names], axis=1), awkward.to_numpy(values))


@pytest.mark.shared_data
def test_the_opal_sample_has_one_number_an_entry(shared_data):
    path = shared_data / "ee" / "opal_qq.root"
    count = 0
    with uproot.open(path) as file:
        thrust = file["myTTree"]["cos_thru"].array(library="np")
    for event in READER.read(path, ("ncharged", "cos_thru"), ("event",)):
        assert event["cos_thru"] == thrust[count]
        count += 1
    assert count == 98_563


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "branches"),
    [
        ("ee/test_FCC_Winter2023.root", [f"TrackerHits.position.{axis}" for axis in "xyz"]),
        ("eic/EICrecon_test_sim.edm4hep.root", [f"SiBarrelHits.position.{axis}" for axis in "xyz"]),
    ],
)
def test_podio_collections(shared_data, name, branches):
    events = writers.read_all(READER, shared_data / name, branches)
    with uproot.open(shared_data / name) as file:
        for branch in branches:
            lists = file["events"][branch].array(library="np")
            assert len(lists) == len(events)
            for event, values in zip(events, lists, strict=True):
                np.testing.assert_array_equal(event[branch], values)
