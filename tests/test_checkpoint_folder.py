"""Folders of models and heads: all files of one save, never of two, whenever a writer dies."""

import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fm4npp import FM4NPPModel, FM4NPPProcessor
from fm4npp.checkpoint import read_tensors, resolve, staged, write_tensors
from fm4npp.cli import inspection
from fm4npp.errors import CheckpointError
from fm4npp.files import PENDING_NAME, current, read_json, replaced_together, write_json
from tests.conftest import tiny_config
from tests.crashes import DISK_FULL, failing, killed, message_under_file_limit, moments, start

MARKER = "config.json"


def save(folder: Path, number: int, size: int = 20) -> None:
    """A checkpoint whose every file says which save it is of; odd ones have one weight file, even ones two."""
    module = torch.nn.Linear(size, 2)
    torch.nn.init.constant_(module.weight, number)
    torch.nn.init.constant_(module.bias, number)
    with staged(folder) as stage:
        save_file({"number": torch.tensor(number)}, stage / "golden.safetensors")
        write_tensors(module, stage, max_shard_size="5GB" if number % 2 else 8 * size)
        write_json(stage / MARKER, {"number": number})


def load(folder: Path) -> int:
    """The number that all files of a checkpoint agree on."""
    place = resolve(folder, marker=MARKER)
    found = {read_json(place / MARKER)["number"], load_file(place / "golden.safetensors")["number"].item()}
    for tensors in (read_tensors(place), read_tensors(folder)):
        found |= {value for tensor in tensors.values() for value in tensor.unique().tolist()}
    assert len(found) == 1, found
    return int(found.pop())


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    """Killing a process takes nothing back that it has written; only a power cut does, which nobody tests here."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A checkpoint among other files."""
    folder = tmp_path / "run"
    (folder / "checkpoints" / "step-00000025").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("mine")
    save(folder, 1)
    return folder


@pytest.mark.parametrize("links", [True, False])
def test_a_writer_killed_at_any_moment_leaves_all_of_one_save(folder, tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", failing(errno.EPERM))
    copies = moments(lambda: save(folder, 2), folder, tmp_path / "copies")
    found = [load(copy) for copy in copies]
    assert found == sorted(found)
    assert set(found) == {1, 2}
    assert len(found) > 20
    for copy in copies:
        save(copy, 3)
        assert load(copy) == 3
        assert hidden(copy) == []
        assert [path.name for path in copy.glob("model*")] == ["model.safetensors"]
        assert (copy / "metrics.jsonl").read_text() == "mine"
        assert (copy / "checkpoints" / "step-00000025").exists()
        assert all(path.stat().st_nlink == 1 for path in copy.iterdir() if path.is_file())


def test_a_writer_killed_while_it_finishes_what_a_killed_one_left(folder, tmp_path, monkeypatch):
    copies = moments(lambda: save(folder, 2), folder, tmp_path / "copies")
    half = next(copy for copy in copies if (copy / PENDING_NAME).exists() and len(list(copy.glob("model*"))) > 1)
    assert load(half) == 2
    again = moments(lambda: save(half, 3), half, tmp_path / "again")
    found = [load(copy) for copy in again]
    assert found == sorted(found)
    assert set(found) == {2, 3}
    assert hidden(again[-1]) == []
    assert len(hidden(again[0])) > 1
    monkeypatch.setattr("fcntl.flock", failing(errno.EBADF))  # so that nothing is tidied up afterwards
    before = hidden(again[0])
    save(again[0], 3)
    assert [PENDING_NAME, *hidden(again[0])] == before


def test_ten_random_kills(folder):
    random = np.random.default_rng(6)
    for _ in range(10):
        first = load(folder) + 1

        def work(ready: Callable[[], None], first=first) -> None:
            for number in range(first, 10_000):
                save(folder, number, size=5_000)
                ready()

        killed(work, random.uniform(0, 0.02))
        assert load(folder) >= first
    last = load(folder)
    assert last > 10
    save(folder, last + 1)
    assert hidden(folder) == []


def test_writers_at_the_same_time_leave_all_of_one_save(folder):
    def work(offset: int) -> None:
        for number in range(10):
            save(folder, offset + number)

    pids = [start(lambda offset=offset: work(offset)) for offset in (10, 21)]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
    assert load(folder) in (19, 30)
    assert hidden(folder) == []


def test_what_a_living_writer_has_not_finished_stays(folder):
    (folder / ".staging.99999999.01234567").mkdir()
    ready, go = threading.Event(), threading.Event()

    def slow() -> None:
        with staged(folder) as stage:
            (stage / "slow.json").write_text("{}")
            ready.set()
            go.wait(10)

    thread = threading.Thread(target=slow)
    thread.start()
    assert ready.wait(10)
    save(folder, 3)
    assert len(hidden(folder)) == 1
    go.set()
    thread.join()
    assert hidden(folder) == []
    assert (folder / "slow.json").exists()


def test_where_locks_do_not_work_only_what_is_old_is_taken_for_abandoned(folder, monkeypatch):
    monkeypatch.setattr("fcntl.flock", failing(errno.EBADF))
    for name, age in {".staging.1.00000000": 0, ".staging.2.00000000": 200_000}.items():
        (folder / name).mkdir()
        changed = (folder / name).stat().st_mtime - age
        os.utime(folder / name, (changed, changed))
    save(folder, 3)
    assert load(folder) == 3
    assert hidden(folder) == [".staging.1.00000000"]


def test_files_have_the_permissions_of_their_folder(folder):
    before = os.umask(0o027)
    try:
        save(folder, 3)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in folder.glob("*.safetensors")} == {0o640}


