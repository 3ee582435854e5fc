"""Commands on checkpoints: convert-checkpoint, add-detector."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fm4npp.cli.app import AsJson, Debug, MaxRejected, command, finish, progress
from fm4npp.cli.models import ModelOption
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
    _check_empty(output)
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


@command
def add_detector(
    model: ModelOption,
    output: Annotated[Path, typer.Option(help="Checkpoint folder to write; new or empty.")],
    data: Annotated[
        Path | None, typer.Option(help="Events of it, of any format, that serializer and objective are fitted to.")
    ] = None,
    detector: Annotated[
        str | None, typer.Option(help="Registered name, or a YAML file; by default the one that --data is of.")
    ] = None,
    head: Annotated[
        list[str] | None, typer.Option(help="Head folder or Hub id to take along; may be given several times.")
    ] = None,
    max_events: Annotated[int, typer.Option(min=1, help="Events of --data to fit to, the first ones.")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="Of new weights that are random.")] = 0,
    max_rejected: MaxRejected = 0.001,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make a model read one more detector; what it computes of the others stays as it was.

    A head that was trained on MODEL fits it alone: take it along with --head.

    Example: fm4npp add-detector --model runs/a --detector eic --data eic.parquet --output runs/a-eic
    """
    _check_empty(output)
    if data is None and detector is None:
        raise ConfigurationError("give --data, events of the new detector, or --detector")
    from fm4npp.cli.models import load

    loaded, _ = load(model, head or [], "torch", "cpu")
    known = [one.name for one in loaded.config.detectors]
    given, events = _detector_and_events(data, detector, max_rejected) if data else (detector, None)
    count = 0

    def counted() -> Iterator[Event]:
        nonlocal count
        for event in islice(events or (), max_events):
            count += 1
            update(count)
            yield event

    with progress("fitting") as update:
        loaded.add_detector(given, counted() if data else None, seed=seed)
    loaded.save_pretrained(output)
    new = loaded.config.detectors[-1]
    summary = {
        "output": str(output),
        "added": new.name,
        "subsystems": {name: list(features) for name, features in new.subsystem_features.items()},
        "detectors": [*known, new.name],
        "heads": list(loaded.heads),
        "events": count,
        "fitted": loaded.config.fitted,
    }
    fitted = f"fitted to {count} events of {data.name}" if data else "nothing was fitted"
    lines = (
        f"{output}: {', '.join(known)}, and now {new.name}; {fitted}",
        f"the weights have not been trained on {new.name}: judge its features with fm4npp probe, train heads with "
        "fm4npp adapt",
    )
    finish(summary, as_json, *lines)


def _check_empty(output: Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigurationError(f"{output}: exists and is not an empty folder; choose another")


def _detector_and_events(path: Path, given: str | None, max_rejected: float) -> tuple[Any, Iterator[Event]]:
    """The detector of a file, as `add_detector` takes it, and the file's events of it."""
    from fm4npp import detectors
    from fm4npp.data import EventDataset, choose_reader, read_events
    from fm4npp.readers.events_parquet import EventsParquet

    if not isinstance(choose_reader(path, "auto"), EventsParquet):
        if given is None:
            raise ConfigurationError(f"{path}: does not say which detector it is of; give --detector")
        detector = detectors.load(given)
        return detector, read_events(path, detector, max_rejected=max_rejected)
    dataset = EventDataset([path])
    held = dict(zip(dataset.detectors, dataset.specifications, strict=True))
    if given is None and len(held) > 1:
        raise ConfigurationError(f"{path}: holds events of {', '.join(held)}; say which with --detector")
    chosen = next(iter(held)) if given is None else given
    detector = detectors.build(held[chosen]) if chosen in held else detectors.load(chosen)
    if detector.name not in held:
        raise ConfigurationError(f"{path}: holds events of {', '.join(held)}, none of {detector.name!r}")
    return detector, (event for event in dataset if event.detector == detector.name)


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
