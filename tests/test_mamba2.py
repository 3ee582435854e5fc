"""The Mamba-2 backbone: its function, its size, and events that know nothing of each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from fm4npp import backbones
from fm4npp.backbones.mamba2 import Mamba2Backbone, Mamba2Config
from fm4npp.backbones.packing import rowwise_linear
from fm4npp.testing import reference

SHAPES = [(16, 16), (16, 4), (64, 64), (64, 16), (128, 64), (128, 16), (256, 64), (256, 16)]
"""Widths and head dimensions."""


@pytest.fixture(autouse=True, params=["torch", "compiled"])
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """What computes the inside of a mixer."""
    if request.param == "compiled":
        pytest.importorskip("numba")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FM4NPP_COMPILED", "0" if request.param == "torch" else "1")
        yield request.param


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(before)


def make(width: int = 16, head_dim: int = 16, num_layers: int = 2, **fields: object) -> Mamba2Backbone:
    """A backbone away from its initialisation, where norms and D are all ones."""
    torch.manual_seed(0)
    backbone = Mamba2Backbone(Mamba2Config(width=width, head_dim=head_dim, num_layers=num_layers, **fields))
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.mul_(1 + 0.3 * torch.randn_like(parameter))
    return backbone


def draw(num_rows: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(num_rows, width, generator=torch.Generator().manual_seed(seed)) * 3


def offsets_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def run(backbone: Mamba2Backbone, events: list[Tensor]) -> list[Tensor]:
    """Each event's last stream and block updates, (2 layers + 1, L, W), when they run as one batch."""
    offsets = offsets_of([len(event) for event in events])
    with torch.no_grad():
        updates, last = backbone(torch.cat(events), offsets)
    return list(torch.stack([*updates, last]).split([len(event) for event in events], dim=1))


def assert_alone_equals_together(backbone: Mamba2Backbone, lengths: list[int]) -> None:
    events = [draw(length, backbone.config.width, seed) for seed, length in enumerate(lengths)]
    together, reverse = run(backbone, events), run(backbone, events[::-1])[::-1]
    for event, one, other in zip(events, together, reverse, strict=True):
        (alone,) = run(backbone, [event])
        assert torch.equal(one, alone)
        assert torch.equal(other, alone)


@pytest.mark.parametrize("num_groups", [1, 2])
@pytest.mark.parametrize("head_dim", [4, 16])
def test_equals_recurrence(head_dim: int, num_groups: int) -> None:
    backbone = make(head_dim=head_dim, num_groups=num_groups, width=32)
    lengths = [1, 70, 0, 2, 16, 129]
    embedding, offsets = draw(sum(lengths), 32), offsets_of(lengths)
    expected_updates, expected = reference.backbone(backbone, embedding, offsets)
    updates, last = backbone(embedding, offsets)
    for value, target in zip([*updates, last], [*expected_updates, expected], strict=True):
        assert (value - target).abs().max() <= 5e-6 * target.abs().max()
    updates, last = backbone.double()(embedding.double(), offsets)
    for value, target in zip([*updates, last], [*expected_updates, expected], strict=True):
        assert (value - target).abs().max() <= 1e-12 * target.abs().max()


@pytest.mark.parametrize(
    ("width", "count"),
    [(64, 319_042), (128, 1_243_178), (256, 4_907_002), (512, 19_496_858), (1024, 77_725_402), (1536, 174_685_722)],
)
def test_parameter_counts_of_the_paper_sizes(width: int, count: int) -> None:
    with torch.device("meta"):
        model = torch.nn.ModuleList([Mamba2Backbone(Mamba2Config(width=width)), torch.nn.Linear(width, 90)])
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == count


def test_parameter_names() -> None:
    names = {name.removeprefix("layers.0.") for name, _ in make(num_layers=1).named_parameters()}
    mixer = [
        "in_proj.weight",
        "conv1d.weight",
        "conv1d.bias",
        "dt_bias",
        "A_log",
        "D",
        "norm.weight",
        "out_proj.weight",
    ]
    assert names == {"norm_f.weight", "norm.weight", *(f"mixer.{name}" for name in mixer)}


