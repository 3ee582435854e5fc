"""The commands of docs/real-data.md on files that nobody here wrote."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import awkward as ak
import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import uproot

from fm4npp import detectors
from fm4npp.data import read_events, write_events
from fm4npp.modeling import FM4NPPModel
from fm4npp.processing import FM4NPPProcessor
from tests.test_cli import CONFIG, FEW_STEPS, SMALL_HEAD, call, summary

# Whether these events were seen in training is no matter here: nobody reads the numbers.
pytestmark = [pytest.mark.shared_data, pytest.mark.filterwarnings("ignore:.*is among the training events")]


EXAMPLES = Path(__file__).parents[1] / "examples/detectors"
WAYS = [
    ("star/star_tpc_test_100events.root", EXAMPLES / "star.yaml", "track-finding"),
    ("sphenix_silicon/test.tar.xz", "sphenix-silicon", "track-finding"),
    ("colliderml/ttbar_v1_tracker_hits.events0-9.parquet", "colliderml", "edge-clustering"),
    ("eic/EICrecon_test_seeding2.edm4eic.root", "eic", "edge-clustering"),
    ("lartpc/larndsim_evd_qc_tpc.h5", "lartpc", None),
    ("acts_csv", EXAMPLES / "acts_generic.yaml", "edge-clustering"),
    ("ee/test_FCC_Winter2023.root", EXAMPLES / "fcc_idea.yaml", "edge-clustering"),
]
"""File, detector, and a head to adapt; None where the file has no truth."""
FIRST = 12
"""Events that are used; an event takes part whole."""


@pytest.mark.parametrize(("name", "detector", "head"), WAYS, ids=[Path(name).name for name, _, _ in WAYS])
def test_the_same_commands_for_every_detector(shared_data, tmp_path, name, detector, head):
    """Convert, fit, pretrain, adapt, evaluate, predict, display."""
    model, events = tmp_path / "model", tmp_path / "events.parquet"
    found = summary("convert", shared_data / name, "--detector", detector, "--output", tmp_path / "all.parquet")
    subsystems = detectors.load(detector).subsystems
    assert all(found["spacepoints_of"][part] for part in subsystems)
    chosen = [event for event in islice(read_events(tmp_path / "all.parquet"), 2 * FIRST) if len(event)][:FIRST]
    assert all(event.subsystems == subsystems for event in chosen)
    write_events(chosen, events, detectors.load(detector))
    (tmp_path / "config.yaml").write_text(CONFIG)
    data = (f"data.train={events}", f"data.validation={events}")
    call("pretrain", "--config", tmp_path / "config.yaml", "--output", model, *data)
    if head is None:
        report = summary("evaluate", "--model", model, "--data", events, "--force", "--output", tmp_path / "r.json")
        assert report["heads"]["objective"]["num_hits"] == sum(map(len, chosen))
        call("display", events, "--event", 0, "--output", tmp_path / "event.png")
        return
    small = SMALL_HEAD if head == "track-finding" else ("head.width=32",)
    common = ("--model", model, "--data", events, "--validation", events)
    call("adapt", *common, "--head", head, "--output", tmp_path / "tracks", *small, *FEW_STEPS)
    arguments = ("--model", model, "--head", tmp_path / "tracks")
    report = summary("evaluate", *arguments, "--data", events, "--force", "--output", tmp_path / "report.json")
    metrics = report["heads"][head]
    assert (metrics["num_events"], metrics["num_hits"]) == (len(chosen), sum(map(len, chosen)))
    call("predict", events, *arguments, "--output", tmp_path / "predicted.parquet")
    column = f"{head.replace('-', '_')}_track_id"
    lengths = [len(row) for row in pq.read_table(tmp_path / "predicted.parquet")[column].to_pylist()]
    assert lengths == [len(event) for event in chosen]
    pictures = ("--predictions", tmp_path / "predicted.parquet", "--output", tmp_path / "event.png")
    call("display", events, "--event", 0, *pictures)


def test_star_by_its_yaml_file_is_the_registered_detector(shared_data, tmp_path):
    """Equal events, equal predictions, from the file of either."""
    source, own = shared_data / "star/star_tpc_test_100events.root", EXAMPLES / "star.yaml"
    assert len(own.read_text().splitlines()) <= 40
    events = {name: list(read_events(source, name)) for name in ("star-tpc", own)}
    for one, other in zip(*events.values(), strict=True):
        assert one.detector == other.detector == "star-tpc"
        assert one.feature_names == other.feature_names
        np.testing.assert_array_equal(one.positions, other.positions)
        np.testing.assert_array_equal(one.features, other.features)
        np.testing.assert_array_equal(one.labels["track_id"], other.labels["track_id"])
    (tmp_path / "config.yaml").write_text(CONFIG)
    predicted = []
    for name, found in events.items():
        place = tmp_path / Path(str(name)).stem
        place.mkdir()
        write_events(found, place / "events.parquet", detectors.load(name))
        data = (f"data.train={place / 'events.parquet'}",)
        call("pretrain", "--config", tmp_path / "config.yaml", "--output", place / "model", *data)
        model = FM4NPPModel.from_pretrained(place / "model")
        batch = FM4NPPProcessor(model.config)(found[:20])
        with torch.no_grad():
            predicted.append(model(**batch).predictions["objective"])
    assert torch.equal(*predicted)


def test_predictions_come_from_the_file_itself(shared_data, tmp_path):
    """Whether a file is converted first or not."""
    source, events = shared_data / "star/star_tpc_test_100events.root", tmp_path / "star.parquet"
    report = summary("convert", source, "--detector", "star-tpc", "--output", events)
    assert (report["num_events"], report["num_spacepoints"], report["num_empty_events"]) == (100, 5165, 1)
    (tmp_path / "config.yaml").write_text(CONFIG)
    call("pretrain", "--config", tmp_path / "config.yaml", "--output", tmp_path / "model", f"data.train={events}")
    common = ("--model", tmp_path / "model", "--data", events, "--validation", events, "--head", "track-finding")
    call("adapt", *common, "--output", tmp_path / "tracks", *SMALL_HEAD, *FEW_STEPS)
    arguments = ("--model", tmp_path / "model", "--head", tmp_path / "tracks")
    tables = []
    for name in (source, events):
        call("predict", name, *arguments, "--output", tmp_path / f"{name.stem}-predicted.parquet")
        tables.append(pq.read_table(tmp_path / f"{name.stem}-predicted.parquet"))
    direct, indirect = tables
    assert direct["track_finding_track_id"].equals(indirect["track_finding_track_id"])


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
