"""Files that are whole, and mean something odd: each is read exactly, with all that is left out counted, or refused."""

import json
import os
import re
from itertools import product

import h5py
import numpy as np
import pytest
import uproot
from typer.testing import CliRunner

from fm4npp import detectors, readers
from fm4npp.cli import app
from fm4npp.convert import convert
from fm4npp.data import Accounting, read_events
from fm4npp.errors import FM4NPPError
from tests.fuzz import formats
from tests.fuzz.formats import AXES, FORMATS, make_events, scaled
from tests.fuzz.outcomes import contents, unclear

NAMES = sorted(FORMATS)
ROOT = ("root-rows", "root-tree")
VALUES = {"NaN": np.nan, "infinity": np.inf, "-infinity": -np.inf, "huge": 1e30}


@pytest.fixture(params=NAMES)
def of(request):
    return FORMATS[request.param]


def written(folder, of, events):
    of.write(folder / of.name, events)
    return folder / of.name


def read(path, of, *, reader="auto", **options):
    return list(read_events(path, detectors.build(of.detector), reader=reader, **options))


def refused(path, of, folder, *words, reader="auto"):
    """Reading and converting end with one line that says something, and leave nothing behind."""
    with pytest.raises(FM4NPPError) as raised:
        read(path, of, reader=reader)
    message = str(raised.value)
    assert not list(unclear(message, path)), message
    assert all(word in message for word in words), message
    (folder / "out").mkdir(parents=True)
    for output in ("events.parquet", "events"):
        with pytest.raises(FM4NPPError) as raised:
            convert([path], detectors.build(of.detector), folder / "out" / output, reader=reader)
        assert not list(unclear(str(raised.value), path)), raised.value
    left = [file.name for file in (folder / "out").rglob("*") if file.is_file()]
    assert not [name for name in left if name in ("events.parquet", "manifest.json") or ".tmp" in name], left
    return message


def same_events(found, events, of):
    """Events as they were written, in cm, to the last bit."""
    events = events if of.keeps_empty else [event for event in events if len(event["track_id"])]
    assert len(found) == len(events)
    for event, expected in zip(found, events, strict=True):
        positions = of.centimetres(np.stack([expected[axis] for axis in AXES], axis=1))
        assert event.positions.dtype == positions.dtype
        assert event.positions.tobytes() == positions.tobytes()
        ids = np.where(expected["track_id"] == 0, -1, expected["track_id"]) if "no_track" in of.detector else None
        assert np.array_equal(event.labels["track_id"], expected["track_id"] if ids is None else ids)
        if event.feature_names:
            assert np.array_equal(event.features[:, 0], expected["energy"].astype(np.float32))


def check_exact(path, events, of, folder, reader="auto"):
    """Read exactly, also by way of an events file."""
    found = read(path, of, reader=reader)
    same_events(found, events, of)
    if found:
        convert([path], detectors.build(of.detector), folder / "out.parquet", reader=reader)
        for event, other in zip(read_events(folder / "out.parquet"), found, strict=True):
            assert contents(event) == contents(other)


def test_events_without_and_with_one_spacepoint(tmp_path, of):
    events = scaled(make_events((0, 7, 0, 1, 12, 0)), of)
    check_exact(written(tmp_path, of, events), events, of, tmp_path)


def test_an_event_of_200_000_spacepoints(tmp_path, of):
    events = scaled(make_events((200_000, 2)), of)
    check_exact(written(tmp_path, of, events), events, of, tmp_path)


@pytest.mark.parametrize("sizes", [(), (0,), (0, 0)], ids=str)
def test_no_spacepoint_at_all(tmp_path, of, sizes):
    events = scaled(make_events(sizes), of)
    path = written(tmp_path, of, events)
    if not sizes and of.reader == "trackml-csv":
        refused(path, of, tmp_path)
        return
    same_events(read(path, of), events, of)
    if sizes and of.keeps_empty:
        check_exact(path, events, of, tmp_path)
    else:
        with pytest.raises(FM4NPPError, match="no events"):
            convert([path], detectors.build(of.detector), tmp_path / "out.parquet")
        assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize(("kind", "axis"), [*product(VALUES, AXES)])
