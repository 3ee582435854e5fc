"""Commands on checkpoints: convert-checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fm4npp.cli.app import AsJson, Debug, command, finish, progress
from fm4npp.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fm4npp.configuration import FM4NPPConfig
    from fm4npp.event import Event

UNFITTED = (
    "the raster scan has no bin edges, so events cannot be ordered yet: convert again with --bin-edges and the "
    "authors' bin_edges_v3_nbins_8_8_6.pkl, or with --fit and an events file to use edges of your own"
)


@command
def convert_checkpoint(
    input: Annotated[Path, typer.Argument(metavar="IN", help="Released .ckpt file, or fm4npp-m3 to fm4npp-m6.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Checkpoint folder to write; new or empty.")],
    bin_edges: Annotated[Path | None, typer.Option(help="The authors' pickle of bin edges.")] = None,
    fit: Annotated[
        Path | None, typer.Option(help="Events file that bin edges of your own, not the authors', are fitted to.")
    ] = None,
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Unpickle IN in full, which runs any code that is in it.")
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Convert a checkpoint that the authors of FM4NPP released into one of this project.

    Example: fm4npp convert-checkpoint pp_nerf_m1_k30.ckpt m3 --bin-edges bin_edges_v3_nbins_8_8_6.pkl
    """
    if bin_edges is not None and fit is not None:
        raise ConfigurationError("--bin-edges and --fit both give bin edges: choose one")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigurationError(f"{output}: exists and is not an empty folder; choose another")
    from fm4npp.convert import load_original_checkpoint

    model = load_original_checkpoint(input, bin_edges=bin_edges, trust_pickle=trust_pickle)
    if fit is not None:
        model.config = _fitted(model.config, fit)
    model.save_pretrained(output)
    trainable = model.num_parameters()
    summary = {
        "output": str(output),
        **model.config.training,
        "backbone": model.config.backbone,
        "objective": model.config.objective.spec(),
        "parameters": trainable,
        "frozen_parameters": model.num_parameters(trainable=False) - trainable,
        "fitted": model.config.fitted,
    }
    finish(summary, as_json, *_lines(model.config, summary))


def _fitted(config: FM4NPPConfig, path: Path) -> FM4NPPConfig:
    """The configuration with edges fitted to the events of a file, which it then names."""
    from fm4npp.data import read_events
    from fm4npp.files import sha256
    from fm4npp.processing import FM4NPPProcessor

    count = 0

    def counted() -> Iterator[Event]:
        nonlocal count
        for event in read_events(path):
            count += 1
            update(count)
            yield event

    with progress("fitting") as update:
        fitted = FM4NPPProcessor(config).fit(counted()).config
    origin = {"fitted_to": path.name, "sha256": sha256(path), "events": count}
    return fitted.updated(training={**config.training, "bin_edges": origin})


def _lines(config: FM4NPPConfig, summary: dict[str, object]) -> list[str]:
    """What was converted, and where the bin edges are from."""
    from fm4npp.original import RELEASED_BIN_EDGES

    sizes = ", ".join(f"{key} {config.backbone[key]}" for key in ("type", "width", "num_layers", "state_size"))
    training = config.training
    lines = [
        f"{summary['output']}: {sizes}, k {summary['objective']['k']}; "  # type: ignore[index]
        f"{summary['parameters']:,} trainable and {summary['frozen_parameters']:,} frozen parameters",
        f"from {training['source']}, sha256 {training['sha256']}",
    ]
    edges = training.get("bin_edges")
    if edges is None:
        return [*lines, UNFITTED]
    if "fitted_to" in edges:
        return [*lines, f"bin edges fitted to {edges['events']} events of {edges['fitted_to']}, not the authors'"]
    verdict = "the authors' own" if edges["sha256"] == RELEASED_BIN_EDGES else "not the file that the authors released"
    return [*lines, f"bin edges of {edges['source']}, {verdict}"]
