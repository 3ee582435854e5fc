"""The study of labels as a user runs it: a grid of ordinary runs, which goes on where it was stopped."""

import json

import pytest
import torch
from typer.testing import CliRunner

from fm4npp.cli import app
from fm4npp.data import EventDataset, read_events, write_events
from fm4npp.errors import ConfigurationError, DataError
from fm4npp.evaluation import evaluate
from fm4npp.files import read_json
from fm4npp.modeling import FM4NPPModel
from fm4npp.processing import FM4NPPProcessor
from fm4npp.studies import Stopped, data_efficiency, study
from fm4npp.studies.data_efficiency import DataEfficiency, configuration
from fm4npp.studies.folder import check_same_study
from fm4npp.studies.scores import Evaluated, Score, comparisons, table_of
from fm4npp.studies.subsets import drawn, write_subset
from fm4npp.training.guards import Interrupted

QUICK = ("training.steps=2", "training.tokens_per_batch=2000", "training.validate_every=2", "training.warmup_steps=0")


@pytest.fixture(scope="module")
def given(processor, events_files, tmp_path_factory):
    """Two pretrained models, and labelled events in three files."""
    folder = tmp_path_factory.mktemp("given")
    events = list(read_events(events_files["train"]))
    write_events(events[:6], folder / "test.parquet")
    models = []
    for seed in range(2):
        torch.manual_seed(10 + seed)
        FM4NPPModel(processor.config).save_pretrained(folder / f"model-{seed}")
        models.append(str(folder / f"model-{seed}"))
    splits = (events_files["train"], events_files["validation"], folder / "test.parquet")
    return models, [str(path) for path in splits]


def plan(given, output, head="noise-tagging", overrides=QUICK, **options):
    models, (train, validation, test) = given
    config = configuration(head, [train], [validation], [*overrides, "head.width=16"])
    defaults = {"labels": (4, 8), "num_seeds": 2, "features": True}
    return DataEfficiency(models, config, [test], output, **{**defaults, **options})


@pytest.fixture(scope="module")
def finished(given, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "labels"
    return folder, study(plan(given, folder))


def test_every_cell_is_an_ordinary_run_that_is_judged_on_the_test_events(given, finished):
    folder, found = finished
    assert found["complete"]
    assert [(cell["variant"], cell["labels"], cell["seed"]) for cell in found["cells"]] == [
        (variant, labels, seed)
        for variant in ("pretrained", "random-init", "adapter-only", "lora")
        for labels in (4, 8)
        for seed in (0, 1)
    ]
    models, (_, _, test) = given
    for cell in ("pretrained-4-1", "lora-8-0"):
        model = FM4NPPModel.from_pretrained(models[int(cell[-1])])
        model.load_head(folder / "runs" / cell)
        judged = evaluate(model, FM4NPPProcessor(model.config), EventDataset([test]))
        report = read_json(folder / "runs" / cell / "report.json")
        assert report["heads"]["noise-tagging"]["macro_f1"] == pytest.approx(judged["noise-tagging"]["macro_f1"])


def test_the_variants_are_what_their_names_say(given, finished):
    folder, _ = finished
    runs = {name: read_json(folder / "runs" / f"{name}-4-1" / "run.json") for name in data_efficiency.VARIANTS}
    assert runs["adapter-only"]["config"]["head"]["inputs"] == ["coordinates"]
    assert [run["config"]["tuning"] for run in runs.values()] == ["frozen", "frozen", "frozen", "lora"]
    hashes = {name: read_json(folder / "runs" / f"{name}-4-1" / "head.json")["backbone"]["sha256"] for name in runs}
    second = FM4NPPModel.from_pretrained(given[0][1]).backbone_identity()["sha256"]
    assert hashes["pretrained"] == hashes["adapter-only"] == hashes["lora"] == second
    assert hashes["random-init"] != second
    trained = {file["content"] for run in runs.values() for file in run["data"] if file["split"] == "train"}
    assert len(trained) == 1, "all variants see the same labels"


def test_what_it_leaves_is_for_people_and_for_programs(finished):
    folder, found = finished
    assert read_json(folder / "study.json") == json.loads(json.dumps(found))
    text = (folder / "study.md").read_text()
    assert "adapter-only" in text
    assert "Does pretraining save 4 x the labels" in text
    assert (folder / "study.png").read_bytes().startswith(b"\x89PNG")
    assert {row["over"] for row in found["comparisons"]} == {"seeds"}
    assert {(row["variant"], row["labels"]) for row in found["label_ratios"]} == {
        (variant, labels) for variant in ("random-init", "adapter-only", "lora") for labels in (4, 8)
    }


def test_only_what_is_missing_is_done_again(given, finished, monkeypatch):
    folder, found = finished
    done = []
    perform = DataEfficiency.perform
    monkeypatch.setattr(DataEfficiency, "perform", lambda *given: done.append(given[1].name) or perform(*given))
    (folder / "runs" / "random-init-4-0" / "report.json").unlink()
    again = study(plan(given, folder))
    assert done == ["random-init-4-0"]
    assert again["summary"] == found["summary"]


def test_another_study_is_refused_and_a_grid_may_grow(given, finished):
    folder, _ = finished
    with pytest.raises(ConfigurationError, match=r"holds another study .*learning_rate"):
        study(plan(given, folder, overrides=(*QUICK, "training.learning_rate=0.5")))
    with pytest.raises(ConfigurationError, match="has labels 4 too"):
        study(plan(given, folder, labels=(8,)))
    about = read_json(folder / "study.json")
    check_same_study(folder, {**about, "axes": {**about["axes"], "labels": [4, 8, 12]}})


def test_what_stops_a_cell_loses_nothing(given, tmp_path, monkeypatch):
    adapt = data_efficiency.adapt
    stops = [Interrupted(15, 1)]

    def interrupted(model, config, folder, **options):
        if stops and config.training.seed == 1:
            raise stops.pop()
        return adapt(model, config, folder, **options)

    monkeypatch.setattr(data_efficiency, "adapt", interrupted)
    small = {"variants": ("pretrained",), "labels": (4,)}
    with pytest.raises(Stopped, match="pretrained-4-1: stopped after step 1; give the same command again") as stopped:
        study(plan(given, tmp_path / "s", **small))
    assert stopped.value.status == 143
    assert study(plan(given, tmp_path / "s", **small))["complete"]


def test_mistakes_are_named_before_anything_runs(given, tmp_path):
    models, (train, validation, test) = given
    with pytest.raises(DataError, match="holds 24 events, of which 25 are wanted"):
        study(plan(given, tmp_path / "a", labels=(25,)))
    with pytest.raises(DataError, match="the test events are the same as the validation events"):
        study(plan((models, (train, validation, validation)), tmp_path / "b"))
    with pytest.raises(ConfigurationError, match="2 are given for 3 seeds"):
        plan(given, tmp_path / "c", num_seeds=3)
    with pytest.raises(ConfigurationError, match="no variant pretraind; there are pretrained"):
        plan(given, tmp_path / "d", variants=("pretraind",))
    with pytest.raises(ConfigurationError, match="tuning is decided by the study"):
        plan(given, tmp_path / "e", overrides=("tuning=full",))
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="is not empty and holds no study"):
        study(plan(given, tmp_path / "f"))
    assert not list(tmp_path.glob("*/runs"))
    del test