def test_one_coordinate_that_is_none(tmp_path, of, kind, axis):
    events = scaled(make_events(), of)
    events[3][axis][4] = VALUES[kind]
    path = written(tmp_path, of, events)
    refused(path, of, tmp_path, "1 of 20 spacepoints rejected")
    accounting = Accounting()
    found = read(path, of, accounting=accounting, max_rejected=1)
    assert (accounting.spacepoints_used, accounting.spacepoints_read, accounting.rejected_events) == (19, 20, {})
    (reason,) = accounting.rejected_spacepoints
    assert re.fullmatch(r"\w+ is out of range" if kind == "huge" else f"{axis} is not finite", reason)
    assert {reason: places.tolist() for reason, places in found[-1].left_out.items()} == {reason: [4]}
    assert reason in "".join(accounting.lines())
    whole = [{name: np.delete(values, 4) for name, values in events[3].items()}]
    same_events(found[-1:], whole, of)


def test_positions_that_are_all_zero(tmp_path, of):
    events = make_events(dtype=of.dtype)
    for event, axis in product(events, AXES):
        event[axis][:] = 0
    path = written(tmp_path, of, events)
    if of.zero_is_a_place:
        same_events(read(path, of), events, of)
        return
    refused(path, of, tmp_path, "20 of 20 spacepoints rejected", "on the beam axis")


@pytest.mark.parametrize("missing", [("x",), ("y",), ("z",), AXES, ("energy",)], ids=str)
def test_missing_columns(tmp_path, of, missing):
    if of.reader == "pilarnet-hdf5" or (missing == ("energy",) and of.reader not in ROOT):
        pytest.skip("has no such column, or no name for it")
    events = [{k: v for k, v in event.items() if k not in missing} for event in scaled(make_events(), of)]
    message = refused(written(tmp_path, of, events), of, tmp_path)
    assert of.reader not in ROOT or any(name in message for name in missing)


TYPES = {
    "text": lambda values: values.astype(str),
    "complex": lambda values: values + 1j,
    "bool": lambda values: values > 0,
    "integer": lambda values: np.round(values).astype(np.int16),
    "big-endian": lambda values: values.astype(values.dtype.newbyteorder(">")),
    "half": lambda values: values.astype(np.float16),
    "unsigned": lambda values: np.abs(np.round(values)).astype(np.uint64),
}


NO_POSITIONS = {
    "tpcpp": ("text", "complex", "bool", "integer", "unsigned"),
    "root-tree": ("text", "complex"),
    "root-rows": ("text", "complex"),
    "trackml": ("complex", "bool"),
    "colliderml": ("text", "complex"),
}
"""Format -> types that are refused; the others are taken as the numbers that they are."""


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("name", ["tpcpp", "root-tree", "root-rows", "trackml", "colliderml"])
def test_positions_of_another_type(tmp_path, name, kind):
    """Numbers are taken as the numbers that they are, anything else is refused."""
    of = FORMATS[name]
    events = scaled(make_events((7, 12)), of)
    changed = [{**e, **{axis: TYPES[kind](e[axis]) for axis in (*AXES, "energy")}} for e in events]
    try:
        path = written(tmp_path, of, changed)
    except Exception as error:  # this container cannot hold it
        pytest.skip(f"cannot be written: {error}")
    text_is_numbers = name == "trackml" and kind == "text"
    if kind in NO_POSITIONS[name]:
        refused(path, of, tmp_path)
        return
    found = read(path, of, max_rejected=1)
    for event, expected in zip(found, events if text_is_numbers else changed, strict=True):
        kept = np.setdiff1d(np.arange(len(expected["x"])), np.concatenate([*event.left_out.values(), []]).astype(int))
        positions = np.stack([expected[axis] for axis in AXES], axis=1)[kept]
        if positions.dtype.kind != "f" or positions.dtype.itemsize == 2:
            positions = positions.astype(np.float64)
        assert np.array_equal(event.positions, of.centimetres(positions).astype(event.positions.dtype))


def test_pickled_objects(tmp_path):
    of = FORMATS["tpcpp"]
    path = written(tmp_path, of, scaled(make_events(), of))
    data = np.array([[{}, 1, 2, 3]], dtype=object)
    np.savez(path / "spacepoints_000.npz", data=data, size=np.array([1]))
    refused(path, of, tmp_path, "pickled")


