"""The compiled inside of the Mamba-2 mixer against the recurrence in double precision."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fm4npp.backbones import mamba2
from fm4npp.backbones.packing import Layout
from fm4npp.backbones.ssd import Sizes
from fm4npp.testing.reference import recurrence

pytest.importorskip("numba")

from fm4npp.backbones import compiled_kernels, mamba2_compiled

SIZES = Sizes(num_heads=4, head_dim=8, num_groups=1, state_size=6)
GROUPED = SIZES._replace(num_groups=2)
CHUNK = 16
LENGTHS = [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 1000]
TAPS = 4


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(before)


def offsets_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def draw(num_rows: int, sizes: Sizes, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """The tensors `core` takes, by argument name; rows are packed."""
    generator = torch.Generator().manual_seed(num_rows)
    inner = sizes.num_heads * sizes.head_dim
    channels = inner + 2 * sizes.num_groups * sizes.state_size

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    values = {
        "projected": normal(num_rows, inner + channels + sizes.num_heads),
        "weight": normal(channels, TAPS),
        "bias": normal(channels),
        "dt_bias": normal(sizes.num_heads) - 3,
        "A": -normal(sizes.num_heads).exp(),
        "D": normal(sizes.num_heads),
        "scale": normal(inner),
    }
    return {name: value.to(dtype) for name, value in values.items()}


def compiled(inputs: dict[str, Tensor], offsets: Tensor, sizes: Sizes, chunk_size: int = CHUNK) -> Tensor:
    layout = Layout.of(offsets, chunk_size)
    projected, *weights = inputs.values()
    return layout.pack(mamba2_compiled.core(layout.align(projected), *weights, 1e-5, sizes, layout))


def expected_of(inputs: dict[str, Tensor], offsets: Tensor, sizes: Sizes) -> Tensor:
    projected, weight, bias, dt_bias, A, D, scale = inputs.values()
    heads, width, groups, states = sizes
    z, xbc, dt = projected.split([heads * width, len(bias), heads], dim=1)
    outputs = []
    for start, stop in pairwise(offsets.tolist()):
        padded = F.pad(xbc[start:stop], (0, 0, TAPS - 1, 0))
        mixed = F.silu(sum(padded[k : k + stop - start] * weight[:, k] for k in range(TAPS)) + bias)
        x, B, C = mixed.split([heads * width, groups * states, groups * states], dim=1)
        B, C = B.unflatten(1, (groups, states)), C.unflatten(1, (groups, states))
        step = F.softplus(dt[start:stop] + dt_bias)
        outputs.append(recurrence(x.unflatten(1, (heads, width)), step, A, B, C, D).flatten(1))
    gated = (torch.cat(outputs) * F.silu(z)).unflatten(1, (groups, -1))
    normed: Tensor = (gated * torch.rsqrt(gated.square().mean(-1, keepdim=True) + 1e-5)).flatten(1) * scale
    return normed


def gradients(output: Tensor, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
    return dict(zip(inputs, torch.autograd.grad((output * weights).sum(), list(inputs.values())), strict=True))


def relative(value: Tensor, reference: Tensor) -> float:
    scale = reference.detach().abs().max().clamp(min=1e-3)
    return float((value.detach().double() - reference.detach()).abs().max() / scale)


def with_gradient(inputs: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: value.detach().to(dtype).requires_grad_() for name, value in inputs.items()}


@pytest.mark.parametrize("sizes", [SIZES, GROUPED, SIZES._replace(head_dim=64), GROUPED._replace(head_dim=4)], ids=str)
@pytest.mark.parametrize("lengths", [*([length] for length in LENGTHS), [0, *LENGTHS, 0]], ids=str)
def test_equals_recurrence(sizes: Sizes, lengths: list[int]) -> None:
    offsets = offsets_of(lengths)
    inputs = with_gradient(draw(sum(lengths), sizes), torch.float64)
    expected = expected_of(inputs, offsets, sizes)
    expected_gradients = gradients(expected, inputs)
    for dtype, tolerance, gradient_tolerance in [(torch.float64, 1e-12, 1e-11), (torch.float32, 5e-6, 1e-4)]:
        cast = with_gradient(inputs, dtype)
        output = compiled(cast, offsets, sizes)
        assert relative(output, expected) <= tolerance
        for name, gradient in gradients(output, cast).items():
            assert relative(gradient, expected_gradients[name]) <= gradient_tolerance, name


@pytest.mark.parametrize("chunk_size", [3, 5, 8, 64, 100, 256])
def test_any_chunk_size(chunk_size: int) -> None:
    inputs, offsets = with_gradient(draw(300, SIZES), torch.float64), offsets_of([150, 1, 149])
    expected, output = expected_of(inputs, offsets, SIZES), compiled(inputs, offsets, SIZES, chunk_size)
    assert relative(output, expected) <= 1e-12
    expected_gradients = gradients(expected, inputs)
    for name, gradient in gradients(output, inputs).items():
        assert relative(gradient, expected_gradients[name]) <= 1e-11, name


@pytest.mark.parametrize("sizes", [SIZES, GROUPED], ids=["one-group", "two-groups"])
def test_gradcheck(sizes: Sizes) -> None:
    small, offsets = sizes._replace(head_dim=2, state_size=2), offsets_of([5, 1])
    inputs = with_gradient(draw(6, small), torch.float64)
    names = list(inputs)
    assert torch.autograd.gradcheck(
        lambda *values: compiled(dict(zip(names, values, strict=True)), offsets, small, 3), tuple(inputs.values())
    )


def test_number_of_threads_and_gradients_change_no_bit() -> None:
    sizes = SIZES._replace(head_dim=16)
    lengths = [3000, 1, 400, 64]
    inputs = with_gradient(draw(sum(lengths), sizes), torch.float32)
    results = []
    for number in (1, 2, 3):
        with threads(number):
            output = compiled(inputs, offsets_of(lengths), sizes)
            results.append([output.detach(), *gradients(output, inputs).values()])
            with torch.no_grad():
                assert torch.equal(compiled(inputs, offsets_of(lengths), sizes), results[0][0])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("row", [0, 15, 16, 17, 99, 199])
def test_causal_to_the_bit(row: int) -> None:
    inputs, offsets = draw(200, SIZES, torch.float32), offsets_of([200])
    before = compiled(inputs, offsets, SIZES)
    inputs["projected"][row] += 1
    after = compiled(inputs, offsets, SIZES)
    assert torch.equal(before[:row], after[:row])
    assert not torch.equal(before[row], after[row])


def test_nan_stays_in_its_event() -> None:
    lengths = [40, 30, 50]
    inputs = draw(sum(lengths), SIZES, torch.float32)
    inputs["projected"].requires_grad_()
    clean = compiled(inputs, offsets_of(lengths), SIZES)
    clean_gradient = torch.autograd.grad(clean.square().sum(), inputs["projected"])[0]
    spoilt = {**inputs, "projected": inputs["projected"].detach().clone()}
    spoilt["projected"][45] = torch.nan
    spoilt["projected"].requires_grad_()
    output = compiled(spoilt, offsets_of(lengths), SIZES)
    gradient = torch.autograd.grad(output.square().sum(), spoilt["projected"])[0]
    for values, others in [(clean, output), (clean_gradient, gradient)]:
        first, second, third = others.split(lengths)
        assert torch.equal(first, values[:40])
        assert torch.equal(third, values[70:])
        assert second.isnan().any()


@pytest.mark.parametrize("shift", [1e2, 1e6])
def test_strong_decay_stays_finite(shift: float) -> None:
    inputs = draw(200, SIZES, torch.float32)
    inputs["projected"][::3, -SIZES.num_heads :] += shift
    inputs["projected"][1::3, -SIZES.num_heads :] -= shift
    inputs = with_gradient(inputs, torch.float32)
    output = compiled(inputs, offsets_of([200]), SIZES)
    assert output.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients(output, inputs).values())


def single(function: object, values: np.ndarray) -> np.ndarray:
    @compiled_kernels.njit(error_model="numpy")
    def loop(values, out):
        for i in range(len(values)):
            out[i] = function(values[i])

    out = np.empty_like(values)
    loop(values, out)
    return out


def test_exponential() -> None:
    values = np.linspace(-87, 88, 1_000_001).astype(np.float32)
    exact = np.exp(values.astype(np.float64))
    assert np.abs(single(compiled_kernels.exp, values) / exact - 1).max() < 2e-7
    far = np.array([0, -1e30, -np.inf, -87.5, 1e30, np.nan], np.float32)
    found = single(compiled_kernels.exp, far)
    assert found[:4].tolist() == [1, 0, 0, 0]
    assert np.isfinite(found[4])
    assert np.isnan(found[5])


def test_softplus_and_sigmoid() -> None:
    values = np.concatenate([np.linspace(-80, 80, 10_001), [-1e30, 1e30]]).astype(np.float32)
    exact = np.logaddexp(0, values.astype(np.float64))
    found = single(compiled_kernels._softplus, values)
    assert np.abs(found - exact).max() <= 3e-7 * 1e30
    near = slice(0, 10_001)
    gate = 1 / (1 + np.exp(-values[near].astype(np.float64)))
    assert np.abs(found[near] / exact[near] - 1).max() < 5e-7
    assert np.abs(single(compiled_kernels.sigmoid, values)[near] / gate - 1).max() < 5e-7
    assert single(compiled_kernels.sigmoid, values)[-2:].tolist() == [pytest.approx(0, abs=1e-37), 1]


def test_threads_are_started_again_after_a_fork() -> None:
    pool = mamba2_compiled._pool(os.getpid(), 2)
    assert mamba2_compiled._pool(os.getpid(), 2) is pool
    assert mamba2_compiled._pool(os.getpid() + 1, 2) is not pool


def test_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FM4NPP_COMPILED", "0")
    assert mamba2.compiled_loops() == "switched off by FM4NPP_COMPILED=0"
    monkeypatch.delenv("FM4NPP_COMPILED")
    assert mamba2.compiled_loops() is mamba2_compiled


def test_loops_that_numba_cannot_compile_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise KeyError("_nrt")

    monkeypatch.setattr(compiled_kernels, "copy", refuse)
    assert "numba cannot compile it (KeyError: '_nrt')" in mamba2._import_loops.__wrapped__()


@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_forked_process_computes_the_same(num_threads: int) -> None:
    """Data loaders fork; a pool of threads does not survive that, and must be started again."""
    code = (
        "import os, sys, torch; torch.set_num_threads(int(sys.argv[1]));"
        "from fm4npp.backbones.mamba2 import Mamba2Backbone, Mamba2Config; torch.manual_seed(0);"
        "m = Mamba2Backbone(Mamba2Config(width=32, num_layers=1)); x = torch.randn(2000, 32);"
        "o = torch.tensor([0, 2000]);"
        "from fm4npp.backbones import mamba2; inner = m.layers[0].mixer; from fm4npp.backbones.packing import Layout;"
        "layout = Layout.of(o, 64); p = layout.align(x @ inner.in_proj.weight.detach().T);"
        "torch.set_grad_enabled(False); first = inner.core(p, layout)\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    from fm4npp.backbones import mamba2_compiled as c\n"
        "    assert c._pool(os.getpid(), 2).submit(lambda: 7).result(timeout=20) == 7; os._exit(0)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(num_threads)], check=True, timeout=120)
