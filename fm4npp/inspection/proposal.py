"""A detector to start from, as a YAML file with comments: names and a sample of events say what can be guessed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from fm4npp import detectors
from fm4npp.data import Accounting, choose_reader
from fm4npp.detectors import Detector
from fm4npp.detectors.units import in_centimetres
from fm4npp.errors import DataError
from fm4npp.event import Array
from fm4npp.geometry import cylindrical
from fm4npp.inspection import guesses
from fm4npp.inspection.names import Choice, choices
from fm4npp.inspection.sample import Sample, canonical, sample, with_table
from fm4npp.inspection.yaml_text import Line, text
from fm4npp.readers import Reader, Table
from fm4npp.readers.checks import listing

NAME = "my-detector"
GROUPS = (("particle_",), ("px", "py"), ("pdg",), ("is_noise",), ("particle_class",), ("layer",), ("track_id",))
"""Starts of quantities that a detector can do without, in the order in which they are left out if they cause errors."""
AXES = ("x", "y", "z")
MOMENTA_GEV = 30.0
"""A median momentum above this is taken to be in MeV."""


class Proposal(NamedTuple):
    """A detector to start from.

    Attributes:
        yaml: for `fm4npp.detectors.load`, with comments.
        spec: the same, for `fm4npp.detectors.build`.
        accounting: what became of the events of the sample when it was read with this detector.
    """

    yaml: str
    spec: dict[str, Any]
    accounting: Accounting


def propose(path: Path, reader_name: str = "auto") -> Proposal:
    """A detector for a file of any known format.

    Args:
        path: file or folder.
        reader_name: a registered format, in place of recognising it.

    Raises:
        DataError: if the file cannot be read, or nothing in it looks like positions; the columns are listed then.
    """
    reader = choose_reader(path, reader_name)
    taken = _sampled(reader, path)
    kept, notes = dict(taken.choice.columns_of), dict(taken.dropped)
    lines = _lines(taken, kept)
    accounting, error = _tried(lines, taken)
    if error:
        kept, reasons = _without_faults(taken, kept)
        notes |= reasons
        lines = _lines(taken, kept)
        accounting, error = _tried(lines, taken)
    if error:
        raise error.at(file=path)
    written = text([*_header(path, reader, taken, accounting), *lines, *_footer(taken, notes)])
    spec = yaml.safe_load(written)
    detectors.build(spec)
    return Proposal(written, spec, accounting)


def _sampled(reader: Reader, path: Path) -> Sample:
    """The sample of the most likely columns that can be read."""
    problem: DataError | None = None
    if not reader.generic and (choice := canonical(reader, path)):
        return sample(reader, path, choice)
    tables = list(reader.describe(path))
    for choice in choices(tables):
        for named in dict.fromkeys((False, True)):
            try:
                return sample(reader, path, with_table(choice, tables) if named else choice)
            except DataError as error:
                problem = problem or error
    if problem:
        raise problem.at(file=path)
    found = listing(dict.fromkeys(chain.from_iterable(table.columns for table in tables)))
    raise DataError(
        f"nothing in it looks like positions x, y, z of spacepoints (columns: {found})",
        file=path,
        remedy="write a detector by hand, see docs/detectors; reconstructed objects have `type: objects`",
    )


def _without_faults(taken: Sample, kept: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The columns without the group that makes events fail, or without all if it takes that; column -> why."""
    groups = [[name for name in kept if name.startswith(start) and name not in AXES] for start in GROUPS]
    groups = [group for group in groups if group]
    for group in [*groups, [name for group in groups for name in group]]:
        fewer = {quantity: name for quantity, name in kept.items() if quantity not in group}
        if _tried(_lines(taken, fewer), taken)[1] is None:
            _, error = _tried(_lines(taken, kept), taken)
            return fewer, dict.fromkeys((kept[name] for name in group), error.problem if error else "")
    return kept, {}


