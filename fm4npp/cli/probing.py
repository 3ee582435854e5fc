"""The command that judges frozen features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fm4npp.cli.app import AsJson, Debug, MaxRejected, command, finish, progress
from fm4npp.cli.models import BackendOption, DeviceOption, ModelOption, TokensOption, load
from fm4npp.errors import ConfigurationError, DataError

Data = Annotated[Path, typer.Option(help="Labelled file of any known format; probes are trained on its events.")]
Test = Annotated[
    Path | None, typer.Option(help="Labelled file that probes are judged by; else parts of --data in their turn.")
]
Names = Annotated[str, typer.Option(help="Of the model, with commas: mix, blocks, last, 'block 1', ...")]
Picture = Annotated[Path | None, typer.Option(help="Draw one event's features (.png, .pdf, .svg).")]


@command
def probe(
    model: ModelOption,
    data: Data,
    output: Annotated[Path, typer.Option(help="Report to write (JSON).")],
    test: Test = None,
    detector: Annotated[str | None, typer.Option(help="Of the files; by default they or the model say.")] = None,
    representations: Names = "mix,blocks,last",
    controls: Annotated[str, typer.Option(help="Compared with, with commas.")] = "random-init,embedding,raw",
    seeds: Annotated[int, typer.Option(min=1, help="Random backbones; 3 or more show a spread.")] = 3,
    folds: Annotated[int, typer.Option(min=2, help="Parts of --data, without --test.")] = 5,
    max_events: Annotated[int, typer.Option(min=2, help="Events of each file, the first ones.")] = 500,
    max_spacepoints: Annotated[int, typer.Option(min=100, help="That a probe is trained on.")] = 50_000,
    picture: Picture = None,
    picture_event: Annotated[
        int | None, typer.Option(min=0, help="Index in the test events; else a large one.")
    ] = None,
    max_rejected: MaxRejected = 0.001,
    tokens_per_batch: TokensOption = 16384,
    backend: BackendOption = "auto",
    device: DeviceOption = "auto",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Judge a model's frozen features by small probes, beside random weights and raw coordinates.

    Events of another detector than the model's are read with its weights, and with a serializer fitted to them.

    Example: fm4npp probe --model runs/a --data labelled.parquet --test test.parquet --output probes.json
    """
    from fm4npp import __version__
    from fm4npp.evaluation.probing import Settings
    from fm4npp.evaluation.probing import probe as probed
    from fm4npp.files import sha256, write_json

    settings = Settings(
        representations=_listed(representations),
        controls=_listed(controls),
        seeds=tuple(range(seeds)),
        folds=folds,
        max_spacepoints=max_spacepoints,
        tokens_per_batch=tokens_per_batch,
    )
    loaded, _ = load(model, [], backend, device)
    settings.check(loaded)
    known = detector or _only_detector(loaded)
    train, judged = (_events(path, known, max_rejected, max_events) if path else [] for path in (data, test))
    identity, trained_for = loaded.backbone_identity(), [one.name for one in loaded.config.detectors]
    loaded, moved = _moved(loaded, train)
    with progress("probing") as update:
        found = probed(loaded, train, judged, settings, progress=lambda what: update(0, what))
    report: dict[str, Any] = {
        "format": 1,
        "fm4npp": __version__,
        "model": identity,
        "trained_for": trained_for,
        "moved_to": moved,
        "backend": loaded.backend,
        "data": {str(path): sha256(path) for path in (data, test) if path},
        **found,
    }
    write_json(output, report)
    if picture:
        _draw(loaded, train, judged or train, settings.representations[0], picture, picture_event)
    finish(report, as_json, *_table(report), f"report: {output}")


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _only_detector(model: Any) -> str | None:
    return model.config.detectors[0].name if len(model.config.detectors) == 1 else None


def _events(path: Path, detector: str | None, max_rejected: float, most: int) -> list[Any]:
    from itertools import islice

    from fm4npp.data import choose_reader, read_events
    from fm4npp.readers.events_parquet import EventsParquet

    own = None if isinstance(choose_reader(path, "auto"), EventsParquet) else detector
    events = list(islice(read_events(path, own, max_rejected=max_rejected), most))
    if not events:
        raise DataError("holds no events", file=path)
    return events


def _moved(model: Any, events: list[Any]) -> tuple[Any, str | None]:
    """The model on the detector of the events, and its name where that is not one of the model's."""
    from fm4npp.evaluation.transfer import on_detector

    name = next((event.detector for event in events if event.detector), "")
    if not name or name in {one.name for one in model.config.detectors}:
        return model, None
    if {event.detector for event in events} != {name}:
        raise ConfigurationError("events of several detectors, which the model does not have")
    return on_detector(model, name, events), name


def _draw(
    model: Any, train: list[Any], judged: list[Any], representation: str, output: Path, index: int | None
) -> None:
    from fm4npp.evaluation.projections import project
    from fm4npp.plotting.embeddings import draw_embeddings

    if index is not None and index >= len(judged):
        raise ConfigurationError(f"--picture-event {index}: there are {len(judged)} events")
    event = judged[index] if index is not None else sorted(judged, key=len)[len(judged) * 3 // 4]
    spaces, tracks = project(model, [one for one in train if one is not event], event, representation)
    draw_embeddings(spaces, tracks, output, f"{representation}, event {event.event_id}")


HEADLINES = {
    "track separation": "track_precision",
    "particle class": "macro_f1",
    "noise": "average_precision",
    "log pT": "spearman",
}
"""Task -> the measure that is shown to people."""


def _table(report: dict[str, Any]) -> list[str]:
    """One line a task and probe: the model's representations, then the controls; the report has everything."""
    lines: list[str] = []
    for task, measure in HEADLINES.items():
        rows = [score for score in report["scores"] if score["task"] == task]
        for kind in dict.fromkeys(score["probe"] for score in rows):
            cells: dict[str, list[float]] = {}
            for score in (score for score in rows if score["probe"] == kind and score[measure] is not None):
                name = score["representation"] if score["source"] in ("model", "raw") else f"{score['source']} "
                name += score["representation"] if score["source"] == "random-init" else ""
                cells.setdefault(name.strip(), []).append(score[measure])
            shown = ", ".join(f"{name} {_spread(values)}" for name, values in cells.items())
            lines.append(f"{task}, {kind}, {measure}: {shown}")
    lines += [f"{task}: not probed, the events have no such truth" for task in report["skipped"]]
    lines += [
        f"{row['task']}, {row['probe']}: {row['representation']} against {row['control']}: "
        f"{row['mean_difference']:+.4f} an event, effect size {row['rank_biserial']:+.2f}, p {row['holm_p']:.2g} (Holm)"
        for row in report["comparisons"]
    ]
    return lines


def _spread(values: list[float]) -> str:
    mean = sum(values) / len(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    deviation = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    return f"{mean:.3f} ± {deviation:.3f}"
