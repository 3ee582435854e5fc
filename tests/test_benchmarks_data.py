"""The benchmark of the way from files to batches: that it runs, and that its baseline finds what we find."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fm4npp.objectives.k_next_nearest import KNextNearest
from fm4npp.objectives.neighbours import exists, next_nearest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    if not FOLDER.exists():
        pytest.skip("the benchmarks are not part of the installed package")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        spec = importlib.util.spec_from_file_location("benchmarks_data", FOLDER / "data.py")
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        yield module


def test_it_runs(benchmark, tmp_path, capsys):
    path = tmp_path / "report.json"
    report = benchmark.main(["--quick", "--events", "2", "--files", "3", "--json", str(path)])
    assert set(report["seconds"]) == {"released algorithm", "fm4npp", "serialization", "targets"}
    assert report["files"]["events"] == 3
    assert json.loads(path.read_text())["mean"] == report["mean"]
    assert "x the released algorithm" in capsys.readouterr().out


def test_the_baseline_finds_neighbours_at_the_same_distances(benchmark):
    (event,) = benchmark.make_events(1)
    geometry = benchmark.detectors.build("sphenix-tpc").geometry
    coordinates = geometry.coordinates(event.positions)
    coordinates = coordinates[geometry.causal_order(coordinates)]
    places, distances = benchmark.dense_neighbours(torch.from_numpy(coordinates).double(), benchmark.K)
    index = next_nearest(coordinates, np.arange(len(coordinates)), benchmark.K)
    valid = exists(index)
    np.testing.assert_array_equal(distances.isfinite().numpy(), valid)
    ours = np.linalg.norm(coordinates[index].astype(float) - coordinates[:, None], axis=2)
    np.testing.assert_allclose(distances.numpy()[valid], ours[valid], rtol=1e-12)
    targets = KNextNearest(k=benchmark.K).targets(coordinates, geometry, {})
    np.testing.assert_array_equal(targets["valid"], valid)
    for place, target, there in zip(places.float().numpy(), targets["neighbours"], valid, strict=True):
        assert set(map(tuple, place[there])) == set(map(tuple, target[there]))  # ties may be in any order


def test_the_baseline_makes_the_same_events(benchmark):
    """The same points, boxes in the same order and outwards in each; single precision breaks ties its own way."""
    events = benchmark.make_events(2)
    processor = benchmark.make_processor(events)
    (detector,) = processor.config.detectors
    scan = tuple(torch.tensor(edges[1:-1]) for edges in processor.config.serializers[detector.name].edges)
    points, targets = benchmark.dense_batch(events, detector.geometry, scan)
    longest = max(map(len, events))
    assert points.shape == (2, longest, 4)
    assert targets.shape == (2, longest, 90)
    for row, event in enumerate(events):
        ours = processor([event])
        theirs = points[row, : len(event), 1:].numpy()
        np.testing.assert_allclose(np.sort(theirs, axis=0), np.sort(ours.coordinates, axis=0), atol=1e-5)
        bins = [np.searchsorted(edges.numpy(), theirs[:, axis]) for axis, edges in enumerate(scan)]
        np.testing.assert_array_equal(np.lexsort((theirs[:, 2], *bins)), np.arange(len(event)))
        assert (points[row, len(event) :] == benchmark.PADDING).all()