def _tried(lines: Sequence[Line], taken: Sample) -> tuple[Accounting, DataError | None]:
    """What becomes of the sample's events, and the error if none can be read."""
    detector: Detector = detectors.build(yaml.safe_load(text(lines)))
    accounting, first = Accounting(), None
    for columns in taken.first:
        try:
            accounting.use(detector.event(columns))
        except DataError as error:
            first = first or error
            accounting.reject(error)
    return accounting, first if accounting.rejected_events else None


def _header(path: Path, reader: Reader, taken: Sample, accounting: Accounting) -> list[Line]:
    table = f", table {taken.choice.table}" if taken.choice.table else ""
    rejected = accounting.spacepoints_read - accounting.spacepoints_used
    return [
        Line(comment=f"A detector to start from, proposed by: fm4npp inspect {path.name} --propose"),
        Line(
            comment=f"Seen: {taken.events} events, {accounting.spacepoints_read} spacepoints "
            f"({rejected} of them would be rejected); format {reader.registered_name}{table}"
        ),
        Line(comment='Check what is called a guess, above all units and which id means "no track".'),
        Line(comment=f"Use: fm4npp convert {path.name} --detector THIS_FILE.yaml --output events.parquet"),
    ]


def _lines(taken: Sample, kept: dict[str, str]) -> list[Line]:
    positions = taken.positions
    finite = np.isfinite(positions).all(axis=1)
    good = positions[finite]
    unit = guesses.length_unit(good)
    around = guesses.around_beam(good)
    in_cm = np.stack([in_centimetres(axis, unit) for axis in positions.T], axis=1)
    why = "at all azimuths around the z axis" if around else "not all around the z axis, or in a box"
    lines = [
        Line("type", "cylindrical" if around else "cartesian", f"guess: spacepoints lie {why}"),
        Line("name", NAME, "what events are labelled with; yours to choose"),
        *_columns(taken.choice, kept),
        Line("length_unit", unit, f"guess: coordinates reach {np.abs(good).max():.4g} in the file"),
    ]
    lines += _cylinder(in_cm, taken, kept) if around else _box(in_cm, taken, kept)
    lines += _energy(taken, kept)
    lines += _momentum_unit(taken, kept)
    return lines + _labels(taken, kept)


def _columns(choice: Choice, kept: dict[str, str]) -> Iterator[Line]:
    if all(quantity == name for quantity, name in kept.items()):
        yield Line(comment=f"the file's columns have our names: {', '.join(kept)}")
        return
    yield Line("columns_of", comment="quantity: its column in the file" + ("; these are TRUE positions" * choice.true))
    for quantity, name in kept.items():
        others = choice.alternatives.get(quantity, [])
        yield Line(quantity, name, f"or {listing(others)}" if others else "", depth=1)


def _cylinder(in_cm: Array, taken: Sample, kept: dict[str, str]) -> Iterator[Line]:
    with np.errstate(invalid="ignore"):
        eta, _, radius = cylindrical(in_cm).T
    there = np.isfinite(eta) & np.isfinite(radius)
    yield _range("radius", radius[there], f"cm; r from {_span(radius[there])} in {taken.events} events", 0.0)
    yield _range("eta", eta[there], f"pseudorapidity from {_span(eta[there])}")
    if "layer" in kept:
        radii = guesses.layers(taken.values["layer"][there], radius[there])
        yield from _layers(radii, kept["layer"], "radii")


def _box(in_cm: Array, taken: Sample, kept: dict[str, str]) -> Iterator[Line]:
    there = np.isfinite(in_cm).all(axis=1)
    limits = [guesses.bounds(axis[there]) for axis in in_cm.T]
    seen = "; ".join(f"{name} from {_span(values[there])}" for name, values in zip(AXES, in_cm.T, strict=True))
    yield Line("low", [low for low, _ in limits], f"cm; {seen} in {taken.events} events")
    yield Line("high", [high for _, high in limits])
    places = None
    axis = 0
    for number, values in enumerate(in_cm.T) if "layer" in kept else ():
        if found := guesses.layers(taken.values["layer"][there], values[there]):
            axis, places = number, found
            break
    yield Line("causal_axis", axis, "guess: 0 is x, 1 is y, 2 is z; along the drift, or along the beam")
    if "layer" in kept:
        yield from _layers(places, kept["layer"], "places")


