"""Metrics of each detector, of events of several: those of its events alone, in the report, the page and the card."""

import numpy as np
import pytest
import torch

from fm4npp import detectors
from fm4npp.cli.models import _lines
from fm4npp.evaluation import evaluate
from fm4npp.evaluation.page import page
from fm4npp.evaluation.report import card_table, detector_rows, rows, told
from fm4npp.modeling import FM4NPPModel
from fm4npp.processing import FM4NPPProcessor
from fm4npp.simulation import ParticleGun, simulate
from tests.conftest import tiny_config

HEADS = {
    "noise": {"type": "noise-tagging", "width": 16},
    "tracks": {"type": "track-finding", "num_queries": 8, "width": 16, "num_layers": 1, "num_heads": 2},
}


@pytest.fixture(scope="module")
def samples(events):
    """Detector -> a few small events."""
    star = simulate(detectors.build("star-tpc"), 4, 7, ParticleGun(mean_primaries=2.0))
    return {"sphenix-tpc": list(events[:4]), "star-tpc": list(star)}


def model_of(samples, *names):
    torch.manual_seed(3)
    config = tiny_config(detectors=list(names))
    model = FM4NPPModel(FM4NPPProcessor(config).fit(event for name in names for event in samples[name]).config).eval()
    for name, head in HEADS.items():
        model.add_head(name, head)
    return model.eval()


@pytest.mark.parametrize("heads", [True, False])
def test_metrics_of_each_detector_are_those_of_its_events_alone(samples, heads):
    names = ("sphenix-tpc", "star-tpc")
    model = model_of(samples, *names)
    for name in () if heads else list(model.heads):
        model.remove_head(name)
    processor = FM4NPPProcessor(model.config)
    mixture = [event for pair in zip(*(samples[name] for name in names), strict=True) for event in pair]
    together = evaluate(model, processor, mixture)
    for name in names:
        alone = evaluate(model, processor, samples[name])
        for entry, expected in alone.items():
            assert "by_detector" not in expected
            found = flat(together[entry]["by_detector"][name])
            assert {"num_events", "num_hits"} < set(found)
            assert found == pytest.approx({key: flat(expected)[key] for key in found}, rel=1e-6)
    for values in together.values():
        assert values["num_hits"] == sum(one["num_hits"] for one in values["by_detector"].values())
    if not heads:
        both = together["objective"]["by_detector"].values()
        weights = [objective_weight(processor, samples[name]) for name in names]
        mean = np.average([one["loss"] for one in both], weights=weights)
        assert together["objective"]["loss"] == pytest.approx(mean, rel=1e-6)


def flat(values, place=""):
    """Numbers and words of a report, those of tables and intervals under longer names."""
    found = {}
    for name, value in values.items():
        if isinstance(value, dict) and name in ("intervals", "probabilities"):
            found |= flat(value, f"{place}{name}.")
        elif isinstance(value, tuple):
            found |= {f"{place}{name}.{number}": one for number, one in enumerate(value)}
        elif not isinstance(value, str | None):
            found[place + name] = value
    return found


def objective_weight(processor, events):
    return processor.config.objective.count(processor(events)["targets"])


def test_page_and_card_have_a_column_for_each_detector(samples):
    model = model_of(samples, "sphenix-tpc", "star-tpc")
    metrics = evaluate(model, FM4NPPProcessor(model.config), [*samples["sphenix-tpc"], *samples["star-tpc"]])
    about = {"definitions": {"track finding": {}, "classification": {}}, "heads": metrics, "data": [], "warnings": []}
    about |= {"fm4npp": "0", "created": "now", "model": {"sha256": "0" * 64}, "selection": {"text": "all"}}
    report = {**about, "head_weights": {}, "versions": {}, "backend": "torch", "device": "cpu"}
    report["hygiene"] = {"not_caught": ""}
    columns = detector_rows(report)
    assert list(columns) == ["sphenix-tpc", "star-tpc"]
    shown, table = page(report), card_table(report)
    assert "By detector" in shown
    assert "| head | metric | sphenix-tpc | star-tpc |" in table
    for first, second in zip(*columns.values(), strict=True):
        assert f"| {first.entry} | {first.metric} | {told(first)} | {told(second)} |" in table
        assert told(first) in shown
        assert told(second) in shown
    printed = _lines(report)
    assert len(printed) == 3 * len(metrics)
    assert all(any(line.startswith(f"{entry}, {name}: ") for line in printed) for entry in metrics for name in columns)
    assert len(rows(report)) == len(columns["star-tpc"])
    for values in metrics.values():
        del values["by_detector"]
    assert "By detector" not in page(report)
