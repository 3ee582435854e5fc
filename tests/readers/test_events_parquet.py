import json

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fm4npp import readers
from fm4npp.errors import DataError
from fm4npp.event import Event
from fm4npp.readers import events_parquet, events_schema
from tests.readers import writers

READER = readers.build("events-parquet")
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def write(path, events, rows=2):
    """Write with the definition that reader and writer share."""
    metadata = events_schema.metadata_of(events[0], "1.2.3", {"energy": "ADC"})
    schema = events_schema.schema(metadata, events[0])
    with pq.ParquetWriter(path, schema, write_page_checksum=True) as writer:
        for start in range(0, len(events), rows):
            for event in events[start : start + rows]:
                events_schema.check_kind(event, metadata)
            writer.write_batch(events_schema.record_batch(events[start : start + rows], schema, metadata))
    return path


def read(path):
    metadata = events_parquet.read_metadata(path)
    return [events_schema.event(columns, metadata) for columns in READER.read(path, (), ())]


def assert_same(first, second):
    for name in ("positions", "features", "detector_ids"):
        a, b = getattr(first, name), getattr(second, name)
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.tobytes() == b.tobytes()
    for name in ("labels", "particles", "left_out"):
        a, b = getattr(first, name), getattr(second, name)
        assert sorted(a) == sorted(b)
        for key in a:
            assert a[key].dtype == b[key].dtype
            assert a[key].tobytes() == b[key].tobytes()
    for name in ("feature_names", "scalars", "subsystems", "detector", "event_id", "source"):
        assert getattr(first, name) == getattr(second, name)


@st.composite
def events(draw, num_features=None):
    """A few events of one kind, some of them empty."""
    num_features = draw(st.integers(0, 2)) if num_features is None else num_features
    labelled = draw(st.booleans())
    precision = draw(st.sampled_from([np.float32, np.float64]))
    result = []
    for index in range(draw(st.integers(1, 5))):
        count, num_particles = draw(st.integers(0, 4)), draw(st.integers(0, 3))
        integers = st.integers(-(2**63), 2**63 - 1)
        labels = {
            "track_id": draw(arrays(np.int64, count, elements=integers)),
            "particle_class": draw(arrays(np.int64, count, elements=st.integers(0, 4))),
            "is_noise": draw(arrays(np.bool_, count)),
            "layer": draw(arrays(np.int32, count)),
        }
        particles = {
            "track_id": draw(arrays(np.int64, num_particles, elements=integers)),
            "px": draw(arrays(np.float64, num_particles)),
        }
        result.append(
            Event(
                positions=draw(arrays(precision, (count, 3), elements=FINITE)),
                features=draw(arrays(np.float32, (count, num_features), elements=FINITE)),
                feature_names=("energy", "time")[:num_features],
                labels=labels if labelled else {},
                particles=particles if labelled else {},
                scalars={"trigger": index, "weight": 0.1 * index},
                detector_ids=draw(arrays(np.int16, count, elements=st.integers(0, 1))),
                subsystems=("inner", "outer"),
                detector="made-up",
                event_id=draw(integers),
                left_out={events_schema.EARLIER: [1, 5]} if draw(st.booleans()) else {},
                source=draw(st.text(st.characters(exclude_categories=("Cs",)), max_size=4)),
            )
        )
    return result


@settings(max_examples=40, deadline=None)
@given(events=events())
def test_events_come_back_bit_for_bit(tmp_path_factory, events):
    path = write(tmp_path_factory.mktemp("events") / "events.parquet", events)
    assert READER.recognises(path)
    for before, after in zip(events, read(path), strict=True):
        assert_same(before, after)


def make(count=5, offset=0, **fields):
    generator = np.random.default_rng(count + offset)
    values = {
        "positions": generator.normal(size=(count, 3)),
        "features": generator.normal(size=(count, 1)),
        "feature_names": ("energy",),
        "labels": {"track_id": generator.integers(0, 5, count)},
        "particles": {"pdg": np.array([11, 211])},
        "scalars": {"trigger": 1},
        "detector": "sphenix-tpc",
        "event_id": offset,
        "source": "test",
    }
    return Event(**{**values, **fields})


