"""Commands on models: pretrain, adapt, evaluate, predict."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from fm4npp.cli.app import AsJson, Debug, MaxRejected, command, finish, progress
from fm4npp.registry import Unknown, suggest

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Settings in place of the configuration's.")
]
ModelOption = Annotated[str, typer.Option("--model", help="Checkpoint folder, or Hub id.")]
BackendOption = Annotated[str, typer.Option("--backend", help="auto, torch or mamba-ssm.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Continue the run in --output; if there is none, begin.")]
PrintOption = Annotated[bool, typer.Option("--print-config", help="Print the complete configuration and stop.")]
TokensOption = Annotated[int, typer.Option("--tokens-per-batch", min=1, help="Spacepoints run at once.")]


@command
def pretrain(
    config: Annotated[Path, typer.Option(help="YAML file: model, data, training.")],
    output: Annotated[Path, typer.Option(help="Folder of the run and the checkpoint.")],
    overrides: Overrides = None,
    resume: ResumeOption = False,
    print_config: PrintOption = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train a backbone on unlabelled events.

    Example: fm4npp pretrain --config configs/laptop.yaml data.train=train.parquet training.steps=500 --output runs/a
    """
    from fm4npp.training.config import PretrainConfig, parse, read_yaml
    from fm4npp.training.inputs import check_pretraining

    settings = parse(PretrainConfig, read_yaml(config), overrides or [], source=str(config))
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
    min_hits: Annotated[int, typer.Option(min=1, help="Fewest spacepoints of a true track that counts.")] = 1,
    tokens_per_batch: TokensOption = 16384,
    backend: BackendOption = "auto",
    device: DeviceOption = "auto",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Judge heads on labelled events; without a head, the pretraining objective.

    Example: fm4npp evaluate --model runs/a --head runs/tracks --data test.parquet --output report.json
    """
    from fm4npp import __version__
    from fm4npp.data import EventDataset
    from fm4npp.evaluation import evaluate as evaluated
    from fm4npp.files import sha256, write_json

    loaded, processor = load(model, head or [], backend, device)
    events = EventDataset(data)
    with progress("evaluating", len(events)) as update:
        metrics = evaluated(
            loaded, processor, events, tokens_per_batch=tokens_per_batch, min_hits=min_hits, progress=update
        )
    report = {
        "format": 1,
        "fm4npp": __version__,
        "model": loaded.backbone_identity(),
        "backend": loaded.backend,
        "device": str(loaded.device),
        "data": {str(path): sha256(path) for path in data},
        "heads": metrics,
    }
    write_json(output, report)
    finish(report, as_json, *(_row(name, values) for name, values in metrics.items()), f"report: {output}")


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
    for folder in heads:
        loaded.load_head(folder)
    return loaded, FM4NPPProcessor(loaded.config)


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


def _row(name: str, metrics: dict[str, Any]) -> str:
    """One line for people; the report has everything."""
    keys = {
        "track finding": ("ari_per_event_mean", "ari_pooled", "efficiency", "purity"),
        "classification": ("accuracy", "macro_precision", "macro_recall", "macro_f1"),
        "pretraining": ("loss",),
    }[metrics["task"]]
    values = ", ".join(f"{key} {_number(metrics[key])}{_interval(metrics, key)}" for key in keys)
    return f"{name}: {values} ({metrics['num_events']} events, {metrics['num_hits']} spacepoints)"


def _interval(metrics: dict[str, Any], key: str) -> str:
    interval = metrics.get("intervals", {}).get(key)
    return f" [{interval[0]:.4f}, {interval[1]:.4f}]" if interval else ""


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
