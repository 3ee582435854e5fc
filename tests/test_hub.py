"""Publishing events: the card, and what is sent; the Hub itself is replaced."""

import json

import numpy as np
import pytest
import yaml
from huggingface_hub.errors import HFValidationError
from typer.testing import CliRunner

from fm4npp import hub
from fm4npp.cli import app
from fm4npp.data import write_events
from fm4npp.errors import ConfigurationError, DataError, FM4NPPError
from fm4npp.event import Event
from fm4npp.readers.events_parquet import read_summary


@pytest.fixture
def events(tmp_path):
    made = [
        Event(
            positions=np.full((count, 3), 4.0),
            features=np.ones((count, 1)),
            feature_names=("energy",),
            labels={"track_id": np.arange(count)},
            detector="sphenix-tpc",
            event_id=count,
            left_out={"x is not finite": [1]} if count == 3 else {},
        )
        for count in (3, 0, 5)
    ]
    write_events(made, tmp_path / "events.parquet")
    return tmp_path / "events.parquet"


class FakeHub:
    def __init__(self, token=None):
        self.sent = {}
        FakeHub.last = self

    def create_repo(self, repo_id, repo_type, private, exist_ok):
        if "/" not in repo_id:
            raise HFValidationError("no such name")
        self.made = (repo_id, repo_type, private)
        return f"hub:{repo_id}"

    def upload_file(self, path_or_fileobj, path_in_repo, repo_id, repo_type):
        self.sent[path_in_repo] = path_or_fileobj


def test_the_card_says_what_is_in_the_files(events):
    upload = hub.prepare_upload(events, "me/mine", license="cc-by-4.0", source="A gun.")
    front = yaml.safe_load(upload.card.split("---")[1])
    assert front["license"] == "cc-by-4.0"
    assert front["configs"] == [{"config_name": "default", "data_files": "data/*.parquet"}]
    for part in (
        "3 events with 8 spacepoints of the detector `sphenix-tpc`",
        "| `x` | list of double | cm |",
        "| `energy` | list of float |  |",
        "- spacepoints read: 9",
        "- rejected spacepoints: x is not finite: 1",
        read_summary(events)["content"],
        "A gun.",
    ):
        assert part in upload.card
    assert upload.files == {"data/events.parquet": events}


@pytest.mark.parametrize("private", [True, False])
def test_files_go_before_the_card(events, monkeypatch, private):
    monkeypatch.setattr(hub, "HfApi", FakeHub)
    upload = hub.prepare_upload(events, "me/mine", license="cc-by-4.0")
    assert hub.push_events(upload, "me/mine", private=private) == "hub:me/mine"
    assert FakeHub.last.made == ("me/mine", "dataset", private)
    assert list(FakeHub.last.sent) == ["data/events.parquet", "README.md"]
    assert FakeHub.last.sent["README.md"].decode() == upload.card
    with pytest.raises(FM4NPPError, match="mine: cannot be pushed"):
        hub.push_events(upload, "mine")


def test_what_cannot_be_published(events, tmp_path):
    with pytest.raises(ConfigurationError, match="license"):
        hub.prepare_upload(events, "me/mine", license=" ")
    (tmp_path / "other.parquet").write_bytes(events.read_bytes()[:-9])
    (tmp_path / "unfinished").mkdir()
    for path in ("other.parquet", "unfinished"):
        with pytest.raises(DataError):
            hub.prepare_upload(tmp_path / path, "me/mine", license="mit")


def test_a_dry_run_sends_nothing(events, monkeypatch):
    monkeypatch.setattr(hub, "HfApi", None)
    command = ["data", "push", str(events), "me/mine", "--license", "cc-by-4.0"]
    result = CliRunner().invoke(app, [*command, "--dry-run", "--json"])
    assert result.exit_code == 0
    assert "nothing was sent" in result.stdout
    assert json.loads(result.stdout.splitlines()[-1])["pushed"] is False
    assert CliRunner().invoke(app, command[:-2]).exit_code == 2
