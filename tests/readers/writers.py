"""Small writers of every format, from the documented layouts and not from our readers."""

import io
import struct
import tarfile
import zipfile

import awkward as ak
import numpy as np
import uproot


def random_sizes(generator, count):
    """Numbers of spacepoints: events without any, with one, and with some."""
    return np.concatenate([[3, 0, 1], generator.integers(0, 20, max(count - 3, 0))])[:count].astype(np.int64)


def split(values, sizes):
    """(sum N, ...) to one array an event."""
    return np.split(values, np.cumsum(sizes)[:-1]) if len(sizes) else []


def around_beam(generator, radius):
    """Positions (*shape, 3) at radii of some shape, all around the beam and within |eta| < 0.9."""
    phi, eta = generator.uniform(-np.pi, np.pi, radius.shape), generator.uniform(-0.9, 0.9, radius.shape)
    return np.stack([radius * np.cos(phi), radius * np.sin(phi), radius * np.sinh(eta)], axis=-1)


def tpcpp(folder, suffix="_000", sizes=(3, 0, 1, 5), seed=0, labels=True):
    """One shard of TPCpp-10M; returns its arrays by file stem."""
    generator = np.random.default_rng(seed)
    total = int(np.sum(sizes))
    points = np.column_stack(
        [generator.uniform(23, 6250, total), around_beam(generator, generator.uniform(31.4, 75.3, total))]
    )
    arrays = {"spacepoints": points.astype(np.float32)}
    if labels:
        arrays["track_ids"] = generator.integers(0, 9, total)
        arrays["pid_labels"] = generator.integers(0, 5, total).astype(np.int32)
        arrays["noise_tags"] = generator.random(total) < 0.3
    folder.mkdir(parents=True, exist_ok=True)
    for stem, data in arrays.items():
        np.savez_compressed(folder / f"{stem}{suffix}.npz", data=data, size=np.asarray(sizes, np.int64))
    return arrays


def tpcpp_zip(path, folder, compression=zipfile.ZIP_STORED, top=""):
    """Everything in a folder as one zip archive, as the release is published, with what some systems add on their own.

    The members lie in a folder `top` of the archive if one is given.
    """
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, f"{top}{file.relative_to(folder)}")
        archive.writestr("__MACOSX/._spacepoints_000.npz", b"metadata")
    return path


def mmap_array(folder, values):
    """One flat array as mmap_ninja stores it: raw values, name of the type, shape as 64-bit integers."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.ninja").write_bytes(np.ascontiguousarray(values).tobytes())
    (folder / "dtype.ninja").write_text(values.dtype.name)
    (folder / "shape.ninja").write_bytes(struct.pack(f"<{values.ndim}Q", *values.shape))
    (folder / "order.ninja").write_text("C")
    (folder / "type.ninja").write_text("numpy")


def ragged_mmap(folder, arrays):
    """A list of arrays as mmap_ninja's RaggedMmap stores it."""
    flat = [np.ravel(array) for array in arrays]
    ends = np.cumsum([len(values) for values in flat], dtype=np.int64)
    mmap_array(folder, np.concatenate(flat))
    mmap_array(folder / "starts", np.concatenate([[0], ends[:-1]]).astype(np.int64))
    mmap_array(folder / "ends", ends)
    mmap_array(folder / "shapes", np.array([array.shape for array in arrays], np.int64))
    mmap_array(folder / "flattened_shapes", np.diff(ends, prepend=0))
    (folder / "type.ninja").write_text("ragged")
    (folder / "shapes_are_flat.ninja").write_bytes(struct.pack("<i", 1))


