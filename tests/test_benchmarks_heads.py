"""The benchmark of track finding: that it runs, and that its verdict can be either."""

import importlib.util
import json
import sys
from functools import partial
from pathlib import Path

import pytest

from fm4npp.heads import HeadContext
from fm4npp.heads.track_finder import TrackFinderConfig

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    if not FOLDER.exists():
        pytest.skip("the benchmarks are not part of the installed package")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        spec = importlib.util.spec_from_file_location("benchmarks_heads", FOLDER / "heads.py")
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        yield module


def points(power_of_hits, power_of_queries):
    sizes = [(hits, queries) for hits in (500, 2000, 5000, 10_000) for queries in (40, 120, 360)]
    cost = [hits**power_of_hits * queries**power_of_queries for hits, queries in sizes]
    return [
        {"hits": hits, "queries": queries, "training": seconds, "inference": seconds}
        for (hits, queries), seconds in zip(sizes, cost, strict=True)
    ]


def test_it_runs(benchmark, tmp_path, capsys, monkeypatch):
    path = tmp_path / "report.json"
    monkeypatch.setattr(benchmark.torch, "set_num_threads", lambda number: None)
    monkeypatch.setattr(benchmark, "CONTEXT", HeadContext(width=16, num_blocks=2, num_features=1))
    monkeypatch.setattr(benchmark, "TrackFinderConfig", partial(TrackFinderConfig, width=16, hidden=16))
    benchmark.main(["--quick", "--json", str(path)])
    assert len(json.loads(path.read_text())["points"]) == 4
    assert "than hits x queries" in capsys.readouterr().out


@pytest.mark.parametrize(("hits", "queries"), [(1.0, 1.0), (0.5, 0.2), (2.0, 0.0), (1.0, 1.3)])
def test_exponents_are_those_of_the_cost(benchmark, hits, queries):
    found = benchmark.verdict(points(hits, queries))["training"]
    assert found["hits"] == pytest.approx(hits)
    assert found["queries"] == pytest.approx(queries)
    together = found["hits x queries"]
    assert min(hits, queries) - 1e-9 <= together <= max(hits, queries) + 1e-9


@pytest.mark.parametrize(("power", "status", "word"), [(1.0, 0, "no faster"), (1.3, 1, "FASTER")])
def test_the_verdict_is_the_exit_status(benchmark, power, status, word, monkeypatch, capsys):
    made = iter(points(power, 1.0))
    monkeypatch.setattr(benchmark, "measure", lambda *arguments, **settings: next(made))
    monkeypatch.setattr(benchmark, "shown", str)
    monkeypatch.setattr(benchmark.torch, "set_num_threads", lambda number: None)
    assert benchmark.main(["--quick"]) == status
    assert word in capsys.readouterr().out
