"""Reports: every number defined, the same numbers on the page, on cards and in what the Hub reads."""

import dataclasses
import json
import math
import re
from html.parser import HTMLParser

import huggingface_hub
import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from fm4npp.card import empty_card, with_evaluation
from fm4npp.cli import app
from fm4npp.data import write_events
from fm4npp.errors import ConfigurationError
from fm4npp.evaluation import evaluate
from fm4npp.evaluation.page import Picture, page
from fm4npp.evaluation.report import HEADLINES, card_table, definitions_of, eval_results, extremes, hub_entries, rows
from fm4npp.metrics import TrackSelection, per_event_ari
from fm4npp.modeling import FM4NPPModel
from fm4npp.plotting import report as plots
from fm4npp.plotting import style
from fm4npp.readers.events_parquet import read_summary

TRACKS = {"type": "track-finding", "num_queries": 8, "width": 16, "num_layers": 1, "num_heads": 2}
EVIL = "<script>alert(1)<&script>.parquet"
"""A name that a file can have, as it holds no slash."""


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(processor, events, tmp_path_factory):
    """A model that was trained on train.parquet, two heads of it, and a test file of an unfriendly name."""
    place = tmp_path_factory.mktemp("report")
    torch.manual_seed(1)
    write_events(events[:4], place / "train.parquet")
    write_events(events[4:], place / EVIL)
    seen = {"data": [{"split": "train", "content": read_summary(place / "train.parquet")["content"]}]}
    model = FM4NPPModel(processor.config.updated(training={"step": 1, **seen}))
    model.save_pretrained(place / "model")
    for name, head in (("tracks", TRACKS), ("particles", {"type": "particle-id", "width": 16})):
        model.add_head(name, head)
        model.save_head(name, place / name, training={"step": 1, **seen})
    return place


@pytest.fixture(scope="module")
def done(folder):
    """A report and its page, made once on the command line, with a card for the head; what is slow is not drawn."""
    output = folder / "report.json"
    heads = ("--head", folder / "tracks", "--head", folder / "particles")
    card = ("--update-card", folder / "tracks", "--hub-dataset", "someone/events")
    made = ("--output", output, "--html", folder / "report.html", *card)
    data = ("--data", folder / EVIL, "--min-hits", 3, "--pt-min", 0.2, "--abs-eta-max", 1.1)
    drawn = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "efficiency_picture", lambda quantity, bins: b"<svg/>")
        patch.setattr(plots, "event_picture", lambda *shown: drawn.append(shown) or b"png")
        result = run("evaluate", "--model", folder / "model", *heads, *data, *made)
    assert result.exit_code == 0, result.output
    assert "counted: true tracks of at least 3 spacepoints, pT >= 0.2 GeV/c, |eta| <= 1.1" in result.output
    report = json.loads(output.read_text())
    for event, predicted, title, geometry in drawn:
        ari = per_event_ari(event.labels["track_id"], predicted)
        assert f"{ari:.3f}" in title
        assert ari in report["heads"]["tracks"]["ari_per_event"]
        assert geometry is not None
    assert [title.partition(":")[0] for *_, title, _ in drawn] == ["best", "median", "worst"]
    return report, (folder / "report.html").read_text()


def test_everything_in_a_report_is_defined(done):
    report, _ = done
    about = {"task"}
    for values in report["heads"].values():
        known = report["definitions"][values["task"]]
        assert set(values) - about - {"probabilities"} <= set(known)
        for name, part in values.items():
            rest = part.values() if name.endswith(("_against", "_unknown")) else [part]
            for entry in rest:
                for row in entry if isinstance(entry, list) else [entry]:
                    if isinstance(row, dict) and name not in ("intervals",):
                        assert {f"{name}.{field}" for field in row} - {f"{name}.reliability"} <= set(known)
    assert {row.entry for row in rows(report)} == {"tracks", "particles"}
    assert all(row.definition for row in rows(report))


def test_a_report_says_what_it_is_of(done, folder, events):
    report, _ = done
    (data,) = report["data"]
    assert data["content"] == read_summary(folder / EVIL)["content"]
    assert (data["num_events"], data["num_spacepoints"]) == (8, sum(map(len, events[4:])))
    assert data["num_empty_events"] == sum(not len(event) for event in events[4:])
    assert report["selection"]["pt_min"] == 0.2
    assert report["heads"]["tracks"]["selection"]["min_hits"] == 3
    assert report["warnings"] == []
    assert report["head_weights"]["tracks"]["sha256"] != report["head_weights"]["particles"]["sha256"]
    assert len(report["model"]["sha256"]) == 64
    ari = [value for value in report["heads"]["tracks"]["ari_per_event"] if value is not None]
    assert math.fsum(ari) / len(ari) == pytest.approx(report["heads"]["tracks"]["ari_per_event_mean"], abs=1e-12)
    assert report["heads"]["particles"]["probabilities"]["num_hits"] == report["heads"]["particles"]["num_hits"]
    assert len(report["heads"]["particles"]["class_names"]) == len(report["heads"]["particles"]["confusion"])