def test_the_columns_and_their_types(tmp_path):
    path = write(tmp_path / "events.parquet", [make()])
    schema = pq.read_schema(path)
    types = {name: schema.field(name).type for name in schema.names}
    lists = {"x": pa.float64(), "y": pa.float64(), "z": pa.float64(), "energy": pa.float32()}
    lists |= {"detector_id": pa.int16(), "track_id": pa.int64(), "particle_pdg": pa.int64(), "left_out": pa.int32()}
    assert {name: kind.value_type for name, kind in types.items() if pa.types.is_list(kind)} == lists
    scalars = {"event_id": pa.int64(), "source": pa.string(), "detector": pa.string(), "event_trigger": pa.int64()}
    assert {name: kind for name, kind in types.items() if not pa.types.is_list(kind)} == scalars
    assert json.loads(schema.metadata[b"fm4npp"]) == {
        "format": 2,
        "detector": "sphenix-tpc",
        "subsystems": ["sphenix-tpc"],
        "features": ["energy"],
        "labels": ["track_id"],
        "particles": ["pdg"],
        "scalars": ["trigger"],
        "units": {"x": "cm", "y": "cm", "z": "cm", "energy": "ADC"},
        "version": "1.2.3",
    }


def test_required_columns(tmp_path):
    path = write(tmp_path / "events.parquet", [make()])
    assert len(writers.read_all(READER, path, ("x", "energy", "track_id"))) == 1
    with pytest.raises(DataError) as error:
        writers.read_all(READER, path, ("x", "time"))
    writers.assert_one_line(error, path, "'time'", "energy")


def test_batches_change_nothing(tmp_path, monkeypatch):
    events = [make(count, index) for index, count in enumerate([3, 0, 1, 7, 0, 0, 2])]
    path = write(tmp_path / "events.parquet", events, rows=3)
    for size in (1, 2, 100):
        monkeypatch.setattr(events_parquet, "ROWS", size)
        for before, after in zip(events, read(path), strict=True):
            assert_same(before, after)


def test_no_events(tmp_path):
    metadata = events_schema.metadata_of(make(), "1")
    pq.write_table(events_schema.schema(metadata, make()).empty_table(), tmp_path / "events.parquet")
    assert read(tmp_path / "events.parquet") == []


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"labels": {}}, "labels are none"),
        ({"features": np.zeros((5, 2)), "feature_names": ("energy", "time")}, "features are energy, time"),
        ({"particles": {"pdg": [1], "px": [1.0]}}, "particles are pdg, px"),
        ({"scalars": {}}, "scalars"),
        ({"subsystems": ("a", "b")}, "subsystems are a, b"),
    ],
)
def test_an_event_of_another_kind_is_an_error(tmp_path, fields, words):
    with pytest.raises(DataError) as error:
        write(tmp_path / "events.parquet", [make(), make(offset=8, **fields)])
    writers.assert_one_line(error, "event 8", words)


@pytest.mark.parametrize(
    "fields", [{"particles": {"pdg": [1.5, 2.0]}}, {"scalars": {"trigger": 0.5}}, {"scalars": {"trigger": 2**63}}]
)
def test_a_value_that_does_not_fit_its_column_is_an_error(tmp_path, fields):
    with pytest.raises(DataError) as error:
        write(tmp_path / "events.parquet", [make(), make(offset=8, **fields)])
    writers.assert_one_line(error, "event 8")


@pytest.mark.parametrize(
    "fields",
    [
        {"labels": {"energy": np.zeros(5)}},
        {"features": np.zeros((5, 1)), "feature_names": ("x",)},
        {"scalars": {"id": 3}},
        {"features": np.zeros((5, 1)), "feature_names": ("particle_pdg",)},
    ],
)
def test_two_quantities_cannot_share_a_column(tmp_path, fields):
    with pytest.raises(DataError, match="share the column"):
        write(tmp_path / "events.parquet", [make(**fields)])