def authors_split(root, split_name="pretrain", sizes=(3, 0, 1, 5), seed=0):
    """One split of the authors' training layout; returns its arrays, one an event, by quantity."""
    generator = np.random.default_rng(seed)
    quantities = {
        "features": [np.abs(generator.normal(0, 50, (n, 4))).astype(np.float32) for n in sizes],
        "seg_target": [generator.integers(0, 9, n) for n in sizes],
        "pid_target": [generator.choice([211, -211, 11, 2212, 22], n) for n in sizes],
        "reg_target": [generator.normal(0, 1, (n, 8)).astype(np.float32) for n in sizes],
    }
    for name, arrays in quantities.items():
        ragged_mmap(root / f"{name}_{split_name}", arrays)
    return quantities


def root_tree(path, trees):
    """A ROOT file with TTrees: name -> {branch: list of arrays (jagged) or one array (one number an entry)}."""
    with uproot.recreate(path) as file:
        for name, branches in trees.items():
            data = {branch: ak.Array(v) if isinstance(v, list) else v for branch, v in branches.items()}
            types = {}
            for branch, values in branches.items():
                item = np.asarray(values[0]).dtype if isinstance(values, list) else values.dtype
                types[branch] = f"var * {item}" if isinstance(values, list) else item
            file.mktree(name, types)
            if len(next(iter(branches.values()))):
                file[name].extend(data)
    return path


def silicon_arrays(tracks=4, seed=0, missing=0.2):
    """The arrays of one sPHENIX silicon event; about a fifth of the slots are missing hits."""
    generator = np.random.default_rng(seed)
    slots = around_beam(generator, np.tile([2.5, 3.3, 4.1, 7.2, 9.7], (tracks, 1)))
    slots[generator.random((tracks, 5)) < missing] = 0
    return {
        "track_vector": slots.reshape(tracks, 15),
        "complete_flags": (slots != 0).any(axis=2).all(axis=1),
        "origin_vertices": generator.normal(0, 1, (tracks, 3)),
        "momentums": generator.normal(0, 1, (tracks, 3)),
        "energy": generator.random(tracks),
        "pids": np.arange(tracks) + 7,
        "ptypes": generator.choice([211, -211, 321, 11], tracks),
        "ip": generator.normal(0, 1, 3),
        "trigger": np.array(seed % 2),
    }


def npz_bytes(arrays):
    """The bytes of an .npz."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def silicon_tar(path, events, folder="train_gt"):
    """A tar archive, compressed as its name says, of event name -> arrays."""
    mode = {".xz": "w:xz", ".gz": "w:gz", ".bz2": "w:bz2"}.get(path.suffix, "w")
    with tarfile.open(path, mode) as tar:
        directory = tarfile.TarInfo(folder)
        directory.type = tarfile.DIRTYPE
        tar.addfile(directory)
        for name, arrays in events.items():
            payload = npz_bytes(arrays)
            member = tarfile.TarInfo(f"{folder}/{name}.npz")
            member.size = len(payload)
            tar.addfile(member, io.BytesIO(payload))
    return path


def truncations(path, counts=9):
    """The first bytes of a file, at several lengths from nothing to all but one; the file is restored at the end."""
    content = path.read_bytes()
    lengths = {
        0,
        1,
        len(content) // 2,
        len(content) - 1,
        *np.linspace(0, len(content), counts, dtype=int)[:-1].tolist(),
    }
    try:
        for length in sorted(lengths):
            path.write_bytes(content[:length])
            yield length
    finally:
        path.write_bytes(content)


def read_parts(reader, path, required=(), optional=()):
    """All events, part by part."""
    return [event for part in reader.parts(path) for event in reader.read_part(path, part, required, optional)]


def assert_same_columns(found, expected):
    """Two lists of events have the same columns, types and values."""
    for event, other in zip(found, expected, strict=True):
        assert event.keys() == other.keys()
        for name, values in event.items():
            assert np.asarray(values).dtype == np.asarray(other[name]).dtype
            np.testing.assert_array_equal(values, other[name])


def read_all(reader, path, required=(), optional=()):
    """All events, or the error."""
    return list(reader.read(path, required, optional))


def assert_one_line(error, *parts):
    """The message of a `DataError` is one line that holds some words."""
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message
