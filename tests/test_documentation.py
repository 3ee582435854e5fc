"""The command blocks of README and docs, run as they are written, one page after the other in a folder of its own.

Only what makes them slow is changed: numbers of steps, of events and of cells, and the size of a new model.
"""

import re
import shlex
from itertools import pairwise
from pathlib import Path

import awkward as ak
import pytest
import uproot
from typer.testing import CliRunner

from fm4npp import detectors
from fm4npp.cli import app
from fm4npp.data import write_events
from fm4npp.simulation import ParticleGun, simulate

ROOT = Path(__file__).parents[1]
ELSEWHERE = ("make ", "pip install", "python examples/", "accelerate launch", "sbatch ", "mkdir ")
"""Commands that have tests of their own, or need what a test must not ask for."""
FEW = ("training.steps=2", "training.validate_every=2", "training.tokens_per_batch=1500", "training.warmup_steps=0")
SMALL = ("model.backbone.width=32", "model.backbone.num_layers=2", "data.fit_events=10")
SETTINGS = {
    "pretrain": (*FEW, *SMALL),
    "adapt": (*FEW, "head.width=32"),
    "study data-efficiency": (*FEW, "head.width=32"),
    "probe": ("--seeds", "1", "--representations", "last", "--controls", "raw", "--max-spacepoints", "300"),
    "study scaling": (*FEW[1:], *SMALL[1:]),
}
FEWER = {
    "--events": "6",
    "--shards": "1",
    "--labels": "4,6",
    "--seeds": "1",
    "--widths": "32",
    "--steps": "1,2",
    "--workers": "1",
}
"""Option -> what it is given in place of what the page says."""
PAGES = {
    "README.md": (),
    "docs/your-detector.md": (),
    "docs/mixing.md": ("runs/a", "runs/tracks"),
    "docs/heads.md": ("runs/a",),
    "docs/evaluation.md": ("runs/a", "runs/backbone", "runs/tracks"),
    "docs/training.md": (),
    "docs/studies.md": ("runs/backbone",),
    "docs/simulation.md": (),
}
"""Page -> models and heads that it has already."""
WITHOUT = {"docs/data.md", "docs/real-data.md", "docs/backbone.md", "docs/plugins.md"}
"""Pages with commands that are run on real files by `test_real_files`, or by `test_plugin`, or that only install."""


def commands(page):
    """The commands of a page, joined where they go on and without comments."""
    blocks = re.findall(r"^```(?:sh|bash)\n(.*?)^```", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def scaled(words):
    """A command that takes seconds."""
    kind = " ".join(words[1:3]) if words[1] == "study" else words[1]
    given = [FEWER.get(before, word) for before, word in pairwise(words)]
    return [*given, *SETTINGS.get(kind, ())] if "--print-config" not in words else given


def call(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, f"fm4npp {shlex.join(map(str, arguments))}\n{result.output}"


def simulated(name, count, seed):
    """Events of a few particles each."""
    return list(simulate(detectors.load(name), count, seed, ParticleGun(mean_primaries=4.0)))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What the pages call the reader's files."""
    folder = tmp_path_factory.mktemp("files")
    star = simulated("star-tpc", 12, 3)
    write_events(star[:6], folder / "star-test.parquet")
    branches = {f"TPCHits_{axis}": ak.Array([event.positions[:, i] for event in star]) for i, axis in enumerate("xyz")}
    branches["TPCHits_adc"] = ak.Array([event.feature("energy") for event in star])
    branches["TPCHits_IdTruth"] = ak.Array([event.labels["track_id"] for event in star])
    for name in ("hits.root", "star.root"):
        with uproot.recreate(folder / name) as root:
            root["T"] = branches
    for seed, name in enumerate(("events", "train", "validation", "labelled", "test")):
        write_events(simulated("sphenix-tpc", 8, 20 + seed), folder / f"{name}.parquet")
    eic = ROOT / "examples/detectors/eic_tracker.yaml"
    write_events(simulated(eic, 8, 30), folder / "eic.parquet", detectors.load(eic))
    return folder


@pytest.fixture(scope="module")
def models(files):
    """A model and a head."""
    train, model, head = files / "train.parquet", files / "model", files / "head"
    call("pretrain", f"data.train={train}", "--output", model, *SETTINGS["pretrain"])
    arguments = ("--model", model, "--data", train, "--validation", files / "validation.parquet")
    call("adapt", *arguments, "--head", "track-finding", "--output", head, *SETTINGS["adapt"])
    return {"runs/a": model, "runs/backbone": model, "runs/tracks": head}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # so few events and steps are worth a warning; pages say what of
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page(page, files, request, tmp_path, monkeypatch):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for file in filter(Path.is_file, files.iterdir()):
        (tmp_path / file.name).symlink_to(file)
    if page == "README.md":  # whose reader has hits of STAR alone
        (tmp_path / "events.parquet").unlink()
        (tmp_path / "star-test.parquet").rename(tmp_path / "test.parquet")
    (tmp_path / "runs").mkdir()
    for name in PAGES[page]:
        (tmp_path / name).symlink_to(request.getfixturevalue("models")[name])
    monkeypatch.chdir(tmp_path)
    ran = 0
    for words in commands(page):
        if words[0] == "fm4npp":
            call(*scaled(words))
            ran += 1
        else:
            assert shlex.join(words).startswith(ELSEWHERE), f"{page}: is {words} tested?"
    assert ran


def test_every_page_with_commands_is_run():
    pages = {str(path.relative_to(ROOT)) for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))}
    assert {page for page in pages if commands(page)} == set(PAGES) | WITHOUT
