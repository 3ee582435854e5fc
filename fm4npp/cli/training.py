"""Commands on how models train: coordinate-check."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from fm4npp.cli.app import AsJson, Debug, command, finish, out, progress
from fm4npp.errors import ConfigurationError, FM4NPPError

EVENTS_PER_STEP = 2
PARAMETERIZATIONS = {"standard": "standard", "mup": "μP"}
Records = list[dict[str, Any]]


@command
def coordinate_check(
    detector: Annotated[str, typer.Option(help="Whose events are simulated: registered name, or a YAML file.")] = (
        "sphenix-tpc"
    ),
    widths: Annotated[str, typer.Option(help="Comma-separated; the smallest is the base width of μP.")] = (
        "64,128,256,512"
    ),
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 10,
    output: Annotated[Path | None, typer.Option(help="Picture to write: .png, .pdf or .svg.")] = None,
    backbone: Annotated[str, typer.Option(help="Registered backbone.")] = "mamba2",
    layers: Annotated[int, typer.Option(min=1, help="Blocks.")] = 4,
    learning_rate: Annotated[float, typer.Option(help="Constant; by default that of the preset fm4npp.")] = 4e-3,
    rule: Annotated[str, typer.Option(help="μP of B and C: derived, or paper (its formulas as printed).")] = "derived",
    seeds: Annotated[int, typer.Option(min=1, help="Models of every width, averaged over.")] = 2,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Check that activations and their changes keep their size over widths with μP, and show that they do not without.

    Example: fm4npp coordinate-check --output coordinates.png
    """
    from fm4npp.training.coordinate_check import FACTOR, growth

    chosen = _widths(widths)
    settings = {"learning_rate": learning_rate, "mup_base_width": chosen[0], "mup_rule": rule}
    records = _measure(detector, {"type": backbone, "num_layers": layers}, settings, chosen, steps, seeds)
    found = {name: growth([r for r in records if r["parameterization"] == name]) for name in PARAMETERIZATIONS}
    worst = {name: max(layer.worst for layer in rows.values()) for name, rows in found.items()}
    _print_table(found, chosen, steps)
    lines = [
        f"largest factor between two widths after any step: standard {worst['standard']:.2f}, μP {worst['mup']:.2f} "
        f"(limit {FACTOR:g})"
    ]
    if output is not None:
        from fm4npp.plotting.coordinate_check import draw_coordinates

        note = f"{backbone}, {layers} blocks, learning rate {learning_rate:g}, {steps} steps, μP rule {rule}"
        lines.append(f"picture: {draw_coordinates(records, output, factor=FACTOR, note=note)}")
    table = {name: {key: dataclasses.asdict(row) for key, row in rows.items()} for name, rows in found.items()}
    finish({"widths": chosen, "steps": steps, "worst": worst, "growth": table}, as_json, *lines)
    if not worst["mup"] <= FACTOR:
        layer = max(found["mup"], key=lambda name: found["mup"][name].worst)
        raise FM4NPPError(f"with μP, {layer!r} differs by a factor of {worst['mup']:.2f} between two widths")


def _widths(text: str) -> list[int]:
    try:
        found = sorted({int(width) for width in text.split(",")})
    except ValueError:
        found = []
    if len(found) < 2 or found[0] < 1:
        raise ConfigurationError(f"--widths {text!r}: give two numbers or more, such as 64,128,256")
    return found


def _measure(
    detector: str, backbone: dict[str, Any], settings: Mapping[str, Any], widths: list[int], steps: int, seeds: int
) -> Records:
    """The records of both parameterizations, on simulated events."""
    from fm4npp import detectors
    from fm4npp.simulation import ParticleGun, simulate
    from fm4npp.training.config import ModelConfig, TrainingConfig, parse
    from fm4npp.training.coordinate_check import coordinate_check as measured

    loaded = detectors.load(detector)
    events = list(simulate(loaded, EVENTS_PER_STEP * steps, 1, ParticleGun(mean_primaries=3.0)))
    values = {
        "detectors": [loaded.spec()],
        "objective": {"type": "k-nnn", "targets": "offset"},
        "embedding": {"projection": "learned"},
        "backbone": {**backbone, "width": widths[0]},
    }
    model = parse(ModelConfig, values)
    records: Records = []
    with progress("training", len(PARAMETERIZATIONS) * len(widths) * seeds) as update:
        for index, name in enumerate(PARAMETERIZATIONS):
            own = {"weight_decay": 0.0, "clip_norm": 1.0, **settings, "parameterization": name}
            training = parse(TrainingConfig, own)
            report = _shifted(update, index * len(widths) * seeds)
            records += measured(
                events, model, training, widths=widths, steps=steps, seeds=range(seeds), progress=report
            )
    return records


def _shifted(update: Callable[[int], None], start: int) -> Callable[[int], None]:
    return lambda count: update(start + count)


def _print_table(found: Mapping[str, Mapping[str, Any]], widths: list[int], steps: int) -> None:
    """Growth from the smallest to the largest width after the last step, and the worst ratio after any."""
    title = f"value at width {widths[-1]} / value at width {widths[0]} after {steps} steps; worst: of any two widths"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("layer")
    for name in PARAMETERIZATIONS.values():
        for column in ("size", "change", "worst"):
            table.add_column(f"{name} {column}", justify="right")
    for layer in found["standard"]:
        cells = [found[name][layer] for name in PARAMETERIZATIONS]
        table.add_row(layer, *(f"{value:.2f}" for cell in cells for value in (cell.size, cell.change, cell.worst)))
    out.print(table)
