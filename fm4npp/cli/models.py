"""Commands on models: pretrain, adapt, evaluate, predict."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import typer

from fm4npp.cli.app import AsJson, Debug, MaxRejected, command, finish, progress
from fm4npp.errors import ConfigurationError
from fm4npp.registry import Unknown, suggest

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Settings in place of the configuration's.")
]
ConfigOption = Annotated[
    str,
    typer.Option("--config", help="Preset (fm4npp, m1 to m6, released-code), or a YAML file: model, data, training."),
]
ModelOption = Annotated[str, typer.Option("--model", help="Checkpoint folder, or Hub id.")]
BackendOption = Annotated[str, typer.Option("--backend", help="auto, torch or mamba-ssm.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Continue the run in --output; if there is none, begin.")]
PrintOption = Annotated[bool, typer.Option("--print-config", help="Print the complete configuration and stop.")]
TokensOption = Annotated[int, typer.Option("--tokens-per-batch", min=1, help="Spacepoints run at once.")]


@command
def pretrain(
    output: Annotated[Path, typer.Option(help="Folder of the run and the checkpoint.")],
    overrides: Overrides = None,
    config: ConfigOption = "fm4npp",
    resume: ResumeOption = False,
    print_config: PrintOption = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train a backbone on unlabelled events.

    Example: fm4npp pretrain data.train=train.parquet training.steps=500 --output runs/a
    """
    from fm4npp.training.config import PretrainConfig, parse, read_config
    from fm4npp.training.inputs import check_pretraining

    settings = parse(PretrainConfig, read_config(config), overrides or [], source=config)
    if print_config:
        return _print_config(settings)
    check_pretraining(settings)  # before torch is imported, which takes seconds
    from fm4npp.training import pretrain as pretrained

    with _training(settings.training.steps) as report:
        best = pretrained(settings, output, resume=resume, report=report)
    finish({"output": str(output), **best}, as_json, f"{output}: {_best(best)}")


