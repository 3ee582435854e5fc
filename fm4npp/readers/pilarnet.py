"""PILArNet-M: simulated interactions in liquid argon, as variable-length lists in HDF5 or Parquet."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fm4npp.errors import DataError
from fm4npp.readers.base import Columns, Reader, Table
from fm4npp.readers.checks import NEW_COPY, check_required, decoding, listing
from fm4npp.readers.hdf5 import SUFFIXES, Heaps, described, events_of, fields, is_hdf5, opened, ranges, rows
from fm4npp.readers.npz import Array

POINT = ("x", "y", "z", "energy", "energy_deposit", "time", "num_electrons", "dx")
"""Columns of `point`: voxel indices, MeV, MeV, ns, electrons, mm (data card of PILArNet-M)."""
CLUSTER = ("num_points", "cluster_id", "track_id", "interaction_id", "semantic", "pid")
"""Columns of `cluster`; the first generation has no pid. `track_id` is the group, which is one particle."""
EXTRA = ("mass_mev", "p", "vtx_x", "vtx_y", "vtx_z", "is_primary", "px", "py", "pz", "parent_pdg", "parent_track_id")
"""Columns of `cluster_extra`: the first 5 (v2), 6 (v3), 9 or 11 (packed v3_extra); momenta in GeV."""
EXTRA_WIDTHS = (5, 6, 9, 11)
EXTRA_2 = EXTRA[6:]
"""Columns of `cluster_extra_2` (v3_extra)."""
PDG_OF_PID = {-1: 0, 0: 22, 1: 11, 2: 13, 3: 211, 4: 2212, 5: 321}
"""PDG code of every `pid`: none, photon, electron, muon, pion, proton, kaon; the charge is not stored."""
TABLES = ("point", "cluster", "cluster_extra", "cluster_extra_2", "interaction_extra")
STEP_EVENTS = 1000
"""Events of a part."""
BATCH_EVENTS = 16
"""Events of a Parquet file that are held at a time."""


class PILArNetHDF5(Reader):
    """PILArNet-M, generations v1, v2, v3 and v3_extra: an HDF5 file, PILArNet-M-mini as Parquet, or a folder of them.

    Every event is a list of points (x, y, z as voxel indices) ordered by cluster, and a list of clusters whose
    numbers of points add up to the points. track_id is the cluster's group: one particle; -1 in the cluster of
    low-energy deposits (semantic 4), which are real charge and not tagged as noise. pid is given as stored, and as
    pdg (0 for none, without the sign of the charge). Particles are the groups that are not negative, in the order of
    their numbers; their values are those of the group's own cluster (cluster_id = group), else of its largest.
    `particle_mass_mev` is in MeV, momenta in GeV, -1 is "unknown", vertices have no documented unit. `event_id`
    counts the events of one file. Layout: the data card of DeepLearnPhysics/PILArNet-M, and what
    youngsm/particle-imaging-models reads. Checked on files written to that layout.

    TPCpp-10M is also carried in this layout (youngsm/sphenix_dset, known by the attribute `source`). Its positions
    are cm and are named x_cm, y_cm, z_cm, so that they are not taken for voxels; it has particle_class and is_noise
    (semantic 4) in place of pdg, and no labels at all if the file says that it has none.
    """

    registered_name: ClassVar[str] = "pilarnet-hdf5"

    def recognises(self, path: Path) -> bool:
        """See `Reader.recognises`: by its data sets; a damaged file by "generic_v2" or "pilarnet" in its name."""
        return bool(_files(path)) if path.is_dir() else path.is_file() and _is_pilarnet(path)

    def read(self, path: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
        """See `Reader.read`. All columns are given."""
        for part in self.parts(path):
            yield from self.read_part(path, part, required, optional)

    def parts(self, path: Path) -> Sequence[str]:
        """See `Reader.parts`: ranges of events of an HDF5 file, whole Parquet files."""
        parts = []
        files = _files(path) if path.is_dir() else [path]
        if not files:
            raise DataError("a folder without a file of PILArNet-M", file=path, remedy="give the folder of the files")
        for file in files:
            with _opened(file) as source:
                step = STEP_EVENTS if isinstance(source, _HDF5) else max(source.num_events, 1)
                parts += ranges(file.name, source.num_events, step)
        return parts

    def read_part(self, path: Path, part: str, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
        """See `Reader.read_part`."""
        name, start, stop = events_of(part, path)
        file = path / name if path.is_dir() else path
        with _opened(file) as source:
            layout = _layout(source, file)
            none = {name: np.empty(0, dtype) for name, dtype in source.tables.items()}
            check_required(required, [*columns(none, layout), "event_id"], file)
            for index, arrays in enumerate(source.events(start, stop), start):
                try:
                    event = columns(arrays, layout)
                except DataError as error:
                    raise error.at(file=file, event=index) from error
                yield {**event, "event_id": index, **({"source": name} if path.is_dir() else {})}

    def describe(self, path: Path) -> Sequence[Table]:
        """See `Reader.describe`; of a folder, its first file."""
        file = _files(path)[0] if path.is_dir() else path
        if is_hdf5(file):
            return described(file)
        with decoding(file, "the Parquet file"), pq.ParquetFile(file) as parquet:
            types = {field.name: str(field.type) for field in parquet.schema_arrow}
            return (Table("", parquet.metadata.num_rows, types),)


class _HDF5:
    """An HDF5 file as a source of events."""

    def __init__(self, file: h5py.File, path: Path) -> None:
        self.path = path
        self.data = {name: rows(file, name, path) for name in TABLES if name in file or name in TABLES[:2]}
        types = {name: h5py.check_vlen_dtype(data.dtype) for name, data in self.data.items()}
        self.tables = {name: dtype if isinstance(dtype, np.dtype) else None for name, dtype in types.items()}
        self.num_events = len(self.data["point"])
        self.heaps = Heaps(path)
        lengths = {name: len(data) for name, data in self.data.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"the data sets have different numbers of events: {lengths}", file=path, remedy=NEW_COPY)
        self.attributes = {n: str(file.attrs[n]) for n in ("source", "pid_scheme") if n in file.attrs}

    def events(self, start: int, stop: int) -> Iterator[dict[str, Array]]:
        for index in range(start, stop):
            try:
                with decoding(self.path, "it", event=index):
                    arrays = {name: self._list(name, index) for name in self.data}
            except DataError as error:
                raise error.at(file=self.path, event=index) from error
            yield arrays

    def _list(self, name: str, index: int) -> Array:
        self.heaps.check_lists(self.data[name], index, getattr(self.tables[name], "itemsize", 1))
        values: Array = self.data[name][index]
        return values


class _Parquet:
    """A Parquet file as a source of events."""

    def __init__(self, file: pq.ParquetFile, path: Path) -> None:
        self.path, self.file = path, file
        schema = {field.name: field.type for field in file.schema_arrow}
        self.tables = {name: _element(schema[name]) for name in TABLES if name in schema}
        self.num_events = int(file.metadata.num_rows)
        self.attributes: dict[str, str] = {}

    def events(self, start: int, stop: int) -> Iterator[dict[str, Array]]:
        batches = self.file.iter_batches(BATCH_EVENTS, columns=list(self.tables))
        index = 0
        while True:
            with decoding(self.path, "it", event=index):
                batch = next(batches, None)
            if batch is None:
                return
            for row in range(batch.num_rows):
                if start <= index < stop:
                    yield {name: _values(batch[name][row], name, self.path, index) for name in self.tables}
                index += 1


def _element(kind: Any) -> np.dtype[Any] | None:
    """The type of the numbers in a list; None for anything else."""
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return np.dtype(kind.value_type.to_pandas_dtype()) if is_list and pa.types.is_primitive(kind.value_type) else None


def _values(entry: Any, name: str, path: Path, index: int) -> Array:
    if not entry.is_valid or entry.values.null_count:
        raise DataError(f"{name!r} has missing values", file=path, event=index, remedy=NEW_COPY)
    values: Array = entry.values.to_numpy()
    return values


@contextmanager
def _opened(path: Path) -> Iterator[_HDF5 | _Parquet]:
    """A file of either kind."""
    if is_hdf5(path) or path.suffix in SUFFIXES:
        with opened(path) as file:
            yield _HDF5(file, path)
    else:
        with decoding(path, "the Parquet file"), pq.ParquetFile(path) as parquet:
            yield _Parquet(parquet, path)


def _layout(source: _HDF5 | _Parquet, path: Path) -> Layout:
    """What differs between files; the width of `cluster_extra` is that of the first event with clusters.

    Raises:
        DataError: if the data sets or their types are of no generation.
    """
    for name, dtype in source.tables.items():
        kinds, wanted = ("iu", np.int64) if name == "cluster" else ("f", np.float64)
        if dtype is None or dtype.kind not in kinds or not np.can_cast(dtype, wanted):
            raise DataError(f"{name!r} does not hold lists of {wanted.__name__}s but {dtype}", file=path)
    scheme = source.attributes.get("pid_scheme", "")
    layout = Layout(
        cluster_width=6 if "cluster_extra" in source.tables else 5,
        extra_width=0,
        tpcpp=source.attributes.get("source", "").startswith("TPCpp"),
        pid_is_class=scheme.startswith("tpcpp"),
        labelled=not scheme.startswith("unlabeled"),
    )
    if "cluster_extra" not in source.tables or layout.tpcpp:
        return layout
    for index, arrays in enumerate(source.events(0, source.num_events)):
        if num_clusters := len(arrays["cluster"]) // layout.cluster_width:
            width = len(arrays["cluster_extra"]) / num_clusters
            if width not in EXTRA_WIDTHS:
                raise DataError(
                    f"'cluster_extra' has {width:g} numbers a cluster, not one of {EXTRA_WIDTHS}",
                    file=path,
                    event=index,
                    remedy="the file is damaged, or of a generation that is not known",
                )
            return layout._replace(extra_width=int(width))
    return layout._replace(extra_width=EXTRA_WIDTHS[0])


def _is_pilarnet(path: Path) -> bool:
    named = re.search(r"generic_v2|pilarnet", path.name, re.IGNORECASE) is not None
    if path.suffix == ".parquet":
        try:
            return {"point", "cluster"} <= set(pq.read_schema(path).names)
        except (OSError, pa.ArrowException):
            return named
    if not is_hdf5(path):
        return named and path.suffix in SUFFIXES
    found = fields(path)
    return named if found is None else {"point", "cluster"} <= found.keys()


def _files(folder: Path) -> list[Path]:
    """The files of a folder, by name."""
    files = sorted(path for path in folder.iterdir() if path.suffix in {*SUFFIXES, ".parquet"} and path.is_file())
    return [path for path in files if _is_pilarnet(path)]


class Layout(NamedTuple):
    """What differs between files.

    Attributes:
        cluster_width: numbers of a cluster in `cluster`.
        extra_width: numbers of a cluster in `cluster_extra`; 0 without.
        tpcpp: whether TPCpp-10M is carried in it.
        pid_is_class: whether pid is the index of a class of TPCpp-10M and not a particle.
        labelled: whether the labels are more than placeholders.
    """

    cluster_width: int
    extra_width: int
    tpcpp: bool
    pid_is_class: bool
    labelled: bool


def columns(arrays: Mapping[str, Array], layout: Layout) -> Columns:
    """One event's flat lists, by data set, to its columns.

    Raises:
        DataError: if a list has no whole number of rows, clusters do not add up to the points, or a pid is unknown.
    """
    points = _table(arrays["point"], len(POINT), "point")
    clusters = _table(arrays["cluster"], layout.cluster_width, "cluster")
    sizes = clusters[:, 0]
    if (sizes < 0).any() or (sizes > len(points)).any() or sizes.sum(dtype=np.int64) != len(points):
        raise DataError(
            f"the clusters have {sizes.sum(dtype=np.int64)} points in all, but there are {len(points)}",
            remedy="the clusters do not belong to the points, or have another width than the generation's",
        )
    event: Columns = dict(zip(POINT, np.ascontiguousarray(points.T), strict=True))
    truth = dict(zip(CLUSTER, np.ascontiguousarray(clusters.T).astype(np.int64), strict=False))
    if layout.tpcpp:
        event |= {f"{axis}_cm": event.pop(axis) for axis in "xyz"}
        truth["is_noise"] = truth["semantic"] == 4
    if "pid" in truth:
        truth |= {"particle_class": truth["pid"]} if layout.pid_is_class else {"pdg": _pdg(truth["pid"])}
    if layout.labelled:
        event |= {name: np.repeat(values, sizes) for name, values in truth.items() if name != "num_points"}
        event |= _particles(truth, _extra(arrays, layout, len(clusters)), arrays.get("interaction_extra"))
    return event


def _table(values: Array, width: int, name: str) -> Array:
    """(rows * width,) to (rows, width)."""
    if len(values) % width:
        raise DataError(f"{name!r} has {len(values)} numbers, not {width} a row", remedy=NEW_COPY)
    return values.reshape(-1, width)


def _pdg(pid: Array) -> Array:
    if unknown := set(pid.tolist()) - PDG_OF_PID.keys():
        raise DataError(f"no particle has the pid {listing(map(str, unknown))}", remedy=NEW_COPY)
    return np.array([PDG_OF_PID[code] for code in pid.tolist()], dtype=np.int64)


def _extra(arrays: Mapping[str, Array], layout: Layout, num_clusters: int) -> dict[str, Array]:
    """Quantity -> (clusters,) of the tables with a row for every cluster."""
    tables = {"cluster_extra": EXTRA[: layout.extra_width], "cluster_extra_2": EXTRA_2}
    found: dict[str, Array] = {}
    for name, names in tables.items():
        if name in arrays and names and not layout.tpcpp:
            table = _table(arrays[name], len(names), name)
            if len(table) != num_clusters:
                raise DataError(f"{name!r} has {len(table)} rows for {num_clusters} clusters", remedy=NEW_COPY)
            found |= dict(zip(names, np.ascontiguousarray(table.T), strict=True))
    return found


def _particles(truth: Mapping[str, Array], extra: Mapping[str, Array], vertices: Array | None) -> Columns:
    """Columns of the particles; (P,) each, by increasing number of the group."""
    groups = truth["track_id"]
    order = np.lexsort((np.arange(len(groups)), -truth["num_points"], truth["cluster_id"] != groups, groups))
    order = order[groups[order] >= 0]
    ids, first = np.unique(groups[order], return_index=True)
    leading = order[first]
    of_group = {name: truth[name] for name in ("interaction_id", "semantic", "pid", "pdg") if name in truth}
    particles = {"particle_track_id": ids}
    particles |= {f"particle_{name}": values[leading] for name, values in {**of_group, **extra}.items()}
    if vertices is not None:
        particles |= _vertices(particles["particle_interaction_id"], _table(vertices, 4, "interaction_extra"))
    return particles


def _vertices(interactions: Array, table: Array) -> Columns:
    """The vertex of each particle's interaction, NaN where the file lists none."""
    ids = table[:, 0].tolist()
    if len(set(ids)) != len(ids):
        raise DataError("'interaction_extra' lists an interaction twice", remedy=NEW_COPY)
    found = dict(zip(ids, table[:, 1:], strict=True))
    none = np.full(3, np.nan, table.dtype)
    values = np.array([found.get(number, none) for number in interactions.tolist()], table.dtype).reshape(-1, 3)
    return {f"particle_interaction_vtx_{axis}": values[:, i].copy() for i, axis in enumerate("xyz")}
