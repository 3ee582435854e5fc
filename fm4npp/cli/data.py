"""Commands on events: convert, inspect, display."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fm4npp.cli.app import AsJson, Debug, MaxRejected, command, finish, progress
from fm4npp.errors import ConfigurationError, DataError

DetectorOption = Annotated[str, typer.Option("--detector", help="Registered name, or a YAML file.")]
ReaderOption = Annotated[str, typer.Option("--reader", help="File format, in place of recognising it.")]


@command
def convert(
    inputs: Annotated[list[Path], typer.Argument(help="Files or folders, in order.")],
    detector: DetectorOption,
    output: Annotated[Path, typer.Option(help="Events file to write (.parquet), or a folder of them.")],
    labels: Annotated[
        str, typer.Option(help="auto: what the files have; none; require: refuse files without.")
    ] = "auto",
    reader: ReaderOption = "auto",
    max_rejected: MaxRejected = 0.001,
    max_outside: Annotated[
        float, typer.Option(min=0, max=1, help="Share of spacepoints that may lie outside the detector's bounds.")
    ] = 0.2,
    workers: Annotated[int, typer.Option(min=1, help="Processes, for an output folder.")] = 1,
    events_per_file: Annotated[int, typer.Option(min=1, help="Events in a file of an output folder.")] = 10_000,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Convert files of any known format into one events file, or into a folder of them.

    Example: fm4npp convert hits.root --detector star-tpc --output star.parquet

    By several processes, and able to go on after a kill: --output events/ --workers 8
    """
    from fm4npp.convert import convert as converted

    if labels not in ("auto", "none", "require"):
        raise ConfigurationError(f"--labels is auto, none or require, not {labels!r}")
    with progress("converting") as update:
        report = converted(
            inputs,
            detector,
            output,
            reader=reader,
            labels=labels,  # type: ignore[arg-type]
            max_rejected=max_rejected,
            max_outside=max_outside,
            workers=workers,
            events_per_file=events_per_file,
            progress=update,
        )
    lines = [
        f"{output}: {report.num_events} events, {report.num_spacepoints} spacepoints, "
        f"{report.num_empty_events} events empty; labels: {', '.join(report.labels) or 'none'}"
    ]
    if len(report.spacepoints_of) > 1:
        lines.append("spacepoints of " + ", ".join(f"{name}: {n}" for name, n in report.spacepoints_of.items()))
    if report.num_outside:
        lines.append(
            f"{report.num_outside} spacepoints ({report.share_outside:.2%}) lie outside the detector's nominal bounds; "
            "they are kept" + (": wrong detector or units?" if report.share_outside > 0.05 else "")
        )
    if empty := report.untouched_layers:
        lines.append(f"no spacepoint near {len(empty)} layers: {', '.join(f'{layer:.4g}' for layer in empty[:8])} cm")
    if report.files:
        lines.append(
            f"{len(report.files)} files" + (f", {report.num_kept} of them finished before" * bool(report.num_kept))
        )
    finish(report.as_dict(), as_json, *lines, *report.accounting.lines())


@command
def inspect(
    path: Annotated[str, typer.Argument(help="Data file or folder, events file or its URL, checkpoint, or head.")],
    detector: Annotated[
        str | None, typer.Option(help="Read all of it with this detector, and count: registered name or YAML file.")
    ] = None,
    reader: ReaderOption = "auto",
    events: Annotated[int | None, typer.Option(min=1, help="Only the first events.")] = None,
    propose: Annotated[bool, typer.Option("--propose", help="Print a detector to start from, as YAML.")] = False,
    objective: Annotated[
        str | None, typer.Option(help="Share of this objective's targets that the scan has passed already.")
    ] = None,
    serializer: Annotated[str, typer.Option(help="The scan, with --objective.")] = "raster-scan",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say what a file holds: tables and columns, counts, ranges, labels, hashes; which detectors read it.

    Example: fm4npp inspect hits.root

    A detector to start from: fm4npp inspect hits.root --propose > my_detector.yaml
    """
    from fm4npp.cli import inspection
    from fm4npp.inspection import describe, inspect_events, inspect_scan, read_with
    from fm4npp.inspection import propose as proposed
    from fm4npp.readers.events_parquet import EventsParquet, is_url

    place = Path(path)
    if not is_url(path) and not place.exists():
        raise DataError("no such file or folder", file=path)
    if propose:
        if detector or objective:
            raise ConfigurationError("--propose goes without --detector and --objective")
        proposal = proposed(place, reader)
        finish({"spec": proposal.spec, "yaml": proposal.yaml}, as_json, *proposal.yaml.splitlines())
        return
    stored = is_url(path) or (reader in ("auto", "events-parquet") and EventsParquet().recognises(place))
    with progress("reading") as update:
        if objective:
            summary = inspect_scan(path, objective, serializer, detector, reader, events)
        elif detector or (stored and events):
            summary = read_with(path, detector, reader, events, update)
        elif stored:
            summary = inspect_events(path, update)
        else:
            summary = inspection.folder(place) if inspection.is_model(place) else describe(place, reader)
    finish(summary, as_json, *inspection.lines(summary))


@command
def display(
    events: Annotated[Path, typer.Argument(help="Events file, or a file of any known format.")],
    output: Annotated[Path, typer.Option(help="Picture to write (PNG).")],
    event: Annotated[int, typer.Option(min=0, help="Index of the event in the file.")] = 0,
    predictions: Annotated[Path | None, typer.Option(help="What `fm4npp predict` wrote (Parquet).")] = None,
    detector: Annotated[str | None, typer.Option(help="For files that do not say it themselves.")] = None,
    reader: ReaderOption = "auto",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Draw one event, truth beside prediction, in x-y and r-z.

    Example: fm4npp display events.parquet --event 3 --predictions tracks.parquet --output event.png
    """
    from itertools import islice

    from fm4npp.data import read_events
    from fm4npp.evaluation.predict import read_track_ids
    from fm4npp.plotting import draw_event

    if output.suffix != ".png":
        raise ConfigurationError(f"{output}: events are drawn to .png")
    found = next(islice(read_events(events, detector, reader=reader), event, None), None)
    if found is None:
        raise DataError(f"has no event with index {event}", file=events)
    tracks = read_track_ids(predictions, event) if predictions is not None else None
    if tracks is not None and len(tracks) != len(found):
        raise DataError(
            f"has {len(tracks)} spacepoints in event {event}, {events} has {len(found)}",
            file=predictions,
            remedy="predict this events file",
        )
    draw_event(found, tracks, output=output, geometry=_geometry(events, detector or found.detector))
    finish(
        {"output": str(output), "spacepoints": len(found)},
        as_json,
        f"{output}: event {event}, {len(found)} spacepoints",
    )


def _geometry(path: Path, detector: str) -> Any:
    """Of a detector by name or YAML file, or of one that the events file itself describes; None if nothing does."""
    from fm4npp import detectors
    from fm4npp.data.specifications import specification
    from fm4npp.readers.events_parquet import EventsParquet, read_metadata

    if Path(detector).suffix in (".yaml", ".yml"):
        return detectors.load(detector).geometry
    known: str | dict[str, Any] = detector
    if EventsParquet().recognises(path):
        known = specification(detector, [read_metadata(path)])
    return detectors.build(known).geometry if isinstance(known, dict) or known in detectors.names() else None
