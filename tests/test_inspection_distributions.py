"""Distributions of what events hold: exact where they can be, and from a stream."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from fm4npp import detectors
from fm4npp.cli import app
from fm4npp.cli.distributions import ASCII, BLOCKS, bar, distributed
from fm4npp.data import EventWriter, write_events, writing
from fm4npp.event import Event
from fm4npp.inspection import distributions, inspect_events
from fm4npp.inspection.distributions import RealNumbers, WholeNumbers
from fm4npp.inspection.statistics import Statistics
from fm4npp.readers import events_parquet


def taken(kind, *arrays):
    """What a distribution says of arrays that came one after the other."""
    found = kind()
    for values in arrays:
        found.add(np.asarray(values))
    return found.as_dict()


def event(layers, ids, seed=0, event_id=0):
    """Spacepoints of tracks `ids` in `layers`, with as many particles as tracks and one more that left none."""
    generator = np.random.default_rng(seed)
    layers, ids, count = np.asarray(layers, int), np.asarray(ids, int), len(ids)
    particles = np.append(np.unique(ids[ids >= 0]), 99)
    momentum = {axis: generator.normal(size=len(particles)).astype(np.float32) for axis in ("px", "py", "pz")}
    momentum["px"][-1] = 1e6
    return Event(
        positions=generator.uniform(-50, 50, (count, 3)),
        features=generator.exponential(200, (count, 1)),
        feature_names=("energy",),
        labels={"track_id": ids, "layer": layers, "particle_class": np.ones(count, int)},
        particles={"track_id": particles, **momentum},
        detector="barrel",
        event_id=event_id,
    )


@pytest.fixture
def few():
    return [event([0, 0, 2, 2], [1, 1, 2, -1]), event([], []), event([2, 2], [7, 7], seed=1)]


@given(st.lists(st.lists(st.integers(0, 3000), max_size=30), min_size=1, max_size=6))
def test_whole_numbers_are_exact(lists):
    arrays = [np.array(values, np.int64) for values in lists]
    everything, found = np.concatenate(arrays), taken(WholeNumbers, *arrays)
    assert found["count"] == len(everything)
    if not len(everything):
        return
    assert found["mean"] == pytest.approx(everything.mean(), rel=1e-12)
    assert found["std"] == pytest.approx(everything.std(), rel=1e-9, abs=1e-9)
    for name, share in distributions.QUANTILES.items():
        assert found[name] == np.quantile(everything, share, method="inverted_cdf")
    assert sum(found["histogram"]["counts"]) == len(everything)
    assert len(found["histogram"]["counts"]) <= distributions.COLUMNS


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(1).normal(0, 1, 40_000),
        np.random.default_rng(2).normal(1e6, 2e4, 40_000),
        np.random.default_rng(3).lognormal(0, 3, 40_000),
        -np.random.default_rng(4).lognormal(-20, 1, 40_000),
        np.full(10, 0.3),
        np.array([0.0, 0.0, 1e-30, -1e-30]),
    ],
    ids=["normal", "far from zero", "long tail", "small and negative", "constant", "about zero"],
)
def test_quantiles_of_real_numbers(values):
    """Within the width of a bin, 2^-7; the standard deviation must not suffer from a large mean."""
    values = values.astype(np.float32)
    found = taken(RealNumbers, *np.array_split(values, 7))
    assert (found["min"], found["max"]) == (values.min(), values.max())
    assert found["mean"] == pytest.approx(values.mean(dtype=np.float64), rel=1e-9)
    assert found["std"] == pytest.approx(values.std(dtype=np.float64), rel=1e-6, abs=1e-6 * abs(found["mean"]))
    for name, share in distributions.QUANTILES.items():
        low = np.quantile(values, share - 1e-3, method="lower")
        high = np.quantile(values, share + 1e-3, method="higher")
        assert low - abs(low) / 128 - 1e-38 <= found[name] <= high + abs(high) / 128 + 1e-38
    assert sum(found["histogram"]["counts"]) == len(values)


def test_a_histogram_counts_what_lies_in_its_columns():
    values = np.random.default_rng(5).uniform(2, 4, 100_000)
    shown = taken(RealNumbers, values)["histogram"]
    assert (shown["low"], shown["high"]) == (pytest.approx(2.01, rel=0.008), pytest.approx(3.99, rel=0.008))
    expected = len(values) / distributions.COLUMNS
    assert np.abs(np.array(shown["counts"][1:-1]) / expected - 1).max() < 0.15  # 5 sigma are 0.09, bins in columns 0.05
    far = taken(RealNumbers, np.append(np.linspace(0, 1, 10_000), 1e9))
    assert far["histogram"]["high"] < 1.01
    assert taken(WholeNumbers, [3, 4, 4, 6])["histogram"] == {"low": 3, "high": 6, "counts": [1, 2, 0, 1]}


def test_the_order_and_the_pieces_of_the_stream_do_not_matter(monkeypatch):
    values = np.random.default_rng(6).exponential(3, 5000)
    whole = taken(RealNumbers, values)
    monkeypatch.setattr(distributions, "TOGETHER", 100)
    pieces = taken(RealNumbers, *np.array_split(values[::-1], 60))
    assert pieces.pop("mean") == pytest.approx(whole.pop("mean"))
    assert pieces.pop("std") == pytest.approx(whole.pop("std"))
    assert pieces == whole


def test_what_is_counted_of_events(few):
    found = distributions.Distributions()
    for one in few:
        found.add(one, {"energy": one.feature("energy")})
    summary = found.as_dict()
    of = summary["distributions"]
    assert summary["spacepoints_per_layer"] == [2 / 3, 0, 4 / 3]
    assert (of["spacepoints_per_event"]["mean"], of["spacepoints_per_event"]["q50"]) == (2, 2)
    assert (of["tracks_per_event"]["count"], of["tracks_per_event"]["mean"]) == (3, 1)
    assert (of["spacepoints_per_track"]["count"], of["spacepoints_per_track"]["max"]) == (3, 2)
    energies = np.concatenate([one.feature("energy") for one in few])
    assert of["energy"]["mean"] == pytest.approx(energies.mean(dtype=np.float64))
    momenta = [np.stack([one.particles[axis][:-1] for axis in ("px", "py", "pz")], axis=1) for one in few]
    x, y, z = np.concatenate(momenta).astype(np.float64).T  # the particle without spacepoints does not count
    assert of["particle_pt"]["count"] == 3
    assert of["particle_pt"]["max"] == np.hypot(x, y).max()
    size = np.sqrt(x**2 + y**2 + z**2)
    assert of["particle_abs_eta"]["mean"] == pytest.approx(np.abs(0.5 * np.log((size + z) / (size - z))).mean())


def test_a_feature_is_distributed_over_those_that_measure_it(tmp_path):
    """Of sPHENIX the TPC measures energy; spacepoints of the silicon have 0 in an event."""
    sphenix = detectors.build("sphenix")
    measuring = np.array(["energy" in sphenix.subsystem_features[name] for name in sphenix.subsystems])
    assert measuring.tolist() == [False, False, True]
    ids = np.array([2, 0, 2, 1, 0], np.int16)
    energy = np.where(measuring[ids], np.arange(2.0, 7.0), 0).astype(np.float32)
    one = Event(
        positions=np.full((5, 3), 3.0),
        features=energy[:, None],
        feature_names=("energy",),
        detector_ids=ids,
        subsystems=sphenix.subsystems,
        detector="sphenix",
    )
    write_events([one, dataclasses.replace(one, event_id=1)], tmp_path / "named.parquet")
    mine = sphenix.replace(name="mine")  # a YAML file: the events file describes it
    with EventWriter(tmp_path / "described.parquet", detector=mine) as writer:
        writer.write(dataclasses.replace(one, detector="mine"))
    for name, times in (("named", 2), ("described", 1)):
        found = inspect_events(tmp_path / f"{name}.parquet")
        of = found["distributions"]["energy"]
        assert (of["count"], of["mean"], of["min"], of["max"]) == (2 * times, 3.0, 2.0, 4.0)
        assert found["ranges"]["energy"] == [2.0, 4.0]
        assert (found["spacepoints"], found["share_outside_bounds"]) == (5 * times, 0)


def test_a_feature_of_an_unknown_detector_is_distributed_over_all():
    statistics = Statistics(measured={"somebody's": ()})
    one = event([0, 0, 2], [1, 1, 2])
    statistics.add(one)
    assert statistics.as_dict()["distributions"]["energy"]["count"] == len(one)


def test_the_command_shows_them(few, tmp_path):
    write_events(few, tmp_path / "events.parquet")
    result = CliRunner().invoke(app, ["inspect", str(tmp_path / "events.parquet"), "--json"])
    assert result.exit_code == 0, result.output
    *printed, last = result.stdout.splitlines()
    summary = json.loads(last)
    assert summary["distributions"]["spacepoints_per_track"]["q50"] == 2
    assert summary["spacepoints_per_event"] == {"mean": 2, "max": 4}
    rows = {line[:26].strip(): line[26:].split() for line in printed}
    assert rows["spacepoints per event"][:5] == ["2", "1.633", "0", "2", "4"]
    assert any(line.startswith("spacepoints of other 0.00%, pion 100.00%") for line in printed)
    assert any(line.endswith("layers 0 to 2: ▅ █  0 to 1.333") for line in printed)


def test_events_without_labels_have_fewer(tmp_path):
    bare = Event(np.ones((3, 3)), np.empty((3, 0)))
    write_events([bare], tmp_path / "events.parquet")
    result = CliRunner().invoke(app, ["inspect", str(tmp_path / "events.parquet"), "--json"])
    assert list(json.loads(result.stdout.splitlines()[-1])["distributions"]) == ["spacepoints_per_event"]
    assert distributed({}) == []


@pytest.mark.parametrize(("encoding", "steps"), [("utf-8", BLOCKS), ("latin-1", ASCII)])
def test_a_bar_of_characters(encoding, steps):
    assert bar([0, 1, 50, 100], encoding=encoding) == f" {steps[0]}{steps[4]}{steps[7]}"
    assert bar([0, 0], encoding=encoding) == "  "


def test_large_events_are_written_and_read_few_at_a_time(tmp_path, monkeypatch):
    """So that memory does not depend on how large events are; the content and its hash are the same."""
    events = [event(np.zeros(100), np.ones(100), event_id=number) for number in range(20)]
    write_events(events, tmp_path / "few.parquet")
    monkeypatch.setattr(writing, "SPACEPOINTS_PER_GROUP", 450)
    write_events(events, tmp_path / "many.parquet")
    monkeypatch.setattr(events_parquet, "VALUES", 300)
    assert [batch.num_rows for batch in events_parquet.batches(tmp_path / "many.parquet")] == [3] * 6 + [2]
    with events_parquet.opened(tmp_path / "many.parquet") as file:
        assert [file.metadata.row_group(index).num_rows for index in range(4)] == [5] * 4
    one, other = (events_parquet.read_summary(tmp_path / name) for name in ("few.parquet", "many.parquet"))
    assert one == other
