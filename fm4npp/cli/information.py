"""Commands about the installation: list, doctor."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from fm4npp.cli.app import AsJson, Debug, command, finish, out
from fm4npp.errors import FM4NPPError
from fm4npp.registry import Unknown, suggest

KINDS = ("detectors", "serializers", "objectives", "heads", "backbones", "readers", "models")
Kind = Annotated[str | None, typer.Argument(metavar=f"[{'|'.join(KINDS)}]", help="One kind; all by default.")]

PACKAGES = ("torch", "numpy", "scipy", "accelerate", "datasets", "huggingface-hub", "safetensors", "uproot", "pyarrow")
OPTIONAL = {
    "numba": ("fast", "k-NNN targets in compiled code"),
    "matplotlib": ("plot", "event displays as PNG"),
    "mamba-ssm": ("kernels", "not used yet: the PyTorch backend runs everywhere"),
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


def _print_table(title: str, entries: list[tuple[str, str, str]]) -> None:
    table = Table(title=title, title_justify="left", box=None, show_header=False, pad_edge=False)
    for entry in entries:
        table.add_row(*(escape(cell) for cell in entry))
    out.print(table)
    out.print()


def _registered(kind: str) -> list[tuple[str, str, str]]:
    import importlib

    rows: list[tuple[str, str, str]] = importlib.import_module(f"fm4npp.{kind}").registry.describe()
    return rows


def _models() -> list[tuple[str, str, str]]:
    import torch

    from fm4npp.configuration import WIDTHS, FM4NPPConfig
    from fm4npp.modeling import FM4NPPModel

    rows = []
    for size, width in WIDTHS.items():
        with torch.device("meta"):
            count = FM4NPPModel(FM4NPPConfig.named(size)).num_parameters()
        rows.append((size, f"width {width}", f"{count:,} trainable parameters (mamba2, k-nnn with k = 30)"))
    return rows


@command
def doctor(as_json: AsJson = False, debug: Debug = False) -> None:
    """Say what is installed, which backend runs, and whether it agrees with the reference."""
    import torch

    from fm4npp.testing.reference import TOLERANCE, backbone_error

    versions = {name: importlib.metadata.version(name) for name in ("fm4npp", *PACKAGES)}
    optional = {name: _version(name) for name in OPTIONAL}
    error = backbone_error()
    agrees = error <= TOLERANCE
    lines = [f"fm4npp {versions.pop('fm4npp')} on Python {platform.python_version()}, {platform.platform()}"]
    lines += [f"  {name} {version}" for name, version in versions.items()]
    for name, version in optional.items():
        extra, purpose = OPTIONAL[name]
        lines.append(f"  {name} {version or f'not installed (extra {extra})'}: {purpose}")
    cuda = f"CUDA {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else "no CUDA device"
    lines += [
        f"device: {torch.get_num_threads()} CPU threads, {cuda}",
        f"backend: torch; largest relative difference to a float64 recurrence {error:.1e} "
        f"({'agrees' if agrees else 'WRONG'}, limit {TOLERANCE:.0e})",
    ]
    problems = _broken()
    lines += [f"plug-in: {problem}" for problem in problems] or ["plug-ins: all load"]
    summary: dict[str, Any] = {
        "versions": versions,
        "optional": optional,
        "backend": "torch",
        "relative_error": error,
        "agrees": agrees,
        "problems": problems,
    }
    finish(summary, as_json, *lines)
    if not agrees:
        raise FM4NPPError("the backbone computes another function than the reference on this machine; do not use it")


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
