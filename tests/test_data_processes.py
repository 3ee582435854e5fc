"""Work for several processes: every result once, and no process left whatever happens."""

import multiprocessing
import os
import signal
import threading
import time
from contextlib import closing
from functools import partial

import pytest

from fm4npp.data.processes import AHEAD, results
from fm4npp.errors import DataError, FM4NPPError


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
