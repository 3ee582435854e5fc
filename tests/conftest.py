from __future__ import annotations

import signal
from pathlib import Path

import hypothesis
import pytest
import torch

from fm4npp import detectors
from fm4npp.checkpoint import HASHES_NAME, write_manifest
from fm4npp.configuration import FM4NPPConfig
from fm4npp.data import write_events
from fm4npp.processing import FM4NPPProcessor
from fm4npp.simulation import ParticleGun, simulate

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
GUN = ParticleGun(mean_primaries=3.0)

# How long an example takes is the machine's matter, not the code's.
hypothesis.settings.register_profile("no-deadline", deadline=None)
hypothesis.settings.load_profile("no-deadline")


@pytest.fixture(scope="session", autouse=True)
def _environment(tmp_path_factory):
    """One thread, so that results do not depend on the machine; a cache of our own; no network."""
    patch = pytest.MonkeyPatch()
    home = tmp_path_factory.mktemp("huggingface")
    patch.setenv("HF_HOME", str(home))
    patch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    patch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
    torch.set_num_threads(1)
    # Whatever is started in the background ignores interrupts, and so would all that tests start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
    patch.undo()


def rehash(folder):
    """Make a checkpoint's manifest that of its files as they are now: what a test changed is then found elsewhere."""
    (folder / HASHES_NAME).unlink()
    write_manifest(folder, [path for path in folder.iterdir() if path.suffix in (".json", ".safetensors")])


@pytest.fixture
def shared_data() -> Path:
    if not SHARED_DATA.exists():
        pytest.skip("the detector files are not beside the project")
    return SHARED_DATA


@pytest.fixture(scope="session")
def branch():
    """Branches of genuine podio files by uproot alone: (path, collection, member) -> one array an event."""
    from tests.readers import podio_writer

    with podio_writer.opened_branches() as branches:
        yield branches


@pytest.fixture(scope="session")
def events():
    """Twelve small simulated events of the sPHENIX TPC."""
    return list(simulate(detectors.build("sphenix-tpc"), 12, 7, GUN))


def tiny_config(**fields) -> FM4NPPConfig:
    """A model that runs in milliseconds."""
    defaults = {
        "detectors": ["sphenix-tpc"],
        "serializer": {"type": "raster-scan", "num_bins": [4, 4, 5]},
        "objective": {"type": "k-nnn", "k": 4},
        "backbone": {"type": "mamba2", "width": 32, "num_layers": 2, "state_size": 4, "head_dim": 16},
    }
    return FM4NPPConfig.create(**{**defaults, **fields})


@pytest.fixture(scope="session")
def processor(events) -> FM4NPPProcessor:
    return FM4NPPProcessor(tiny_config()).fit(events)


@pytest.fixture(scope="session")
def events_files(tmp_path_factory) -> dict[str, Path]:
    """Small simulated events files: training and validation."""
    folder = tmp_path_factory.mktemp("events")
    detector = detectors.build("sphenix-tpc")
    files = {"train": folder / "train.parquet", "validation": folder / "validation.parquet"}
    write_events(simulate(detector, 24, 1, GUN), files["train"])
    write_events(simulate(detector, 8, 2, GUN), files["validation"])
    return files
