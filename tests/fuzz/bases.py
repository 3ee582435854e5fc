"""Small files of every registered reader, to be damaged: each a few kB, so that reading one takes milliseconds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fm4npp.convert import convert
from fm4npp.data import write_events
from fm4npp.event import Event
from tests.readers import (
    acts_writer,
    aleph_writer,
    colliderml_writer,
    delphi_writer,
    larndsim_writer,
    pilarnet_writer,
    podio_writer,
    root_rows_writer,
    trackml_writer,
    writers,
    zeus_writer,
)

SIZES = (3, 0, 1, 12)


class Base(NamedTuple):
    """What is damaged.

    Attributes:
        reader: that it is for.
        write: (folder, seed) -> the path to read; every file that it makes in the folder may be damaged.
        detector: that the events are of.
        unchecked: why damage can go unnoticed; "" where a checksum covers all bytes that events are made from.
        max_rejected: share of made-up spacepoints that may lie outside of the detector.
    """

    reader: str
    write: Callable[[Path, int], Path]
    detector: Any
    unchecked: str = ""
    max_rejected: float = 0.001


def tpcpp_folder(folder, seed):
    writers.tpcpp(folder, sizes=SIZES, seed=seed)
    return folder


def tpcpp_zip(folder, seed):
    shards = folder.parent / f"shards-{seed}"
    writers.tpcpp(shards / "labeled", sizes=SIZES, seed=seed)
    return writers.tpcpp_zip(folder / "TPCpp-10M.zip", shards)


def ragged(folder, seed):
    writers.authors_split(folder, sizes=SIZES, seed=seed)
    return folder


def star_columns(seed, sizes=SIZES):
    """The branches of the STAR file: float32, and ids in integers."""
    generator = np.random.default_rng(seed)
    total = sum(sizes)
    positions = writers.around_beam(generator, generator.uniform(60, 190, total)).astype(np.float32)
    flat = {f"TPCHits_{axis}": positions[:, i] for i, axis in enumerate("xyz")}
    flat["TPCHits_adc"] = generator.uniform(50, 900, total).astype(np.float32)
    flat["TPCHits_IdTruth"] = generator.integers(0, 9, total).astype(np.int32)
    return {name: writers.split(values, np.array(sizes)) for name, values in flat.items()}


def star(folder, seed):
    return writers.root_tree(folder / "star.root", {"T": star_columns(seed)})


def star_uncompressed(folder, seed):
    """Baskets as they are: `uproot.recreate` compresses by default."""
    import awkward
    import uproot

    columns = star_columns(seed)
    with uproot.recreate(folder / "star.root", compression=None) as file:
        file.mktree("T", {name: f"var * {values[0].dtype}" for name, values in columns.items()})
        file["T"].extend({name: awkward.Array(values) for name, values in columns.items()})
    return folder / "star.root"


def zeus(folder, seed):
    zeus_writer.write(folder / "orange.root", SIZES, seed)
    return folder / "orange.root"


def delphi(folder, seed):
    delphi_writer.write(folder / "delphi.root", SIZES, seed, rntuple=False, simulated=False)
    return folder / "delphi.root"


def rows(folder, seed):
    root_rows_writer.write(folder / "g4svtx_eval.root", (20, 1, 7), seed)
    return folder / "g4svtx_eval.root"


def rows_rntuple(folder, seed):
    root_rows_writer.write(folder / "g4svtx_eval.root", (20, 1, 7), seed, rntuple=True)
    return folder / "g4svtx_eval.root"


def podio(container):
    def write(folder, seed):
        path = folder / "sim.edm4hep.root"
        podio_writer.write(path, seed=seed, systems=("Barrel",), container=container, metadata=container == "ttree")
        return path

    return write


def podio_old(folder, seed):
    podio_writer.write(
        folder / "old.root", seed=seed, systems=("Barrel",), generation="old", container="ttree", metadata=False
    )
    return folder / "old.root"


def colliderml(folder, seed):
    path = folder / "ttbar_v1_tracker_hits.events0-2.parquet"
    colliderml_writer.write(path, seed=seed)
    return path


def trackml(suffix):
    def write(folder, seed):
        trackml_writer.write(folder, seed=seed, suffix=suffix)
        return folder

    return write


def trackml_zip(folder, seed):
    trackml_writer.write(folder / "train_sample.zip", seed=seed)
    return folder / "train_sample.zip"


def acts(folder, seed):
    acts_writer.write(folder, seed=seed)
    return folder


def pilarnet(folder, seed):
    pilarnet_writer.write(folder / "generic_v2_x.h5", seed=seed)
    return folder / "generic_v2_x.h5"


def pilarnet_parquet(folder, seed):
    pilarnet_writer.write_parquet(folder / "data.parquet", seed=seed)
    return folder / "data.parquet"


def larndsim(folder, seed):
    larndsim_writer.write(folder / "larndsim_x.h5", seed=seed)
    return folder / "larndsim_x.h5"


def aleph(suffix):
    def write(folder, seed):
        aleph_writer.write(folder / f"run.aleph{suffix}", (3, 0, 9), seed)
        return folder / f"run.aleph{suffix}"

    return write


def silicon(folder, seed):
    for number in range(3):
        arrays = writers.silicon_arrays(tracks=2 * number, seed=10 * seed + number)
        (folder / f"event{number:09d}.npz").write_bytes(writers.npz_bytes(arrays))
    return folder


def silicon_tar(suffix):
    def write(folder, seed):
        events = {
            f"event{number:09d}": writers.silicon_arrays(tracks=2 * number, seed=10 * seed + number)
            for number in range(3)
        }
        return writers.silicon_tar(folder / f"train.tar{suffix}", events)

    return write


def made_events(seed, count=4):
    """Events with everything that an events file holds."""
    generator = np.random.default_rng(seed)
    for number in range(count):
        total = 4 * number
        yield Event(
            positions=writers.around_beam(generator, generator.uniform(32, 75, total)),
            features=generator.uniform(1, 900, (total, 1)),
            feature_names=("energy",),
            labels={"track_id": generator.integers(-1, 5, total), "is_noise": generator.random(total) < 0.5},
            particles={"track_id": np.arange(5), "px": generator.normal(0, 1, 5)},
            scalars={"trigger": number % 2},
            detector="sphenix-tpc",
            event_id=100 * seed + number,
            source="made-up",
            left_out={"x is not finite": np.array([1])} if number == 1 else {},
        )


def events_file(folder, seed):
    write_events(made_events(seed), folder / "events.parquet")
    return folder / "events.parquet"


def events_folder(folder, seed):
    source = folder.parent / f"source-{seed}.parquet"
    write_events(made_events(seed), source)
    convert([source], "sphenix-tpc", folder / "events", events_per_file=2, max_rejected=1)
    return folder / "events"


EIC = {"type": "eic", "collections": ["BarrelRecHits", "BarrelHits"], "eta": [-9, 9], "radius": [0.01, 500]}
NO_CHECKSUM = "plain values without any checksum"
TEXT = "text without any checksum"
ROOT = "ROOT keeps no checksum of keys and of baskets that are not compressed"
RNTUPLE = "the checksums of an RNTuple's pages are not verified by uproot; keys and anchors have none"
PAGES = "written without the checksums of pages, as the releases are"
HDF5 = "HDF5 of these versions keeps no checksum of values"

BASES = {
    "tpcpp": Base("tpcpp-npz", tpcpp_folder, "sphenix-tpc"),
    "tpcpp zip": Base("tpcpp-npz", tpcpp_zip, "sphenix-tpc"),
    "ragged": Base("ragged-mmap", ragged, "sphenix-tpc", NO_CHECKSUM, 1),
    "star": Base("root-tree", star, "star-tpc", ROOT),
    "star uncompressed": Base("root-tree", star_uncompressed, "star-tpc", ROOT),
    "zeus rntuple": Base("root-tree", zeus, "zeus", RNTUPLE),
    "delphi": Base("root-tree", delphi, "delphi", ROOT),
    "svtx": Base("root-rows", rows, "sphenix", ROOT, 1),
    "svtx rntuple": Base("root-rows", rows_rntuple, "sphenix", RNTUPLE, 1),
    "podio rntuple": Base("podio", podio("rntuple"), EIC, RNTUPLE, 1),
    "podio ttree": Base("podio", podio("ttree"), EIC, ROOT, 1),
    "podio old": Base("podio", podio_old, EIC, ROOT, 1),
    "colliderml": Base("colliderml-parquet", colliderml, "colliderml", PAGES, 1),
    "trackml": Base("trackml-csv", trackml(""), "trackml", TEXT, 1),
    "trackml gz": Base("trackml-csv", trackml(".gz"), "trackml", "", 1),
    "trackml zip": Base("trackml-csv", trackml_zip, "trackml", "", 1),
    "acts": Base("acts-csv", acts, "trackml", TEXT, 1),
    "pilarnet": Base("pilarnet-hdf5", pilarnet, "lartpc", HDF5),
    "pilarnet parquet": Base("pilarnet-hdf5", pilarnet_parquet, "lartpc", PAGES),
    "larndsim": Base("larndsim-hdf5", larndsim, "lartpc", HDF5, 1),
    "aleph": Base("aleph-ascii", aleph(""), "aleph", TEXT, 1),
    "aleph gz": Base("aleph-ascii", aleph(".gz"), "aleph", "", 1),
    "silicon": Base("sphenix-silicon-npz", silicon, "sphenix-silicon"),
    "silicon tar.xz": Base("sphenix-silicon-npz", silicon_tar(".xz"), "sphenix-silicon"),
    "silicon tar.gz": Base("sphenix-silicon-npz", silicon_tar(".gz"), "sphenix-silicon"),
    "events": Base("events-parquet", events_file, "sphenix-tpc", "", 1),
    "events folder": Base("events-parquet", events_folder, "sphenix-tpc", "", 1),
}
