"""Checkpoints of a run: whole or not there, whenever the writer dies; and no flipped bit is read."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fm4npp.errors import CheckpointError
from fm4npp.training import state
from tests.crashes import DISK_FULL, QUOTA, READ_ONLY, failing, killed, message_under_file_limit, moments


def save(run: Path, step: int, keep: int = 2, size: int = 100) -> Path:
    """A state whose every part says of which step it is."""
    tensors = {
        "model": {"weight": torch.full((size,), float(step)), "bias": torch.tensor(step)},
        "optimizer": {"weight.exp_avg": torch.full((size, 2), float(step)).T},
    }
    return state.write(run, step, tensors, {"loop": {"step": step}}, keep=keep)


def step_of(saved: state.Saved | None) -> int:
    """The step that all parts of a state agree on."""
    assert saved is not None
    found = {value.double().mean().item() for group in saved.tensors.values() for value in group.values()}
    assert found == {float(saved.step)} == {float(saved.values["loop"]["step"])}
    return saved.step


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / state.FOLDER_NAME).iterdir())


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    """Killing a process takes nothing back that it has written; only a power cut does, which nobody tests here."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def run(tmp_path) -> Path:
    """A run with the states of steps 20 and 25."""
    save(tmp_path / "run", 20)
    save(tmp_path / "run", 25)
    return tmp_path / "run"


def test_the_newest_is_read_and_old_ones_go(run):
    assert step_of(state.newest(run)) == 25
    path = save(run, 30)
    assert path == run / "checkpoints/step-00000030"
    assert names(run) == ["step-00000025", "step-00000030"]
    assert step_of(state.read(path)) == step_of(state.newest(run)) == 30
    assert state.newest(run / "nowhere") is None


FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint64)
TYPES = (*FLOATS, *INTEGERS, torch.bool, torch.complex64, torch.complex128)
SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def raw(tensor: torch.Tensor) -> bytes:
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return plain.view(torch.uint8).numpy().tobytes()


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), st.tuples(SHAPES, st.sampled_from(TYPES))),
    VALUES,
    st.randoms(use_true_random=False),
)
def test_everything_comes_back_bit_for_bit(tmp_path, shapes, value, random):
    tensors = {}
    for name, (shape, kind) in shapes.items():
        size = int(np.prod(shape)) * torch.empty((), dtype=kind).element_size()
        content = torch.tensor([random.randrange(2 if kind == torch.bool else 256) for _ in range(size)])
        tensors[name] = content.to(torch.uint8).view(kind).reshape(shape)
    saved = state.read(state.write(tmp_path, 3, {"a": tensors, "b": {}}, {"a": value}, keep=1))
    assert saved.values == {"a": value}
    assert saved.tensors["b"] == {}
    assert saved.tensors["a"].keys() == tensors.keys()
    for name, tensor in tensors.items():
        found = saved.tensors["a"][name]
        assert (found.dtype, found.shape, raw(found)) == (tensor.dtype, tensor.shape, raw(tensor))


def test_views_of_one_memory_are_stored_as_what_they_show(tmp_path):
    base = torch.arange(12.0)
    views = {
        "base": base,
        "again": base,
        "part": base[3:7],
        "transposed": base.view(3, 4).T,
        "strided": base[::3],
        "expanded": base[:1].expand(5),
        "conjugate": torch.tensor([1 + 2j]).conj(),
        "parameter": torch.nn.Parameter(base[:2]),
    }
    saved = state.read(state.write(tmp_path, 0, {"views": views}, {}, keep=1)).tensors["views"]
    for name, tensor in views.items():
        assert torch.equal(saved[name], tensor)
        assert not saved[name].requires_grad


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), {1: 2}, [{None: 2}], {"a": {1}}, np.float32(1), b"x"])
def test_what_json_would_change_is_refused_before_anything_is_written(run, value):
    before = snapshot(run)
    with pytest.raises(CheckpointError, match=r"step-00000030/loop\.json"):
        state.write(run, 30, {}, {"loop": value}, keep=1)
    assert snapshot(run) == before


class Distributed(torch.Tensor):
    """Any tensor that is more than its own values."""


@pytest.mark.parametrize(
    "tensor", [torch.eye(2).to_sparse(), torch.empty(2, device="meta"), torch.ones(2).as_subclass(Distributed)]
)
def test_tensors_without_plain_values_are_refused(run, tensor):
    with pytest.raises(TypeError, match="'strange'"):
        state.write(run, 30, {"model": {"strange": tensor}}, {}, keep=1)


