"""Commands about the installation: list, doctor."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from fm4npp.cli.app import AsJson, Debug, command, finish, out
from fm4npp.errors import BackendError, FM4NPPError
from fm4npp.registry import Unknown, suggest

KINDS = ("detectors", "serializers", "objectives", "heads", "backbones", "readers", "models")
Kind = Annotated[str | None, typer.Argument(metavar=f"[{'|'.join(KINDS)}]", help="One kind; all by default.")]

PACKAGES = ("torch", "numpy", "scipy", "accelerate", "datasets", "huggingface-hub", "safetensors", "uproot", "pyarrow")
OPTIONAL = {
    "numba": ("fast", "k-NNN targets and the inside of Mamba-2 blocks in compiled code"),
    "matplotlib": ("plot", "event displays as PNG"),
    "mamba-ssm": ("kernels", "compiled CUDA kernels"),
    "causal-conv1d": ("kernels", "compiled CUDA kernels"),
}


@command
def list_command(kind: Kind = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """List what is registered, plug-ins included."""
    if kind is not None and kind not in KINDS:
        raise Unknown(f"unknown kind {kind!r}; {suggest(kind, KINDS)}")
    rows = {name: _models() if name == "models" else _registered(name) for name in KINDS if kind in (None, name)}
    for name, entries in rows.items():
        _print_table(name, entries)
    finish({name: [list(entry) for entry in entries] for name, entries in rows.items()}, as_json)


def _print_table(title: str, entries: list[tuple[str, ...]]) -> None:
    table = Table(title=title, title_justify="left", box=None, show_header=False, pad_edge=False)
    for entry in entries:
        table.add_row(*(escape(cell) for cell in entry))
    out.print(table)
    out.print()


def _registered(kind: str) -> list[tuple[str, ...]]:
    import importlib

    rows: list[tuple[str, ...]] = importlib.import_module(f"fm4npp.{kind}").registry.describe()
    return rows


def _models() -> list[tuple[str, ...]]:
    """The paper's sizes on each backbone, with a header."""
    import torch

    from fm4npp.choices import WIDTHS
    from fm4npp.configuration import FM4NPPConfig
    from fm4npp.modeling import FM4NPPModel

    rows: list[tuple[str, ...]] = [
        ("size", "backbone", "width", "state", "trainable", "frozen", "forward MFLOP/token", "training MB/1,000 tokens")
    ]
    for name in ("mamba2", "mamba1"):
        for size, width in WIDTHS.items():
            with torch.device("meta"):
                model = FM4NPPModel(FM4NPPConfig.named(size, backbone={"type": name, "width": width}))
            count, sizes = model.num_parameters(), model.backbone.config
            frozen = model.num_parameters(trainable=False) - count
            flops = sizes.flops_per_token + 2 * sum(
                p.numel() for p in (model.output.weight, *model.embedding.parameters())
            )
            rows.append(
                (
                    size,
                    name,
                    str(width),
                    str(sizes.num_states),
                    f"{count:,}",
                    f"{frozen:,}",
                    f"{flops / 1e6:,.1f}",
                    f"{4e3 * sizes.kept_per_token / 1e6:,.0f}",
                )
            )
    return rows


@command
def doctor(
    golden: Annotated[
        bool, typer.Option("--golden", help="Compare every precision and length; takes a minute.")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say what is installed, which backend runs, and whether it agrees with the reference."""
    import torch

    from fm4npp.backbones import kernels
    from fm4npp.backbones.mamba2 import compiled_loops

    versions = {name: importlib.metadata.version(name) for name in ("fm4npp", *PACKAGES)}
    optional = {name: _version(name) for name in OPTIONAL}
    devices = [torch.device("cpu"), *_accelerators()]
    found = [comparison for device in devices for comparison in _comparisons(device, golden)]
    wrong = [comparison for comparison in found if not comparison.agrees]
    lines = [f"fm4npp {versions.pop('fm4npp')} on Python {platform.python_version()}, {platform.platform()}"]
    lines += [f"  {name} {version}" for name, version in versions.items()]
    for name, version in optional.items():
        extra, purpose = OPTIONAL[name]
        lines.append(f"  {name} {version or f'not installed (extra {extra})'}: {purpose}")
    lines.append(f"{torch.get_num_threads()} CPU threads, devices: {', '.join(map(str, devices))}")
    unusable = kernels.unusable(devices[-1])
    lines.append(f"mamba-ssm kernels on {devices[-1]}: {f'not used, {unusable}' if unusable else 'used'}")
    loops = compiled_loops()
    lines.append(f"compiled loops on cpu: {f'not used, {loops}' if isinstance(loops, str) else 'used'}")
    lines += _table(found) if golden else [_line(comparison) for comparison in found]
    problems = _broken()
    lines += [f"plug-in: {problem}" for problem in problems] or ["plug-ins: all load"]
    summary: dict[str, Any] = {
        "versions": versions,
        "optional": optional,
        "backend": found[-1].backend,
        "kernels": unusable or "used",
        "compiled_loops": loops if isinstance(loops, str) else "used",
        "comparisons": [dataclasses.asdict(comparison) for comparison in found],
        "agrees": not wrong,
        "problems": problems,
    }
    finish(summary, as_json, *lines)
    if wrong:
        raise BackendError(
            f"{len(wrong)} of {len(found)} comparisons are WRONG: the backbone computes another function than the "
            "reference on this machine; do not use it"
        )


def _accelerators() -> list[Any]:
    import torch

    device = torch.accelerator.current_accelerator()
    return [] if device is None else [device]


def _comparisons(device: Any, golden: bool) -> list[Any]:
    """Every backbone that has a reference on one device, with the backend that runs there."""
    from fm4npp.testing.agreement import compare, golden_table
    from fm4npp.testing.reference import MIXERS

    return golden_table(device) if golden else [compare(name, "packed", device=device) for name in MIXERS]


def _line(found: Any) -> str:
    return (
        f"backend {found.backend} on {found.device}, {found.backbone}: largest relative difference to a float64 "
        f"recurrence {found.error:.1e}, of gradients {found.gradient_error:.1e} "
        f"({'agrees' if found.agrees else 'WRONG'}, limits {found.limits[0]:.0e} and {found.limits[1]:.0e})"
    )


def _table(found: list[Any]) -> list[str]:
    """The comparisons as a Markdown table: largest relative error of outputs / of gradients."""
    shapes = list(dict.fromkeys(comparison.shape for comparison in found))
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for one in found:
        gradient = "" if one.gradient_error is None else f" / {one.gradient_error:.0e}"
        key = (one.backbone, one.backend, one.device, one.precision)
        rows.setdefault(key, {})[one.shape] = f"{one.error:.0e}{gradient}" + ("" if one.agrees else " WRONG")
    header = ["backbone", "backend", "device", "precision", *shapes]
    lines = [header, ["---"] * len(header), *([*key, *cells.values()] for key, cells in rows.items())]
    return [f"| {' | '.join(line)} |" for line in lines]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _broken() -> list[str]:
    import importlib

    problems = []
    for kind in KINDS[:-1]:
        registry = importlib.import_module(f"fm4npp.{kind}").registry
        for name in registry.names():
            try:
                registry.get(name)
            except FM4NPPError as error:
                problems.append(str(error))
    return problems
