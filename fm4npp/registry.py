"""Named components: built-ins and plug-ins found by entry point, loaded only when they are asked for."""

from __future__ import annotations

import difflib
import importlib.metadata
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from fm4npp.errors import ConfigurationError, PluginError

PROJECT = "fm4npp"


class Component(BaseModel):
    """A frozen value whose fields are its whole configuration; one JSON object holds all of it.

    Subclasses set `registered_name` to the name they are registered under.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    registered_name: ClassVar[str] = ""

    def spec(self) -> dict[str, Any]:
        """The JSON object from which `Registry.build` makes an equal component: `{"type": name, **fields}`."""
        return {"type": self.registered_name, **self.model_dump(mode="json")}

    def replace(self, **fields: Any) -> Self:
        """A copy with some fields changed, validated like a new one."""
        return type(self).model_validate({**self.model_dump(), **fields})


class Unknown(ConfigurationError):
    """A registered name that does not exist."""


def explain(error: ValidationError, prefix: str = "") -> str:
    """One line for a pydantic error: every offending key with what is wrong with it."""
    parts = []
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"])
        problem = "unknown key" if item["type"] == "extra_forbidden" else item["msg"].removeprefix("Value error, ")
        parts.append(f"{key}: {problem}" if key else problem)
    return f"{prefix}{'; '.join(parts)}"


def suggest(name: str, choices: tuple[str, ...]) -> str:
    """A hint listing the choices, the nearest one first when there is one."""
    near = difflib.get_close_matches(name, choices, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + f"choices: {', '.join(choices) or 'none'}"


@dataclass(frozen=True)
class Origin:
    """Where a registered name comes from: its distribution and that distribution's version."""

    distribution: str
    version: str


T = TypeVar("T")


class Registry(Generic[T]):
    """The classes of one kind, by name.

    A name comes from the decorator `register` or from an entry point of the group `fm4npp.<kind>s`. Built-ins
    are entry points of this project like any plug-in's. Listing never imports a plug-in.

    Args:
        kind: what is registered, in the singular ("detector"), for messages and the entry-point group.
        base: the class that everything registered must subclass.
    """

    def __init__(self, kind: str, base: type[T]) -> None:
        self.kind = kind
        self.base = base
        self.group = f"{PROJECT}.{kind}s"
        self._classes: dict[str, type[T]] = {}
        self._points: dict[str, importlib.metadata.EntryPoint] | None = None

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator: make a class known under `name`, for instance in a notebook.

        Raises:
            PluginError: if the name is taken, or the class is not of this kind.
        """

        def decorate(cls: type[T]) -> type[T]:
            if name in self._classes or name in self._entry_points():
                raise PluginError(f"{self.kind} {name!r} is registered already ({self._place(name)})")
            self._classes[name] = self._checked(name, cls)
            return cls

        return decorate

    def unregister(self, name: str) -> None:
        """Forget a class that was registered by the decorator."""
        self._classes.pop(name, None)

    def names(self) -> tuple[str, ...]:
        """All registered names, sorted; nothing is imported."""
        return tuple(sorted({*self._classes, *self._entry_points()}))

    def get(self, name: str) -> type[T]:
        """The class registered under `name`, imported now if it has not been.

        Raises:
            Unknown: for a name that is not registered; the message lists the choices.
            PluginError: if the entry point cannot be imported or is not of this kind.
        """
        if name not in self._classes:
            point = self._entry_points().get(name)
            if point is None:
                raise Unknown(f"unknown {self.kind} {name!r}; {suggest(name, self.names())}")
            try:
                loaded = point.load()
            except Exception as error:
                raise PluginError(f"{self.kind} {name!r} ({self._place(name)}) cannot be loaded: {error!r}") from error
            self._classes[name] = self._checked(name, loaded)
        return self._classes[name]

    def build(self, spec: str | Mapping[str, Any] | T, **arguments: Any) -> T:
        """Make a component from its specification.

        Args:
            spec: a registered name, `{"type": name, **fields}`, or a finished component (returned as it is).
            arguments: further arguments of the constructor.

        Raises:
            ConfigurationError: if the specification is malformed or a field is wrong.
        """
        if isinstance(spec, self.base):
            return spec
        fields = {"type": spec} if isinstance(spec, str) else dict(spec) if isinstance(spec, Mapping) else {}
        name = fields.pop("type", None)
        if not isinstance(name, str):
            raise ConfigurationError(f"a {self.kind} is given by its name or as {{'type': name, ...}}, not by {spec!r}")
        cls = self.get(name)
        try:
            return cls(**fields, **arguments)
        except ValidationError as error:
            raise ConfigurationError(explain(error, f"{self.kind} {name!r}: ")) from error

    def origin(self, name: str) -> Origin:
        """The distribution that provides `name`; classes registered by decorator belong to their module."""
        point = self._entry_points().get(name)
        if point is not None and point.dist is not None:
            return Origin(point.dist.name, point.dist.version)
        return Origin(self.get(name).__module__.partition(".")[0], "")

    def _entry_points(self) -> dict[str, importlib.metadata.EntryPoint]:
        if self._points is None:
            points: dict[str, importlib.metadata.EntryPoint] = {}
            plugins = os.environ.get("FM4NPP_PLUGINS", "1") != "0"
            for point in importlib.metadata.entry_points(group=self.group):
                distribution = point.dist.name if point.dist is not None else ""
                if distribution != PROJECT and not plugins:
                    continue
                other = points.get(point.name)
                if other is None:
                    points[point.name] = point
                elif other.value != point.value:
                    owner = other.dist.name if other.dist is not None else "?"
                    raise PluginError(
                        f"{self.kind} {point.name!r} is provided by both {owner!r} and {distribution!r}; "
                        "uninstall one, or set FM4NPP_PLUGINS=0"
                    )
            self._points = points
        return self._points

    def _place(self, name: str) -> str:
        point = self._entry_points().get(name)
        if point is None:
            return self._classes[name].__module__
        return f"{point.value} of {point.dist.name if point.dist is not None else '?'}"

    def _checked(self, name: str, cls: object) -> type[T]:
        if not (isinstance(cls, type) and issubclass(cls, self.base)):
            raise PluginError(f"{self.kind} {name!r} is {cls!r}, not a subclass of {self.base.__name__}")
        declared = getattr(cls, "registered_name", name)
        if declared != name:
            raise PluginError(f"{self.kind} {name!r}: the class {cls.__name__} calls itself {declared!r}")
        return cls

    def describe(self) -> list[tuple[str, str, str]]:
        """Rows (name, provider, first line of the class's docstring); a broken plug-in warns and says so in its row."""
        rows = []
        for name in self.names():
            try:
                summary = (self.get(name).__doc__ or "").strip().partition("\n")[0]
                origin = self.origin(name)
                rows.append((name, f"{origin.distribution} {origin.version}".strip(), summary))
            except PluginError as error:
                warnings.warn(str(error), stacklevel=2)
                rows.append((name, self._place(name), "cannot be loaded"))
        return rows
