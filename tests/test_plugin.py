"""The example of a plug-in, as a stranger uses it: built, installed, used, taken away, installed again."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

PLUGIN = Path(__file__).parents[1] / "examples/plugin"
NAMES = ("straw-tracker", "sectors", "crowding", "focal-tagging")
FEW = ("training.steps=2", "training.tokens_per_batch=600", "training.validate_every=2", "training.warmup_steps=0")


def python(*arguments, path, status=0, folder=None):
    """A new Python, in a folder, that finds what is installed in `path`, if anything."""
    places = [*([str(path)] if path else []), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
    command = [sys.executable, *map(str, arguments)]
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert result.returncode == status, result.stdout + result.stderr
    return result


def fm4npp(*arguments, path, status=0):
    return python("-m", "fm4npp", *arguments, path=path, status=status)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the plug-in's wheel, built without a network."""
    folder = tmp_path_factory.mktemp("plugin")
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    wheel = folder / python("-c", build, folder, path=None, folder=PLUGIN).stdout.split()[-1]
    install = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", folder / "site", wheel)
    python(*install, path=None)
    return folder / "site"


@pytest.mark.slow
def test_a_plugin_from_its_wheel_to_predictions_and_back(installed, tmp_path):
    listed = fm4npp("list", path=installed).stdout
    assert all(any(name in line and "fm4npp-straws 0.1.0" in line for line in listed.splitlines()) for name in NAMES)
    python("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", PLUGIN, PLUGIN / "tests", path=installed)

    events, model, head = tmp_path / "events.parquet", tmp_path / "model", tmp_path / "head"
    fm4npp("simulate", "--detector", "straw-tracker", "--events", 12, "--output", events, path=installed)
    data = (f"data.train={events}", f"data.validation={events}")
    fm4npp("pretrain", "--config", PLUGIN / "straws.yaml", "--output", model, *data, *FEW, path=installed)
    files = ("--data", events, "--validation", events)
    fm4npp("adapt", "--model", model, "--head", "focal-tagging", *files, "--output", head, *FEW, path=installed)

    def predicted(name):
        place = tmp_path / name
        fm4npp("predict", events, "--model", model, "--head", head, "--output", place, path=installed)
        return pq.read_table(place)["focal_tagging_is_noise_probability_1"]

    first = predicted("first.parquet")
    files = ("--model", model, "--head", head, "--output", tmp_path / "without.parquet")
    without = fm4npp("predict", events, *files, path=None, status=1)
    assert "fm4npp-straws" in without.stderr
    assert len(without.stderr.strip().splitlines()) == 1
    assert predicted("again.parquet").equals(first)


def test_a_broken_plugin_is_one_line_in_a_list_that_works(tmp_path):
    (tmp_path / "broken_straws.py").write_text("raise RuntimeError('made for something older')\n")
    information = tmp_path / "broken-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[fm4npp.detectors]\nbroken = broken_straws:Broken\n")
    listed = fm4npp("list", "detectors", path=tmp_path)
    (warning,) = listed.stderr.strip().splitlines()
    assert "broken" in warning
    assert "made for something older" in warning
    assert "star-tpc" in listed.stdout
    assert "cannot be loaded" in listed.stdout
