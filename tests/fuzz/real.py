"""Files that nobody here wrote, to be damaged: they lie beside the project and not in it."""

import shutil
import tarfile
from itertools import islice
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from tests.fuzz.bases import HDF5, PAGES, ROOT, TEXT


class Real(NamedTuple):
    """A file that nobody here wrote; see `Base`.

    Attributes:
        reader: that it is for.
        files: names below the folder of the real files, all copied into one folder.
        detector: that the events are of.
        unchecked: why damage can go unnoticed.
        members: read a folder with so many members of the file, which is a tar archive.
        max_rejected: share that may be.
    """

    reader: str
    files: tuple[str, ...]
    detector: Any
    unchecked: str = ""
    members: int = 0
    max_rejected: float = 1

    def copy(self, source, folder):
        """The files into a folder; returns the path to read."""
        if self.members:
            with tarfile.open(source / self.files[0]) as tar:
                for member in islice(filter(tarfile.TarInfo.isfile, tar), self.members):
                    (folder / PurePosixPath(member.name).name).write_bytes(tar.extractfile(member).read())
            return folder
        for name in self.files:
            shutil.copyfile(source / name, folder / PurePosixPath(name).name)
        return folder / PurePosixPath(self.files[0]).name if len(self.files) < 3 else folder


REAL = {
    "real star": Real("root-tree", ("star/star_tpc_test_100events.root",), "star-tpc", ROOT),
    "real eic": Real("podio", ("eic/EICrecon_test_sim.edm4hep.root",), "eic", ROOT),
    "real ee": Real("podio", ("ee/test_FCC_Winter2023.root",), {"type": "eic", "collections": ["TrackerHits"]}, ROOT),
    "real opal": Real("root-tree", ("ee/opal_ee.root",), "opal-events", ROOT),
    "real larndsim": Real("larndsim-hdf5", ("lartpc/larndsim_evd_qc_tpc.h5",), "lartpc", HDF5),
    "real colliderml": Real(
        "colliderml-parquet",
        (
            "colliderml/ttbar_v1_tracker_hits.events0-9.parquet",
            "colliderml/ttbar_v1_particles.events0-9.parquet",
        ),
        "colliderml",
        PAGES,
    ),
    "real acts": Real(
        "acts-csv",
        tuple(
            f"acts_csv/event{number:09d}-{kind}.csv"
            for number in range(4)
            for kind in ("hits", "measurements", "particles")
        ),
        "trackml",
        TEXT,
    ),
    "real silicon": Real("sphenix-silicon-npz", ("sphenix_silicon/test.tar.xz",), "sphenix-silicon", members=5),
}