def test_a_truncated_file_is_an_error(tmp_path):
    path = write(tmp_path / "events.parquet", [make(50, index) for index in range(6)])
    for _ in writers.truncations(path, 20):
        assert READER.recognises(path)
        for attempt in (events_parquet.read_metadata, lambda path: writers.read_all(READER, path)):
            with pytest.raises(DataError) as error:
                attempt(path)
            writers.assert_one_line(error, path)


def test_flipped_bytes_in_the_data_are_an_error(tmp_path):
    events = [make(50, index) for index in range(2)]
    path = write(tmp_path / "events.parquet", events)
    content = path.read_bytes()
    column = pq.read_metadata(path).row_group(0).column(0)
    start, size = column.data_page_offset, column.total_compressed_size
    place = start + size // 2
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(DataError) as error:
        read(path)
    writers.assert_one_line(error, path)


def test_another_parquet_file_is_not_ours(tmp_path):
    path = tmp_path / "hits.parquet"
    pq.write_table(pa.table({"x": [[1.0]], "event_id": [1]}), path)
    assert not READER.recognises(path)
    for attempt in (events_parquet.read_metadata, lambda path: writers.read_all(READER, path)):
        with pytest.raises(DataError) as error:
            attempt(path)
        writers.assert_one_line(error, path, "fm4npp metadata", "fm4npp convert")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("no json", "metadata cannot be read"),
        ("{}", "metadata cannot be read"),
        ('{"format": 1}', "format 1"),
        ('{"format": 2, "features": 3}', "metadata cannot be read"),
    ],
)
def test_unknown_metadata_is_an_error(tmp_path, value, words):
    path = tmp_path / "events.parquet"
    pq.write_table(pa.table({"x": [[1.0]]}).replace_schema_metadata({"fm4npp": value}), path)
    with pytest.raises(DataError) as error:
        events_parquet.read_metadata(path)
    writers.assert_one_line(error, path, words)


def tamper(path, **columns):
    """Replace columns of an events file, or drop them (None)."""
    table = pq.read_table(path)
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.remove_column(place)
        if values is not None:
            table = table.add_column(place, name, values)
    pq.write_table(table, path)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"energy": None}, "'energy'"),
        ({"y": pa.array([[1.0, 2.0]], pa.list_(pa.float32()))}, "different lengths"),
        ({"track_id": pa.array([[1, 2]])}, "track_id"),
        ({"x": pa.array([[1.0, None, 3, 4, 5]], pa.list_(pa.float32()))}, "'x'"),
        ({"left_out": pa.array([[0.5]])}, "left out"),
        ({"x": pa.array([None], pa.list_(pa.float32()))}, "'x'"),
        ({"x": pa.array([1.0])}, "'x'"),
        ({"detector_id": pa.array([[0, 0, 0, 0, 3]], pa.list_(pa.int16()))}, "detector_ids"),
        ({"event_id": pa.array([None], pa.int64())}, "'event_id'"),
        ({"z": pa.array([["a"] * 5])}, "'z'"),
    ],
)
def test_columns_that_do_not_fit_are_an_error(tmp_path, columns, words):
    path = write(tmp_path / "events.parquet", [make()])
    tamper(path, **columns)
    with pytest.raises(DataError) as error:
        read(path)
    writers.assert_one_line(error, words)


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_opens_it(tmp_path, monkeypatch, streaming):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    events = [make(3), make(0, 1), make(1, 2)]
    path = write(tmp_path / "events.parquet", events)
    opened = datasets.load_dataset(
        "parquet", data_files=str(path), split="train", streaming=streaming, cache_dir=str(tmp_path / "cache")
    )
    for row, event in zip(opened, events, strict=True):
        assert row["z"] == event.positions[:, 2].tolist()
        assert row["track_id"] == event.labels["track_id"].tolist()
        assert row["event_id"] == event.event_id
