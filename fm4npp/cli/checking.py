"""Commands for people with a detector, or a component, of their own: new-detector, check."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fm4npp.cli.app import AsJson, Debug, command, finish
from fm4npp.errors import ConfigurationError, DataError, FM4NPPError
from fm4npp.registry import Unknown, suggest

if TYPE_CHECKING:
    from fm4npp.detectors import Detector
    from fm4npp.event import Event
    from fm4npp.plotting.coverage import Scan

KINDS = ("detector", "serializer", "objective", "head", "reader")
SHOWN_EVENTS = 50
"""Simulated, where no file is given."""
BEST_SHOWN = 400
"""Spacepoints of the event whose order is drawn, about."""


@command
def new_detector(
    name: Annotated[str, typer.Argument(help="Of the detector, as events will be labelled with.")],
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Data file or folder of any known format.")],
    output: Annotated[Path | None, typer.Option(help="YAML file to write; NAME.yaml by default.")] = None,
    reader: Annotated[str, typer.Option("--reader", help="Format of the file; recognised by default.")] = "auto",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Look at a data file and write a commented YAML file that describes its detector, to start from.

    Example: fm4npp new-detector my-tpc hits.root
    """
    from fm4npp.files import atomic_path
    from fm4npp.inspection import propose

    place = output or Path(f"{name}.yaml")
    if place.exists():
        raise ConfigurationError(f"{place}: is there already; give another --output")
    proposal = propose(path, reader, name)
    with atomic_path(place) as temporary:
        temporary.write_text(proposal.yaml, encoding="utf-8")
    guesses = proposal.yaml.count("guess")
    lines = (
        f"{place}: {guesses} guesses in it are for you to check, above all units",
        f"next: fm4npp check {place} --data {path} --output {place.with_suffix('.png')}",
    )
    finish({"output": str(place), "specification": proposal.spec}, as_json, *lines)


