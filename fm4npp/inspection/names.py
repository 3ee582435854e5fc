"""Which columns of a file are what, by their names alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from fm4npp.readers import Table

NUMBER = r"(std::)?(u?int(8|16|32|64)?(_t)?|u?short|u?long|u?char|bool|boolean|half_?float|float(16|32|64)?|double)"
NUMBER += "|Float16_t|Double32_t"
LIST = re.compile(
    rf"({NUMBER})\[\]|(std::)?vector<({NUMBER})>|ROOT::(VecOps::)?RVec<({NUMBER})>"
    rf"|(large_|fixed_size_)?list<(element|item): ({NUMBER})( not null)?>(\[\d+\])?"
)
"""Types of columns with a list of numbers for every event, as ROOT and Arrow call them."""
SINGLE = re.compile(NUMBER)
"""Types of columns with one number a row."""
MEMBERS: Mapping[str, tuple[str, str, str]] = {
    "TVector3": ("fX", "fY", "fZ"),
    "XYZVector": ("fCoordinates.fX", "fCoordinates.fY", "fCoordinates.fZ"),
    "XYZPoint": ("fCoordinates.fX", "fCoordinates.fY", "fCoordinates.fZ"),
    "PositionVector3D": ("fCoordinates.fX", "fCoordinates.fY", "fCoordinates.fZ"),
    "DisplacementVector3D": ("fCoordinates.fX", "fCoordinates.fY", "fCoordinates.fZ"),
}
"""Classes that hold a position -> the members that are x, y and z (ROOT reference)."""

NO_POSITION = re.compile(
    "p|mom|momentum|momenta|tp|gp|dp|u|v|gv|tv|vtx|vert|vertex|prod|production|origin|start|begin|end|pca|poca|e|err"
    "|error|sigma|cov|d|delta|rms|unc|var|res|residual|b|field|n|norm|normal|dir|direction|cos|slope|a|s"
)
"""Words beside x, y, z that say that something else is meant: momenta, vertices, errors, directions, fields."""
TRUE = re.compile("t|g|true|truth|mc|gen|sim")
"""Words beside x, y, z that say that true positions, and not measured ones, are meant."""
GROUP = re.compile(r"(?:pos|position|point|coord|coords|coordinate|coordinates|loc|location)[._/]?$|f$", re.IGNORECASE)
"""What stands before x, y, z and not before the other quantities of the same spacepoints."""

SPACEPOINT: Mapping[str, tuple[str, ...]] = {
    "energy": (
        "energy|edep|eloss|energydep|energydeposit|energydeposited|depositedenergy|totaledep|de",
        "adc|adcsum|sumadc|totaladc|amplitude|amp",
        "charge|q|qtot|e|signal|npe|pe|tot|value",
    ),
    "track_id": (
        "idtruth|truthid|truthtrackid|trackidtruth|gtrackid|mctrackid|simtrackid|truetrackid",
        "particleid|mcparticleid|truthparticleid|mcid",
        "trackid|trkid|track|idtrack|tid",
    ),
    "pdg": ("pdg|pdgid|pdgcode|gflavor|particlepdg|truthpdg|mcpdg",),
    "px": ("gpx|tpx|mcpx|truepx|truthpx|particlepx", "px|momentumx|momx"),
    "py": ("gpy|tpy|mcpy|truepy|truthpy|particlepy", "py|momentumy|momy"),
    "layer": ("layer|layerid|layernumber", "row|padrow|plane"),
    "is_noise": ("isnoise|noisetag|noise",),
}
"""Quantity of a spacepoint -> names of its column, the best first; without capitals and `_ . /`."""
EVENT = re.compile(r"i?(event|evt|evnt|ev)(id|no|nr|num|number|index)?")
"""Names of a column with the number of the event."""
PARTICLES = re.compile(
    r"(mcparticles?|simparticles?|genparticles?|particles?|primary|primaries|mcpart|genpart|simpart|part)"
)
"""What names of columns with the truth of particles start with."""
PARTICLE: Mapping[str, str] = {
    "track_id": "trackid|id|tid|barcode",
    "pdg": "pdg|pdgid|pdgcode",
    **{
        name: f"{name}|{name[0].replace('p', 'mom').replace('v', 'vtx')}{name[1]}"
        for name in ("px", "py", "pz", "vx", "vy", "vz")
    },
    "mass": "mass|m",
    "energy": "energy|e",
    "charge": "charge|q",
}
"""Quantity of a particle -> names of its column, without what the names of particles' columns start with."""


class Choice(NamedTuple):
    """Columns of one table that may be spacepoints.

    Attributes:
        table: its name.
        columns_of: quantity -> column; x, y, z at least.
        alternatives: quantity -> other columns that it might be.
        true: whether the name says that the positions are the true ones, and not measured ones.
    """

    table: str
    columns_of: dict[str, str]
    alternatives: dict[str, list[str]]
    true: bool


