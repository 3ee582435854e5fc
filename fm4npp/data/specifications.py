"""Which detector the events files of a data set are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fm4npp import detectors
from fm4npp.errors import DataError, FM4NPPError
from fm4npp.readers import events_schema

Specification = dict[str, Any]
RESPONSE = "response"
"""Field of the constants of the fast simulation, which say nothing of events that are there."""


def specification(
    name: str, metadata: Sequence[Mapping[str, Any]], paths: Sequence[str | Path] = ()
) -> str | Specification:
    """What `detectors.build` makes a detector of: its name if that is all, else what the files hold of it.

    A YAML file may give its detector the name of a registered one, or none, which leaves that of its type. A file that
    holds no specification is of the registered detector, if there is one of that name.

    Args:
        name: of the detector.
        metadata: of F files, of which some may be of other detectors.
        paths: the F files, for the message.

    Raises:
        DataError: if files hold different detectors of that name; their responses may differ.
    """
    own = {place: one.get(events_schema.SPECIFICATION) for place, one in enumerate(metadata) if one["detector"] == name}
    if not any(own.values()):
        return name
    registered = detectors.build(name).spec() if _is_registered(name) else None
    stored = {place: known for place, spec in own.items() if (known := spec or registered) is not None}
    (first, chosen), *others = stored.items()
    meaning = _meaning(chosen)
    for place, other in others:
        if other != chosen and _meaning(other) != meaning:
            raise DataError(
                f"another detector than that of {paths[first] if paths else 'the files before'}, but both are called "
                f"{name!r}",
                file=paths[place] if paths else None,
                remedy="give each its own name",
            )
    return name if registered is not None and _meaning(registered) == meaning else dict(chosen)


def _is_registered(name: str) -> bool:
    """Whether a name alone is a detector, and not just a type for YAML files."""
    return name in detectors.names() and not any(
        field.is_required() for field in detectors.get(name).model_fields.values()
    )


def _meaning(specification: Mapping[str, Any]) -> Any:
    """A specification with all fields of this version, but the response, to compare it with others."""
    try:
        return _without_response(detectors.build(dict(specification)).spec())
    except FM4NPPError:  # of a plug-in that is not here, or of another version; whoever builds it is told
        return _without_response(specification)


def _without_response(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_response(inner) for key, inner in value.items() if key != RESPONSE}
    return [_without_response(inner) for inner in value] if isinstance(value, list) else value