@command
def check(
    target: Annotated[
        str, typer.Argument(metavar="NAME|FILE.yaml", help="Registered name, or a detector's YAML file.")
    ],
    fields: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Fields of a component that have no default.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help=f"Of a name that several have: {', '.join(KINDS)}.")] = None,
    data: Annotated[Path | None, typer.Option(help="Data file of the detector, or of the reader's format.")] = None,
    reader: Annotated[str, typer.Option("--reader", help="Format of --data; recognised by default.")] = "auto",
    columns: Annotated[str, typer.Option(help="Of a reader: columns that --data has, with commas.")] = "x,y,z",
    events: Annotated[int, typer.Option(min=1, help="Of --data that are looked at, the first ones.")] = 50,
    max_outside: Annotated[
        float, typer.Option(min=0, max=1, help="Share of spacepoints that may lie outside the detector's bounds.")
    ] = 0.2,
    serializer: Annotated[str, typer.Option(help="Whose order is drawn.")] = "raster-scan",
    objective: Annotated[str, typer.Option(help="Whose targets are drawn.")] = "k-nnn",
    output: Annotated[Path | None, typer.Option(help="Picture of a detector: .png, .pdf or .svg.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Check that a detector, serializer, objective, head or reader keeps its contract; draw a detector.

    Example: fm4npp check my_detector.yaml --data hits.root --output my_detector.png
    """
    found = _kind(target, kind)
    if found == "detector" and fields:
        raise ConfigurationError(f"{fields[0]}: a detector's fields are given in a YAML file")
    if found != "detector":
        if output is not None:
            raise ConfigurationError("--output: pictures are drawn of detectors")
        return finish({"kind": found, "name": target}, as_json, _component(found, target, data, columns, fields or []))
    from fm4npp import detectors

    detector = detectors.load(target)
    shown, report, lines = _of_data(detector, data, reader, events, max_outside) if data else _without_data(detector)
    lines = [f"{detector.name}: keeps the contract of detectors", *lines]
    if output is not None:
        from fm4npp.plotting.coverage import draw_coverage

        scan = _scan(shown, detector, serializer, objective)
        told = f"{detector.name}, {data.name if data else 'simulated' if detector.responses else 'made up'}"
        lines.append(str(draw_coverage(shown, detector.geometry, scan, output, told)))
    finish({"kind": found, "name": detector.name, "fits": report}, as_json, *lines)


def _kind(target: str, kind: str | None) -> str:
    """What a name is registered as."""
    if kind is not None and kind not in KINDS:
        raise Unknown(f"unknown kind {kind!r}; {suggest(kind, KINDS)}")
    if Path(target).suffix in (".yaml", ".yml"):
        return "detector"
    names = {each: importlib.import_module(f"fm4npp.{each}s").names() for each in KINDS if kind in (None, each)}
    found = [each for each, known in names.items() if target in known]
    if not found:
        raise Unknown(
            f"nothing is called {target!r}; {suggest(target, tuple(name for n in names.values() for name in n))}"
        )
    if len(found) > 1:
        raise ConfigurationError(f"{target!r} is a {' and a '.join(found)}; say which with --kind")
    return found[0]


def _component(kind: str, name: str, data: Path | None, columns: str, fields: Sequence[str]) -> str:
    """Check anything but a detector; what to print."""
    from fm4npp import testing

    cls = importlib.import_module(f"fm4npp.{kind}s").get(name)
    arguments: tuple[Any, ...] = (cls,)
    if kind == "reader":
        if data is None:
            raise ConfigurationError(f"a reader is checked on a file; give one of {name!r} with --data, and --columns")
        arguments = (cls, data, [part.strip() for part in columns.split(",")])
    _kept(getattr(testing, f"check_{kind}"), *arguments, **_fields(fields))
    return f"{name}: keeps the contract of {kind}s"


def _fields(pairs: Sequence[str]) -> dict[str, Any]:
    """Fields from key=value, whose values are read as YAML."""
    import yaml

    wrong = next((pair for pair in pairs if "=" not in pair), None)
    if wrong is not None:
        raise ConfigurationError(f"{wrong!r} is no field; write key=value")
    try:
        return {pair.partition("=")[0]: yaml.safe_load(pair.partition("=")[2]) for pair in pairs}
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{' '.join(pairs)}: a value is not valid YAML") from error


def _kept(checked: Any, *arguments: Any, **fields: Any) -> None:
    try:
        checked(*arguments, **fields)
    except AssertionError as error:
        raise FM4NPPError(" ".join(str(error).split())) from error


def _without_data(detector: Detector) -> tuple[list[Event], list[Any], list[str]]:
    """Made-up or simulated events."""
    from fm4npp.testing import check_detector
    from fm4npp.testing.detectors import made_columns

    _kept(check_detector, detector)
    if detector.responses:
        from fm4npp.simulation import simulate

        return list(simulate(detector, SHOWN_EVENTS, 0)), [], ["without --data nothing is known of its files"]
    return [detector.event(made_columns(detector))], [], ["without --data nothing is known of its files"]


def _of_data(
    detector: Detector, data: Path, reader: str, events: int, max_outside: float
) -> tuple[list[Event], list[Any], list[str]]:
    """Events of a file, how the description fits them, and what to print."""
    from dataclasses import asdict

    from fm4npp.data import Source
    from fm4npp.detectors.plausibility import judge
    from fm4npp.testing import check_detector

    source = Source.of(data, detector, reader=reader)
    if source.detector is None:
        raise DataError("is an events file already", file=data, remedy="give a file of the detector's own format")
    sampled = source.sampled(events)
    outcomes = list(islice(source.outcomes(), events))
    errors = [outcome for outcome in outcomes if isinstance(outcome, DataError)]
    shown = [outcome for outcome in outcomes if not isinstance(outcome, DataError)]
    if not shown:
        raise errors[0] if errors else DataError("holds no event", file=data, remedy="give a file with some")
    with_points = [columns for columns, event in zip(sampled, outcomes, strict=False) if _has_two(event)]
    _kept(check_detector, source.detector, with_points[0] if with_points else None)
    fits = judge(source.detector, sampled)
    lines = [f"{data}: {len(outcomes)} events, {len(errors)} of them rejected{f': {errors[0]}' if errors else ''}"]
    for fit in fits:
        told = "; ".join(fit.suspicions) or "nothing looks wrong"
        lines.append(f"{fit.subsystem}: {fit.num_spacepoints} spacepoints; {told}")
    wrong = [fit for fit in fits if fit.share_outside > max_outside]
    if wrong:
        raise DataError(
            f"{wrong[0].subsystem}: {'; '.join(wrong[0].suspicions)}",
            file=data,
            remedy="choose the right detector and units, or allow more with --max-outside",
        )
    return shown, [asdict(fit) for fit in fits], lines


def _has_two(event: Event | DataError) -> bool:
    return not isinstance(event, DataError) and len(event) > 1


def _scan(shown: Sequence[Event], detector: Detector, serializer: str, objective: str) -> Scan | None:
    """How an event of a good size is read."""
    from fm4npp import objectives, serializers
    from fm4npp.plotting.coverage import Scan

    geometry = detector.geometry
    coordinates = [geometry.coordinates(event.positions) for event in shown]
    sizes = [len(event) for event in shown]
    if not max(sizes, default=0):
        return None
    chosen = min(range(len(shown)), key=lambda index: abs(sizes[index] - BEST_SHOWN) if sizes[index] else float("inf"))
    scan = serializers.build(serializer)
    fitted = scan.fit([points for points in coordinates if len(points)], geometry)
    goal = objectives.build(objective)
    return Scan(
        event=shown[chosen],
        order=fitted.order(coordinates[chosen], geometry),
        targets=goal.indices(coordinates[chosen], geometry),
        told=(serializer, objective),
    )
