"""The chunked selective scan against a plain double-precision recurrence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fm4npp.backbones import selective_scan as module
from fm4npp.backbones.packing import Layout
from fm4npp.backbones.selective_scan import selective_scan
from fm4npp.testing.reference import selective_recurrence

BY_ROW = ("x", "dt", "B", "C")
CHUNK = 16
LENGTHS = [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 200]


class Size(NamedTuple):
    """Channels and states."""

    num_channels: int
    num_states: int


NARROW = Size(8, 4)
"""Many chunks side by side."""
WIDE = Size(192, 23)
"""Chunks in order, in parts of all channels and, with chunks of 64 rows, of some."""


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(before)


def offsets_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def draw(num_rows: int, size: Size, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Arguments of `selective_scan` by name, packed."""
    generator = torch.Generator().manual_seed(num_rows)
    channels, states = size

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    values = {
        "x": normal(num_rows, channels),
        "dt": (normal(num_rows, channels) - 3).exp(),
        "A": -normal(channels, states).exp(),
        "B": normal(num_rows, states),
        "C": normal(num_rows, states),
        "D": normal(channels),
    }
    return {name: value.to(dtype) for name, value in values.items()}


def chunked(inputs: dict[str, Tensor], offsets: Tensor, chunk_size: int = CHUNK) -> Tensor:
    layout = Layout.of(offsets, chunk_size)
    aligned = {name: layout.align(value) if name in BY_ROW else value for name, value in inputs.items()}
    return layout.pack(selective_scan(**aligned, layout=layout))


def recurrent(inputs: dict[str, Tensor], offsets: Tensor) -> Tensor:
    x, dt, A, B, C, D = inputs.values()
    events = [slice(int(a), int(b)) for a, b in pairwise(offsets)]
    return torch.cat([selective_recurrence(x[e], dt[e], A, B[e], C[e], D) for e in events])


def gradients(output: Tensor, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
    return dict(zip(inputs, torch.autograd.grad((output * weights).sum(), list(inputs.values())), strict=True))


def relative(value: Tensor, reference: Tensor) -> float:
    scale = reference.detach().abs().max().clamp(min=1e-3)
    return float((value.detach().double() - reference.detach()).abs().max() / scale)


def summed_by_hand(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """The recurrence unrolled: y_i = D x_i + sum_(j <= i, n) C_in exp(A_n sum_(j < t <= i) dt_t) dt_j B_jn x_j."""
    length = len(x)
    inside = (torch.arange(length)[:, None] >= torch.arange(length))[..., None, None]
    elapsed = dt.cumsum(0)[:, None] - dt.cumsum(0)[None]
    decay = torch.exp((elapsed[..., None] * A).where(inside, -torch.inf))
    return torch.einsum("in,ijdn,jd,jn,jd->id", C, decay, dt, B, x) + D * x


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["narrow", "wide"])
def test_against_the_unrolled_sum(size: Size) -> None:
    inputs = {name: value.requires_grad_() for name, value in draw(20, size).items()}
    expected, found = summed_by_hand(**inputs), chunked(inputs, offsets_of([20]))
    assert relative(found, expected) <= 1e-12
    expected_gradients = gradients(expected, inputs)
    for name, gradient in gradients(found, inputs).items():
        assert relative(gradient, expected_gradients[name]) <= 1e-11, name


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize("lengths", [*([length] for length in LENGTHS), LENGTHS], ids=str)
def test_chunked_equals_recurrence(size: Size, lengths: list[int]) -> None:
    offsets = offsets_of(lengths)
    inputs = {name: value.requires_grad_() for name, value in draw(sum(lengths), size).items()}
    expected = recurrent(inputs, offsets)
    expected_gradients = gradients(expected, inputs)
    for dtype, forward_tolerance, backward_tolerance in [(torch.float64, 1e-12, 1e-11), (torch.float32, 5e-6, 1e-4)]:
        cast = {name: value.detach().to(dtype).requires_grad_() for name, value in inputs.items()}
        output = chunked(cast, offsets)
        assert relative(output, expected) <= forward_tolerance
        for name, gradient in gradients(output, cast).items():
            assert relative(gradient, expected_gradients[name]) <= backward_tolerance, name


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["narrow", "wide"])
def test_ten_thousand_rows(size: Size) -> None:
    inputs, offsets = draw(10_000, size), offsets_of([10_000])
    expected = recurrent(inputs, offsets)
    assert relative(chunked(inputs, offsets), expected) <= 1e-12
    single = {name: value.float() for name, value in inputs.items()}
    assert relative(chunked(single, offsets), expected) <= 5e-6


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize("chunk_size", [1, 3, 5, 8, 64, 100])
def test_any_chunk_size(size: Size, chunk_size: int) -> None:
    inputs, offsets = draw(300, size, torch.float32), offsets_of([150, 1, 149])
    assert relative(chunked(inputs, offsets, chunk_size), chunked(inputs, offsets).double()) <= 1e-6


