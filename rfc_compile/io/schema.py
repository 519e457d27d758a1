"""Dataclasses out of JSON that others may have written.

    Measured(nfc: float, ssim: float | None, ...)       {"nfc": 12.5, "ssim": null, ...}

The fields of the dataclass and their types are the schema: an unknown field, a missing
one or a value of another type is refused by its place. A file also has a version,
``schema``; a reader refuses later ones.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

from rfc_compile.io.json_files import JSON, Unexpected, field_of, shown

T = TypeVar("T")

_WORDS = {
    int: "a whole number",
    float: "a number",
    str: "a string",
    bool: "true or false",
}


def check_schema(value: JSON, newest: int, again: str) -> None:
    """The version of a file, which stands in it as ``schema``, is one that is known.

    ``again`` says how the file is made anew.
    """
    if value is None:
        raise Unexpected(f"$.schema is missing; allowed: {newest}")
    if type(value) is not int or value < 1:
        raise Unexpected(f"$.schema is {shown(value)}; allowed: {newest}")
    if value > newest:
        raise Unexpected(
            f"$.schema is {value}, and this version of rfc_compile reads up to "
            f"{newest}: upgrade rfc_compile, or {again}"
        )


def object_at(place: str, value: JSON) -> dict[str, JSON]:
    """The value, which must be an object."""
    if not isinstance(value, dict):
        raise Unexpected(f"{place} is {shown(value)}; allowed: an object")
    return value


def check_names(
    place: str, record: Mapping[str, JSON], known: Iterable[str], needed: Iterable[str]
) -> None:
    """Every field is known, and those that are needed are there."""
    known = tuple(known)
    for name in record:
        if name not in known:
            raise Unexpected(
                f"{field_of(place, name)} is not known; allowed: {', '.join(known)}"
            )
    for name in needed:
        if name not in record:
            raise Unexpected(f"{field_of(place, name)} is missing")


def check_fields(place: str, record: Mapping[str, JSON], kind: type) -> None:
    """The names are those of a dataclass; what has a default may be missing."""
    known = fields(kind)
    needed = [
        item.name
        for item in known
        if item.default is MISSING and item.default_factory is MISSING
    ]
    check_names(place, record, [item.name for item in known], needed)


def made_of(kind: type[T], place: str, value: JSON) -> T:
    """The dataclass whose fields an object holds."""
    record = object_at(place, value)
    check_fields(place, record, kind)
    declared = typing.get_type_hints(kind)
    return kind(
        **{
            name: typed(declared[name], field_of(place, name), item)
            for name, item in record.items()
        }
    )


def typed(declared: Any, place: str, value: JSON) -> Any:
    """The value as a declared type has it: a number, list, object or dataclass.

    What an object of any JSON holds is not looked at.
    """
    if declared is Any:
        return value
    origin, of = typing.get_origin(declared), typing.get_args(declared)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in of:
            return None
        (declared,) = (item for item in of if item is not type(None))
        return typed(declared, place, value)
    if isinstance(declared, type) and is_dataclass(declared):
        return made_of(declared, place, value)
    if origin in (tuple, list):
        if not isinstance(value, list):
            raise Unexpected(f"{place} is {shown(value)}; allowed: a list")
        items = enumerate(value)
        return origin(typed(of[0], f"{place}[{i}]", item) for i, item in items)
    if origin is not None:
        record = object_at(place, value)
        if of[1] not in _WORDS:
            return record
        return {n: typed(of[1], field_of(place, n), x) for n, x in record.items()}
    if type(value) is not declared and (declared, type(value)) != (float, int):
        raise Unexpected(f"{place} is {shown(value)}; allowed: {_WORDS[declared]}")
    return value
