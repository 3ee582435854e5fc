"""YAML with a comment behind every value."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import yaml

PLAIN = re.compile(r"[A-Za-z_][\w./\-]*")


class Line(NamedTuple):
    """One line: a key with its value, a key with lines of greater depth under it, or a comment alone.

    Attributes:
        key: "" for a comment alone.
        value: numbers, text, and lists and mappings of such; the ellipsis for a key with lines under it.
        comment: without the hash.
        depth: of indentation.
    """

    key: str = ""
    value: Any = ...
    comment: str = ""
    depth: int = 0


def text(lines: Iterable[Line]) -> str:
    """The lines as a YAML document."""
    return "".join(_written(line) + "\n" for line in lines)


def _written(line: Line) -> str:
    comment = " ".join(line.comment.split())
    if not line.key:
        return f"{'  ' * line.depth}# {comment}"
    value = "" if line.value is ... else f" {_value(line.value)}"
    return f"{'  ' * line.depth}{line.key}:{value}" + (f"  # {comment}" if comment else "")


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, float):
        return repr(value) if "e" not in repr(value) else f"{value:.1f}" if value.is_integer() else _exponent(value)
    if isinstance(value, str) and PLAIN.fullmatch(value) and yaml.safe_load(value) == value:
        return value
    return json.dumps(value)


def _exponent(value: float) -> str:
    """YAML 1.1 takes 1e-07 for text: an exponent needs a dot before it and a sign."""
    digits, _, power = repr(value).partition("e")
    return f"{digits if '.' in digits else digits + '.0'}e{int(power):+03d}"