def test_initial_values() -> None:
    mixer = Mamba2Backbone(Mamba2Config(width=1024, head_dim=4, num_layers=1)).layers[0].mixer
    step = torch.nn.functional.softplus(mixer.dt_bias.double())
    assert step.min() >= 1e-3 * 0.999
    assert step.max() <= 1e-1 * 1.001
    assert abs(step.log10().mean() + 2) < 0.1
    assert mixer.A_log.exp().min() >= 1
    assert mixer.A_log.exp().max() <= 16.001
    assert torch.equal(mixer.D, torch.ones(512))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"head_dim": 24}, "head_dim 24 does not divide"),
        ({"head_dim": 32, "num_groups": 2}, "num_groups 2 does not divide"),
        ({"dt_min": 0.5}, "dt_min 0.5 exceeds"),
        ({"A_init_range": (0.0, 1.0)}, "A_init_range"),
        ({"heads": 3}, "heads"),
    ],
)
def test_impossible_configurations(fields: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Mamba2Config(**{"width": 16, "head_dim": 16, **fields})


def test_defaults_depend_on_sizes() -> None:
    assert [Mamba2Config(width=width, head_dim=8).state_size for width in (8, 64, 1536)] == [1, 4, 96]
    chunks = [Mamba2Config(width=64, head_dim=head_dim).rows_per_chunk for head_dim in (1, 4, 16, 32, 64, 128)]
    assert chunks == [16, 16, 16, 32, 64, 64]
    assert Mamba2Config.model_validate(Mamba2Config(width=64).model_dump()) == Mamba2Config(width=64)


def test_registered() -> None:
    assert backbones.get("mamba2") is Mamba2Backbone


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize(("width", "head_dim"), SHAPES)
@settings(max_examples=5, deadline=None)
@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=5))
def test_batch_mates_change_no_bit(width: int, head_dim: int, num_threads: int, lengths: list[int]) -> None:
    with threads(num_threads):
        assert_alone_equals_together(make(width, head_dim), lengths)


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize(
    ("width", "lengths"),
    [(64, [3000, 1, 0, 61, 62, 63, 64, 65, 1024, 2]), (16, [40] * 200), (512, [1, 500, 64]), (768, [200, 3])],
    ids=["long", "many", "wide", "wider"],
)
def test_batch_mates_change_no_bit_in_larger_batches(width: int, lengths: list[int], num_threads: int) -> None:
    with threads(num_threads):
        assert_alone_equals_together(make(width, min(width, 64), num_layers=1), lengths)


@pytest.mark.parametrize("chunk_size", [5, 16, 100])
def test_batch_mates_change_no_bit_at_any_chunk_size(chunk_size: int) -> None:
    assert_alone_equals_together(make(chunk_size=chunk_size), [1, 90, 2, 5, 33])


@pytest.mark.parametrize("num_threads", [1, 2])
def test_projection_of_the_stream_changes_no_bit(num_threads: int) -> None:
    weight = torch.randn(90, 64)
    lengths = [1, 2, 40, 300, 7]
    streams = [draw(length, 64, length) for length in lengths]
    with threads(num_threads):
        together = rowwise_linear(torch.cat(streams), weight).split(lengths)
        assert all(torch.equal(a, rowwise_linear(b, weight)) for a, b in zip(together, streams, strict=True))


def test_gradients_do_not_leak() -> None:
    backbone, lengths = make(head_dim=4), [30, 1, 62, 13, 16]
    embedding = draw(sum(lengths), 16).requires_grad_()
    for chosen in range(len(lengths)):
        updates, last = backbone(embedding, offsets_of(lengths))
        loss = sum(value.split(lengths)[chosen].square().sum() for value in (*updates, last))
        gradients = torch.autograd.grad(loss, embedding)[0].split(lengths)
        for event, gradient in enumerate(gradients):
            assert gradient.isfinite().all()
            assert bool((gradient != 0).any()) == (event == chosen)


def test_gradients_equal_those_of_events_alone() -> None:
    backbone, lengths = make(num_layers=4).double(), [30, 1, 62, 13, 16]
    embedding = draw(sum(lengths), 16).double()
    parameters = list(backbone.parameters())
    together = torch.autograd.grad(backbone(embedding, offsets_of(lengths))[1].pow(3).sum(), parameters)
    alone = [
        torch.autograd.grad(backbone(event, offsets_of([len(event)]))[1].pow(3).sum(), parameters)
        for event in embedding.split(lengths)
    ]
    for whole, *parts in zip(together, *alone, strict=True):
        torch.testing.assert_close(whole, sum(parts), rtol=1e-9, atol=1e-9 * float(whole.abs().max()))