class _Reader(HTMLParser):
    """Tags, where they point, and the text, of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.places, self.titles, self.words, self.open = [], [], [], [], []

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.tags.append(tag)
        self.places += [named[name] for name in ("src", "href") if name in named]
        self.titles += [named["title"]] if "title" in named else []
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_stands_alone_and_holds_the_numbers(done):
    report, html = done
    read = _Reader()
    read.feed(html)
    text = " ".join(read.words)
    assert read.open == []
    assert "script" not in read.tags
    assert "link" not in read.tags
    assert EVIL in text
    assert all(place.startswith(("data:image/png;base64,", "data:image/svg+xml;base64,")) for place in read.places)
    assert read.tags.count("img") >= 3 + 2 + 3  # efficiencies; ARI and an event at least; confusion, calibration, ROC
    for row in rows(report):
        assert row.definition in read.titles
        assert row.value is None or f"{row.value:.4f}" in text or f"{row.value:.2e}" in text
    assert report["selection"]["text"] in text
    assert not re.search(r"https?://(?!www\.w3\.org)", re.sub(r"base64,[^\"]*", "", html))


def test_warnings_come_first_on_a_page(done):
    report, _ = done
    html = page({**report, "warnings": ["<i>seen</i>"]}, [Picture("tracks", "<b>", "png", b"x")])
    assert '<div class="warning"' in html
    assert html.index("&lt;i&gt;seen") < html.index("<h2>")
    assert '<img src="data:image/png;base64,eA==" alt="&lt;b&gt;">' in html


def test_cards_and_the_hub_get_the_same_numbers(done, folder):
    report, _ = done
    card = huggingface_hub.ModelCard((folder / "tracks" / "README.md").read_text())
    expected = {f"{row.entry}: {row.metric}": row.value for row in rows(report) if row.value is not None}
    assert {result.metric_name: result.metric_value for result in card.data.eval_results} == expected
    assert card_table(report) in card.text
    index = huggingface_hub.repocard_data.eval_results_to_model_index("tracks", eval_results(report))
    assert len(index[0]["results"][0]["metrics"]) > 1
    (path,) = (folder / "tracks" / ".eval_results").iterdir()
    entries = huggingface_hub.parse_eval_result_entries(yaml.safe_load(path.read_text()))
    assert [entry.value for entry in entries] == list(expected.values())
    assert {entry.dataset_id for entry in entries} == {"someone/events"}
    plain = huggingface_hub.eval_result_entries_to_yaml(entries)
    assert plain == hub_entries(report, "someone/events")
    assert json.loads((folder / "tracks" / "evaluation.json").read_text()) == report


def test_a_table_replaces_the_one_before_and_nothing_else(done):
    report, _ = done
    other = huggingface_hub.EvalResult("t", "somebody", "theirs", "m", 0.5)
    card = empty_card("mine")
    card.data.eval_results, card.data.model_name = [other], "mine"
    card = huggingface_hub.ModelCard(f"{card}\nWritten by hand.\n")
    once = with_evaluation(card, "one", eval_results(report), "x")
    twice = with_evaluation(huggingface_hub.ModelCard(f"{once}\nAnd below."), "two", eval_results(report), "x")
    assert "Written by hand." in twice.text
    assert "And below." in twice.text
    assert "two" in twice.text
    assert "one" not in twice.text.split("Evaluation")[1].split("And below")[0]
    assert len(twice.data.eval_results) == len(eval_results(report)) + 1
    assert twice.data.model_name == "mine"


@pytest.mark.filterwarnings("ignore:.*is among the training events")
def test_seen_events_are_refused_and_with_force_the_report_says_so(folder):
    arguments = ("evaluate", "--model", folder / "model", "--data", folder / "train.parquet", "--output", folder / "o")
    refused = run(*arguments)
    assert refused.exit_code == 1
    assert "train.parquet: is among the training events of the backbone" in " ".join(refused.output.split())
    assert not (folder / "o").exists()
    assert run(*arguments, "--force").exit_code == 0
    report = json.loads((folder / "o").read_text())
    assert "is among the training events" in report["warnings"][0]
    assert report["hygiene"]["seen_in_training"] is True
    with pytest.raises(ConfigurationError, match="seen in training"):
        eval_results(report)
    assert run(*arguments, "--force", "--update-card", folder / "model").exit_code == 1


def test_without_matplotlib_a_page_is_refused_before_evaluating(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    arguments = ("--model", folder / "absent", "--data", folder / "absent", "--output", folder / "p")
    result = run("evaluate", *arguments, "--html", folder / "p.html")
    assert "needs matplotlib" in " ".join(result.output.split())
    assert result.exit_code == 1


def test_pictures_are_of_the_numbers():
    bins = [{"low": 0.1, "high": 0.2, "true": 4, "matched": 4, "efficiency": 1.0, "interval": [0.4, 1.0]}]
    drawn = plots.efficiency_picture("pt", bins)
    assert b"true pT (GeV/c)" in drawn
    assert drawn != plots.efficiency_picture("pt", [{**bins[0], "efficiency": 0.5}])
    assert b"<script" not in plots.confusion_picture([[1, 2], [0, 0]], ["<script>", "$x$"])
    assert plots.roc_picture([[], [(0.0, 0.0), (1.0, 1.0)]], ["a", "$b"], [None, 0.5])
    for picture in (
        plots.efficiency_picture("eta", []),
        plots.reliability_picture([]),
        plots.histogram_picture([], "x"),
    ):
        assert b"<svg" in picture


@pytest.mark.parametrize(
    ("ari", "lengths", "kinds"),
    [
        ([], [], {}),
        ([None], [0], {}),
        ([None, 0.5], [0, 9], {"best": 1}),
        ([0.5, 0.1], [9, 9], {"best": 0, "worst": 1}),
        ([0.3, None, 0.1, 0.9], [9, 0, 9, 9], {"best": 3, "median": 0, "worst": 2}),
        ([0.3, 1.0, 0.1, 0.9, 0.0, 1.0], [8, 1, 9, 7, 2, 1], {"best": 3, "median": 0, "worst": 2}),
    ],
)
def test_example_events_are_of_the_longer_half(ari, lengths, kinds):
    assert extremes(ari, lengths) == kinds


def test_every_kind_of_head_is_judged_by_what_it_predicts(processor, events):
    """Numbers of spacepoints, classes of events, unknown ones left out; tasks of one head have an entry each."""
    marked = [
        dataclasses.replace(event, scalars={"trigger": float(index) if index < 2 else math.nan})
        for index, event in enumerate(events)
    ]
    torch.manual_seed(2)
    model = FM4NPPModel(processor.config)
    model.add_head("pt", {"type": "point-regression", "width": 16, "mean": [0.0], "std": [1.0]})
    model.add_head("trigger", {"type": "event-classification", "width": 16, "num_classes": 2, "label": "event.trigger"})
    model.add_head("both", {"type": "multitask", "width": 16})
    found = evaluate(model, processor, marked)
    assert {name: values["task"] for name, values in found.items()} == {
        "pt": "regression",
        "trigger": "classification",
        "both/particle_class": "classification",
        "both/is_noise": "classification",
    }
    assert found["pt"]["num_values"] + found["pt"]["num_unknown"] == sum(map(len, events))
    assert (found["trigger"]["num_hits"], found["trigger"]["unit"]) == (2, "events")
    assert found["trigger"]["num_events"] == len(events)
    assert found["both/is_noise"]["class_names"] == ["signal", "noise"]
    for name, values in found.items():
        assert set(values) - {"task", "probabilities"} <= set(definitions_of(values["task"])), name


def test_a_selection_and_weights_reach_the_metrics(processor, events):
    torch.manual_seed(2)
    model = FM4NPPModel(processor.config)
    model.add_head("tracks", TRACKS)
    every = evaluate(model, processor, events)["tracks"]
    few = evaluate(model, processor, events, selection=TrackSelection(min_hits=3, pt_min=0.5))["tracks"]
    assert 0 < few["num_true_tracks"] < every["num_true_tracks"]
    assert few["ari_per_event"] == every["ari_per_event"]
    weighted = [
        dataclasses.replace(event, labels={**event.labels, "weight": np.ones(len(event), np.float32)})
        for event in events
    ]
    given = evaluate(model, processor, weighted)["tracks"]
    assert (given["hit_weights"], every["hit_weights"]) == ("given", "equal")
    assert given["trackml_score"] == pytest.approx(every["trackml_score"])


def test_every_task_has_headlines():
    assert {"track finding", "classification", "regression", "pretraining"} == set(HEADLINES)
    assert style.check() is None
