"""The command that simulates events."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fm4npp.cli.app import AsJson, Debug, command, finish, progress
from fm4npp.errors import ConfigurationError
from fm4npp.simulation.facilities import FACILITIES

if TYPE_CHECKING:
    from fm4npp.simulation import Generator
    from fm4npp.simulation.production import ProductionReport


@command
def simulate(
    output: Annotated[Path, typer.Option(help="Events file to write (.parquet), or with --shards a folder of them.")],
    detector: Annotated[str, typer.Option(help="Registered name, or a YAML file.")] = "sphenix-tpc",
    facility: Annotated[str | None, typer.Option(help=f"Collisions of PYTHIA 8: {', '.join(FACILITIES)}.")] = None,
    gun: Annotated[str | None, typer.Option(help='Particles without an event around them: "pi+,pt=0.2..2".')] = None,
    events: Annotated[int, typer.Option(min=1, help="Number of events.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same events.")] = 1,
    pileup: Annotated[float, typer.Option(min=0, help="Mean number of further collisions in an event.")] = 0.0,
    workers: Annotated[int, typer.Option(min=1, help="Processes; the events do not depend on it.")] = 1,
    shards: Annotated[
        int | None, typer.Option(min=1, help="Write a folder of so many files; goes on after a kill.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option(help='One more setting of PYTHIA, "HardQCD:all = on"; repeatable.')
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Fields of the generator, mean_primaries=20.")
    ] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Simulate labelled events: PYTHIA or a particle gun, and a fast simulation of the detector.

    Example: fm4npp simulate --facility rhic-pp --events 10000 --workers 2 --seed 1 --output events.parquet

    A particle gun, and no PYTHIA: fm4npp simulate --gun "pi+,pt=0.2..2" --events 1000 --output pions.parquet
    """
    from fm4npp import detectors
    from fm4npp.simulation.production import produce

    chosen = detectors.load(detector)
    generator = _generator(facility, gun, settings or [], overrides or [])
    with progress("simulating", events) as update:
        update(0, f"initialising {'1 process' if workers == 1 else f'{workers} processes'}")
        report = produce(
            chosen,
            generator,
            events,
            seed,
            output,
            pileup=pileup,
            workers=workers,
            shards=shards,
            progress=lambda count: update(count, generator.source),
        )
    summary = {**report.as_dict(), "detector": chosen.name, "seed": seed, "source": generator.source}
    finish(summary, as_json, *_lines(report, chosen.name, generator.source))


def _lines(report: ProductionReport, detector: str, source: str) -> list[str]:
    per_event = report.num_spacepoints / report.num_events
    counts = (
        f"{report.output}: {report.num_events} events of {detector}, {report.num_spacepoints} spacepoints "
        f"({per_event:.1f} an event), {report.num_tracks} tracks, {report.num_empty_events} events empty"
    )
    kept = f", {report.num_kept} of them finished before" if report.num_kept else ""
    files = [f"{len(report.files)} files{kept}"] if len(report.files) > 1 else []
    rate = f"; {report.events_per_second:.1f} events/s" if report.num_simulated else ""
    return [counts, *files, f"{source}{rate}"]


def _generator(facility: str | None, gun: str | None, settings: list[str], overrides: list[str]) -> Generator:
    """What is asked for; the default particle gun if nothing is.

    Raises:
        ConfigurationError: if options contradict each other, or name what there is not.
    """
    from pydantic import ValidationError

    from fm4npp.registry import explain
    from fm4npp.simulation import ParticleGun, Pythia8

    if facility is not None and gun is not None:
        raise ConfigurationError("--facility and --gun exclude each other")
    if settings and facility is None:
        raise ConfigurationError("--settings are PYTHIA's; name a --facility")
    if gun is not None and overrides:
        raise ConfigurationError(f"{overrides[0]!r}: write it into --gun, after a comma")
    if gun is not None:
        return ParticleGun.parse(gun)
    fields = _fields(overrides)
    for name in fields.keys() & {"facility", "settings"}:
        raise ConfigurationError(f"{name}=...: give it as --{name}")
    try:
        if facility is not None:
            return Pythia8(facility=facility, settings=tuple(settings), **fields)
        return ParticleGun(**fields)
    except ValidationError as error:
        name = "particle gun" if facility is None else facility
        raise ConfigurationError(explain(error, f"{name}: ")) from error


def _fields(overrides: list[str]) -> dict[str, Any]:
    import yaml

    values = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigurationError(f"{override!r} is not a setting; write key=value")
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigurationError(f"{override!r} is not a setting; write key=value") from error
    return values
