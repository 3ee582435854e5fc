"""Every registered reader keeps the contract; a new one needs a file of its format in `WRITERS`."""

import shutil

import numpy as np
import pytest

from fm4npp import readers
from fm4npp.data import write_events
from fm4npp.errors import DataError
from fm4npp.readers import Reader
from fm4npp.testing import check_reader
from tests.readers import (
    acts_writer,
    aleph_writer,
    colliderml_writer,
    larndsim_writer,
    pilarnet_writer,
    podio_writer,
    root_rows_writer,
    root_writer,
    trackml_writer,
    writers,
)

XYZ = ("x", "y", "z")


def silicon(path):
    writers.silicon_tar(path, {f"event{number:09d}": writers.silicon_arrays(3, number) for number in range(4)})


def tpcpp(path):
    writers.tpcpp(path)


WRITERS = {
    "acts-csv": (acts_writer.write, "data", XYZ),
    "aleph-ascii": (aleph_writer.write, "run.aleph", ("px", "py", "pz")),
    "colliderml-parquet": (colliderml_writer.write, "ttbar_v1_tracker_hits.events0-9.parquet", XYZ),
    "events-parquet": (None, "events.parquet", XYZ),
    "larndsim-hdf5": (larndsim_writer.write, "hits.h5", XYZ),
    "pilarnet-hdf5": (pilarnet_writer.write, "data.h5", XYZ),
    "podio": (podio_writer.write, "hits.edm4hep.root", XYZ),
    "ragged-mmap": (writers.authors_split, "mmap", ("x", "energy")),
    "root-rows": (root_rows_writer.write, "rows.root", tuple(f"ntp_cluster/{axis}" for axis in XYZ)),
    "root-tree": (root_writer.write, "tree.root", ("p",)),
    "sphenix-silicon-npz": (silicon, "train.tar", XYZ),
    "tpcpp-npz": (tpcpp, "shards", XYZ),
    "trackml-csv": (trackml_writer.write, "data", XYZ),
}


@pytest.mark.parametrize("name", readers.names())
def test_registered_readers_keep_the_contract(name, tmp_path, events):
    write, file, columns = WRITERS[name]
    path = tmp_path / file
    if write is None:
        write_events(events, path)
    else:
        write(path)
    check_reader(readers.get(name), path, columns)


class Lines(Reader):
    """Made-up text files: a line an event, x y z of every spacepoint."""

    registered_name = "lines"

    def recognises(self, path):
        return path.suffix == ".lines"

    def read(self, path, required, optional):
        text = path.read_text()
        if not text.endswith("\n"):
            raise DataError("ends within a line", file=path, remedy="copy it again")
        for number, line in enumerate(text.splitlines()):
            values = np.array(line.split(), dtype=np.float64).reshape(-1, 3)
            columns = dict(zip("xyz", values.T, strict=True))
            if missing := set(required) - set(columns):
                raise DataError(f"no column {missing.pop()!r}", file=path, event=number, remedy="choose another")
            yield {**columns, "event_id": number}


@pytest.fixture
def lines(tmp_path):
    (tmp_path / "a.lines").write_text("1 2 3\n4 5 6 7 8 9\n\n")
    return tmp_path / "a.lines"


def test_a_good_reader_passes(lines):
    check_reader(Lines, lines, XYZ)


class Nameless(Lines):
    registered_name = ""


class Blind(Lines):
    def recognises(self, path):
        return False


class Silent(Lines):
    def read(self, path, required, optional):
        return super().read(path, [name for name in required if name in "xyz"], optional)


class Crashing(Lines):
    def read(self, path, required, optional):
        yield from (columns for columns in super().read(path, required, optional) if columns["x"][-1] >= 0)


class Forgetful(Lines):
    seen = 0

    def read(self, path, required, optional):
        for columns in super().read(path, required, optional):
            self.seen += 1
            yield {**columns, "event_id": self.seen}


class Inventive(Lines):
    def read(self, path, required, optional):
        for columns in super().read(path, required, optional):
            yield {**columns, **{name: np.zeros(len(columns["x"])) for name in optional}}


class Divided(Lines):
    def parts(self, path):
        return ("first", "second")


@pytest.mark.parametrize(
    ("cls", "told"),
    [
        (Nameless, "set the class variable registered_name"),
        (Blind, "does not recognise"),
        (Silent, "reads on without the required column"),
        (Forgetful, "when it reads a second time"),
        (Inventive, "makes up an optional column"),
        (Divided, "part by part"),
    ],
)
def test_a_bad_reader_is_told_what_to_do(cls, told, lines):
    with pytest.raises(AssertionError, match=f"{cls.__name__}: .*{told}"):
        check_reader(cls, lines, XYZ)


def test_a_crash_is_no_answer(lines):
    with pytest.raises(IndexError):
        check_reader(Crashing, lines, XYZ)
    lines.write_text("1 2 3\n4 5 6 7 8 9\n")
    shutil.copy(lines, lines.with_name("b.lines"))
    check_reader(Crashing, lines, XYZ)
