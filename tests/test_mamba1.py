"""The Mamba-1 backbone: its function, its size, and events that know nothing of each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from fm4npp.backbones.mamba1 import Mamba1Backbone, Mamba1Config, Mamba1Mixer, _gate, _step_size
from fm4npp.backbones.packing import Layout
from fm4npp.testing import reference

WIDTHS = [16, 64, 128, 256]
"""Of one state and of 16; the last one's chunks run in order."""


@contextmanager
def threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(before)


def make(width: int = 16, num_layers: int = 2, **fields: object) -> Mamba1Backbone:
    """A backbone away from its initialisation, where norms and D are all ones."""
    torch.manual_seed(0)
    backbone = Mamba1Backbone(Mamba1Config(width=width, num_layers=num_layers, **fields))
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.mul_(1 + 0.3 * torch.randn_like(parameter))
    return backbone


def draw(num_rows: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(num_rows, width, generator=torch.Generator().manual_seed(seed)) * 3


def offsets_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0)


def run(backbone: Mamba1Backbone, events: list[Tensor]) -> list[Tensor]:
    """Each event's last stream and block updates, (2 layers + 1, L, W), when they run as one batch."""
    offsets = offsets_of([len(event) for event in events])
    with torch.no_grad():
        updates, last = backbone(torch.cat(events), offsets)
    return list(torch.stack([*updates, last]).split([len(event) for event in events], dim=1))


def assert_alone_equals_together(backbone: Mamba1Backbone, lengths: list[int]) -> None:
    events = [draw(length, backbone.config.width, seed) for seed, length in enumerate(lengths)]
    together, reverse = run(backbone, events), run(backbone, events[::-1])[::-1]
    for event, one, other in zip(events, together, reverse, strict=True):
        (alone,) = run(backbone, [event])
        assert torch.equal(one, alone)
        assert torch.equal(other, alone)


@pytest.mark.parametrize("fields", [{}, {"state_size": 3}, {"dt_rank": 5}, {"conv_width": 3, "expand": 3}], ids=str)
def test_equals_recurrence(fields: dict[str, int]) -> None:
    backbone = make(width=32, **fields)
    lengths = [1, 70, 0, 2, 16, 129]
    embedding, offsets = draw(sum(lengths), 32), offsets_of(lengths)
    expected_updates, expected = reference.backbone(backbone, embedding, offsets)
    updates, last = backbone(embedding, offsets)
    for value, target in zip([*updates, last], [*expected_updates, expected], strict=True):
        assert (value - target).abs().max() <= 5e-6 * target.abs().max()
    updates, last = backbone.double()(embedding.double(), offsets)
    for value, target in zip([*updates, last], [*expected_updates, expected], strict=True):
        assert (value - target).abs().max() <= 1e-12 * target.abs().max()


def by_convolution(mixer: Mamba1Mixer, rows: Tensor) -> Tensor:
    """A mixer through PyTorch's modules, and its scan as a sum over all earlier rows; (L, W) of one event, float64."""
    rank, num_states, _ = mixer.splits
    x, z = mixer.in_proj(rows).chunk(2, dim=-1)
    x = F.silu(mixer.conv1d(F.pad(x.T[None], (mixer.conv1d.kernel_size[0] - 1, 0)))[0].T)
    low_rank, B, C = mixer.x_proj(x).split([rank, num_states, num_states], dim=-1)
    dt = F.softplus(mixer.dt_proj(low_rank))
    elapsed = dt.cumsum(0)[:, None] - dt.cumsum(0)[None]
    decay = torch.exp(elapsed[..., None] * -mixer.A_log.exp())
    past = torch.ones(len(rows), len(rows), dtype=rows.dtype).tril()
    y = torch.einsum("ij,in,ijdn,jn,jd->id", past, C, decay, B, dt * x) + mixer.D * x
    return mixer.out_proj(y * F.silu(z))


