"""Files of JSON that others may have written: what is not expected is refused by place.

``Unexpected`` names the place as ``$.options.threshold`` and what is wrong there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Final, TypeAlias

from rfc_compile.errors import TunedFileError

JSON: TypeAlias = "str | int | float | bool | list[JSON] | dict[str, JSON] | None"

MOST_BYTES: Final = 1 << 20
"""Of a file; a real one has a few thousand."""


def read_json(path: str | Path) -> Any:
    """The value in a file of JSON.

    Raises:
        TunedFileError: the file cannot be read, is too large or is not JSON.

    """
    try:
        return _parse(Path(path))
    except Unexpected as error:
        raise TunedFileError(f"{path}: {error}") from error


class Unexpected(Exception):
    """A place in the file and what is wrong with it."""


def _parse(path: Path) -> Any:
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise Unexpected(f"$ has {size} bytes; allowed: up to {MOST_BYTES}")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Unexpected(f"cannot be read: {error}") from error
    try:
        return json.loads(
            text, parse_constant=_no_constant, object_pairs_hook=_no_duplicates
        )
    except (ValueError, RecursionError) as error:
        raise Unexpected(
            f"$ is not JSON ({error}); write it again with `rfc-compile tune`"
        ) from error


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _no_duplicates(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{name!r} stands twice in one object")
    return dict(pairs)


def check_kind(place: str, value: JSON, kind: type, words: str) -> None:
    """The value is null or of this type, which ``words`` name."""
    if value is not None and type(value) is not kind:
        raise Unexpected(f"{place} is {shown(value)}; allowed: {words} or null")


def object_at(place: str, value: JSON) -> dict[str, JSON]:
    """The value, which must be an object."""
    if not isinstance(value, dict):
        raise Unexpected(f"{place} is {shown(value)}; allowed: an object")
    return value


def check_names(place: str, record: Mapping[str, JSON], kind: type) -> None:
    """Every field is known, and those without a default are there."""
    known = {item.name: item for item in fields(kind)}
    for name in record:
        if name not in known:
            raise Unexpected(
                f"{place}.{name} is not known; allowed: {', '.join(known)}"
            )
    for name, item in known.items():
        optional = item.default is not MISSING or item.default_factory is not MISSING
        if name not in record and not optional:
            raise Unexpected(f"{place}.{name} is missing")


def shown(value: object) -> str:
    """The value in a message, cut short."""
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
