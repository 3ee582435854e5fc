"""Coordinate check: how large a model's activations and their changes are, over widths (arXiv:2203.03466, app. D.1)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fm4npp.backbones.convolution import causal_convolution
from fm4npp.backbones.packing import Layout
from fm4npp.backbones.selective_scan import selective_scan
from fm4npp.backbones.ssd import ssd
from fm4npp.batch import EventBatch
from fm4npp.configuration import FM4NPPConfig
from fm4npp.errors import ConfigurationError
from fm4npp.event import Event
from fm4npp.modeling import FM4NPPModel
from fm4npp.processing import FM4NPPProcessor
from fm4npp.training.config import ModelConfig, TrainingConfig
from fm4npp.training.mup import Part, mixer_parts, parameterize
from fm4npp.training.schedule import RowAdamW, parameter_groups

WIDTHS = (64, 128, 256, 512)
FACTOR = 2.0
"""Most by which a size or a change may differ between two widths."""
Record = dict[str, Any]
Activations = dict[str, list[Tensor]]


@dataclass(frozen=True)
class Growth:
    """How one layer depends on the width.

    Attributes:
        size: of its activations at the largest width, over that at the smallest, after the last step.
        change: the same of the change of its activations since initialisation.
        worst: largest ratio between any two widths, of sizes or of changes, after any step.
    """

    size: float
    change: float
    worst: float


def coordinate_check(
    events: Sequence[Event],
    model: ModelConfig,
    training: TrainingConfig,
    *,
    widths: Sequence[int] = WIDTHS,
    steps: int = 10,
    seeds: Sequence[int] = (0, 1),
    progress: Callable[[int], None] = lambda count: None,
) -> list[Record]:
    """Train a model for a few steps at several widths and measure its activations on one batch after each.

    Args:
        events: dealt out to the steps, of one detector; the first step's are those measured on.
        model: its width is replaced; what its backbone leaves out (`state_size`) follows the width.
        training: parameterization, learning rate (constant), betas, decay and clipping.
        widths: to compare.
        steps: optimizer steps.
        seeds: of the weights; sizes are averaged over them.
        progress: called with the number of models trained so far.

    Returns:
        One record for each width, step (0 is initialisation) and layer: `parameterization`, `width`, `step`, `layer`,
        and `size` and `change`: root mean squares of the activations, and of their change since initialisation, over
        spacepoints, channels and blocks.

    Raises:
        ConfigurationError: if there are fewer events than steps, or a width is impossible.
    """
    if len(events) < steps:
        raise ConfigurationError(f"{steps} steps need as many events, there are {len(events)}")
    records, done = [], 0
    for width in widths:
        runs = []
        for seed in seeds:
            runs.append(_run(events, _at_width(model, width), training, steps, seed))
            progress(done := done + 1)
        for step in range(steps + 1):
            for layer in runs[0][step]:
                size, change = torch.tensor([run[step][layer] for run in runs]).mean(0).tolist()
                place = {"parameterization": training.parameterization, "width": width, "step": step, "layer": layer}
                records.append({**place, "size": size, "change": change})
    return records


def growth(records: Sequence[Record]) -> dict[str, Growth]:
    """How every layer depends on the width, from the records of one parameterization."""
    widths = sorted({record["width"] for record in records})
    last = max(record["step"] for record in records)
    table = {(record["layer"], record["step"], record["width"]): record for record in records}
    found = {}
    for layer in dict.fromkeys(record["layer"] for record in records):
        rows = [[table[layer, step, width] for width in widths] for step in range(1, last + 1)]
        ratios = {key: _ratio(rows[-1][-1][key], rows[-1][0][key]) for key in ("size", "change")}
        spreads = [_spread([record[key] for record in row]) for row in rows for key in ("size", "change")]
        found[layer] = Growth(ratios["size"], ratios["change"], max(spreads))
    return found


def _ratio(value: float, reference: float) -> float:
    """A ratio that is 1 where both are zero: what nothing has moved yet does not grow."""
    if value == reference:
        return 1.0
    return value / reference if reference else float("inf")


def _spread(values: Sequence[float]) -> float:
    return _ratio(max(values), min(values))


def _at_width(model: ModelConfig, width: int) -> ModelConfig:
    return model.model_copy(update={"size": None, "backbone": {**model.backbone, "width": width}})


def _run(
    events: Sequence[Event], model_config: ModelConfig, training: TrainingConfig, steps: int, seed: int
) -> list[dict[str, tuple[float, float]]]:
    """After each step, from 0: layer -> size and change of its activations."""
    config = FM4NPPConfig.create(**model_config.fields([events[0].detector]))
    processor = FM4NPPProcessor(config).fit(events)
    batches = [processor(list(events[step::steps])) for step in range(steps)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FM4NPPModel(processor.config, backend="torch")
    multipliers = parameterize(model, model_config.fields([])["backbone"], training)
    groups = parameter_groups(model, training.weight_decay, multipliers)
    for group in groups:
        group["lr"] = training.learning_rate * group["multiplier"]
    optimizer = RowAdamW(groups, betas=training.betas)
    initial = activations(model, batches[0])
    found = [_sizes(initial, initial)]
    for batch in batches:
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), training.clip_norm)
        optimizer.step()
        found.append(_sizes(activations(model, batches[0]), initial))
    return found


def _sizes(found: Activations, initial: Activations) -> dict[str, tuple[float, float]]:
    changes = {layer: [new - old for new, old in zip(found[layer], initial[layer], strict=True)] for layer in found}
    return {layer: (_root_mean_square(found[layer]), _root_mean_square(changes[layer])) for layer in found}


def _root_mean_square(tensors: list[Tensor]) -> float:
    """Over all blocks, spacepoints and channels."""
    return float(torch.stack([values.double().square().mean() for values in tensors]).mean().sqrt())


# ---- what is measured


@torch.no_grad()
def activations(model: FM4NPPModel, batch: EventBatch) -> Activations:
    """The activations of every kind of layer, one tensor for each block.

    `C x N` is C times the number of states, over which its products with the state are summed; `dt` is the step size's
    part that depends on the data, before bias and softplus; `y` is the state-space part and D x, before the gate.

    Args:
        model: a stack of Mamba blocks, computed by PyTorch.
        batch: with at least one event.

    Returns:
        Layer -> (rows, channels) of each block, or of the whole model.
    """
    inside: Activations = {}
    with _recorded(model, inside):
        output = model(**batch)
    stream = output.embedding + torch.stack(output.block_outputs).sum(0)
    return {
        "embedding": [output.embedding],
        **inside,
        "block update": list(output.block_outputs),
        "residual stream": [stream],
        "final norm": [output.last_hidden_state],
        "predictions": [output.predictions["objective"]],
    }


@contextmanager
def _recorded(model: FM4NPPModel, found: Activations) -> Iterator[None]:
    """Record what happens inside the mixers during a forward pass."""
    parts = mixer_parts(model.backbone)[1]

    def record(mixer: nn.Module, arguments: tuple[Any, ...]) -> None:
        rows, layout = arguments
        for layer, values in _inside(mixer, rows, layout, parts).items():
            found.setdefault(layer, []).append(values[rows.any(1)])  # without the zero rows between events

    blocks = model.backbone.layers
    handles = [block.mixer.register_forward_pre_hook(record) for block in blocks]  # type: ignore[union-attr]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _inside(mixer: Any, rows: Tensor, layout: Layout, parts: Mapping[str, tuple[Part, ...]]) -> dict[str, Tensor]:
    """A mixer's projections, those that it convolves after the convolution, and y, from its (S, W) input."""
    found = _split(nn.functional.linear(rows, mixer.in_proj.weight), parts["in_proj.weight"])
    convolved = [Part(role, found[role].shape[1]) for role in ("x", "B", "C") if role in found]
    values = torch.cat([found[part.role] for part in convolved], dim=1)
    xbc = causal_convolution(values, mixer.conv1d.weight[:, 0], mixer.conv1d.bias, layout)
    found |= _split(xbc, convolved)
    A, D = -mixer.A_log.exp(), mixer.D
    if "x_proj.weight" in parts:  # Mamba-1
        found |= _split(nn.functional.linear(xbc, mixer.x_proj.weight), parts["x_proj.weight"])
        found["dt"] = nn.functional.linear(found["dt"], mixer.dt_proj.weight)
        step_size = nn.functional.softplus(found["dt"] + mixer.dt_proj.bias)
        found["y"] = selective_scan(xbc, step_size, A, found["B"], found["C"], D, layout)
    else:
        step_size = nn.functional.softplus(found["dt"] + mixer.dt_bias)
        found["y"] = ssd(xbc, step_size, A, D, mixer.sizes, layout)
    C = found.pop("C")
    return {**{layer: found[layer] for layer in ("z", "x", "B", "dt")}, "C x N": C * C.shape[1], "y": found["y"]}


def _split(values: Tensor, parts: Sequence[Part]) -> dict[str, Tensor]:
    pieces = values.split([part.num_rows for part in parts], dim=1)
    return {part.role: piece for part, piece in zip(parts, pieces, strict=True)}