def choices(tables: list[Table]) -> list[Choice]:
    """What may be spacepoints in a file, the most likely first: measured positions, with most quantities beside them.

    Lists of numbers are looked at; only where none are positions, single numbers, which are rows of spacepoints then.
    """
    for kind in (LIST, SINGLE):
        found = [choice for table in tables for choice in _of_table(table, kind)]
        if found:
            return sorted(found, key=lambda choice: (choice.true, -len(choice.columns_of)))
    return []


def _of_table(table: Table, kind: re.Pattern[str]) -> Iterator[Choice]:
    names = [name for name, type_ in table.columns.items() if kind.fullmatch(type_)]
    if kind is LIST:
        names += [f"{name}.{member}" for name, type_ in table.columns.items() for member in _members(type_)]
    numbers = [name for name, type_ in table.columns.items() if SINGLE.fullmatch(type_)]
    for x, y, z, place in _triples(names):
        words = _words_beside(x, place)
        if any(map(NO_POSITION.fullmatch, words)):
            continue
        columns, alternatives = _companions(names, GROUP.sub("", x[:place]), x[place + 1 :], {x, y, z})
        if kind is LIST:
            columns |= _event(numbers) | _particles(names, {x, y, z, *columns.values()})
        yield Choice(table.name, {"x": x, "y": y, "z": z, **columns}, alternatives, any(map(TRUE.fullmatch, words)))


def _members(type_: str) -> tuple[str, ...]:
    if not re.search(r"\[\]|vector<|RVec<", type_):
        return ()
    return next((members for name, members in MEMBERS.items() if name in type_), ())


def _triples(names: list[str]) -> Iterator[tuple[str, str, str, int]]:
    """Three names that differ only in one letter, x, y and z, and its place."""
    there = set(names)
    for name in names:
        for place in (place for place, letter in enumerate(name) if letter in "xX"):
            axes = "yz" if name[place] == "x" else "YZ"
            y, z = (name[:place] + axis + name[place + 1 :] for axis in axes)
            if {y, z} <= there:
                yield name, y, z, place
                break


def _words_beside(name: str, place: int) -> set[str]:
    """The words of a name, lower case: `true_x` has "true", `gx` has "g"; the letter of the axis is left out.

    One or two letters that do not adjoin the axis are no word (`A_x`), but for `p_x` and `v_x`.
    """
    adjoins = _adjoins(name, place)
    text = name[:place] + name[place + 1 :] if adjoins else f"{name[:place]} {name[place + 1 :]}"
    words = {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", text)}
    return words if adjoins else {word for word in words if len(word) > 2 or word in ("p", "v", "mc")}


def _adjoins(name: str, place: int) -> bool:
    """Whether the letter of the axis is part of a word (`gx`), and no word of its own (`fX`, `hit_x`)."""
    return name[place].islower() and place > 0 and name[place - 1].isalpha()


def _companions(
    names: list[str], prefix: str, suffix: str, positions: set[str]
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Columns called like the positions but for what they are: quantity -> column, and what else it might be."""
    prefix = prefix if not prefix or not prefix[-1].isalpha() or len(prefix) > 2 else ""
    rest = {
        name: plain(name[len(prefix) : len(name) - len(suffix)])
        for name in names
        if name not in positions and name.startswith(prefix) and name.endswith(suffix)
    }
    columns, alternatives = {}, {}
    for quantity, patterns in SPACEPOINT.items():
        found = [name for pattern in patterns for name, own in rest.items() if re.fullmatch(pattern, own)]
        if found:
            columns[quantity] = found[0]
            alternatives[quantity] = found[1:]
    if {"px", "py"} & columns.keys() and not {"px", "py"} <= columns.keys():
        columns = {quantity: name for quantity, name in columns.items() if quantity not in ("px", "py")}
    return columns, {quantity: others for quantity, others in alternatives.items() if others}


def plain(name: str) -> str:
    """A name without capitals, separators, and ROOT's `f` before a capital."""
    return re.sub(r"[._/]", "", re.sub(r"(^|[._/])f(?=[A-Z])", "", name)).lower()


def _event(numbers: list[str]) -> dict[str, str]:
    found = [name for name in numbers if EVENT.fullmatch(plain(name))]
    return {"event_id": found[0]} if len(found) == 1 and found[0] != "event_id" else {}


def _particles(names: list[str], taken: set[str]) -> dict[str, str]:
    """`particle_<quantity>` -> column, if the particles have ids."""
    found: dict[str, str] = {}
    for name in (name for name in names if name not in taken):
        own = plain(name)
        start = PARTICLES.match(own)
        for quantity, pattern in PARTICLE.items() if start else ():
            if re.fullmatch(pattern, own[start.end() :]) and f"particle_{quantity}" not in found:  # type: ignore[union-attr]
                found[f"particle_{quantity}"] = name
    return found if "particle_track_id" in found else {}