def test_mixer_equals_pytorch_modules() -> None:
    backbone, event = make(num_layers=1, state_size=3).double(), draw(30, 16).double()
    block = backbone.layers[0]
    rows = F.rms_norm(event, (16,), block.norm.weight, 1e-5)
    (update,), last = backbone(event, offsets_of([30]))
    torch.testing.assert_close(update, by_convolution(block.mixer, rows), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(reference.mamba1_mixer(block.mixer, rows), update, rtol=1e-11, atol=1e-12)
    stream = F.rms_norm(event + update, (16,), backbone.norm_f.weight, 1e-5)
    torch.testing.assert_close(last, stream, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("width", "count"),
    [(64, 343_066), (128, 1_337_306), (256, 5_279_578), (512, 20_979_290), (1024, 83_639_386), (1536, 187_980_378)],
)
def test_parameter_counts_of_the_paper_sizes(width: int, count: int) -> None:
    with torch.device("meta"):
        model = torch.nn.ModuleList([Mamba1Backbone(Mamba1Config(width=width)), torch.nn.Linear(width, 90)])
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == count


def test_parameter_names_and_shapes() -> None:
    shapes = {
        name.removeprefix("layers.0."): tuple(value.shape)
        for name, value in make(width=40, num_layers=1).state_dict().items()
    }
    assert shapes == {
        "norm.weight": (40,),
        "mixer.in_proj.weight": (160, 40),
        "mixer.conv1d.weight": (80, 1, 4),
        "mixer.conv1d.bias": (80,),
        "mixer.x_proj.weight": (7, 80),
        "mixer.dt_proj.weight": (80, 3),
        "mixer.dt_proj.bias": (80,),
        "mixer.A_log": (80, 2),
        "mixer.D": (80,),
        "mixer.out_proj.weight": (40, 80),
        "norm_f.weight": (40,),
    }


def test_initial_values() -> None:
    mixer = Mamba1Backbone(Mamba1Config(width=1024, num_layers=1)).layers[0].mixer
    step = F.softplus(mixer.dt_proj.bias.double())
    assert step.min() >= 1e-3 * 0.999
    assert step.max() <= 1e-1 * 1.001
    assert abs(step.log10().mean() + 2) < 0.1
    assert 0.12 < mixer.dt_proj.weight.abs().max() <= 64**-0.5
    torch.testing.assert_close(mixer.A_log.exp(), torch.arange(1.0, 65).expand(2048, 64))
    assert torch.equal(mixer.D, torch.ones(2048))


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"dt_min": 0.5}, "dt_min 0.5 exceeds"),
        ({"state_size": 0}, "state_size"),
        ({"dt_rank": 0}, "dt_rank"),
        ({"head_dim": 4}, "head_dim"),
    ],
)
def test_impossible_configurations(fields: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Mamba1Config(**{"width": 16, **fields})


def test_defaults_depend_on_sizes() -> None:
    configs = [Mamba1Config(width=width) for width in (8, 64, 100, 256, 272, 1536)]
    assert [config.state_size for config in configs] == [1, 4, 6, 16, 17, 96]
    assert [config.dt_rank for config in configs] == [1, 4, 7, 16, 17, 96]
    assert [config.rows_per_chunk for config in configs] == [16, 16, 16, 16, 32, 32]
    assert Mamba1Config.model_validate(Mamba1Config(width=64).model_dump()) == Mamba1Config(width=64)


def test_state_dict_round_trip() -> None:
    backbone, event = make(width=32), draw(50, 32)
    other = Mamba1Backbone(backbone.config)
    assert not torch.equal(run(other, [event])[0], run(backbone, [event])[0])
    other.load_state_dict(backbone.state_dict(), strict=True)
    assert torch.equal(run(other, [event])[0], run(backbone, [event])[0])


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("width", WIDTHS)
@settings(max_examples=4, deadline=None)
@given(lengths=st.lists(st.integers(1, 200), min_size=1, max_size=4))
def test_batch_mates_change_no_bit(width: int, num_threads: int, lengths: list[int]) -> None:
    with threads(num_threads):
        assert_alone_equals_together(make(width), lengths)


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize(
    ("width", "lengths"),
    [(64, [3000, 1, 0, 2, 12, 13, 14, 15, 16, 17, 1024]), (16, [40] * 60), (512, [1, 70, 31]), (768, [33, 3])],
    ids=["long", "many", "wide", "wider"],
)
def test_batch_mates_change_no_bit_in_larger_batches(width: int, lengths: list[int], num_threads: int) -> None:
    with threads(num_threads):
        assert_alone_equals_together(make(width, num_layers=1), lengths)


@pytest.mark.parametrize("chunk_size", [5, 16, 100])
def test_batch_mates_change_no_bit_at_any_chunk_size(chunk_size: int) -> None:
    assert_alone_equals_together(make(chunk_size=chunk_size), [1, 90, 2, 5, 33])


@pytest.mark.parametrize("width", [16, 256])
def test_gradients_do_not_leak(width: int) -> None:
    backbone, lengths = make(width), [30, 1, 62, 13, 16]
    embedding = draw(sum(lengths), width).requires_grad_()
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
    backbone = make(width=4, num_layers=1, state_size=2).double()
    embedding = draw(5, 4).double().requires_grad_()
    names = [name for name, _ in backbone.named_parameters()]

    def function(values: Tensor, *parameters: Tensor) -> Tensor:
        weights = dict(zip(names, parameters, strict=True))
        updates, last = torch.func.functional_call(backbone, weights, (values, offsets_of([2, 3])))
        return torch.stack([*updates, last])

    assert torch.autograd.gradcheck(function, (embedding, *backbone.parameters()))


def test_single_precision_gradients() -> None:
    backbone, lengths = make(width=32), [1, 70, 16]
    embedding, offsets = draw(sum(lengths), 32), offsets_of(lengths)
    single = torch.autograd.grad(backbone(embedding, offsets)[1].pow(3).sum(), list(backbone.parameters()))
    backbone.double()
    exact = torch.autograd.grad(backbone(embedding.double(), offsets)[1].pow(3).sum(), list(backbone.parameters()))
    for value, target in zip(single, exact, strict=True):
        assert (value - target).abs().max() <= 1e-4 * target.abs().max()


def test_step_size_and_gate() -> None:
    values = torch.cat([torch.linspace(-800, 800, 1001), torch.linspace(-5, 5, 1001)]).double()[:, None]
    values.requires_grad_()
    step = _step_size(values)
    torch.testing.assert_close(step, F.softplus(values, threshold=60), rtol=1e-14, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(step.sum(), values)[0], values.detach().sigmoid(), rtol=1e-13, atol=1e-300
    )
    generator = torch.Generator().manual_seed(0)
    y, z = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64).requires_grad_()
    torch.testing.assert_close(_gate(y, z), y * F.silu(z), rtol=1e-14, atol=0)
    y, z = y.detach().requires_grad_(), z.detach().requires_grad_()
    assert torch.autograd.gradcheck(_gate, (y, z))


def test_idle_rows_stay_zero() -> None:
    layout = Layout.of(offsets_of([5, 30]), 16)
    mixer = make().layers[0].mixer
    rows = layout.align(draw(35, 16)).requires_grad_()
    mixed = mixer(rows, layout)
    (gradient,) = torch.autograd.grad(layout.pack(mixed).square().sum(), rows)
    idle = torch.ones(layout.num_rows, dtype=torch.bool)
    idle[layout.rows] = False
    assert (mixed[idle] == 0).all()
    assert (gradient[idle] == 0).all()


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
