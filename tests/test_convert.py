"""Conversion: accounting, folders of files, several processes, going on after an interruption."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from fm4npp import detectors
from fm4npp.convert import convert, folder
from fm4npp.data import Accounting, EventDataset, EventWriter, read_events, write_events, writing
from fm4npp.errors import ConfigurationError, DataError
from fm4npp.event import Event
from fm4npp.readers.events_parquet import read_summary

DETECTOR = detectors.build(
    {"type": "cylindrical", "name": "barrel", "radius": (10, 80), "measured": {"energy": {"low": 0}}}
)
SIZES = [40, 0, 1, 300, 700, 25]


def spacepoints(count, seed):
    """(count, 4) energy, x, y, z inside the detector."""
    random = np.random.default_rng(seed)
    radius, phi = random.uniform(12, 78, count), random.uniform(-3, 3, count)
    columns = (random.uniform(1, 9, count), radius * np.cos(phi), radius * np.sin(phi), random.uniform(-9, 9, count))
    return np.stack(columns, axis=1).astype(np.float32)


@pytest.fixture
def shards(tmp_path):
    """A folder of four shards of six events; the detector, as a file that other processes can read."""
    source = tmp_path / "shards of mine"
    source.mkdir()
    for number in range(4):
        data = spacepoints(sum(SIZES), number)
        np.savez(source / f"spacepoints_{number:03d}.npz", data=data, size=np.array(SIZES))
        np.savez(source / f"track_ids_{number:03d}.npz", data=np.arange(len(data)), size=np.array(SIZES))
    return source


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


def same(first, second):
    assert first.positions.tobytes() == second.positions.tobytes()
    assert first.features.tobytes() == second.features.tobytes()
    assert {k: v.tolist() for k, v in first.labels.items()} == {k: v.tolist() for k, v in second.labels.items()}
    assert (first.event_id, first.source, first.detector) == (second.event_id, second.source, second.detector)


def test_a_folder_does_not_depend_on_the_number_of_processes(shards, tmp_path):
    one = convert([shards], DETECTOR, tmp_path / "one", events_per_file=4)
    two = convert([shards], DETECTOR, tmp_path / "two", events_per_file=4, workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(one.files) == 8
    assert {**one.as_dict(), "output": ""} == {**two.as_dict(), "output": ""}
    assert (one.num_events, one.num_empty_events, one.num_spacepoints) == (24, 4, 4 * sum(SIZES))


def test_a_folder_holds_what_one_file_holds(shards, tmp_path):
    convert([shards], DETECTOR, tmp_path / "folder", events_per_file=4)
    convert([shards], DETECTOR, tmp_path / "file.parquet")
    pairs = list(zip(read_events(tmp_path / "folder"), read_events(tmp_path / "file.parquet"), strict=True))
    pairs += list(zip(EventDataset([tmp_path / "folder"]), read_events(tmp_path / "folder"), strict=True))
    assert len(pairs) == 48
    for first, second in pairs:
        same(first, second)
    for number in range(4):
        data = np.load(shards / f"spacepoints_{number:03d}.npz")["data"]
        events = [first for first, _ in pairs[number * 6 : number * 6 + 6]]
        assert np.concatenate([event.positions for event in events]).tobytes() == data[:, 1:].tobytes()
        assert events[0].positions.dtype == np.float32
        assert {event.source for event in events} == {f"spacepoints_{number:03d}.npz"}


def test_a_failed_conversion_goes_on_where_it_was(shards, tmp_path, monkeypatch):
    convert([shards], DETECTOR, tmp_path / "whole", events_per_file=4)
    output, original, done = tmp_path / "parts", folder.convert_part, []

    def failing(task, **arguments):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(task)
        return original(task, **arguments)

    monkeypatch.setattr(folder, "convert_part", failing)
    with pytest.raises(KeyboardInterrupt):
        convert([shards], DETECTOR, output, events_per_file=4)
    with pytest.raises(DataError, match="run the same command again"):
        list(read_events(output))
    before = {file: file.stat().st_mtime_ns for file in output.glob("events-*.parquet")}
    assert len(before) == 4
    (output / ".events-0003-x.tmp.parquet").write_bytes(b"cut off")
    monkeypatch.setattr(folder, "convert_part", original)
    report = convert([shards], DETECTOR, output, events_per_file=4, workers=2)
    assert report.num_kept == 4
    assert before == {file: file.stat().st_mtime_ns for file in before}
    assert contents(output) == contents(tmp_path / "whole")


def test_a_killed_conversion_goes_on_where_it_was(shards, tmp_path):
    yaml = tmp_path / "barrel.yaml"
    yaml.write_text(json.dumps(DETECTOR.spec()))
    command = [sys.executable, "-c", "from fm4npp.cli import main; main()", "convert", str(shards)]
    command += ["--detector", str(yaml)]
    command += ["--output", str(tmp_path / "killed"), "--events-per-file", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "killed").glob(".events-*.json")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.communicate()[1] == b""
    convert([shards], yaml, tmp_path / "killed", events_per_file=1)
    convert([shards], yaml, tmp_path / "whole", events_per_file=1)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_finished_folder_is_finished(shards, tmp_path):
    first = convert([shards], DETECTOR, tmp_path / "out")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    again = convert([shards], DETECTOR, tmp_path / "out")
    assert (again.num_kept, again.num_events) == (len(first.files), first.num_events)
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "out").iterdir()}
    with pytest.raises(ConfigurationError, match="something else"):
        convert([shards], DETECTOR, tmp_path / "out", labels="none")


def test_a_folder_of_other_things_is_left_alone(shards, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("precious")
    with pytest.raises(ConfigurationError, match="no conversion"):
        convert([shards], DETECTOR, tmp_path / "mine")
    assert (tmp_path / "mine/notes.txt").read_text() == "precious"
    with pytest.raises(ConfigurationError, match="folder"):
        convert([shards], DETECTOR, tmp_path / "one.parquet", workers=2)


def test_an_unfinished_folder_is_not_mixed_with_another_conversion(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "convert_part", lambda *_, **__: (_ for _ in ()).throw(DataError("stop")))
    with pytest.raises(DataError):
        convert([shards], DETECTOR, tmp_path / "out")
    monkeypatch.undo()
    with pytest.raises(ConfigurationError, match="unfinished conversion of other detector"):
        convert([shards], DETECTOR.replace(noise="none"), tmp_path / "out")
    np.savez(shards / "spacepoints_009.npz", data=spacepoints(3, 1), size=[3])
    np.savez(shards / "track_ids_009.npz", data=np.arange(3), size=[3])
    with pytest.raises(ConfigurationError, match="unfinished conversion of other inputs"):
        convert([shards], DETECTOR, tmp_path / "out")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_damaged_part_stops_the_conversion(shards, tmp_path, workers):
    damaged = shards / "spacepoints_002.npz"
    damaged.write_bytes(damaged.read_bytes()[:-300])
    with pytest.raises(DataError, match=r"spacepoints_002\.npz"):
        convert([shards], DETECTOR, tmp_path / "out", workers=workers)
    assert not (tmp_path / "out/manifest.json").exists()


def spoiled(shards, *faults):
    """Spoil values (event, spacepoint, column) of the first shard."""
    path = shards / "spacepoints_000.npz"
    data = np.load(path)["data"]
    starts = np.concatenate([[0], np.cumsum(SIZES)])
    for event, spacepoint, column, value in faults:
        data[starts[event] + spacepoint, column] = value
    np.savez(path, data=data, size=np.array(SIZES))


FAULTS = [(0, 3, 1, np.nan), (3, 7, 0, -4.0), (4, 8, 2, np.inf)]


@pytest.mark.parametrize("output", ["events.parquet", "folder"])
def test_what_is_read_is_used_or_accounted_for(shards, tmp_path, output):
    spoiled(shards, *FAULTS)
    report = convert([shards], DETECTOR, tmp_path / output)
    counted = report.accounting
    assert (counted.spacepoints_read, counted.spacepoints_used) == (4 * sum(SIZES), 4 * sum(SIZES) - 3)
    reasons = {"x is not finite": 1, "y is not finite": 1, "energy is out of range": 1}
    assert dict(counted.rejected_spacepoints) == reasons
    assert counted.examples["energy is out of range"] == "spacepoints_000.npz: event 3: spacepoint 7"
    events = list(read_events(tmp_path / output))
    assert [event.num_read for event in events[:6]] == SIZES
    assert events[0].places.tolist() == [place for place in range(40) if place != 3]
    files = [tmp_path / output] if output.endswith("parquet") else [tmp_path / output / f["file"] for f in report.files]
    stored = [read_summary(file)["accounting"]["rejected_spacepoints"] for file in files]
    assert {k: v for counts in stored for k, v in counts.items()} == reasons


def test_too_much_rejected_stops(shards, tmp_path):
    spoiled(shards, *[(3, place, 1, np.nan) for place in range(5)])
    with pytest.raises(DataError) as error:
        convert([shards], DETECTOR, tmp_path / "events.parquet")
    message = str(error.value)
    for part in (
        shards,
        "5 of 4264 spacepoints",
        "0.10%",
        "x is not finite",
        "event 3: spacepoint 0",
        "--max-rejected",
    ):
        assert str(part) in message
    assert not (tmp_path / "events.parquet").exists()
    report = convert([shards], DETECTOR, tmp_path / "events.parquet", max_rejected=0.01)
    assert report.accounting.rejected_spacepoints.total() == 5


def test_rejected_events_are_counted():
    counted, error = Accounting(), DataError("two particles have one track_id", file="a.root", event=4)
    good = Event(positions=np.ones((2, 3)), features=np.empty((2, 0)))
    outcomes = [good] * 999 + [error] + [good] * 600
    assert len(list(counted.screen(outcomes))) == 1599
    assert (counted.events_read, counted.events_used, counted.rejected_events.total()) == (1600, 1599, 1)
    assert Accounting.from_dict(json.loads(json.dumps(counted.as_dict()))).as_dict() == counted.as_dict()
    with pytest.raises(DataError, match=r"2 of 1000 events rejected.*first: a.root: event 4: two particles"):
        list(Accounting().screen([*outcomes[1:1000], error, *outcomes[:500]]))
    with pytest.raises(DataError, match=r"^a.root: event 4: two particles have one track_id$"):
        list(Accounting().screen([error] * 5))


def test_the_content_hash_knows_content_alone(shards, tmp_path, monkeypatch):
    convert([shards], DETECTOR, tmp_path / "first.parquet")
    monkeypatch.setattr(writing, "ROWS_PER_GROUP", 5)
    convert([shards], DETECTOR, tmp_path / "second.parquet")
    first, second = (read_summary(tmp_path / f"{name}.parquet") for name in ("first", "second"))
    assert (tmp_path / "first.parquet").read_bytes() != (tmp_path / "second.parquet").read_bytes()
    assert first == second
    events = list(read_events(tmp_path / "first.parquet"))
    moved = [events[0].take(np.arange(len(events[0]))[::-1]), *events[1:]]
    for others in (moved, events[1:], [events[1], events[0], *events[2:]]):
        write_events(others, tmp_path / "other.parquet")
        assert read_summary(tmp_path / "other.parquet")["content"] != first["content"]
    write_events(events, tmp_path / "other.parquet")
    assert read_summary(tmp_path / "other.parquet")["content"] == first["content"]
    x = np.concatenate([event.positions[:, 0] for event in events])
    assert first["ranges"]["x"] == [x.min(), x.max()]


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    event = Event(positions=np.ones((2, 3)), features=np.empty((2, 0)))
    with pytest.raises(RuntimeError), EventWriter(tmp_path / "events.parquet") as writer:
        writer.write(event)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
