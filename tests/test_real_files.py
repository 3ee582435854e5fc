"""The commands of docs/real-data.md on files that nobody here wrote."""

from __future__ import annotations

from pathlib import Path

import awkward as ak
import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import uproot

from fm4npp.data import read_events
from tests.test_cli import CONFIG, FEW_STEPS, SMALL_HEAD, call, summary

# Whether these events were seen in training is no matter here: nobody reads the numbers.
pytestmark = [pytest.mark.shared_data, pytest.mark.filterwarnings("ignore:.*is among the training events")]


def whole_way(folder, events, *overrides):
    """Fit, pretrain, adapt, evaluate, predict and display; returns the report."""
    (folder / "config.yaml").write_text(CONFIG)
    model, head = folder / "model", folder / "tracks"
    data = (f"data.train={events}", f"data.validation={events}", *overrides)
    call("pretrain", "--config", folder / "config.yaml", "--output", model, *data)
    common = ("--model", model, "--data", events, "--validation", events, "--head", "track-finding")
    call("adapt", *common, "--output", head, *SMALL_HEAD, *FEW_STEPS)
    arguments = ("--model", model, "--head", head)
    report = summary("evaluate", *arguments, "--data", events, "--force", "--output", folder / "report.json")
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
    source, events = shared_data / "sphenix_silicon/test.tar.xz", tmp_path / "silicon.parquet"
    report = summary("convert", source, "--detector", "sphenix-silicon", "--output", events)
    assert report["num_events"] == 4000
    assert set(report["spacepoints_of"]) == {"sphenix-mvtx", "sphenix-intt"}
    assert all(report["spacepoints_of"].values())
    some = tmp_path / "some.parquet"
    from itertools import islice

    from fm4npp.data import write_events

    chosen = list(islice(read_events(events), 100))
    for event in chosen:
        radius = np.hypot(event.positions[:, 0], event.positions[:, 1])
        assert set(np.array(event.subsystems)[event.ids]) <= {"sphenix-mvtx", "sphenix-intt"}
        assert len(radius) == len(event.labels["track_id"])
    write_events(chosen, some)
    assert whole_way(tmp_path, some)["num_events"] == 100


def count_jagged(tree, branch):
    """Entries and values of one branch, by uproot alone."""
    return lambda path: (
        lambda lists: (len(lists), int(ak.count(lists, axis=None))) if lists.ndim > 1 else (len(lists), len(lists))
    )(uproot.open(path)[tree][branch].array())


def count_rows(path):
    """Events and hits of ACTS files, by their lines."""
    files = list(path.glob("event*-hits.csv"))
    return len(files), sum(len(file.read_text().split()) - 1 for file in files)


def count_lists(path):
    x = pq.read_table(path, columns=["x"])["x"].to_pylist()
    return len(x), sum(map(len, x))


def count_larndsim(path):
    with h5py.File(path) as file:
        return len(file["events"]), len(file["hits"])


EXAMPLES = Path(__file__).parents[1] / "examples/detectors"
REAL_FILES = [
    ("star/star_tpc_test_100events.root", "star-tpc", count_jagged("T", "TPCHits_x")),
    ("colliderml/ttbar_v1_tracker_hits.events0-9.parquet", "colliderml", count_lists),
    ("acts_csv", EXAMPLES / "acts_generic.yaml", count_rows),
    ("acts_csv", "trackml", count_rows),
    ("lartpc/larndsim_evd_qc_tpc.h5", "lartpc", count_larndsim),
    ("ee/test_FCC_Winter2023.root", EXAMPLES / "fcc_idea.yaml", count_jagged("events", "TrackerHits.position.x")),
    ("eic/EICrecon_test_sim.edm4hep.root", "eic", lambda path: (5, 44)),  # the other file: test_detectors_eic.py
    ("ee/opal_tt.root", "opal-events", count_jagged("myTTree", "run")),
]


@pytest.mark.parametrize(
    ("name", "detector", "count"),
    REAL_FILES,
    ids=[f"{Path(name).name}-{Path(str(to)).name}" for name, to, _ in REAL_FILES],
)
def test_every_real_file_converts(shared_data, tmp_path, name, detector, count):
    events = tmp_path / "events.parquet"
    report = summary("convert", shared_data / name, "--detector", detector, "--output", events)
    counted = report["accounting"]
    assert (counted["events_read"], counted["spacepoints_read"]) == count(shared_data / name)
    assert counted["spacepoints_used"] == report["num_spacepoints"] == sum(map(len, read_events(events)))
    assert not counted["rejected_events"]
    assert sum(counted["rejected_spacepoints"].values()) <= 0.001 * counted["spacepoints_read"]