@pytest.mark.parametrize("stem", ["manifest", "", "../up", ".hidden", "a/b"])
def test_names_that_are_no_files_are_refused(run, stem):
    with pytest.raises(ValueError, match="cannot name a file"):
        state.write(run, 30, {}, {stem: 1}, keep=1)


# ---- the writer dies


@pytest.mark.parametrize(("step", "keep"), [(30, 2), (30, 1), (25, 1)])
def test_a_writer_killed_at_any_moment_leaves_one_to_read(run, tmp_path, step, keep):
    """Step 25 is the one that is there: repeated after a resume, it may not be missing for a moment either."""
    copies = moments(lambda: save(run, step, keep), run, tmp_path / "copies")
    assert len({name for copy in copies for name in names(copy) if name.startswith(".")}) >= 2
    for copy in copies:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert step_of(state.newest(copy)) in {25, step}
        save(copy, 35, keep)  # tidies up
        assert all(len(name) == len("step-00000035") for name in names(copy))
        assert names(copy)[-1] == "step-00000035"
        assert len(names(copy)) == keep
    assert len(copies) > 15


def test_twenty_random_kills(run):
    """Kills at random moments hit the writing of the files' content, too, which the counted ones cannot."""
    random = np.random.default_rng(6)
    for _ in range(20):
        first = state.newest(run).step + 1

        def work(ready: Callable[[], None], first=first) -> None:
            for step in range(first, 10_000):
                save(run, step, size=20_000)
                ready()

        killed(work, random.uniform(0, 0.02))
        assert step_of(state.newest(run)) >= first
    last = state.newest(run).step
    assert last >= 45
    save(run, last + 1)
    assert names(run) == [f"step-{last:08d}", f"step-{last + 1:08d}"]


def test_nothing_has_its_name_before_it_is_on_the_disk(run, monkeypatch):
    events = []
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, to: (events.append(("rename", to)), rename(path, to)))
    for module in (state, state.sealed):
        monkeypatch.setattr(module, "sync", lambda path: events.append(("sync", path)))
    path = save(run, 30)
    commit = events.index(("rename", path))
    synced = [path for kind, path in events[:commit] if kind == "sync"]
    assert {place.name for place in synced[:-1]} == {file.name for file in path.iterdir()}
    assert synced[-2].name == "manifest.json"
    assert synced[-1].name.startswith(".step-00000030.")
    assert events[commit + 1] == ("sync", run / "checkpoints")


def test_only_what_is_ours_is_removed(run):
    folder = run / "checkpoints"
    others = [".step-00000001.12.note", "step-1", "notes.txt", ".git", "step-000000030"]
    for name in others:
        (folder / name).mkdir()
    (folder / ".step-00000030.99999999.0123abcd").mkdir()
    (folder / "step-00000020.replaced").mkdir()
    (folder / "step-00000024.replaced").mkdir()
    (folder / "step-00000026").write_text("in the way")
    save(run, 26, keep=3)
    assert names(run) == sorted([*others, "step-00000024", "step-00000025", "step-00000026"])


def test_later_ones_that_are_damaged_do_not_push_out_what_was_written(run):
    (run / "checkpoints/step-00000040").mkdir()
    save(run, 30, keep=1)
    assert names(run) == ["step-00000030", "step-00000040"]
    with pytest.warns(UserWarning, match="40/manifest.json: cannot be read .*; it is skipped, step-00000030 is used"):
        assert step_of(state.newest(run)) == 30


# ---- the file system refuses


def one_line(error: object, *parts: str) -> None:
    text = str(error)
    assert "\n" not in text
    assert all(part in text for part in parts), text


@pytest.mark.parametrize("code", [DISK_FULL, QUOTA, READ_ONLY])
@pytest.mark.parametrize("place", ["sealed.save_file", "sealed.share", "sealed.sync", "Path.rename", "Path.mkdir"])
def test_a_failure_is_one_line_and_the_previous_one_stays(run, monkeypatch, code, place):
    before = snapshot(run)
    with monkeypatch.context() as patch:
        patch.setattr(f"fm4npp.training.state.{place}", failing(code))
        with pytest.raises(CheckpointError) as caught:
            save(run, 30)
    one_line(caught.value, "step-00000030", os.strerror(code), "1,220 bytes", "step-00000025 is kept")
    assert snapshot(run) == before
    save(run, 30)
    assert names(run) == ["step-00000025", "step-00000030"]


