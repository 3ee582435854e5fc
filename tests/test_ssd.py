"""The chunked state-space recurrence, the convolution and the norms against plain double-precision computations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fm4npp.backbones.convolution import causal_convolution
from fm4npp.backbones.norms import GatedRMSNorm, RMSNorm
from fm4npp.backbones.packing import MIN_ROWS, Layout, rowwise_linear, silu, softplus
from fm4npp.backbones.ssd import Sizes, ssd
from fm4npp.testing.reference import recurrence

SIZES = Sizes(num_heads=4, head_dim=8, num_groups=1, state_size=6)
GROUPED = SIZES._replace(num_groups=2)
CHUNK = 16
LENGTHS = [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 1000]


@contextmanager
def threads(number: int) -> Iterator[None]:
    """A number of threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(before)


def rms_norm(values: Tensor, weight: Tensor, num_groups: int = 1) -> Tensor:
    groups = values.unflatten(-1, (num_groups, -1))
    return (groups / (groups.square().mean(-1, keepdim=True) + 1e-5).sqrt()).flatten(-2) * weight


def offsets_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def draw(num_rows: int, sizes: Sizes, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Inputs of `ssd` by argument name, packed."""
    generator = torch.Generator().manual_seed(num_rows)
    heads, channels = sizes.num_heads, sizes.num_heads * sizes.head_dim + 2 * sizes.num_groups * sizes.state_size

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    values = {
        "xbc": normal(num_rows, channels),
        "dt": (normal(num_rows, heads) - 3).exp(),
        "A": -normal(heads).exp(),
        "D": normal(heads),
    }
    return {name: value.to(dtype) for name, value in values.items()}


def chunked(inputs: dict[str, Tensor], offsets: Tensor, sizes: Sizes, chunk_size: int = CHUNK) -> Tensor:
    layout = Layout.of(offsets, chunk_size)
    xbc, dt = layout.align(inputs["xbc"]), layout.align(inputs["dt"])
    return layout.pack(ssd(xbc, dt, inputs["A"], inputs["D"], sizes, layout))


def recurrent(inputs: dict[str, Tensor], offsets: Tensor, sizes: Sizes) -> Tensor:
    depth = sizes.num_groups * sizes.state_size
    x, B, C = inputs["xbc"].split([sizes.num_heads * sizes.head_dim, depth, depth], dim=-1)
    x, B, C = (
        x.unflatten(-1, (sizes.num_heads, -1)),
        B.unflatten(-1, (sizes.num_groups, -1)),
        C.unflatten(-1, (sizes.num_groups, -1)),
    )
    events = [slice(int(a), int(b)) for a, b in pairwise(offsets)]
    return torch.cat(
        [recurrence(x[e], inputs["dt"][e], inputs["A"], B[e], C[e], inputs["D"]).flatten(1) for e in events]
    )


def gradients(output: Tensor, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).reshape(output.shape)
    return dict(zip(inputs, torch.autograd.grad((output * weights).sum(), list(inputs.values())), strict=True))


def relative(value: Tensor, reference: Tensor) -> float:
    scale = reference.detach().abs().max().clamp(min=1e-3)
    return float((value.detach().double() - reference.detach()).abs().max() / scale)


@pytest.mark.parametrize("sizes", [SIZES, GROUPED], ids=["one-group", "two-groups"])
@pytest.mark.parametrize("lengths", [*([length] for length in LENGTHS), LENGTHS], ids=str)
def test_chunked_equals_recurrence(sizes: Sizes, lengths: list[int]) -> None:
    offsets = offsets_of(lengths)
    inputs = {name: value.requires_grad_() for name, value in draw(sum(lengths), sizes).items()}
    expected = recurrent(inputs, offsets, sizes)
    expected_gradients = gradients(expected, inputs)
    for dtype, forward_tolerance, backward_tolerance in [(torch.float64, 1e-12, 1e-11), (torch.float32, 5e-6, 1e-4)]:
        cast = {name: value.detach().to(dtype).requires_grad_() for name, value in inputs.items()}
        output = chunked(cast, offsets, sizes)
        assert relative(output, expected) <= forward_tolerance
        for name, gradient in gradients(output, cast).items():
            assert relative(gradient, expected_gradients[name]) <= backward_tolerance, name


def test_ten_thousand_rows() -> None:
    inputs, offsets = draw(10_000, SIZES), offsets_of([10_000])
    expected = recurrent(inputs, offsets, SIZES)
    assert relative(chunked(inputs, offsets, SIZES, 64), expected) <= 1e-12
    single = {name: value.float() for name, value in inputs.items()}
    assert relative(chunked(single, offsets, SIZES, 64), expected) <= 5e-6


@pytest.mark.parametrize("chunk_size", [1, 3, 5, 8, 64, 100, 256])
def test_any_chunk_size(chunk_size: int) -> None:
    inputs, offsets = draw(300, SIZES, torch.float32), offsets_of([150, 1, 149])
    assert relative(chunked(inputs, offsets, SIZES, chunk_size), chunked(inputs, offsets, SIZES).double()) <= 1e-6


def test_strong_decay_stays_finite() -> None:
    inputs = draw(200, SIZES, torch.float32)
    inputs["dt"] = inputs["dt"] * 1e4
    inputs = {name: value.requires_grad_() for name, value in inputs.items()}
    output = chunked(inputs, offsets_of([200]), SIZES)
    assert output.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients(output, inputs).values())


@pytest.mark.parametrize("row", [0, 15, 16, 17, 99, 199])
def test_causal_to_the_bit(row: int) -> None:
    inputs, offsets = draw(200, SIZES, torch.float32), offsets_of([200])
    before = chunked(inputs, offsets, SIZES)
    inputs["xbc"][row] += 10
    after = chunked(inputs, offsets, SIZES)
    assert torch.equal(before[:row], after[:row])
    assert not torch.equal(before[row], after[row])


@pytest.mark.parametrize("sizes", [SIZES, GROUPED], ids=["one-group", "two-groups"])
def test_ssd_gradcheck(sizes: Sizes) -> None:
    small, offsets = sizes._replace(head_dim=2, state_size=2), offsets_of([5, 1])
    inputs = {name: value.requires_grad_() for name, value in draw(6, small).items()}
    names = list(inputs)
    assert torch.autograd.gradcheck(
        lambda *values: chunked(dict(zip(names, values, strict=True)), offsets, small, 3), tuple(inputs.values())
    )


def convolve(values: Tensor, weight: Tensor, bias: Tensor, offsets: Tensor, chunk_size: int) -> Tensor:
    layout = Layout.of(offsets, chunk_size)
    return layout.pack(causal_convolution(layout.align(values), weight, bias, layout))


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("num_taps", [1, 2, 4])
def test_convolution(num_taps: int, chunk_size: int) -> None:
    lengths, generator = [1, 2, 4, 8], torch.Generator().manual_seed(0)
    offsets = offsets_of(lengths)
    values = torch.randn(sum(lengths), 3, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, num_taps, generator=generator, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, generator=generator, dtype=torch.float64, requires_grad=True)
    expected = torch.cat(
        [
            F.silu(F.conv1d(F.pad(event.T[None], (num_taps - 1, 0)), weight[:, None], bias, groups=3))[0].T
            for event in values.split(lengths)
        ]
    )
    found = convolve(values, weight, bias, offsets, chunk_size)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda *a: convolve(*a, offsets, chunk_size), (values, weight, bias))


@pytest.mark.parametrize("num_groups", [1, 2])
def test_norms(num_groups: int) -> None:
    generator = torch.Generator().manual_seed(0)
    values, gate = torch.randn(2, 7, 6, generator=generator, dtype=torch.float64).requires_grad_()
    gated, plain = GatedRMSNorm(6, num_groups, 1e-5).double(), RMSNorm(6, 1e-5).double()
    for norm in (gated, plain):
        norm.weight.data = torch.randn(6, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(
        gated(values, gate), rms_norm(values * F.silu(gate), gated.weight, num_groups), rtol=1e-13, atol=1e-13
    )
    torch.testing.assert_close(plain(values), rms_norm(values, plain.weight), rtol=1e-13, atol=1e-13)
    values, gate = values.detach().requires_grad_(), gate.detach().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v, g, w: torch.func.functional_call(gated, {"weight": w}, (v, g)), (values, gate, gated.weight)
    )
    assert torch.autograd.gradcheck(
        lambda v, w: torch.func.functional_call(plain, {"weight": w}, (v,)), (values, plain.weight)
    )


def test_norm_of_zero_rows_is_zero() -> None:
    zeros = torch.zeros(3, 8)
    assert torch.equal(RMSNorm(8, 1e-5)(zeros), zeros)
    assert torch.equal(GatedRMSNorm(8, 1, 1e-5)(torch.randn(3, 8), zeros), zeros)


def test_activations_equal_pytorch() -> None:
    values = torch.cat([torch.linspace(-800, 800, 1001), torch.linspace(-5, 5, 1001)]).double().requires_grad_()
    torch.testing.assert_close(silu(values.detach()), F.silu(values.detach()), rtol=1e-14, atol=1e-300)
    torch.testing.assert_close(softplus(values), F.softplus(values, threshold=60), rtol=1e-14, atol=0)
    gradient = torch.autograd.grad(softplus(values).sum(), values)[0]
    torch.testing.assert_close(gradient, values.detach().sigmoid(), rtol=1e-14, atol=1e-17)


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("function", [silu, softplus, torch.sin, torch.cos], ids=lambda f: f.__name__)
def test_activations_do_not_depend_on_the_place(function: Callable[[Tensor], Tensor], num_threads: int) -> None:
    values = torch.randn(70_000, generator=torch.Generator().manual_seed(0)) * 5
    with threads(num_threads):
        whole = function(values)
        for start, stop in [(0, 1), (1, 40), (17, 33), (5, 700), (333, 69_001), (34_999, 35_001)]:
            assert torch.equal(function(values[start:stop]), whole[start:stop])


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize(
    ("inputs", "outputs"), [(16, 90), (63, 64), (64, 264), (256, 1064), (512, 256), (1024, 90), (1200, 512)]
)
def test_rowwise_linear(inputs: int, outputs: int, num_threads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    values, weight = torch.randn(700, inputs, generator=generator), torch.randn(outputs, inputs, generator=generator)
    bias = torch.randn(outputs, generator=generator)
    with threads(num_threads):
        whole = rowwise_linear(values, weight, bias)
        for start, size in [(0, 0), (0, 1), (5, 2), (699, 1), (31, 15), (33, 63), (100, 64), (7, 129), (251, 449)]:
            part = rowwise_linear(values[start : start + size], weight, bias)
            assert torch.equal(part, whole[start : start + size])
    expected = F.linear(values.double(), weight.double(), bias.double())
    torch.testing.assert_close(whole.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chunk_size", [4, 16])
def test_layout(chunk_size: int) -> None:
    lengths = [0, 5, 1, 0, 16, 30, 13, 0]
    offsets = offsets_of(lengths)
    layout = Layout.of(offsets, chunk_size)
    packed = torch.arange(1.0, sum(lengths) + 1)[:, None].repeat(1, 2)
    aligned = layout.align(packed)
    assert torch.equal(layout.pack(aligned), packed)
    assert len(aligned) % chunk_size == 0
    assert len(aligned) >= MIN_ROWS
    assert int((aligned != 0).any(1).sum()) == sum(lengths)
    starts = layout.rows[offsets[:-1][torch.tensor(lengths) > 0]]
    assert (starts % chunk_size == 0).all()
    assert set((starts // chunk_size).tolist()) <= set(layout.first.tolist())
    last = int(layout.rows[-1]) // chunk_size
    assert [chunk for chunk in layout.first.tolist() if chunk <= last] == (starts // chunk_size).tolist()
    assert [i for i, first in enumerate(layout.is_first) if first] == layout.first.tolist()


@pytest.mark.parametrize("lengths", [[], [0], [0, 0]], ids=str)
def test_layout_of_nothing(lengths: list[int]) -> None:
    layout = Layout.of(offsets_of(lengths), 16)
    assert layout.align(torch.zeros(0, 3)).shape == (MIN_ROWS, 3)
    assert layout.pack(torch.zeros(MIN_ROWS, 3)).shape == (0, 3)
