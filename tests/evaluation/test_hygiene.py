"""Events that a model has seen in training are refused, by their content and not by their names."""

import json
import shutil

import pytest

from fm4npp.data import write_events
from fm4npp.errors import DataError
from fm4npp.evaluation.hygiene import Origin, check, identified, origins, seen
from fm4npp.files import write_json
from fm4npp.modeling import FM4NPPModel
from fm4npp.pretrained import HEAD_CONFIG_NAME
from fm4npp.readers.events_parquet import read_summary
from fm4npp.training import adaptation, pretraining, sharding
from fm4npp.training.config import AdaptConfig, parse
from fm4npp.training.inputs import data_identity


def trained_on(path, split="train"):
    return {"data": [{"split": split, "path": "elsewhere", "content": read_summary(path)["content"]}]}


@pytest.mark.parametrize(("split", "told"), [("train", "training"), ("validation", "validation")])
def test_a_seen_file_is_refused_under_any_name(events_files, tmp_path, split, told):
    copy = tmp_path / "other name.parquet"
    shutil.copy(events_files["train"], copy)
    own = [Origin("the head 'tracks'", "runs/tracks", trained_on(events_files["train"], split))]
    with pytest.raises(
        DataError, match=f"other name.parquet: is among the {told} events of the head 'tracks'"
    ) as error:
        check(identified([copy]), own)
    assert "(runs/tracks); evaluate on other events, or use --force" in str(error.value)
    assert "\n" not in str(error.value)
    (warned,) = check(identified([copy]), own, force=True)
    assert told in warned
    assert seen(identified([copy]), own)
    assert check(identified([events_files["validation"]]), own) == []
    assert not seen(identified([events_files["validation"]]), own)


def test_the_second_of_two_runs_and_of_two_files_counts(events_files):
    files = identified([events_files["validation"], events_files["train"]])
    own = [
        Origin("the backbone", "a", {"data": [{"content": "0"}]}),
        Origin("h", "b", trained_on(events_files["train"])),
    ]
    with pytest.raises(DataError, match=r"train.parquet: .*\(b\)"):
        check(files, own)


def test_the_same_events_in_a_file_of_their_own_are_not_recognised(events, tmp_path):
    """What the report says that the check does not catch."""
    write_events(events, tmp_path / "all.parquet")
    write_events(events[1:], tmp_path / "some.parquet")
    own = [Origin("the backbone", "a", trained_on(tmp_path / "all.parquet"))]
    assert check(identified([tmp_path / "some.parquet"]), own) == []


def test_what_cannot_be_checked_is_said_and_random_weights_need_no_check(events_files):
    files = identified([events_files["train"]])
    (warned,) = check(files, [Origin("the backbone", "old", {"step": 3})])
    assert "the backbone (old) does not say which events" in warned
    assert check(files, [Origin("the backbone", "random", {})]) == []
    (warned,) = check([{"path": "hf://x", "content": None, "detector": "d"}], [])
    assert "by this address only" in warned
    with pytest.raises(DataError, match="hf://x: is among"):
        check(
            [{"path": "hf://x", "content": None}], [Origin("b", "c", {"data": [{"split": "train", "path": "hf://x"}]})]
        )


def test_a_file_twice_is_refused(events_files, tmp_path):
    copy = tmp_path / "copy.parquet"
    shutil.copy(events_files["train"], copy)
    with pytest.raises(DataError, match="has the same content as"):
        identified([events_files["train"], copy])


def test_a_head_without_a_word_on_its_training_is_unknown(tmp_path):
    write_json(tmp_path / HEAD_CONFIG_NAME, {"name": "x"})
    found = origins("m", {}, {"x": tmp_path})
    assert [origin.what for origin in found] == ["the backbone", "the head 'x'"]
    assert len(check([], found)) == 1
    assert [origin.what for origin in origins("m", {}, {"x": tmp_path}, ["x", "y"])][1:] == [
        "the head 'y'",
        "the head 'x'",
    ]


def test_checkpoints_carry_what_they_were_trained_on(processor, events_files, tmp_path):
    """Model, head, and model whose backbone was trained with a head: the run's own folder may be gone."""
    data = [{"split": split, **file} for split, path in events_files.items() for file in data_identity([path])]
    about, record = {"backend": "torch", "config": {}, "data": data}, {"step": 1}
    model = FM4NPPModel(processor.config)
    pretraining._Export(model, tmp_path / "model")(sharding.trainable(model), record, about)
    model.add_head("noise", {"type": "noise-tagging", "width": 16})
    for tuning in ("frozen", "full"):
        config = parse(
            AdaptConfig,
            {"name": "noise", "head": {"type": "noise-tagging"}, "data": {"train": ["x"]}, "tuning": tuning},
        )
        adaptation._Export(model, config, tmp_path / tuning)(sharding.trainable(model), record, about)
    full = json.loads((tmp_path / "full" / "config.json").read_text())["training"]
    stored = [
        json.loads((tmp_path / "model" / "config.json").read_text())["training"],
        json.loads((tmp_path / "frozen" / HEAD_CONFIG_NAME).read_text())["training"],
        full,
        full["adapted"]["noise"],
    ]
    for training in stored:
        with pytest.raises(DataError, match="among the validation events"):
            check(identified([events_files["validation"]]), [Origin("b", "c", training)])
    found = origins(tmp_path / "full", full, {})
    assert [origin.what for origin in found] == ["the backbone", "the head 'noise'"]