def test_the_limit_of_a_file_is_one_line_and_the_previous_one_stays(run):
    before = snapshot(run)
    text = message_under_file_limit(lambda: save(run, 30, size=100_000), 50_000)
    one_line(text, "CheckpointError", "step-00000030", "File too large", "1,200,020 bytes", "step-00000025 is kept")
    assert snapshot(run) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_without_permission_is_one_line(run):
    (run / "checkpoints").chmod(0o500)
    try:
        with pytest.raises(CheckpointError) as caught:
            save(run, 30)
    finally:
        (run / "checkpoints").chmod(0o700)
    one_line(caught.value, "Permission denied", "1,220 bytes", "step-00000025 is kept")


def test_a_file_in_place_of_the_folder_is_one_line(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(CheckpointError) as caught:
        save(tmp_path, 30)
    one_line(caught.value, str(tmp_path), "bytes", "no earlier checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read"):
        state.newest(tmp_path)


def test_an_old_one_that_cannot_be_removed_is_a_warning(run, monkeypatch):
    monkeypatch.setattr(state, "discard", failing(READ_ONLY))
    with pytest.warns(UserWarning, match="step-00000020: is no longer needed and cannot be removed"):
        save(run, 30)
    assert step_of(state.newest(run)) == 30


# ---- the disk lies


@pytest.fixture
def small(tmp_path) -> Path:
    tensors = {"model": {"w": torch.tensor([1.0, -2.0])}, "rng": {"cpu": torch.tensor([7], dtype=torch.uint16)}}
    return state.write(tmp_path, 25, tensors, {"loop": {"step": 25}}, keep=1)


def test_a_flipped_bit_of_any_byte_is_found(small):
    """Every bit of every byte is flipped in benchmarks/kill_while_saving.py."""
    random = np.random.default_rng(6)
    for path in sorted(small.iterdir()):
        content = path.read_bytes()
        with path.open("rb+", buffering=0) as handle:
            for index, byte in enumerate(content):
                os.pwrite(handle.fileno(), bytes([byte ^ 1 << random.integers(8)]), index)
                with pytest.raises(CheckpointError):
                    state.read(small)
                os.pwrite(handle.fileno(), bytes([byte]), index)
    state.read(small)


def test_every_flipped_bit_of_a_name_is_found(small):
    for path in [small, *sorted(small.iterdir())]:
        for place in range(8 * len(path.name)):
            name = bytearray(path.name.encode())
            name[place // 8] ^= 1 << place % 8
            if name[place // 8] in b"\0/" or name[place // 8] > 127:
                continue
            other = path.rename(path.with_name(name.decode()))
            try:
                found = state.newest(small.parents[1])
            except CheckpointError:
                found = None
            assert found is None
            other.rename(path)
    assert state.newest(small.parents[1]) is not None


def test_every_truncation_and_any_growth_is_found(small):
    for path in sorted(small.iterdir()):
        content = path.read_bytes()
        for damaged in (content + b"\n", content + b"\0", content[:-1]):
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=path.name):
                state.read(small)
        for length in reversed(range(len(content) - 1)):
            os.truncate(path, length)
            with pytest.raises(CheckpointError):
                state.read(small)
        path.unlink()
        with pytest.raises(CheckpointError, match=path.name):
            state.read(small)
        path.write_bytes(content)
    (small / "more.json").write_text("{}")
    with pytest.raises(CheckpointError, match="more.json"):
        state.read(small)


def test_a_damaged_header_that_claims_much_is_not_believed(small, monkeypatch):
    path = small / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes((2**40).to_bytes(8, "little") + content[8:])
    monkeypatch.setattr("fm4npp.training.sealed.load", failing(DISK_FULL))
    with pytest.raises(CheckpointError, match="model.safetensors: is damaged"):
        state.read(small)


def test_damaged_ones_are_skipped_with_a_warning_each(run):
    save(run, 30, keep=3)
    for step in (30, 25):
        path = run / f"checkpoints/step-{step:08d}/model.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.warns(UserWarning, match="is skipped") as caught:
        assert step_of(state.newest(run)) == 20
    assert len(caught) == 2
    one_line(caught[0].message, "step-00000030/model.safetensors", "SHA-256", "skipped", "step-00000020 is used")
    save(run, 30, keep=3)  # a damaged one is replaced
    assert step_of(state.newest(run)) == 30
    for path in (run / "checkpoints").glob("step-*/loop.json"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"step-00000030/loop.json: is missing; no other checkpoint is whole"):
        state.newest(run)


def test_nothing_is_unpickled():
    source = Path(state.__file__).read_text() + Path(state.sealed.__file__).read_text()
    assert not any(word in source for word in ("pickle.", "torch.load", "torch.save", "eval("))
