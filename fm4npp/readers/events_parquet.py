"""The toolkit's own events files: Parquet, one row an event, one flat list column a quantity; a file or a folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from fm4npp.errors import DataError
from fm4npp.files import read_json
from fm4npp.readers.base import Columns, Reader, Table
from fm4npp.readers.checks import check_required, decoding, one_line
from fm4npp.readers.events_schema import FORMAT, KEY, NAMES, Metadata, columns_of, values_and_offsets

SUMMARY_KEY = b"fm4npp.summary"
"""Key of the file metadata that holds counts, ranges and the content hash, as JSON."""
MANIFEST = "manifest.json"
"""In a folder of events files: their names in order, and what was read and left out."""
PLAN = ".plan.json"
"""In a folder that is not finished: what is being written, and how."""
ROWS = 256
"""Events decoded at a time, at most."""
VALUES = 1_000_000
"""Values of a column decoded at a time, about, where events are large: some 100 megabytes of spacepoints."""
URL = "hf://"
"""Where events files may be other than here: repositories of the Hugging Face Hub."""


class EventsParquet(Reader):
    """Events as `fm4npp convert` and `fm4npp simulate` write them: one file, or a folder of files with a manifest.

    Columns: `x y z` (cm, float32 or float64) and features (float32), `detector_id` (int16), labels,
    `particle_<name>`, `left_out` (places of spacepoints that the source has and the event has not), all flat lists;
    `event_id`, `source`, `detector`, `event_<name>`, one value an event. The schema metadata says which is which.
    """

    registered_name: ClassVar[str] = "events-parquet"

    def recognises(self, path: Path) -> bool:
        """See `Reader.recognises`; a damaged .parquet is taken for ours, so that reading says what is wrong."""
        if path.is_dir():
            return (path / MANIFEST).is_file() or (path / PLAN).is_file()
        if path.suffix != ".parquet":
            return False
        try:
            return KEY in (pq.read_schema(path).metadata or {})
        except Exception:  # damaged files raise whatever the damage leads to
            return True

    def read(self, path: Path, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
        """See `Reader.read`. All columns are given, plus `source` and `detector`. `path` may be a URL."""
        for part in self.parts(path):
            yield from self.read_part(path, part, required, optional)

    def parts(self, path: Path) -> Sequence[str]:
        """See `Reader.parts`: the files of a folder."""
        return [str(file) for file in files(path)]

    def read_part(self, path: Path, part: str, required: Sequence[str], optional: Sequence[str]) -> Iterator[Columns]:
        """See `Reader.read_part`."""
        lists, scalars = columns_of(read_metadata(part))
        check_required(required, lists, part)
        for batch in batches(part):
            yield from rows(batch, lists, scalars, part)

    def describe(self, path: Path) -> Sequence[Table]:
        """See `Reader.describe`."""
        tables = []
        for file in files(path):
            with decoding(file, "the Parquet file"), opened(file) as parquet:
                columns = {field.name: str(field.type) for field in parquet.schema_arrow}
                tables.append(Table(Path(str(file)).name, parquet.metadata.num_rows, columns))
        return tables


def is_url(path: str | Path) -> bool:
    """Whether a path is the URL of an events file."""
    return str(path).startswith(URL)


def files(path: str | Path) -> list[str | Path]:
    """The events files of a path, in order: itself, or those that the manifest of a folder lists.

    Raises:
        DataError: if the manifest is damaged, or a file that it lists is not there.
    """
    if is_url(path) or not Path(path).is_dir():
        return [path]
    folder = Path(path)
    if not (folder / MANIFEST).is_file():
        remedy = "if the command that writes it was interrupted, run the same command again"
        raise DataError(f"a folder without {MANIFEST}, so not a finished set of events files", file=path, remedy=remedy)
    manifest = read_json(folder / MANIFEST, DataError)
    with decoding(folder / MANIFEST, "the list of events files"):
        names = [shard["file"] for shard in manifest["shards"]]
        if any(Path(name).name != name for name in names):
            raise DataError("lists files of other folders", file=folder / MANIFEST)
    for name in names:
        if not (folder / name).is_file():
            raise DataError(f"no {name}, which {MANIFEST} lists", file=path, remedy="complete the copy or download")
    return [folder / name for name in names]


@contextmanager
def opened(path: str | Path) -> Iterator[pq.ParquetFile]:
    """A Parquet file here or at a URL; the latter is read in pieces, as they are needed."""
    if not is_url(path):
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
        return
    try:
        remote = fsspec.open(str(path), "rb").open()
    except Exception as error:  # file systems raise what they like
        remedy = "check the address and that the Hub can be reached (a token for private repositories)"
        raise DataError(f"cannot be opened ({one_line(error)})", file=path, remedy=remedy) from error
    with remote, pq.ParquetFile(remote, page_checksum_verification=True) as file:
        yield file


def read_metadata(path: str | Path) -> Metadata:
    """What events files say of themselves: format, detector, names of the columns by kind, units, version.

    Raises:
        DataError: if a file is damaged, is some other Parquet file, or of a format this version does not know, or if
            the files of a folder differ.
    """
    found = [_read_metadata(file) for file in files(path)]
    if not found:
        raise DataError("a folder without any events file", file=path)
    for metadata, file in zip(found, files(path), strict=True):
        if different := [key for key in ("detector", *NAMES) if metadata[key] != found[0][key]]:
            raise DataError(f"its {different[0]} differ from those of the files before", file=file)
    return found[0]


def _read_metadata(path: str | Path) -> Metadata:
    with decoding(path, "the Parquet file"), opened(path) as file:
        text = (file.schema_arrow.metadata or {}).get(KEY)
    if text is None:
        remedy = "make an events file from it with `fm4npp convert`"
        raise DataError("a Parquet file without the fm4npp metadata, so not an events file", file=path, remedy=remedy)
    with decoding(path, "the fm4npp metadata"):
        metadata: Metadata = json.loads(text)
        if (number := metadata["format"]) != FORMAT:
            problem = f"an events file of format {number}, this version reads format {FORMAT}"
            raise DataError(problem, file=path, remedy="convert the source again, or use the version that wrote it")
        if not all(isinstance(name, str) for key in NAMES for name in metadata[key]):
            raise DataError("the fm4npp metadata lists columns that are no names", file=path)
    return metadata


def read_summary(path: str | Path) -> dict[str, Any]:
    """What was counted when one events file was written: events, spacepoints, what was left out, ranges, content hash.

    Raises:
        DataError: if the file is damaged or holds no summary.
    """
    with decoding(path, "the summary"), opened(path) as file:
        text = (file.metadata.metadata or {}).get(SUMMARY_KEY)
        if text is None:
            raise DataError("an events file without a summary", file=path, remedy="it was not written to its end")
        summary: dict[str, Any] = json.loads(text)
    return summary


def batches(path: str | Path) -> Iterator[pa.RecordBatch]:
    """The rows of one events file, some at a time; columns are without nulls, and of lists of numbers where they must.

    Raises:
        DataError: if the file is damaged, or lacks columns that its metadata names.
    """
    lists, scalars = columns_of(read_metadata(path))
    with decoding(path, "the Parquet file"), opened(path) as file:
        check_required([*lists, *scalars], file.schema_arrow.names, path)
        rows = _rows_at_a_time(file.metadata)
        for batch in file.iter_batches(batch_size=rows, columns=[*lists, *scalars], use_threads=False):
            check_batch(batch, lists, path)
            yield batch


def _rows_at_a_time(metadata: pq.FileMetaData) -> int:
    """`ROWS`, or fewer if they would hold more than `VALUES` values in the row group with the largest events."""
    groups = (metadata.row_group(index) for index in range(metadata.num_row_groups))
    largest = max((group.column(0).num_values / max(group.num_rows, 1) for group in groups), default=0.0)
    return max(1, min(ROWS, int(VALUES / max(largest, 1.0))))


def check_batch(batch: pa.RecordBatch, lists: Sequence[str], path: str | Path) -> None:
    """Refuse columns with nulls, and list columns that are no lists of numbers.

    Raises:
        DataError: naming the column.
    """
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        numbers = pa.types.is_list(column.type) and pa.types.is_primitive(column.type.value_type)
        if column.null_count or (name in lists and (not numbers or column.values.null_count)):
            raise DataError(f"the column {name!r} ({column.type}) has nulls, or is no list of numbers", file=path)


def rows(batch: pa.RecordBatch, lists: Sequence[str], scalars: Sequence[str], path: str | Path) -> Iterator[Columns]:
    """The columns of each event of a batch; lists are views of its buffers."""
    check_batch(batch, lists, path)
    flat = {name: values_and_offsets(batch[name]) for name in lists}
    single = {name: batch[name].to_pylist() for name in scalars}
    for row in range(batch.num_rows):
        event: Columns = {name: values[ends[row] : ends[row + 1]] for name, (values, ends) in flat.items()}
        event |= {name: single[name][row] for name in scalars}
        yield event
