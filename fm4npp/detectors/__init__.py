"""What the columns of a file mean: one small class, or one YAML file, a detector."""

from __future__ import annotations

from pathlib import Path

import yaml

from fm4npp.detectors.base import Column, Detector, Feature
from fm4npp.detectors.media import MEDIA, Medium
from fm4npp.detectors.response import Material, Response
from fm4npp.errors import ConfigurationError
from fm4npp.registry import Registry

registry: Registry[Detector] = Registry("detector", Detector)  # type: ignore[type-abstract]
register, get, build, names = registry.register, registry.get, registry.build, registry.names


def load(name_or_file: str | Path) -> Detector:
    """A detector by its registered name, or from a YAML file that holds its specification.

    Args:
        name_or_file: a name, or a path ending in .yaml or .yml; `type: cylindrical` needs no code.

    Raises:
        ConfigurationError: if there is no such name or file, or a field is wrong.
    """
    path = Path(name_or_file)
    if path.suffix not in (".yaml", ".yml"):
        return build(str(name_or_file))
    try:
        spec = yaml.safe_load(path.read_text(encoding="utf-8"))
        return build(spec)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"{path}: cannot be read as a detector ({reason})") from error
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


__all__ = [
    "MEDIA",
    "Column",
    "Detector",
    "Feature",
    "Material",
    "Medium",
    "Response",
    "build",
    "get",
    "load",
    "names",
    "register",
    "registry",
]
