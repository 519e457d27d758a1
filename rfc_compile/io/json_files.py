"""Files of JSON that others may have written: what is not expected is refused by place.

``Unexpected`` names the place as ``$.options.threshold`` and what is wrong there. What
values may be is in rfc_compile.io.schema.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, Final, TypeAlias

from rfc_compile.errors import TunedFileError
from rfc_compile.io.files import read_text

JSON: TypeAlias = "str | int | float | bool | list[JSON] | dict[str, JSON] | None"

MOST_BYTES: Final = 1 << 20
"""Of a file; a real one has a few thousand."""

LARGEST: Final = 1 << 63
"""Whole numbers are smaller, by magnitude."""


class Unexpected(Exception):
    """A place in the file and what is wrong with it."""


def read_json(path: str | Path) -> Any:
    """The value in a file of JSON.

    Raises:
        TunedFileError: the file cannot be read, is too large or is not JSON.
    """
    try:
        return load_json(path)
    except Unexpected as error:
        raise TunedFileError(f"{path}: {error}") from error


def load_json(
    path: str | Path, most: int = MOST_BYTES, *, infinite: bool = False
) -> JSON:
    """The value in a file of at most ``most`` bytes of JSON.

    ``infinite`` allows the number ``Infinity``, which Python writes.

    Raises:
        Unexpected: the file cannot be read, is too large or is not JSON.
    """
    try:
        text = read_text(Path(path), most)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error  # the path is said already
        raise Unexpected(f"cannot be read: {why}") from error
    return parse_json(text, infinite=infinite)


def parse_json(text: str, *, infinite: bool = False) -> JSON:
    """The value that a text stands for; ``infinite`` as above.

    Raises:
        Unexpected: it is not JSON, has a name twice in one object, or a number that is
            not finite or too large.
    """
    try:
        value: JSON = json.loads(
            text,
            parse_constant=_infinite if infinite else _no_constant,
            parse_float=_finite,
            parse_int=_whole,
            object_pairs_hook=_no_duplicates,
        )
    except (ValueError, RecursionError) as error:
        raise Unexpected(f"is not JSON: {error}") from error
    return value


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _infinite(name: str) -> float:
    return _no_constant(name) if name == "NaN" else float(name)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{shown(digits)} is too large a number")
    return value


def _whole(digits: str) -> int:
    if len(digits) > len(str(-LARGEST)) or abs(int(digits)) >= LARGEST:
        raise ValueError(f"{shown(digits)} is too large a number")
    return int(digits)


def _no_duplicates(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    found: dict[str, JSON] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{shown(name)} stands twice in one object")
        found[name] = value
    return found


def field_of(place: str, name: str) -> str:
    """The place of a field: ``$.options.threshold``, odd names in quotes."""
    plain = re.fullmatch(r"\w{1,40}", name, re.ASCII)
    return f"{place}.{name if plain else shown(name)}"


def shown(value: object) -> str:
    """The value in a message, cut short; nothing that a terminal would obey."""
    text = ascii(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
