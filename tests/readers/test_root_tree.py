import awkward
import numpy as np
import pytest
import uproot

from fm4npp import detectors, readers
from fm4npp.errors import DataError
from fm4npp.readers import root_tree
from tests.readers import writers

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
            assert event[name].dtype == branches[name][index].dtype
            np.testing.assert_array_equal(event[name], branches[name][index])


def test_an_entry_is_an_event(tmp_path, tree):
    path = writers.root_tree(tmp_path / "hits.root", {"T": tree})
    events = writers.read_all(READER, path, ("x", "y", "z"), ("adc", "absent", "run"))
    assert len(events) == len(SIZES)
    check(events, tree, ("x", "y", "z", "adc"))


@pytest.mark.parametrize("step_bytes", [1, 100, 1000])
def test_steps_change_nothing(tmp_path, monkeypatch, step_bytes):
    monkeypatch.setattr(root_tree, "STEP_BYTES", step_bytes)
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
    check(writers.read_all(READER, tmp_path / "hits.root", ("x", "z"), ("run",)), tree, ("x", "z"))


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
    with uproot.recreate(path) as file:
        file.mktree("T", {"x": "3 * float64", "y": "var * float64"})
    with pytest.raises(DataError, match="'x'"):
        writers.read_all(READER, path, ("x", "y"))


def test_a_flat_ntuple_is_an_error(tmp_path):
    path = writers.root_tree(tmp_path / "hits.root", {"ntp": {name: np.arange(5.0) for name in ("event", "x", "y")}})
    with pytest.raises(DataError, match="'x'"):
        writers.read_all(READER, path, ("x", "y"))


def test_a_truncated_file_is_an_error(tmp_path, tree):
    path = writers.root_tree(tmp_path / "hits.root", {"T": tree})
    for _ in writers.truncations(path, 30):
        with pytest.raises(DataError) as error:
            writers.read_all(READER, path, ("x",))
        writers.assert_one_line(error, path)
        assert READER.recognises(path)


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
