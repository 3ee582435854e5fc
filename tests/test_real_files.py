"""The commands of docs/real-data.md on files that nobody here wrote."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from fm4npp.data import read_events
from tests.test_cli import CONFIG, FEW_STEPS, SMALL_HEAD, call, summary

pytestmark = pytest.mark.shared_data


def whole_way(folder, events, *overrides):
    """Fit, pretrain, adapt, evaluate, predict and display; returns the report."""
    (folder / "config.yaml").write_text(CONFIG)
    model, head = folder / "model", folder / "tracks"
    data = (f"data.train={events}", f"data.validation={events}", *overrides)
    call("pretrain", "--config", folder / "config.yaml", "--output", model, *data)
    common = ("--model", model, "--data", events, "--validation", events, "--head", "track-finding")
    call("adapt", *common, "--output", head, *SMALL_HEAD, *FEW_STEPS)
    arguments = ("--model", model, "--head", head)
    report = summary("evaluate", *arguments, "--data", events, "--output", folder / "report.json")
    call("predict", events, *arguments, "--output", folder / "predicted.parquet")
    lengths = [len(row) for row in pq.read_table(folder / "predicted.parquet")["track_finding_track_id"].to_pylist()]
    assert lengths == [len(event) for event in read_events(events)]
    pictures = ("--predictions", folder / "predicted.parquet", "--output", folder / "event.png")
    call("display", events, "--event", 2, *pictures)
    return report["heads"]["track-finding"]


def test_star(shared_data, tmp_path):
    source, events = shared_data / "star/star_tpc_test_100events.root", tmp_path / "star.parquet"
    report = summary("convert", source, "--detector", "star-tpc", "--output", events)
    assert (report["num_events"], report["num_spacepoints"], report["num_empty_events"]) == (100, 5165, 1)
    metrics = whole_way(tmp_path, events)
    assert (metrics["num_events"], metrics["num_empty_events"], metrics["num_hits"]) == (100, 1, 5165)
    arguments = ("--model", tmp_path / "model", "--head", tmp_path / "tracks")
    call("predict", source, *arguments, "--output", tmp_path / "direct.parquet")
    direct, indirect = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("direct", "predicted"))
    assert direct["track_finding_track_id"].equals(indirect["track_finding_track_id"])


def test_sphenix_silicon(shared_data, tmp_path):
    source, events = shared_data / "sphenix_silicon/train.tar.xz", tmp_path / "silicon.parquet"
    report = summary("convert", source, "--detector", "sphenix-silicon", "--output", events)
    assert report["num_events"] == 10_000
    assert set(report["spacepoints_of"]) == {"sphenix-mvtx", "sphenix-intt"}
    assert all(report["spacepoints_of"].values())
    some = tmp_path / "some.parquet"
    from itertools import islice

    from fm4npp.data import write_events

    chosen = list(islice(read_events(events), 300))
    for event in chosen:
        radius = np.hypot(event.positions[:, 0], event.positions[:, 1])
        assert set(np.array(event.subsystems)[event.ids]) <= {"sphenix-mvtx", "sphenix-intt"}
        assert len(radius) == len(event.labels["track_id"])
    write_events(chosen, some)
    assert whole_way(tmp_path, some)["num_events"] == 300