# ---- the file system refuses


@pytest.mark.parametrize("place", ["share", "sync", "Path.mkdir", "Path.iterdir", "shutil.copyfile"])
def test_a_failure_is_one_line_and_leaves_what_was_there(folder, monkeypatch, place):
    with monkeypatch.context() as patch:
        patch.setattr(Path, "hardlink_to", failing(errno.EPERM))
        patch.setattr(f"fm4npp.files.{place}", failing(DISK_FULL))
        with pytest.raises(
            CheckpointError, match=r"run: cannot be written \(No space left.*bytes are needed"
        ) as caught:
            save(folder, 2)
    assert "\n" not in str(caught.value)
    assert load(folder) == 1
    assert hidden(folder) == []


def test_the_limit_of_a_file_is_one_line_with_the_bytes_of_the_weights(folder):
    text = message_under_file_limit(lambda: save(folder, 3, size=100_000), 50_000)
    assert text.startswith(f"CheckpointError: {folder}: cannot be written")
    size = (100_000 * 2 + 2) * 4 + (folder / "golden.safetensors").stat().st_size
    assert "File too large" in text
    assert f"at least {size:,} bytes are needed; what was there is kept" in text
    assert load(folder) == 1


def test_a_failure_after_the_commit_says_that_nothing_is_lost(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("fm4npp.files._install", failing(errno.EIO))
        with pytest.raises(CheckpointError, match=r"what was saved last is whole in \.pending"):
            save(folder, 2)
    assert load(folder) == 2
    save(folder, 3)
    assert load(folder) == 3
    assert hidden(folder) == []


def test_a_folder_in_place_of_a_file_is_found_before_anything_changes(folder):
    (folder / "new.json").mkdir()
    with pytest.raises(CheckpointError, match="Is a directory.*what was there is kept"), staged(folder) as stage:
        (stage / "new.json").write_text("{}")
        (stage / MARKER).write_text("{}")
    assert load(folder) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_without_permission_is_one_line(folder):
    folder.chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match=r"Permission denied.*what was there is kept"):
            save(folder, 2)
    finally:
        folder.chmod(0o700)
    assert load(folder) == 1


def test_a_file_in_place_of_the_folder_is_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="file: cannot be written"):
        save(tmp_path / "file", 2)


# ---- readers


@pytest.fixture
def pending(tmp_path, processor) -> tuple[Path, FM4NPPModel]:
    """A folder of a model whose successor, with another head, is committed and not yet in place."""
    FM4NPPModel(processor.config).save_pretrained(tmp_path / "run")
    successor = FM4NPPModel(tiny_config())
    successor.add_head("noise", "noise-tagging")
    successor.save_pretrained(tmp_path / "other")
    (tmp_path / "other").rename(tmp_path / "run" / PENDING_NAME)
    return tmp_path / "run", successor


@pytest.mark.parametrize("first", [True, False])
def test_every_reader_meets_the_successor(pending, first):
    folder, successor = pending
    if first:
        for path in folder.glob("*.*"):
            if path.is_file():
                path.unlink()
    loaded = FM4NPPModel.from_pretrained(folder)
    assert torch.equal(loaded.output.weight, successor.output.weight)
    assert loaded.identity["name"] == "run"
    assert FM4NPPProcessor.from_pretrained(folder).config == successor.config
    assert inspection.is_model(folder)
    assert inspection.folder(folder)["sha256"] == successor.backbone_identity()["sha256"]
    assert inspection.folder(folder)["heads"] == {"noise": "noise-tagging"}
    successor.save_pretrained(folder)
    assert not (folder / PENDING_NAME).exists()
    assert FM4NPPModel.from_pretrained(folder).backbone_identity()["sha256"] == loaded.backbone_identity()["sha256"]


def test_a_head_is_read_from_there_too(tmp_path, processor):
    model = FM4NPPModel(processor.config)
    model.add_head("noise", "noise-tagging")
    model.save_head("noise", tmp_path / "head" / PENDING_NAME)
    assert inspection.folder(tmp_path / "head")["kind"] == "head"
    other = FM4NPPModel(processor.config)
    other.load_state_dict({key: value for key, value in model.state_dict().items() if not key.startswith("heads")})
    assert other.load_head(tmp_path / "head") == "noise"
    assert current(tmp_path / "head", "config.json") == tmp_path / "head"


def test_nothing_but_the_model_is_pushed_from_the_folder_of_a_run(pending, tmp_path, monkeypatch):
    folder, _ = pending
    (folder / "checkpoints" / "step-00000025").mkdir(parents=True)
    (folder / "checkpoints" / "step-00000025" / "optimizer.safetensors").write_bytes(b"secret")
    (folder / "metrics.jsonl").write_text("")

    class Api:
        def __init__(self, token=None):
            pass

        def create_repo(self, repo_id, **options):
            return type("Url", (), {"repo_id": repo_id})

        def upload_folder(self, *, folder_path, **options):
            shutil.copytree(folder_path, tmp_path / "pushed")
            return "commit"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    assert FM4NPPModel.from_pretrained(folder).save_pretrained(folder, push_to_hub=True, repo_id="a/b") == "commit"
    names = {path.name for path in (tmp_path / "pushed").rglob("*")}
    assert names == {"config.json", "golden.safetensors", "hashes.json", "model.safetensors", "README.md"}


def test_any_files_can_be_replaced_together(tmp_path):
    for content in ("a", "b"):
        with replaced_together(tmp_path, stale="*.old") as stage:
            (stage / f"{content}.old").write_text(content)
            (stage / "same.txt").write_text(content)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"b.old": "b", "same.txt": "b"}