@command
def adapt(
    model: ModelOption,
    head: Annotated[str, typer.Option(help="Registered head, such as track-finding.")],
    data: Annotated[list[Path], typer.Option(help="Labelled events file; may be given several times.")],
    output: Annotated[Path, typer.Option(help="Folder of the run and the head.")],
    validation: Annotated[list[Path] | None, typer.Option(help="Labelled events that choose the best weights.")] = None,
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="What the head is called; the registered name by default.")] = None,
    resume: ResumeOption = False,
    print_config: PrintOption = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train a head on a pretrained model, whose backbone stays frozen unless tuning=full or tuning=lora.

    Example: fm4npp adapt --model runs/a --head track-finding --data train.parquet --output runs/tracks
    """
    from fm4npp.training.config import AdaptConfig, parse
    from fm4npp.training.inputs import check_adaptation

    values: dict[str, Any] = {
        "name": name or head,
        "head": {"type": head},
        "data": {"train": data, "validation": validation or []},
        "training": AdaptConfig.model_fields["training"].default.model_dump(),
    }
    settings = parse(AdaptConfig, values, overrides or [])
    if print_config:
        return _print_config(settings)
    check_adaptation(model, settings)
    from fm4npp.training import adapt as adapted

    with _training(settings.training.steps) as report:
        best = adapted(model, settings, output, resume=resume, report=report)
    finish({"output": str(output), **best}, as_json, f"{output}: {_best(best)}")


@command
def evaluate(
    model: ModelOption,
    data: Annotated[list[Path], typer.Option(help="Labelled events file; may be given several times.")],
    output: Annotated[Path, typer.Option(help="Report to write (JSON).")],
    head: Annotated[list[str] | None, typer.Option(help="Head folder or Hub id; may be given several times.")] = None,
    html: Annotated[Path | None, typer.Option(help="Page to write: the report with pictures, in one file.")] = None,
    update_card: Annotated[Path | None, typer.Option(help="Folder whose README.md is to get the numbers.")] = None,
    hub_dataset: Annotated[str | None, typer.Option(help="OWNER/NAME of the data on the Hub, for the card.")] = None,
    min_hits: Annotated[int, typer.Option(min=1, help="Fewest spacepoints of a true track that counts.")] = 1,
    pt_min: Annotated[float | None, typer.Option(help="Lowest pT of a true track that counts, GeV/c.")] = None,
    pt_max: Annotated[float | None, typer.Option(help="Highest pT of a true track that counts, GeV/c.")] = None,
    abs_eta_max: Annotated[float | None, typer.Option(help="Largest |eta| of a true track that counts.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Even on events that were seen in training.")] = False,
    tokens_per_batch: TokensOption = 16384,
    backend: BackendOption = "auto",
    device: DeviceOption = "auto",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Judge heads on labelled events; without a head, the pretraining objective.

    Example: fm4npp evaluate --model runs/a --head runs/tracks --data test.parquet --output r.json --html r.html
    """
    from fm4npp.cli import reports
    from fm4npp.data import EventDataset
    from fm4npp.evaluation import evaluate as evaluated
    from fm4npp.evaluation import hygiene
    from fm4npp.evaluation.report import assemble
    from fm4npp.files import write_json
    from fm4npp.metrics import TrackSelection
    from fm4npp.plotting.style import check as check_matplotlib

    selection = TrackSelection(min_hits, pt_min, pt_max, abs_eta_max)
    if hub_dataset is not None and update_card is None:
        raise ConfigurationError("--hub-dataset is for a card; say which with --update-card")
    if update_card is not None:
        reports.check_card(update_card)
    if html is not None:
        check_matplotlib()
    loaded, processor, folders = load_named(model, head or [], backend, device)
    events = EventDataset(data)
    files = hygiene.identified(events.paths)
    origins = hygiene.origins(model, loaded.config.training, folders, list(loaded.heads))
    cautions, seen = hygiene.check(files, origins, force=force), hygiene.seen(files, origins)
    if seen and update_card is not None:
        raise ConfigurationError(f"{update_card}: a card gets no numbers on events that were seen in training")
    for caution in cautions:
        warnings.warn(caution, stacklevel=1)
    with progress("evaluating", len(events)) as update:
        metrics = evaluated(
            loaded, processor, events, tokens_per_batch=tokens_per_batch, selection=selection, progress=update
        )
    report = assemble(
        loaded, events, metrics, files=files, selection=selection, heads=folders, warnings=cautions, seen=seen
    )
    write_json(output, report)
    written = [f"report: {output}"]
    if html is not None:
        reports.write_page(html, report, loaded, processor, events)
        written.append(f"page: {html}")
    if update_card is not None:
        reports.write_card(update_card, report, hub_dataset)
        written.append(f"card: {update_card / reports.CARD_NAME}")
    finish(report, as_json, f"counted: {selection}", *_lines(report), *written)