@pytest.mark.parametrize("change", ["shorter", "longer", "another event"])
def test_labels_of_another_length(tmp_path, of, change):
    events = scaled(make_events(), of)
    path = written(tmp_path, of, events)
    ids = events[3]["track_id"]
    other = {"shorter": ids[:-1], "longer": np.append(ids, 1), "another event": np.zeros(0, np.int64)}[change]
    if of.reader == "tpcpp-npz":
        joined = np.concatenate([formats.joined(events[:3], "track_id"), other]).astype(np.int64)
        np.savez(path / "track_ids_000.npz", data=joined, size=np.array([7, 0, 1, len(other)]))
    elif of.reader == "trackml-csv":
        columns = {"hit_id": np.arange(len(other)) + 1, "particle_id": other, "weight": np.zeros(len(other))}
        formats.write_csv(path / "event000000003-truth.csv", columns)
    elif of.reader in ("root-tree", "colliderml-parquet"):
        written(tmp_path, of, [*events[:3], {**events[3], "track_id": other}])
    else:
        pytest.skip("rows have no lengths of their own")
    refused(path, of, tmp_path)


@pytest.mark.parametrize("kind", ["hit_id", "absent hit_id", "truth"])
def test_duplicated_ids_of_hits(tmp_path, kind):
    of = FORMATS["trackml"]
    path = written(tmp_path, of, scaled(make_events(), of))
    file = path / f"event000000003-{'truth' if kind == 'truth' else 'hits'}.csv"
    rows = file.read_text().splitlines(keepends=True)
    rows[3] = rows[2] if kind == "hit_id" or kind == "truth" else "99," + rows[3].partition(",")[2]
    file.write_text("".join(rows))
    refused(path, of, tmp_path, "event 3")


@pytest.mark.parametrize("kind", ["trackml", "colliderml"])
def test_duplicated_ids_of_particles(tmp_path, kind):
    of = FORMATS[kind]
    path = written(tmp_path, of, scaled(make_events(), of))
    ids = [1, 2, 2, 3]
    if kind == "trackml":
        for number in range(4):
            columns = {"particle_id": ids, **{name: [0.5] * 4 for name in ("vx", "vy", "vz", "px", "py", "pz", "q")}}
            formats.write_csv(path / f"event{number:09d}-particles.csv", columns)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = {"event_id": range(4), "particle_id": [ids] * 4, "pdg_id": [[211] * 4] * 4, "px": [[0.5] * 4] * 4}
        pq.write_table(pa.table(table), tmp_path / "ttbar_v1_particles.events0-9.parquet")
    refused(path, of, tmp_path, "two particles" if kind == "colliderml" else "particle")


