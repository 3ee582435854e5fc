"""Work for several processes: every result once, and no process left whatever happens."""

import multiprocessing
import os
import signal
import threading
import time
from contextlib import closing
from functools import partial
from multiprocessing import util
from pathlib import Path

import pytest

from fm4npp.data.processes import AHEAD, check_workers, results
from fm4npp.errors import ConfigurationError, DataError, FM4NPPError


def spoiled(item, bad, how):
    """The square of an item; one of them fails."""
    if item != bad:
        return item**2
    if how == "unknown":
        return item.no_such_attribute
    if how == "ours":
        raise DataError("is bent", file="barrel")
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return bytes(10_000_000)  # more than a connection holds: it is killed while it sends them


def slow_first(item):
    time.sleep(0.5 if item == 0 else 0.0)
    return item, os.getpid()


def given_out(seen):
    for item in range(12):
        seen.append(item)
        yield item


def test_every_result_once_in_order_and_few_ahead():
    seen, found = [], []
    for item, process in results(slow_first, given_out(seen), 2, in_order=True):
        found.append((item, process))
        assert len(seen) - len(found) <= AHEAD * 2
    assert [item for item, _ in found] == list(range(12))
    assert len({process for _, process in found} - {os.getpid()}) == 2
    assert not multiprocessing.active_children()


def test_results_as_they_come():
    found = [item for item, _ in results(slow_first, range(12), 2)]
    assert sorted(found) == list(range(12))
    assert found[-1] == 0


def test_one_process_is_this_one():
    found = results(slow_first, given_out(seen := []), 1)
    assert next(found) == (0, os.getpid())
    assert seen == [0]


@pytest.mark.parametrize(
    ("how", "error", "said"), [("ours", DataError, "^barrel: is bent$"), ("unknown", AttributeError, "no_such")]
)
@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_is_raised_as_it_is(how, error, said, workers):
    with (
        pytest.raises(error, match=said) as raised,
        closing(results(partial(spoiled, bad=3, how=how), range(9), workers)) as found,
    ):
        list(found)
    assert (how == "unknown" and workers == 2) == ("spoiled" in "".join(getattr(raised.value, "__notes__", ())))
    assert not multiprocessing.active_children()


def test_a_process_that_is_killed_while_it_sends():
    with closing(results(partial(spoiled, bad=1, how="killed"), range(9), 2, in_order=True, killed="gone")) as found:
        assert next(found) == 0
        time.sleep(0.6)
        with pytest.raises(FM4NPPError, match="^gone$"):
            list(found)
    assert not multiprocessing.active_children()


def test_leaving_early_ends_the_processes():
    with closing(results(slow_first, range(10**9), 2)) as found:
        next(found)
        assert len(multiprocessing.active_children()) == 2
    assert not multiprocessing.active_children()


@pytest.fixture
def other_thread():
    """A thread that takes the interrupts which the main one has masked, as those of BLAS do."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    yield thread
    done.set()
    thread.join()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_an_interrupt_while_processes_start_waits_for_their_start(other_thread, monkeypatch, capfd):
    """Between the start of one and its first message nothing is raised; else it dies of a traceback of its own."""
    started, spawn = [], util.spawnv_passfds

    def interrupted(*arguments):
        started.append(spawn(*arguments))
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        return started[-1]

    monkeypatch.setattr(util, "spawnv_passfds", interrupted)
    handler, mask = signal.getsignal(signal.SIGINT), signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with pytest.raises(KeyboardInterrupt), closing(results(slow_first, range(9), 2)) as found:
        next(found)
    processes = started[-2:]  # before them perhaps the resource tracker, which stays
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{process}").exists() for process in processes):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(processes) == 2
    assert capfd.readouterr() == ("", "")
    assert not multiprocessing.active_children()
    assert (signal.getsignal(signal.SIGINT), signal.pthread_sigmask(signal.SIG_BLOCK, [])) == (handler, mask)


@pytest.mark.parametrize(("cores", "most"), [(1, 8), (2, 8), (3, 12), (64, 256)])
def test_more_processes_than_a_machine_bears_are_refused(cores, most, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    check_workers(most)
    with pytest.raises(ConfigurationError, match=f"^--workers {most + 1}: at most {most} processes on {cores} cores$"):
        check_workers(most + 1)


def test_too_many_processes_are_refused_before_anything_is_done(tmp_path):
    from fm4npp.convert import convert  # here: processes of the other tests import this module
    from fm4npp.detectors import build
    from fm4npp.simulation import ParticleGun
    from fm4npp.simulation.production import produce

    many = 10**6
    with pytest.raises(ConfigurationError, match=f"--workers {many}: at most"):
        produce(build("sphenix-tpc"), ParticleGun(), 10, 1, tmp_path / "events", shards=1, workers=many)
    with pytest.raises(ConfigurationError, match=f"--workers {many}: at most"):
        convert([tmp_path / "absent.root"], "sphenix-tpc", tmp_path / "events", workers=many)
    assert not list(tmp_path.iterdir())
