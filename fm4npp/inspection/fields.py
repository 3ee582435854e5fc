"""The fields of a detector with what was seen of them in a sample of events: lines of YAML."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fm4npp.detectors.units import in_centimetres
from fm4npp.event import Array
from fm4npp.geometry import cylindrical
from fm4npp.inspection import guesses
from fm4npp.inspection.names import Choice
from fm4npp.inspection.sample import AXES, Sample
from fm4npp.inspection.yaml_text import Line
from fm4npp.readers.checks import listing

NAME = "my-detector"
MOMENTA_GEV = 30.0
"""A median momentum above this is taken to be in MeV."""


def lines_of(taken: Sample, kept: dict[str, str]) -> list[Line]:
    """A detector's fields, guessed.

    Args:
        taken: the first events.
        kept: quantity -> column, of those in the sample that the detector is to use.
    """
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
    return [*lines, *_labels(taken, kept)]


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
    radii = guesses.layers(taken.values["layer"][there], radius[there]) if "layer" in kept else None
    if radii is None and (found := guesses.layers_between_gaps(radius[there])):
        yield Line("layers", list(found), f"cm; guess: median radii of {len(found)} groups with gaps between them")
    elif "layer" in kept:
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
    if finite is None or not len(finite) or finite.min() == finite.max():
        seen = "no energy or charge was found" if finite is None else f"{kept['energy']} is the same everywhere"
        yield Line("measured", {}, f"{seen}; the model sees positions alone")
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
    no_track = None if _one_track_events(taken, kept["track_id"]) else guesses.no_track(ids)
    smallest = int(np.nanmin(ids)) if np.isfinite(ids).any() else 0
    shares = {number: float((ids == number).mean()) for number in (0, -1)}
    if no_track is None:
        seen = f"ids start at {smallest}" + (f"; 0 has {shares[0]:.1%} of the spacepoints" if shares[0] else "")
        yield Line("no_track", None, f"guess: every id is a particle ({seen})")
        return
    seen = f"id {no_track} has {shares[no_track]:.1%} of the spacepoints"
    yield Line("no_track", no_track, f"guess: {seen}; null if it is a particle")
    yield Line(comment="noise: no-track  # if such spacepoints are noise, and not of particles without truth")


def _one_track_events(taken: Sample, column: str) -> bool:
    """Whether most events have a single id: it is then the most frequent one whatever it means."""
    sizes = [len(np.unique(columns[column])) for columns in taken.first if np.size(columns[column])]
    return bool(sizes) and bool(np.median(sizes) < 2) and bool((taken.values["track_id"] == 0).any())


def footer_of(taken: Sample, dropped: dict[str, str]) -> Iterator[Line]:
    """What the detector does not use, column -> reason, and what to beware of."""
    for name, reason in dropped.items():
        yield Line(comment=f"left out: {name} ({reason})")
    if taken.choice.true:
        yield Line(comment="the positions are called true: a model should be trained on measured ones")


def _range(key: str, values: Array, comment: str, lowest: float = -np.inf) -> Line:
    return Line(key, list(guesses.bounds(values, lowest)), comment)


def _span(values: Array) -> str:
    return f"{values.min():.4g} to {values.max():.4g}" if len(values) else "nothing"
