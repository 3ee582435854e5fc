"""Damaged bytes of every format: each file reads exactly as before, or one line says what is wrong with it.

Every base file is damaged and read in a process of its own, by itself and on the way into an events file, so that what
ends the interpreter fails a test and not the tests. Damage that no checksum shows gives other events; that is allowed
only where `Base.unchecked` says why, and the number is limited.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest

from fm4npp import readers
from tests.conftest import SHARED_DATA
from tests.fuzz import batches
from tests.fuzz.bases import BASES
from tests.fuzz.child import Batch
from tests.fuzz.mutations import KINDS, mutate
from tests.fuzz.real import REAL

MUTATIONS = 100
SLOW = {"podio": 50, "root-tree": 60, "root-rows": 60}
"""Reader -> mutations of each base, of ROOT files, whose metadata takes long to read."""
REAL_MUTATIONS = 40
"""Of each real file, of which the first 20 events are read."""
SLOW_REAL = {"podio": 20}
"""Reader -> mutations of each real file, of trees with hundreds of branches."""
AT_LEAST = 2000
SECONDS = 20
"""Of computing, for one mutation."""
GROWTH = 200 << 20
"""Bytes that a process may grow by: libraries load parts of themselves, and no damaged length may be believed."""
UNDETECTED = 0.25
"""Share of damage that may give other events where nothing is there to detect it."""


def size_of(name):
    """Number of mutations of a base."""
    return SLOW.get(BASES[name].reader, MUTATIONS)


def size_of_real(name):
    """Number of mutations of a real file."""
    return SLOW_REAL.get(REAL[name].reader, REAL_MUTATIONS)


def bases_of(reader):
    """Names of the bases of a reader."""
    return [name for name, base in BASES.items() if base.reader == reader]


def batches_of(name):
    """The batches of a reader, or of a real file."""
    if name in REAL:
        return [Batch(name, list(range(size_of_real(name))), most=20, source=str(SHARED_DATA))]
    return [Batch(base, list(range(size_of(base)))) for base in bases_of(name)]


@pytest.fixture(scope="session")
def results(request, tmp_path_factory):
    """Reader or real file -> what became of its mutations, in the making: two processes at a time."""
    items = [item for item in request.session.items if "results" in getattr(item, "fixturenames", ())]
    names = [
        item.callspec.params["name"]
        for item in items
        if SHARED_DATA.exists() or item.callspec.params["name"] not in REAL
    ]
    folder = tmp_path_factory.mktemp("damaged")
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(batches.run, batches_of(name), folder / name) for name in names}


def check(result, name, unchecked, expected):
    """What must hold of the `expected` mutations of one base."""
    lines = [line for line in result.lines if line["base"] == name]
    assert len(lines) == expected
    assert not result.truths[name]["fault"]
    assert result.truths[name]["spacepoints"]
    assert max(line["seconds"] for line in lines) < SECONDS
    assert any(line["outcome"] == "error" for line in lines)
    differs = [line for line in lines if line["outcome"] == "differs"]
    assert not differs or unchecked, differs[:3]
    assert len(differs) <= UNDETECTED * expected, differs[:3]


def check_process(result):
    """What must hold of the process that read the mutations."""
    assert not result.crashes
    faults = [line for line in result.lines if line["fault"]]
    assert not faults, faults[:3]
    assert result.grown < GROWTH


@pytest.mark.parametrize("name", readers.names())
def test_damaged_files(results, name):
    assert bases_of(name), f"no base file of {name}: add one to tests/fuzz/bases.py"
    result = results[name].result()
    check_process(result)
    for base in bases_of(name):
        check(result, base, BASES[base].unchecked, size_of(base))
    assert any(line.get("converted") for line in result.lines)


@pytest.mark.shared_data
@pytest.mark.parametrize("name", REAL)
def test_damaged_real_files(shared_data, results, name):
    result = results[name].result()
    check_process(result)
    check(result, name, REAL[name].unchecked, size_of_real(name))


def test_there_are_enough_mutations():
    assert {base.reader for base in BASES.values()} == set(readers.names())
    assert sum(map(size_of, BASES)) >= AT_LEAST
    assert all(sum(map(size_of, bases_of(name))) >= 100 for name in readers.names())


def test_mutations_are_deterministic_and_of_every_kind():
    content, other = bytes(range(256)) * 8, bytes(reversed(range(256))) * 8
    made = [mutate(content, other, seed) for seed in range(200)]
    assert made == [mutate(content, other, seed) for seed in range(200)]
    assert all(damaged != content for damaged, _ in made)
    assert len({kind for _, kind in made}) == len(KINDS)


def test_a_process_that_ends_is_noticed(tmp_path, monkeypatch):
    """The tests above must be able to fail: a reader that ends the interpreter is found, with its mutation."""
    program = """
import os, sys
from tests.fuzz import child, outcomes
calls = []
def read(*arguments):
    calls.append(arguments)
    if len(calls) == 5:
        os.abort()
    return outcomes.read(*arguments)
child.read = read
import pathlib
child.main(pathlib.Path(sys.argv[1]), sys.argv[2])
"""
    monkeypatch.setattr(batches, "CHILD", ("-c", program))
    result = batches.run([Batch("tpcpp", list(range(6)))], tmp_path)
    assert len(result.crashes) == 2
    assert "'started': 2" in result.crashes[0]
    assert [line["seed"] for line in result.lines] == [0, 1, 3, 4]