def test_gradients_of_a_deep_stack_stay_finite() -> None:
    # A gradient in the zero rows would be multiplied by 1 / sqrt(eps) at each of 24 norms.
    backbone, lengths = make(num_layers=12), [30, 1, 62, 13, 16]
    backbone(draw(sum(lengths), 16), offsets_of(lengths))[1].square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in backbone.parameters())


def test_gradcheck() -> None:
    backbone = make(width=4, head_dim=4, num_layers=1, state_size=2).double()
    embedding = draw(5, 4).double().requires_grad_()
    names = [name for name, _ in backbone.named_parameters()]

    def function(values: Tensor, *parameters: Tensor) -> Tensor:
        weights = dict(zip(names, parameters, strict=True))
        updates, last = torch.func.functional_call(backbone, weights, (values, offsets_of([2, 3])))
        return torch.stack([*updates, last])

    assert torch.autograd.gradcheck(function, (embedding, *backbone.parameters()))


@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0]], ids=str)
def test_nothing(lengths: list[int]) -> None:
    backbone = make()
    embedding = torch.zeros(0, 16, requires_grad=True)
    updates, last = backbone(embedding, offsets_of(lengths))
    assert [value.shape for value in (*updates, last)] == [(0, 16)] * 3
    last.sum().backward()
    assert all((parameter.grad == 0).all() for parameter in backbone.parameters() if parameter.grad is not None)


def test_empty_events_change_nothing() -> None:
    backbone, event = make(), draw(20, 16)
    assert torch.equal(backbone(event, offsets_of([0, 20, 0]))[1], backbone(event, offsets_of([20]))[1])


def test_causal_to_the_bit() -> None:
    backbone, event = make(num_layers=3), draw(100, 16)
    (before,) = run(backbone, [event])
    event[50] += 1
    (after,) = run(backbone, [event])
    assert torch.equal(before[:, :50], after[:, :50])
    assert (before[:, 50] != after[:, 50]).any()


def test_updates_are_what_the_residual_sum_adds() -> None:
    backbone, event = make(), draw(40, 16)
    updates, last = backbone(event, offsets_of([40]))
    torch.testing.assert_close(backbone.norm_f(event + sum(updates)), last, rtol=1e-5, atol=1e-5)


def test_autocast_keeps_the_state_in_single_precision() -> None:
    backbone, event = make(), draw(300, 16)
    exact = backbone(event, offsets_of([300]))[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        last = backbone(event, offsets_of([300]))[1]
        last.float().square().sum().backward()
    assert (last - exact).abs().max() < 0.1 * exact.abs().max()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in backbone.parameters())


def test_alternate_blocks_read_backwards() -> None:
    torch.manual_seed(0)
    config = Mamba2Config(width=32, num_layers=3, state_size=4, head_dim=16, alternate=True)
    backbone, plain = Mamba2Backbone(config), Mamba2Backbone(config.model_copy(update={"alternate": False}))
    plain.load_state_dict(backbone.state_dict())
    stream, offsets = torch.randn(12, 32), torch.tensor([0, 12])
    expected = stream
    for number, block in enumerate(plain.layers):
        layout = plain._layout(offsets, "torch")
        turned = expected.flip(0) if number % 2 else expected
        update = layout.pack(block(layout.align(turned), layout))
        expected = expected + (update.flip(0) if number % 2 else update)
    updates, last = backbone(stream, offsets)
    torch.testing.assert_close(last, backbone.norm_f(expected))
    torch.testing.assert_close(stream + sum(updates), expected)
    later = stream.clone()
    later[-1] += 1
    assert (backbone(later, offsets)[1][0] != last[0]).any()
    assert torch.equal(plain(later, offsets)[1][0], plain(stream, offsets)[1][0])


def test_alternate_blocks_see_no_batch_mates() -> None:
    torch.manual_seed(0)
    backbone = Mamba2Backbone(Mamba2Config(width=32, num_layers=4, state_size=4, head_dim=16, alternate=True))
    rows, offsets = torch.randn(30, 32), torch.tensor([0, 11, 11, 12, 30])
    _, together = backbone(rows, offsets)
    for start, stop in ((0, 11), (11, 12), (12, 30)):
        _, alone = backbone(rows[start:stop], torch.tensor([0, stop - start]))
        assert torch.equal(alone, together[start:stop])