@command
def predict(
    input: Annotated[Path, typer.Argument(help="File of any known format.")],
    model: ModelOption,
    head: Annotated[list[str], typer.Option(help="Head folder or Hub id; may be given several times.")],
    output: Annotated[Path, typer.Option(help="File to write: .parquet or .root.")],
    detector: Annotated[str | None, typer.Option(help="Of the input; by default the model's, if it has one.")] = None,
    reader: Annotated[str, typer.Option(help="File format, in place of recognising it.")] = "auto",
    tokens_per_batch: TokensOption = 16384,
    max_rejected: MaxRejected = 0.001,
    backend: BackendOption = "auto",
    device: DeviceOption = "auto",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Predict for every spacepoint of a file, in the file's own order.

    Example: fm4npp predict hits.root --model runs/a --head runs/tracks --output tracks.parquet
    """
    from fm4npp import __version__
    from fm4npp.data import Accounting, choose_reader, read_events
    from fm4npp.evaluation import predict_events, write_predictions
    from fm4npp.readers.events_parquet import EventsParquet

    loaded, processor = load(model, head, backend, device)
    own = processor.config.detectors
    is_events_file = isinstance(choose_reader(input, reader), EventsParquet)
    chosen = detector or (own[0] if len(own) == 1 and not is_events_file else None)
    counted = Accounting()
    events = read_events(input, chosen, reader=reader, accounting=counted, max_rejected=max_rejected)
    metadata = {
        "version": __version__,
        "model": loaded.backbone_identity()["sha256"],
        "heads": ", ".join(loaded.heads),
        "input": input.name,
        "backend": loaded.backend,
    }
    with progress("predicting") as update:
        pairs = predict_events(loaded, processor, events, tokens_per_batch=tokens_per_batch)
        count = write_predictions(pairs, output, metadata=metadata, progress=update)
    summary = {"output": str(output), "events": count, "accounting": counted.as_dict()}
    finish(summary, as_json, f"{output}: predictions for {count} events", *counted.lines())


def load(model: str, heads: list[str], backend: str, device: str) -> tuple[Any, Any]:
    """A checkpoint with its heads, and its processor."""
    loaded, processor, _ = load_named(model, heads, backend, device)
    return loaded, processor


def load_named(model: str, heads: list[str], backend: str, device: str) -> tuple[Any, Any, dict[str, str]]:
    """A checkpoint with its heads, its processor, and from which folder or Hub id each head is."""
    import torch

    from fm4npp.choices import BACKENDS
    from fm4npp.modeling import FM4NPPModel
    from fm4npp.processing import FM4NPPProcessor

    if backend not in BACKENDS:
        raise Unknown(f"unknown backend {backend!r}; {suggest(backend, BACKENDS)}")
    try:
        chosen = torch.accelerator.current_accelerator() if device == "auto" else torch.device(device)
    except RuntimeError as error:
        raise Unknown(f"unknown device {device!r}; try auto, cpu or cuda") from error
    loaded = FM4NPPModel.from_pretrained(model, device=chosen or "cpu", backend=backend)  # type: ignore[arg-type]
    folders = {loaded.load_head(folder): folder for folder in heads}
    return loaded, FM4NPPProcessor(loaded.config), folders


def _print_config(settings: Any) -> None:
    """The configuration with all defaults, as YAML that `--config` takes."""
    import yaml

    sys.stdout.write(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


@contextmanager
def _training(steps: int) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Show a run's records: a bar with loss and rates."""
    notes: dict[str, str] = {}
    with progress("training", steps) as update:

        def report(record: dict[str, Any]) -> None:
            if "validation_loss" in record:
                notes["validation"] = f"validation {_number(record['validation_loss'])}"
            else:
                speed = f"{record['events_per_second']:,.1f} events/s {record['tokens_per_second']:,.0f} tokens/s"
                notes["training"] = f"loss {_number(record['loss'])} lr {record['learning_rate']:.2g} {speed}"
            update(record["step"], " ".join(notes.values()))

        yield report


def _best(record: dict[str, Any]) -> str:
    if record.get("validation_loss") is not None:
        return f"best validation loss {record['validation_loss']:.6g} at step {record['step']}"
    return f"training loss {record['training_loss']:.6g} at step {record['step']}, not validated"


def _lines(report: dict[str, Any]) -> list[str]:
    """One line for each head, and for each detector if there are several; the report has everything."""
    from fm4npp.evaluation.report import detector_rows, rows, told

    lines = []
    for entry, found in groupby(rows(report), key=lambda row: row.entry):
        said = ", ".join(f"{row.metric} {told(row)}" for row in found)
        lines.append(f"{entry}: {said} ({_judged(report['heads'][entry])})")
    for detector, own in detector_rows(report).items():
        for entry, found in groupby(own, key=lambda row: row.entry):
            lines.append(f"{entry}, {detector}: {', '.join(f'{row.metric} {told(row)}' for row in found)}")
    return lines


def _judged(metrics: dict[str, Any]) -> str:
    counts = f"{metrics['num_values']} values" if "num_values" in metrics else f"{metrics['num_hits']} spacepoints"
    return f"{metrics['num_events']} events, {counts}"


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