FOLDERS = ["with spaces (1)", "événement ✓ 衝突", "a'b\"c;d&e%20", "--detector", "dots.v1.2"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_names_with_spaces_and_other_letters(tmp_path, of, folder):
    events = scaled(make_events(), of)
    check_exact(written(tmp_path / folder, of, events), events, of, tmp_path / folder)


@pytest.mark.parametrize("name", ["run 3 (final).root", "événement ✓.root", "[0].root", "a:b.root", "no suffix"])
@pytest.mark.parametrize("kind", ROOT)
def test_names_of_files_with_other_letters(tmp_path, kind, name):
    of = FORMATS[kind]._replace(name=name)
    events = scaled(make_events(), of)
    check_exact(written(tmp_path, of, events), events, of, tmp_path, of.reader)


def test_links(tmp_path, of):
    events = scaled(make_events(), of)
    path = written(tmp_path / "there", of, events)
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / of.name
    link.symlink_to(path)
    check_exact(link, events, of, tmp_path)


def test_links_to_nothing(tmp_path, of):
    link = tmp_path / of.name
    link.symlink_to(tmp_path / "gone")
    refused(link, of, tmp_path, "no such file")
    link.unlink()
    link.symlink_to(link)
    (tmp_path / "out").rmdir()
    refused(link, of, tmp_path)


def test_empty_files(tmp_path, of):
    path = written(tmp_path, of, scaled(make_events(), of))
    for file in [path] if path.is_file() else sorted(path.iterdir()):
        file.write_bytes(b"")
    refused(path, of, tmp_path)


def test_a_folder_in_place_of_a_file_and_the_other_way_round(tmp_path, of):
    path = written(tmp_path, of, scaled(make_events(), of))
    if path.is_file():
        path.unlink()
        path.mkdir()
    else:
        path = path.rename(tmp_path / "elsewhere").with_name(of.name)
        path.write_bytes(b"some text\n")
    refused(path, of, tmp_path)
    refused(path, of, tmp_path / "again", reader=of.reader)


@pytest.mark.parametrize("reader", readers.names())
def test_an_empty_folder(tmp_path, reader):
    path = tmp_path / "nothing"
    path.mkdir()
    refused(path, FORMATS["tpcpp"], tmp_path, reader=reader)
    refused(path, FORMATS["tpcpp"], tmp_path / "again")


@pytest.mark.parametrize("name", ["point", "cluster", "cluster_extra"])
def test_missing_data_sets(tmp_path, name):
    of = FORMATS["pilarnet"]
    path = written(tmp_path, of, scaled(make_events(), of))
    with h5py.File(path, "r+") as file:
        del file[name]
    refused(path, of, tmp_path, reader=of.reader)


def test_truth_without_ids(tmp_path):
    of = FORMATS["trackml"]
    path = written(tmp_path, of, scaled(make_events(), of))
    file = path / "event000000003-truth.csv"
    file.write_text(file.read_text().replace("particle_id", "pArticle_id"))
    refused(path, of, tmp_path, "no column 'particle_id'", "event 3")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_files_that_must_not_be_read(tmp_path, of):
    path = written(tmp_path, of, scaled(make_events(), of))
    for file in [path] if path.is_file() else sorted(path.iterdir()):
        file.chmod(0)
    refused(path, of, tmp_path)


@pytest.mark.parametrize("kind", ROOT)
def test_root_files_without_a_tree_or_with_an_empty_one(tmp_path, kind):
    of = FORMATS[kind]
    path = tmp_path / of.name
    with uproot.recreate(path) as file:
        file["text"] = "there is no tree"
    refused(path, of, tmp_path, "found: no tree", reader=of.reader)
    with uproot.recreate(path) as file:
        file["h"] = np.histogram([1, 2, 3])
    refused(path, of, tmp_path / "again", reader=of.reader)


@pytest.mark.parametrize("name", ["TLeafD", "TBranch"])
def test_a_branch_of_a_class_that_nobody_knows(tmp_path, name):
    of = FORMATS["root-tree"]
    path = tmp_path / of.name
    with uproot.recreate(path, compression=None) as file:
        file.mktree("T", dict.fromkeys((*AXES, "energy"), "var * float64"))
        file["T"].extend({axis: [[1.0, 2.0], [3.0]] for axis in (*AXES, "energy")})
    content = path.read_bytes()
    assert name.encode() in content
    path.write_bytes(content.replace(name.encode() + b"\0", name[:-1].encode() + b"Q\0"))
    refused(path, of, tmp_path, reader=of.reader)


def test_the_command_prints_what_it_left_out(tmp_path, of):
    events = scaled(make_events(), of)
    events[0]["x"][2], events[3]["z"][5] = np.nan, np.inf
    path = written(tmp_path, of, events)
    yaml, output = tmp_path / "detector.yaml", tmp_path / "out.parquet"
    yaml.write_text(json.dumps(of.detector))
    command = ["convert", str(path), "--detector", str(yaml), "--output", str(output)]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert "2 of 20 spacepoints rejected" in result.stderr
    assert not output.exists()
    result = CliRunner().invoke(app, [*command, "--max-rejected", "0.5"])
    assert result.exit_code == 0, result.output
    for reason in ("x is not finite", "z is not finite"):
        assert f"1 spacepoints rejected: {reason}" in result.output
    result = CliRunner().invoke(app, [*command, "--max-rejected", "0.5", "--json"])
    counted = json.loads(result.stdout.splitlines()[-1])["accounting"]
    assert counted["spacepoints_read"] == counted["spacepoints_used"] + sum(counted["rejected_spacepoints"].values())