def test_tracks_are_compared_event_by_event_on_the_command_line(given, tmp_path):
    models, (train, validation, test) = given
    small = ("head.num_queries=60", "head.width=16", "head.hidden=16", *QUICK)
    files = ("--data", train, "--validation", validation, "--test", test)
    asked = ("--labels", "4", "--seeds", "2", "--variants", "pretrained,adapter-only", "--output", str(tmp_path / "s"))
    command = ["study", "data-efficiency", "--model", models[0], "--head", "track-finding", *files, *asked, *small]
    listed = CliRunner().invoke(app, [*command, "--list"])
    assert "3  adapter-only-4-1  new" in listed.output
    first = CliRunner().invoke(app, [*command, "--only", "seed=0"])
    assert first.exit_code == 0, first.output
    assert "2 cells of the study are missing" in first.output
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["score"]["metric"] == "ari_per_event_mean"
    assert [(row["over"], row["num_pairs"], row["num_seeds"]) for row in found["comparisons"]] == [("events", 6, 2)]


def test_subsets_are_nested_and_differ_by_seed(events_files, tmp_path):
    assert set(drawn(24, 4, 0)) < set(drawn(24, 8, 0))
    assert set(drawn(24, 8, 0)) != set(drawn(24, 8, 1))
    dataset = EventDataset([events_files["train"]])
    (file,) = write_subset(dataset, 4, 0, tmp_path)
    expected = [dataset[index].event_id for index in drawn(24, 4, 0).tolist()]
    assert [event.event_id for event in read_events(file)] == expected


def test_a_score_that_should_be_low_is_turned_round_and_gaps_leave_a_variant_out():
    score = Score("head", "mean_absolute_error", -1, "")

    class Known(Evaluated):
        def value(self, entry, metric):
            return self.report["value"]

    cells = [Known(variant, 10, seed, {"value": 1.0 + seed}) for variant in ("a", "b") for seed in (0, 1)]
    found = table_of(cells[:3], score, (10,), (0, 1))
    assert {name: values.tolist() for name, values in found.items()} == {"a": [[-1.0, -2.0]]}
    assert comparisons(cells[:1], score, "a") == []