def _layers(places: tuple[float, ...] | None, column: str, what: str) -> Iterator[Line]:
    if places is None:
        yield Line(comment=f"no `layers`: the numbers in {column} have no {what} of their own")
    else:
        yield Line("layers", list(places), f"cm; median {what} of {len(places)} layers")


def _energy(taken: Sample, kept: dict[str, str]) -> Iterator[Line]:
    values = taken.values.get("energy") if "energy" in kept else None
    finite = None if values is None else values[np.isfinite(values)].astype(np.float64)
    if finite is None or not len(finite):
        yield Line("measured", {}, "no energy or charge was found; the model sees positions alone")
        return
    scale = guesses.scale(finite)
    fields = {"mean": scale.mean, "std": scale.std, **({"log": True} if scale.log else {})}
    tail = "; a long tail, so log(1 + value)" if scale.log else ""
    yield Line("measured")
    yield Line("energy", fields, f"from {_span(finite)} in the file{tail}", depth=1)
    if scale.factor != 1:
        yield Line("factors", {"energy": scale.factor}, "guess: the file's unit gives tiny numbers")


def _momentum_unit(taken: Sample, kept: dict[str, str]) -> Iterator[Line]:
    names = [kept[quantity] for quantity in ("px", "particle_px") if quantity in kept]
    if not names:
        return
    arrays = [np.atleast_1d(columns[name]) for columns in taken.first for name in names[:1] if name in columns]
    sizes = np.abs(np.concatenate([np.zeros(0), *arrays]))
    typical = float(np.median(sizes[np.isfinite(sizes)])) if np.isfinite(sizes).any() else 0.0
    unit = "MeV" if typical > MOMENTA_GEV else "GeV"
    yield Line("energy_unit", unit, f"guess: the median of |{names[0]}| is {typical:.3g}")


def _labels(taken: Sample, kept: dict[str, str]) -> Iterator[Line]:
    if "track_id" not in kept:
        yield Line(comment="no truth: no column looks like the id of the particle of a spacepoint")
        return
    ids = taken.values["track_id"]
    if np.isnan(ids.astype(np.float64)).any():
        yield Line("nan_is_no_track", True, f"{int(np.isnan(ids).sum())} ids are NaN")
    negative = np.unique(ids[ids < 0])
    if len(negative) > 1:
        yield Line("negative_tracks", True, f"guess: {len(negative)} ids below 0, such as {int(negative[-1])}")
    no_track = guesses.no_track(ids)
    smallest = int(np.nanmin(ids)) if np.isfinite(ids).any() else 0
    shares = {number: float((ids == number).mean()) for number in (0, -1)}
    if no_track is None:
        seen = f"ids start at {smallest}" + (f"; 0 has {shares[0]:.1%} of the spacepoints" if shares[0] else "")
        yield Line("no_track", None, f"guess: every id is a particle ({seen})")
        return
    seen = f"id {no_track} has {shares[no_track]:.1%} of the spacepoints"
    yield Line("no_track", no_track, f"guess: {seen}; null if it is a particle")
    yield Line(comment="noise: no-track  # if such spacepoints are noise, and not of particles without truth")


def _footer(taken: Sample, dropped: dict[str, str]) -> Iterator[Line]:
    for name, reason in dropped.items():
        yield Line(comment=f"left out: {name} ({reason})")
    if taken.choice.true:
        yield Line(comment="the positions are called true: a model should be trained on measured ones")


def _range(key: str, values: Array, comment: str, lowest: float = -np.inf) -> Line:
    return Line(key, list(guesses.bounds(values, lowest)), comment)


def _span(values: Array) -> str:
    return f"{values.min():.4g} to {values.max():.4g}" if len(values) else "nothing"
