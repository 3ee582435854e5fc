"""The examples run as their first lines say, on fewer events."""

import runpy
import sys
from pathlib import Path

import pytest

from fm4npp import detectors

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs an example in this process."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture
def _forgotten():
    yield
    detectors.registry.unregister("my-mvtx")


def add_mvtx(run, tmp_path, *arguments):
    said = run("add_mvtx.py", "--output", tmp_path / "mvtx", "--steps", 2, "--events", 40, *arguments)
    assert "tracks of 5 events: ARI" in said


@pytest.mark.usefixtures("_forgotten")
def test_a_detector_from_nothing(run, tmp_path):
    add_mvtx(run, tmp_path)
    text = (EXAMPLES / "add_mvtx.py").read_text()
    own = text[text.index('@detectors.register("my-mvtx")') : text.index("def make_events")]
    assert len(own.splitlines()) <= 60


@pytest.mark.shared_data
@pytest.mark.usefixtures("_forgotten")
def test_a_detector_from_nothing_on_real_events(run, tmp_path, shared_data):
    add_mvtx(run, tmp_path, "--data", shared_data / "sphenix_silicon/test.tar.xz")
