"""A checkpoint's manifest: whatever bit of whatever file is another, loading says so."""

import random
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fm4npp import FM4NPPModel, FM4NPPProcessor
from fm4npp.checkpoint import HASHES_NAME, UNLISTED
from fm4npp.errors import CheckpointError, FM4NPPError
from tests.conftest import tiny_config


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model with a head, and the head alone."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("saved")
    model = FM4NPPModel(tiny_config()).eval()
    model.save_pretrained(folder / "model")
    model.add_head("noise", {"type": "noise-tagging", "width": 16, "num_heads": 2})
    model.save_head("noise", folder / "head")
    return folder


def load(folder):
    """Everything of a copy of `saved`."""
    model = FM4NPPModel.from_pretrained(folder / "model")
    model.load_head(folder / "head")
    return model


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in UNLISTED)


def test_the_manifest_lists_every_file_but_the_card(saved):
    names = {path.name for path in files_of(saved / "model")}
    assert names == {"config.json", "golden.safetensors", "model.safetensors", HASHES_NAME}
    assert {path.name for path in files_of(saved / "head")} == {"head.json", "model.safetensors", HASHES_NAME}
    (saved / "model" / "README.md").write_text("# Another card\n")
    load(saved)


@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), choice=st.integers(0, 6))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_flipped_bit_is_found(saved, place, bit, choice):
    path = files_of(saved)[choice]
    content = path.read_bytes()
    damaged = bytearray(content)
    damaged[int(place * len(content))] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        with pytest.raises(FM4NPPError) as caught:
            load(saved)
    finally:
        path.write_bytes(content)
    assert len(str(caught.value).splitlines()) == 1
    load(saved)


def test_a_flipped_digit_of_a_constant_is_found_by_the_processor_too(saved, tmp_path):
    shutil.copytree(saved / "model", tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    text = path.read_text()
    assert '"state_size": 4' in text
    path.write_text(text.replace('"state_size": 4', '"state_size": 5'))
    for kind in (FM4NPPProcessor, FM4NPPModel):
        with pytest.raises(CheckpointError):
            kind.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("name", ["config.json", "golden.safetensors", "model.safetensors"])
def test_a_file_that_is_gone_or_cut_short_is_found(saved, tmp_path, name):
    for cut in (0, random.Random(name).randrange(1, 100), None):
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        shutil.copytree(saved / "model", tmp_path / "model")
        path = tmp_path / "model" / name
        path.unlink() if cut is None else path.write_bytes(path.read_bytes()[:-cut] if cut else b"")
        with pytest.raises(CheckpointError, match=name):
            FM4NPPModel.from_pretrained(tmp_path / "model")


def test_a_checkpoint_without_a_manifest_is_a_warning(saved, tmp_path):
    shutil.copytree(saved / "model", tmp_path / "model")
    (tmp_path / "model" / HASHES_NAME).unlink()
    with pytest.warns(UserWarning, match="could not be verified"):
        FM4NPPModel.from_pretrained(tmp_path / "model")
    with pytest.warns(UserWarning, match="could not be verified"):
        FM4NPPProcessor.from_pretrained(tmp_path / "model")


def test_the_commit_of_a_download_is_kept(saved, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(saved / "model", tmp_path / "models--a--b" / "snapshots" / commit)
    found = FM4NPPModel.from_pretrained(tmp_path / "models--a--b" / "snapshots" / commit, revision="main")
    assert found.backbone_identity()["revision"] == commit
    assert FM4NPPModel.from_pretrained(saved / "model").backbone_identity()["revision"] == ""


def test_a_folder_of_a_processor_alone_is_verified(tmp_path):
    FM4NPPProcessor(tiny_config()).save_pretrained(tmp_path)
    assert FM4NPPProcessor.from_pretrained(tmp_path).config == tiny_config()
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace("4", "3", 1))
    with pytest.raises(CheckpointError):
        FM4NPPProcessor.from_pretrained(tmp_path)
