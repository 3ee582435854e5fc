from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import uproot
from typer.testing import CliRunner

from fm4npp import detectors
from fm4npp.backbones import kernels
from fm4npp.backbones.norms import RMSNorm
from fm4npp.cli import app
from fm4npp.data import read_events, write_events
from fm4npp.event import Event
from fm4npp.simulation.events import block_size
from fm4npp.testing import agreement
from tests import kernels_double

CONFIG = """
model:
  serializer: {type: raster-scan, num_bins: [4, 4, 5]}
  objective: {type: k-nnn, k: 4}
  backbone: {type: mamba2, width: 32, num_layers: 2, state_size: 4, head_dim: 16}
data: {train: []}
training: {steps: 3, tokens_per_batch: 800, warmup_steps: 1, validate_every: 3}
"""
SMALL_HEAD = ("head.num_queries=60", "head.width=32", "head.hidden=32")
FEW_STEPS = ("training.steps=2", "training.tokens_per_batch=800", "training.validate_every=2")


def call(*arguments, status=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result


def summary(*arguments):
    return json.loads(call(*arguments, "--json").stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A user's whole way, once: simulate, pretrain, adapt, evaluate, predict."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "config.yaml").write_text(CONFIG)
    train, test = folder / "train.parquet", folder / "test.parquet"
    gun = ("mean_primaries=3",)
    call("simulate", "--events", 20, "--seed", 1, "--output", train, *gun)
    call("simulate", "--events", 6, "--seed", 2, "--output", test, *gun)
    model = folder / "model"
    data = (f"data.train={train}", f"data.validation={train}")
    call("pretrain", "--config", folder / "config.yaml", "--output", model, *data)
    common = ("--model", model, "--data", train, "--validation", train)
    call("adapt", *common, "--head", "track-finding", "--output", folder / "tracks", *SMALL_HEAD, *FEW_STEPS)
    call("adapt", *common, "--head", "noise-tagging", "--output", folder / "noise", "head.width=32", *FEW_STEPS)
    return folder


def heads(run):
    return ("--head", run / "tracks", "--head", run / "noise")


def test_evaluate_reports_every_head(run):
    call("evaluate", "--model", run / "model", *heads(run), "--data", run / "test.parquet", "--output", run / "r.json")
    report = json.loads((run / "r.json").read_text())
    assert set(report["heads"]) == {"track-finding", "noise-tagging"}
    tracks = report["heads"]["track-finding"]
    assert tracks["num_events"] == 6
    assert -1 <= tracks["ari_per_event_mean"] <= 1
    assert 0 <= report["heads"]["noise-tagging"]["accuracy"] <= 1
    alone = summary("evaluate", "--model", run / "model", "--data", run / "test.parquet", "--output", run / "o.json")
    assert alone["heads"]["objective"]["loss"] > 0


def test_predictions_come_back_in_the_files_own_order(run):
    """A shuffled copy of the input gets the same prediction for every spacepoint, at its new place."""
    original = list(read_events(run / "test.parquet"))
    rng = np.random.default_rng(0)
    permutations = [rng.permutation(len(event)) for event in original]
    write_events((e.take(p) for e, p in zip(original, permutations, strict=True)), run / "shuffled.parquet")
    for name in ("test", "shuffled"):
        model = ("--model", run / "model", *heads(run))
        call("predict", run / f"{name}.parquet", *model, "--output", run / f"{name}-predicted.parquet")
    first, second = (pq.read_table(run / f"{name}-predicted.parquet").to_pylist() for name in ("test", "shuffled"))
    assert len(first) == len(original)
    for event, permutation, one, other in zip(original, permutations, first, second, strict=True):
        assert one["event_id"] == other["event_id"] == event.event_id
        for column in ("track_finding_track_id", "noise_tagging_is_noise", "track_finding_track_score"):
            assert len(one[column]) == len(event)
            assert np.array_equal(np.array(one[column])[permutation], other[column])


def test_predictions_in_root_equal_those_in_parquet(run):
    for suffix in ("root", "parquet"):
        call("predict", run / "test.parquet", "--model", run / "model", *heads(run), "--output", run / f"p.{suffix}")
    table = pq.read_table(run / "p.parquet")
    with uproot.open(run / "p.root") as file:
        tree = file["predictions"]
        for name in ("track_finding_track_id", "noise_tagging_is_noise", "event_id"):
            assert tree[name].array().tolist() == table.column(name).to_pylist()


def test_inspect_knows_events_checkpoints_and_heads(run):
    events = summary("inspect", run / "train.parquet")
    assert events["events"] == 20
    assert events["detector"] == "sphenix-tpc"
    assert events["spacepoints"] == sum(len(event) for event in read_events(run / "train.parquet"))
    assert summary("inspect", run / "model")["kind"] == "checkpoint"
    assert summary("inspect", run / "tracks")["name"] == "track-finding"
    (run / "nothing").mkdir()
    assert "no known format" in call("inspect", run / "nothing", status=1).stderr


def test_display_draws_truth_beside_prediction(run):
    call("predict", run / "test.parquet", "--model", run / "model", *heads(run), "--output", run / "d.parquet")
    picture = run / "event.png"
    call("display", run / "test.parquet", "--event", 1, "--predictions", run / "d.parquet", "--output", picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    call("display", run / "test.parquet", "--event", 99, "--output", run / "none.png", status=1)
    assert not (run / "none.png").exists()


def test_simulation_is_deterministic(tmp_path):
    for name in ("a", "b"):
        call("simulate", "--events", 3, "--seed", 5, "--output", tmp_path / f"{name}.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_particle_gun_from_the_command_line(tmp_path):
    path, folder, num_events = tmp_path / "pions.parquet", tmp_path / "pions", 2 * block_size(63)
    gun = ("simulate", "--gun", "pi+,pt=0.5..2,eta=-1..1,mean_primaries=0.2", "--detector", "sphenix-mvtx")
    gun += ("--pileup", 63, "--seed", 3, "--events", num_events)
    whole = summary(*gun, "--output", path)
    events = list(read_events(path))
    assert whole["num_events"] == len(events) == num_events
    assert whole["num_spacepoints"] == sum(map(len, events)) > 0
    assert whole["source"] in events[0].source
    primaries = events[0].particles["parent"] == 0
    transverse = np.hypot(events[0].particles["px"], events[0].particles["py"])[primaries]
    assert set(events[0].particles["pdg"][primaries]) == {211}
    assert 0.5 <= transverse.min() < transverse.max() <= 2
    said = call(*gun, "--shards", 2, "--output", folder).stdout
    assert f"{num_events} events of sphenix-mvtx, {whole['num_spacepoints']} spacepoints" in said
    assert f"{whole['num_tracks']} tracks, {whole['num_empty_events']} events empty" in said
    assert "events/s" in said
    shown = summary("inspect", folder)
    assert shown["distributions"]["tracks_per_event"]["mean"] == whole["num_tracks"] / num_events
    kept = summary(*gun, "--shards", 2, "--output", folder)
    assert (kept["num_kept"], kept["num_simulated"]) == (2, 0)


def test_simulation_with_pythia(tmp_path):
    path = tmp_path / "z.parquet"
    setting = ("--settings", "HadronLevel:all = on", "--settings", "PartonLevel:MPI = off", "beam_spot=[0, 0, 0]")
    call("simulate", "--facility", "lep-z", *setting, "--detector", "sphenix-mvtx", "--events", 2, "--output", path)
    source = next(read_events(path)).source
    assert "lep-z" in source
    assert "PartonLevel:MPI = off" in source


def test_without_the_extra_pythia_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pythia8mc", None)
    output = tmp_path / "events.parquet"
    result = call("simulate", "--facility", "rhic-pp", "--events", 2, "--output", output, status=1)
    assert 'pip install "fm4npp[simulation]"' in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    call("simulate", "--detector", "sphenix-mvtx", "--events", 2, "--output", output)


def test_list_and_doctor():
    listed = summary("list")
    assert {"sphenix-tpc", "star-tpc"} <= {row[0] for row in listed["detectors"]}
    assert "319,042" in call("list", "models").stdout
    assert len(summary("list", "models")["models"]) == 13
    assert "track-finding" in call("list", "heads").stdout
    assert "sphenix" not in call("list", "heads").stdout
    assert summary("doctor")["agrees"]


def test_doctor_fails_when_the_backbone_is_wrong(monkeypatch):
    from fm4npp.backbones.norms import GatedRMSNorm

    def ungated(self, values, gate):
        return RMSNorm.forward(self, values)

    monkeypatch.setattr(GatedRMSNorm, "forward", ungated)
    monkeypatch.setenv("FM4NPP_COMPILED", "0")
    assert "do not use it" in call("doctor", status=1).stderr


@pytest.mark.filterwarnings("default:mamba-ssm")
def test_doctor_says_why_kernels_are_not_used(monkeypatch):
    monkeypatch.setattr(kernels, "find", kernels_double.without_C)
    monkeypatch.setattr(kernels, "unusable", lambda device: None)
    said = call("doctor")
    assert "mamba-ssm is not used: its result differs" in said.stderr
    assert "backend torch on cpu, mamba2" in said.stdout


def test_doctor_prints_the_golden_table(monkeypatch):
    monkeypatch.setattr(agreement, "LENGTHS", {"2": (2,), "packed": (3, 70)})
    table = [line for line in call("doctor", "--golden").stdout.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 2 * 3
    assert "WRONG" not in "".join(table)


def test_a_detector_can_be_a_yaml_file(tmp_path):
    spec = "type: cylindrical\nname: mine\nradius: [10, 50]\nlayers: [12, 20, 30, 48]\n"
    (tmp_path / "mine.yaml").write_text(spec + "response: {field: 1.0, half_length: 60}\n")
    path = tmp_path / "events.parquet"
    call("simulate", "--detector", tmp_path / "mine.yaml", "--events", 2, "--output", path)
    assert summary("inspect", path)["detector"] == "mine"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("simulate", "--detector", "tpx", "--output", "OUT"), "sphenix-tpc"),
        (("simulate", "--detector", "nothing.yaml", "--output", "OUT"), "nothing.yaml"),
        (("simulate", "mean_primarys=3", "--output", "OUT"), "mean_primarys"),
        (("simulate", "pt=[1, 2", "--output", "OUT"), "key=value"),
        (("simulate", "--facility", "rhic", "--output", "OUT"), "rhic-pp, lep-z"),
        (("simulate", "--facility", "lep-z", "--gun", "pi+", "--output", "OUT"), "exclude each other"),
        (("simulate", "--facility", "lep-z", "--settings", "No:such = on", "--output", "OUT"), "No:such"),
        (("simulate", "--facility", "lep-z", "spot=3", "--output", "OUT"), "spot: unknown key"),
        (("simulate", "--settings", "HardQCD:all = on", "--output", "OUT"), "--facility"),
        (("simulate", "--gun", "pion+,pt=2", "--output", "OUT"), "pi+"),
        (("simulate", "--gun", "pi+", "number=2", "--output", "OUT"), "into --gun"),
        (("simulate", "--shards", "2", "--output", "OUT"), "without .parquet"),
        (("simulate", "--output", "out"), "--shards"),
        (("convert", "absent.root", "--detector", "star-tpc", "--output", "OUT"), "absent.root"),
        (("convert", "absent.root", "--detector", "tpx", "--output", "OUT"), "tpx"),
        (("predict", "absent.root", "--model", "absent", "--head", "absent", "--output", "OUT"), "absent"),
        (("pretrain", "--config", "absent.yaml", "--output", "OUT"), "absent.yaml"),
        (("display", "absent.parquet", "--output", "out.gif"), "png"),
        (("list", "detektors"), "detectors"),
    ],
)
def test_a_mistake_is_one_line_a_status_and_no_file(tmp_path, monkeypatch, arguments, named):
    monkeypatch.chdir(tmp_path)
    result = call(*(argument.replace("OUT", "out.parquet") for argument in arguments), status=1)
    assert named in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def bad_npz(path: Path, content: str) -> None:
    data = np.array([[100.0, 40.0, 1.0, 5.0], [90.0, 41.0, 1.5, 5.5]], dtype=np.float32)
    if content == "nan":
        data[1, 2] = np.nan
    np.savez_compressed(path, data=data, size=np.array([1, 1]))
    labels = np.arange(3 if content == "labels" else 2)
    np.savez_compressed(path.with_name("track_ids.npz"), data=labels, size=np.array([1, len(labels) - 1]))
    if content == "truncated":
        path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize("content", ["nan", "labels", "truncated"])
def test_bad_npz_is_one_line_and_no_file(tmp_path, content):
    path = tmp_path / "spacepoints.npz"
    bad_npz(path, content)
    result = call("convert", path, "--detector", "sphenix-tpc", "--output", tmp_path / "out.parquet", status=1)
    assert str(tmp_path) in result.stderr
    assert ("event 1" in result.stderr) == (content == "nan")
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out.parquet").exists()


def test_a_root_file_without_the_branches_and_a_strange_parquet(tmp_path):
    import pyarrow as pa

    with uproot.recreate(tmp_path / "other.root") as file:
        file.mktree("T", {"momentum": "float64"}).extend({"momentum": np.ones(3)})
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "other.parquet")
    for name, said in (("other.root", "TPCHits_x"), ("other.parquet", "no known format")):
        result = call(
            "convert", tmp_path / name, "--detector", "star-tpc", "--output", tmp_path / "out.parquet", status=1
        )
        assert name in result.stderr
        assert said in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out.parquet").exists()


def test_debug_shows_the_traceback(tmp_path):
    from fm4npp.errors import DataError

    result = CliRunner().invoke(app, ["inspect", str(tmp_path / "absent"), "--debug"])
    assert isinstance(result.exception, DataError)


def test_events_of_another_detector_are_refused_by_a_model(run, tmp_path):
    star = detectors.build("star-tpc")
    event = Event(np.array([[100.0, 0, 0]]), np.ones((1, 1)), ("energy",), detector=star.name)
    write_events([event], tmp_path / "star.parquet")
    arguments = ("predict", tmp_path / "star.parquet", "--model", run / "model", "--head", run / "tracks")
    result = call(*arguments, "--output", tmp_path / "out.parquet", status=1)
    assert "star-tpc" in result.stderr
    assert not (tmp_path / "out.parquet").exists()