@pytest.mark.parametrize("size", [NARROW, WIDE, Size(64, 1), Size(1, 64), Size(4096, 1)], ids=str)
def test_parts_change_nothing(size: Size, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks side by side or in order, channels all at once or a few at a time: one result, to rounding."""
    lengths = [40, 1, 60]
    inputs = {name: value.requires_grad_() for name, value in draw(sum(lengths), size).items()}
    results = []
    for wide in (0, 1 << 30):
        for part_size, step in ((1 << 30, 64), (1, 64), (1, 1)):
            monkeypatch.setattr(module, "WIDE_STATE", wide)
            monkeypatch.setattr(module, "PART_SIZE", part_size)
            monkeypatch.setattr(module, "CHANNEL_STEP", step if size.num_channels < 1000 else 512)
            output = chunked(inputs, offsets_of(lengths))
            results.append({"y": output, **gradients(output, inputs)})
    for result in results[1:]:
        for name, value in result.items():
            assert relative(value, results[0][name]) <= 1e-12, name


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize("factor", [10, 1e4])
def test_strong_decay(size: Size, factor: float) -> None:
    inputs = draw(200, size)
    inputs["dt"] = inputs["dt"] * factor
    inputs = {name: value.requires_grad_() for name, value in inputs.items()}
    expected = recurrent(inputs, offsets_of([200]))
    expected_gradients = gradients(expected, inputs)
    for dtype, tolerance in [(torch.float64, 1e-12), (torch.float32, 5e-6)]:
        cast = {name: value.detach().to(dtype).requires_grad_() for name, value in inputs.items()}
        output = chunked(cast, offsets_of([200]))
        assert relative(output, expected) <= tolerance
        for name, gradient in gradients(output, cast).items():
            assert relative(gradient, expected_gradients[name]) <= 20 * tolerance, name


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize("row", [0, 15, 16, 17, 99])
def test_causal_to_the_bit(size: Size, row: int) -> None:
    inputs, offsets = draw(100, size, torch.float32), offsets_of([100])
    before = chunked(inputs, offsets)
    for name in BY_ROW:
        inputs[name][row] += 10
    after = chunked(inputs, offsets)
    assert torch.equal(before[:row], after[:row])
    assert not torch.equal(before[row], after[row])


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("size", [NARROW, Size(96, 6), WIDE], ids=["narrow", "middle", "wide"])
@settings(max_examples=10, deadline=None)
@given(lengths=st.lists(st.sampled_from([1, 2, 12, 13, 14, 15, 16, 17, 61, 300]), min_size=1, max_size=5))
def test_batch_mates_change_no_bit(size: Size, num_threads: int, lengths: list[int]) -> None:
    inputs = draw(sum(lengths), size, torch.float32)
    offsets = offsets_of(lengths)
    with threads(num_threads):
        together = chunked(inputs, offsets)
        for start, stop in pairwise(offsets.tolist()):
            event = {name: value[start:stop] if name in BY_ROW else value for name, value in inputs.items()}
            assert torch.equal(chunked(event, offsets_of([stop - start])), together[start:stop])


@pytest.mark.parametrize("wide", [0, 1 << 30], ids=["in-order", "side-by-side"])
def test_gradcheck(wide: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WIDE_STATE", wide)
    inputs = {name: value.requires_grad_() for name, value in draw(9, Size(2, 2)).items()}
    names = list(inputs)
    assert torch.autograd.gradcheck(
        lambda *values: chunked(dict(zip(names, values, strict=True)), offsets_of([7, 2]), 3), tuple(inputs.values())
    )


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["narrow", "wide"])
def test_gradients_do_not_leak(size: Size) -> None:
    lengths = [30, 1, 62, 13, 16]
    inputs = {name: value.requires_grad_() for name, value in draw(sum(lengths), size).items()}
    output = chunked(inputs, offsets_of(lengths)).split(lengths)
    for chosen in range(len(lengths)):
        found = torch.autograd.grad(output[chosen].square().sum(), list(inputs.values()), retain_graph=True)
        for name, gradient in zip(inputs, found, strict=True):
            if name not in ("A", "D"):
                touched = [bool((part != 0).any()) for part in gradient.split(lengths)]
                assert touched == [event == chosen for event in range(len(lengths))], name


@pytest.mark.parametrize("lengths", [[], [0], [0, 0]], ids=str)
def test_nothing(lengths: list[int]) -> None:
    inputs = {name: value.requires_grad_() for name, value in draw(0, NARROW).items()}
    output = chunked(inputs, offsets_of(lengths))
    assert output.shape == (0, NARROW.num_channels)
    assert all((gradient == 0).all() for gradient in torch.autograd.grad(output.sum(), list(inputs.values())))


def test_gradient_of_any_stride() -> None:
    inputs = {name: value.requires_grad_() for name, value in draw(40, NARROW).items()}
    output = chunked(inputs, offsets_of([40]))
    expanded = torch.autograd.grad(output.sum(), inputs["x"], retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(output, inputs["x"], torch.ones_like(output))[0], expanded)
