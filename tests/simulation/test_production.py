"""Production: bytes whatever the processes, going on after a kill, and a clean end whatever happens."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fm4npp.data import folder, read_events
from fm4npp.errors import ConfigurationError, FM4NPPError
from fm4npp.simulation import ParticleGun, simulate
from fm4npp.simulation.events import block_size
from fm4npp.simulation.production import ProductionReport, produce
from tests.simulation.toys import toy

DETECTOR = toy(gain=1.0)
GUN = ParticleGun.parse("pi+,pt=0.3..3")
PILEUP = 63.0
"""For small blocks."""
SIZE = block_size(PILEUP)
NUM_EVENTS = 6 * SIZE + 1
COMMAND = [sys.executable, "-c", "from fm4npp.cli import main; main()", "simulate"]


class Spoiled(ParticleGun):
    """A gun that fails, or ends its process, in one block."""

    block: int = 3
    how: str = "fail"

    def collisions(self, count, seed):
        if seed.entropy[1] == self.block:
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise FM4NPPError("the barrel is bent")
        return super().collisions(count, seed)


def made(output, generator=GUN, num_events=NUM_EVENTS, seed=5, **options) -> ProductionReport:
    return produce(DETECTOR, generator, num_events, seed, output, **{"pileup": PILEUP, **options})


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def same(first, second):
    assert first.positions.tobytes() == second.positions.tobytes()
    assert first.features.tobytes() == second.features.tobytes()
    for kind in ("labels", "particles"):
        one, other = getattr(first, kind), getattr(second, kind)
        assert {name: (v.dtype, v.tolist()) for name, v in one.items()} == {
            n: (v.dtype, v.tolist()) for n, v in other.items()
        }
    assert (first.event_id, first.source, first.detector) == (second.event_id, second.source, second.detector)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What one process writes: a file, a folder of four, and their reports."""
    place = tmp_path_factory.mktemp("whole")
    return place, made(place / "events.parquet"), made(place / "events", shards=4)


def test_a_file_holds_the_events_of_the_simulation(whole):
    place, report, _ = whole
    given = list(simulate(DETECTOR, NUM_EVENTS, 5, GUN, PILEUP))
    stored = list(read_events(place / "events.parquet"))
    for first, second in zip(given, stored, strict=True):
        same(first, second)
    assert [event.event_id for event in stored] == list(range(NUM_EVENTS))
    assert report.num_events == report.num_simulated == NUM_EVENTS
    assert report.num_spacepoints == sum(map(len, given)) > 0
    assert report.num_tracks == sum(len(np.unique(event.labels["track_id"])) for event in given)


def test_a_folder_holds_what_one_file_holds(whole):
    place, report, sharded = whole
    for first, second in zip(read_events(place / "events"), read_events(place / "events.parquet"), strict=True):
        same(first, second)
    counts = ("num_events", "num_spacepoints", "num_tracks", "num_empty_events")
    assert [getattr(report, name) for name in counts] == [getattr(sharded, name) for name in counts]
    sizes = [file["events"] for file in sharded.files]
    assert sizes == [SIZE, 2 * SIZE, 2 * SIZE, SIZE + 1]  # blocks are not divided
    assert sorted(contents(place / "events")) == [*(f"events-0000{n}.parquet" for n in range(4)), "manifest.json"]


def test_the_bytes_do_not_depend_on_the_number_of_processes(whole, tmp_path):
    seen = []
    report = made(tmp_path / "events.parquet", workers=2, progress=seen.append)
    assert (tmp_path / "events.parquet").read_bytes() == (whole[0] / "events.parquet").read_bytes()
    assert seen == [*range(SIZE, NUM_EVENTS, SIZE), NUM_EVENTS]
    assert report.num_tracks == whole[1].num_tracks


def test_the_first_blocks_of_a_longer_run_are_those_of_a_shorter_one(whole, tmp_path):
    made(tmp_path / "short.parquet", num_events=2 * SIZE)
    short, long = list(read_events(tmp_path / "short.parquet")), list(read_events(whole[0] / "events.parquet"))
    for first, second in zip(short, long[: 2 * SIZE], strict=True):
        same(first, second)
    assert short[0].positions.tobytes() != short[SIZE].positions.tobytes()
    made(tmp_path / "other.parquet", num_events=2 * SIZE, seed=6)
    assert next(read_events(tmp_path / "other.parquet")).positions.tobytes() != short[0].positions.tobytes()


def test_events_without_a_spacepoint_are_kept_and_counted(tmp_path):
    report = made(tmp_path / "events.parquet", ParticleGun(mean_primaries=0.1), num_events=20, pileup=0.0)
    sizes = [len(event) for event in read_events(tmp_path / "events.parquet")]
    assert report.num_empty_events == sizes.count(0) > 0
    assert (report.num_events, report.num_spacepoints) == (20, sum(sizes))


