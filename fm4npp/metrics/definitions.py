"""What every number of a report means, from the docstring of its class, so that neither can be without the other."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields, is_dataclass

from fm4npp.metrics.binning import EfficiencyBin, PurityBin
from fm4npp.metrics.calibration import ReliabilityBin
from fm4npp.metrics.classification import ClassificationMetrics
from fm4npp.metrics.comparison import Paired
from fm4npp.metrics.probabilities import ProbabilityMetrics
from fm4npp.metrics.regression import RegressionMetrics
from fm4npp.metrics.selection import TrackSelection
from fm4npp.metrics.tracking import TrackingMetrics

CLASSES: tuple[type, ...] = (
    TrackingMetrics,
    TrackSelection,
    EfficiencyBin,
    PurityBin,
    ClassificationMetrics,
    ProbabilityMetrics,
    ReliabilityBin,
    RegressionMetrics,
    Paired,
)
"""Whose fields reports hold."""


def definitions(cls: type) -> dict[str, str]:
    """What every field of a dataclass means, from the `Attributes` section of its docstring.

    Args:
        cls: a dataclass with a Google docstring.

    Returns:
        Field -> its definition, on one line, in the order of the fields.

    Raises:
        ValueError: if it is no dataclass, or a field has no definition (so in `python -OO`, which drops docstrings).
    """
    if not is_dataclass(cls):
        raise ValueError(f"{cls.__name__} is not a dataclass")
    written = _attributes(inspect.cleandoc(cls.__doc__ or ""))
    names = [item.name for item in fields(cls)]
    undefined = [name for name in names if not written.get(name)]
    if undefined:
        raise ValueError(f"the docstring of {cls.__name__} does not define {', '.join(undefined)}")
    return {name: written[name] for name in names}


def _attributes(text: str) -> dict[str, str]:
    """Attribute -> definition, of a docstring without indentation."""
    section = re.search(r"^Attributes:\n((?:[ ]+.*\n?|\n)*)", text, flags=re.MULTILINE)
    entries = re.findall(r"^ {4}(\w+): *((?:.*\n?)(?: {5,}.*\n?)*)", section[1] if section else "", flags=re.MULTILINE)
    return {name: " ".join(definition.split()) for name, definition in entries}


DEFINITIONS: dict[str, dict[str, str]] = {cls.__name__: definitions(cls) for cls in CLASSES} if __doc__ else {}
"""Class -> field -> what it means; nothing in `python -OO`, which drops docstrings."""
