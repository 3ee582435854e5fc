"""The authors' pickle of bin edges, and what must not happen when a pickle is read."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from fm4npp import original
from fm4npp.errors import CheckpointError
from fm4npp.original.unpickling import STAND_INS
from tests.authors_layout import Call, one_line, touch


def edges(seed=0):
    rng = np.random.default_rng(seed)
    inner = [np.sort(rng.uniform(0.05, 0.95, size)) for size in (7, 7, 5)]
    return [np.array([0.0, *values, 1.0]) for values in inner]


def as_released(values):
    """The structure that the released code writes: lists of NumPy numbers, the outer ones Python's."""
    return {name: [0.0, *list(axis[1:-1]), 1.0] for name, axis in zip(("Eta", "Phi", "Radius"), values, strict=True)}


SHAPES_OF_FILES = {
    "released": as_released,
    "lists": lambda values: [axis.tolist() for axis in values],
    "tuple of arrays": tuple,
    "single precision": lambda values: [axis.astype(np.float32) for axis in values],
    "big endian": lambda values: [axis.astype(">f8") for axis in values],
    "names out of order": lambda values: {"r": values[2], "eta": values[0], "phi": values[1]},
}


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("form", SHAPES_OF_FILES)
def test_bin_edges_are_read(tmp_path, form, protocol):
    path = tmp_path / "edges.pkl"
    path.write_bytes(pickle.dumps(SHAPES_OF_FILES[form](edges()), protocol=protocol))
    scan = original.read_bin_edges(path)
    assert scan.fitted
    assert scan.num_bins == (8, 8, 6)
    for found, expected in zip(scan.edges, edges(), strict=True):
        assert np.array_equal(found, expected.astype(np.float32))


def test_the_old_name_of_numpys_private_module_is_read(tmp_path):
    content = pickle.dumps(edges(), protocol=3)
    assert b"numpy._core" in content
    (tmp_path / "edges.pkl").write_bytes(content.replace(b"numpy._core", b"numpy.core"))
    assert original.read_bin_edges(tmp_path / "edges.pkl").fitted


WRONG_EDGES = {
    "two axes": (lambda: edges()[:2], "found list of 2"),
    "strings": (lambda: ["a", "b", "c"], "str"),
    "names": (lambda: dict(zip("abc", edges(), strict=True)), "mapping of 'a'"),
    "too few": (lambda: [edges()[0], edges()[1], edges()[2][1:]], "found 6 numbers where 7"),
    "axes swapped": (lambda: [edges()[2], edges()[0], edges()[1]], "found 7 numbers where 9"),
    "decreasing": (lambda: [edges()[0][::-1].tolist(), edges()[1], edges()[2]], "increase"),
    "nan": (lambda: [[float("nan")] * 9, edges()[1], edges()[2]], "increase"),
    "centimetres": (lambda: [edges()[0], edges()[1], edges()[2] * 44 + 31], "normalised"),
    "two dimensions": (lambda: [np.zeros((3, 3)), edges()[1], edges()[2]], "shape"),
    "objects": (lambda: np.array([*edges(), None], dtype=object)[:3], "numpy"),
    "object axes": (lambda: [np.array([None] * 9), edges()[1], edges()[2]], "dtype 'O8'"),
    "dates": (lambda: [np.zeros(9, dtype="M8[s]"), edges()[1], edges()[2]], "dtype 'M8'"),
    "truth": (lambda: [[True] * 9, edges()[1], edges()[2]], "bool"),
    "huge": (lambda: [[10**400] * 9, edges()[1], edges()[2]], "large"),
    "one number": (lambda: np.float64(3), "found numpy"),
}


@pytest.mark.parametrize("what", WRONG_EDGES)
def test_other_contents_are_refused_and_named(tmp_path, what):
    make, said = WRONG_EDGES[what]
    path = tmp_path / "edges.pkl"
    path.write_bytes(pickle.dumps(make(), protocol=4))
    with pytest.raises(CheckpointError) as caught:
        original.read_bin_edges(path)
    one_line(caught, said, str(path))


RUN = {
    "os.system": lambda marker: pickle.dumps([touch(marker)] * 3),
    "eval": lambda marker: pickle.dumps(Call(eval, f"open({str(marker)!r}, 'w').close()")),
    "in a mapping": lambda marker: pickle.dumps({"Eta": touch(marker)}),
    "in an object array": lambda marker: pickle.dumps([np.array([touch(marker)], dtype=object)] * 3),
    "old protocol": lambda marker: pickle.dumps(touch(marker), protocol=0),
}
"""Pickles that touch the marker."""
ODD = {
    "getattr": b"cbuiltins\ngetattr\n(cos\npath\nX\x02\x00\x00\x00ostR.",
    "numpy's own loader": b"cnumpy\nload\n(X\x01\x00\x00\x00atR.",
    "numpy's test runner": b"cnumpy.testing._private.utils\nrunstring\n(X\x01\x00\x00\x00a}tR.",
    "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0cdtype.__base\x93.",
    "line break in a name": b"\x80\x04\x8c\x05numpy\x8c\x03a\nb\x93.",
    "state of a class": b"cnumpy\ndtype\n}X\x01\x00\x00\x00aK\x01sb.",
    "forged state": b"(cnumpy._core.multiarray\n_reconstruct\n)R}b0](cnumpy\ndtype\n)R}bee.",
    "instances without arguments": b"cnumpy\ndtype\n)\x81cnumpy._core.multiarray\n_reconstruct\n)\x81N\x87.",
    "extension": b"\x80\x02\x82\x01.",
    "persistent id": b"\x80\x04Pid\n.",
    "cut": pickle.dumps(edges())[:-30],
    "empty": b"",
    "large": bytes(10_000_001),
}
"""Others that a reader could trip over, opcode by opcode."""
MALICIOUS = {**RUN, **{name: lambda marker, content=content: content for name, content in ODD.items()}}


@pytest.mark.parametrize("how", MALICIOUS)
def test_a_pickle_that_asks_for_anything_else_is_refused_and_runs_nothing(tmp_path, monkeypatch, how):
    monkeypatch.chdir(tmp_path)
    path, marker = tmp_path / "edges.pkl", tmp_path / "ran"
    path.write_bytes(MALICIOUS[how](marker))
    before = {key: dict(vars(value)) for key, value in STAND_INS.items()}
    with pytest.raises(CheckpointError) as caught:
        original.read_bin_edges(path)
    one_line(caught, str(path))
    assert not marker.exists()
    assert {key: dict(vars(value)) for key, value in STAND_INS.items()} == before


@pytest.mark.parametrize("how", RUN)
def test_the_control_does_run(tmp_path, how):
    """So the test above can fail: the same bytes run when they are unpickled without restriction."""
    marker = tmp_path / "ran"
    pickle.loads(RUN[how](marker))
    assert marker.exists()