def test_an_interrupted_folder_goes_on_where_it_was(whole, tmp_path, monkeypatch):
    output, original, parts = tmp_path / "parts", folder.keep, []

    def failing(path, part, record):
        if len(parts) == 2:
            raise KeyboardInterrupt
        parts.append(part)
        original(path, part, record)

    monkeypatch.setattr(folder, "keep", failing)
    with pytest.raises(KeyboardInterrupt):
        made(output, shards=4)
    monkeypatch.undo()
    before = {file: file.stat().st_mtime_ns for file in output.glob("events-0000[01].parquet")}
    assert len(before) == 2
    (output / ".events-00003.77.tmp.parquet").write_bytes(b"cut off")
    seen = []
    report = made(output, shards=4, workers=2, progress=seen.append)
    assert contents(output) == contents(whole[0] / "events")
    assert before == {file: file.stat().st_mtime_ns for file in before}
    num_kept = sum(file["events"] for file in whole[2].files[:2])
    assert (report.num_kept, report.num_simulated) == (2, NUM_EVENTS - num_kept)
    assert (seen[0], seen[-1]) == (num_kept + SIZE, NUM_EVENTS)
    assert report.num_tracks == whole[1].num_tracks
    again = made(output, shards=4)
    assert (again.num_kept, again.num_simulated, again.num_tracks) == (4, 0, whole[1].num_tracks)


def test_a_folder_of_other_things_is_left_alone(whole, tmp_path, monkeypatch):
    with pytest.raises(ConfigurationError, match="finished simulation of something else"):
        made(whole[0] / "events", shards=3)
    with pytest.raises(FM4NPPError, match="barrel"):
        made(tmp_path / "out", Spoiled(), shards=4)
    with pytest.raises(ConfigurationError, match="unfinished simulation of other generator, seed;"):
        made(tmp_path / "out", shards=4, seed=6)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("precious")
    with pytest.raises(ConfigurationError, match="no simulation"):
        made(tmp_path / "mine", shards=4)
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("out", {}, "end the name of an events file in .parquet"),
        ("out.parquet", {"shards": 2}, "without .parquet"),
        ("out", {"shards": 8}, f"{SIZE} at a time, can be divided into 1 to 7 files, not 8"),
        ("out.parquet", {"pileup": -1.0}, "negative"),
    ],
)
def test_what_cannot_be_written_is_refused_at_once(tmp_path, name, options, said):
    with pytest.raises(ConfigurationError, match=said):
        made(tmp_path / name, Spoiled(block=0), **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("how", "workers", "said"), [("fail", 1, "barrel is bent"), ("kill", 2, "process was killed; out of memory?")]
)
def test_a_failing_process_is_one_line_and_no_file(tmp_path, how, workers, said):
    with pytest.raises(FM4NPPError, match=said) as error:
        made(tmp_path / "events.parquet", Spoiled(how=how), workers=workers)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_line_and_no_file(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(FM4NPPError, match="cannot be written"):
            made(tmp_path / "events.parquet", workers=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
    assert children(os.getpid()) == []


def children(process: int) -> list[int]:
    """The workers that a process has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            line = (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if parent == process and b"spawn_main" in line:
            found.append(int(stat.parent.name))
    return found


def started(tmp_path, *options):
    """A run of the command in a group of processes of its own."""
    detector = tmp_path / "toy.yaml"
    detector.write_text(json.dumps(DETECTOR.spec()))
    command = [*COMMAND, "--detector", str(detector), "--pileup", str(PILEUP), "--seed", "5", "--gun", "pi+,pt=0.3..3"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*command, *options], text=True, start_new_session=True, **pipes)


def until(condition, process):
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    return found


def alive(processes: list[int]) -> bool:
    """Whether any of them runs; one that has ended may still be listed until somebody asks for its status."""
    states = [Path(f"/proc/{number}/stat") for number in processes]
    return any(state.exists() and state.read_text().rpartition(")")[2].split()[0] not in "ZX" for state in states)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("moment", ["start", "middle"])
def test_an_interrupt_is_one_line_and_no_file(tmp_path, moment):
    output = tmp_path / "out" / "events.parquet"
    process = started(tmp_path, "--events", "100000", "--workers", "2", "--output", str(output))
    workers = until(lambda: children(process.pid), process)
    if moment == "middle":
        until(lambda: output.parent.is_dir() and list(output.parent.iterdir()), process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    try:
        said, errors = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):  # an event may take long; nothing is left of a test that fails
            os.killpg(process.pid, signal.SIGKILL)
    line = "error: interrupted; nothing was written under the final name\n"
    assert (process.returncode, said, errors) == (130, "", line)
    assert not output.parent.is_dir() or not list(output.parent.iterdir())
    assert not alive(workers)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_a_killed_run_leaves_no_process_and_goes_on(whole, tmp_path):
    output = tmp_path / "events"
    options = ("--events", str(NUM_EVENTS), "--shards", "4", "--output", str(output), "--workers", "2")
    process = started(tmp_path, *options)
    until(lambda: (output / ".events-00000.json").is_file(), process)
    workers = children(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    assert process.communicate() == ("", "")
    deadline = time.monotonic() + 30
    while alive(workers):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    report = made(output, shards=4)
    assert 1 <= report.num_kept < 4
    assert contents(output) == contents(whole[0] / "events")
