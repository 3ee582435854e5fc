"""Every registered head trains from stored features, with LoRA, and on several detectors, and is judged."""

import dataclasses

import pytest

from fm4npp import detectors, heads
from fm4npp.data import EventDataset, write_events
from fm4npp.evaluation import evaluate
from fm4npp.files import read_json
from fm4npp.modeling import FM4NPPModel
from fm4npp.processing import FM4NPPProcessor
from fm4npp.simulation import ParticleGun, simulate
from fm4npp.training import adapt, pretrain
from fm4npp.training.config import AdaptConfig, PretrainConfig, parse
from tests.training.runs import MODEL

REQUIRED = {"point-classification": {"label": "particle_class", "num_classes": 5}}
GUN = ParticleGun(mean_primaries=2.0)
WAYS = {
    "features": lambda folder: [f"data.features={folder}"],
    "lora": lambda folder: ["tuning=lora", "lora.rank=2"],
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Events of two detectors, every second one triggered."""
    folder = tmp_path_factory.mktemp("mixed")
    found = []
    for seed, name in enumerate(("sphenix-tpc", "star-tpc")):
        events = [
            dataclasses.replace(event, scalars={"trigger": number % 2})
            for number, event in enumerate(simulate(detectors.build(name), 6, seed, GUN))
        ]
        found.append(folder / f"{name}.parquet")
        write_events(events, found[-1])
    return [str(path) for path in found]


@pytest.fixture(scope="module")
def model(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "run"
    settings = {"steps": 1, "tokens_per_batch": 500, "warmup_steps": 0}
    pretrain(parse(PretrainConfig, {"model": MODEL, "data": {"train": files}, "training": settings}), folder)
    return folder


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", heads.names())
def test_every_head_trains_and_is_judged(name, way, files, model, tmp_path):
    fields = {"width": 16, **REQUIRED.get(name, {})}
    if name == "track-finding":
        fields |= {"hidden": 16, "num_queries": "auto"}
    elif "class_weights" in heads.get(name).Config.model_fields:
        fields |= {"class_weights": "balanced"}
    settings = {"steps": 2, "tokens_per_batch": 500, "warmup_steps": 0, "validate_every": 2}
    values = {
        "name": "head",
        "head": {"type": name, **fields},
        "data": {"train": files, "validation": files[:1]},
        "training": settings,
    }
    adapt(model, parse(AdaptConfig, values, WAYS[way](tmp_path / "features")), tmp_path / "head")
    saved = read_json(tmp_path / "head" / "head.json")
    assert "auto" not in saved["head"].values()
    assert "balanced" not in saved["head"].values()
    loaded = FM4NPPModel.from_pretrained(model)
    loaded.load_head(tmp_path / "head")
    events = EventDataset(files)
    report = evaluate(loaded, FM4NPPProcessor(loaded.config), events)
    assert {key.split("/")[0] for key in report} == {"head"}
    assert {metrics["num_events"] for metrics in report.values()} == {len(events)}
