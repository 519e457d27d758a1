"""Values on the command line that several commands take."""

from __future__ import annotations

import ast
import math
from argparse import ArgumentParser, ArgumentTypeError
from typing import Any, Final

DTYPES: Final = ("float32", "bfloat16", "float16")
INNER_BACKENDS: Final = ("inductor", "aot_eager", "eager")


def whole(text: str, least: int = 1, most: float = math.inf) -> int:
    """A whole number of at least ``least``."""
    if text.isascii() and text.isdecimal() and least <= int(text) <= most:
        return int(text)
    limit = f"of at least {least}" if most == math.inf else f"in {least}..{most}"
    raise ArgumentTypeError(f"{text!r} is not a whole number {limit}")


def number(text: str, least: float = 0, most: float = math.inf) -> float:
    """A number of at least ``least``, by default infinity among them."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise ArgumentTypeError(f"{text!r} is not a number of at least {least:g}")
    return value


def name_and_value(text: str) -> tuple[str, Any]:
    """A pair `name=value`; the value as in Python, or else a string."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ArgumentTypeError(f"{text!r} is not of the form name=value")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name, value


def add_named_values(parser: ArgumentParser, option: str, meaning: str) -> None:
    """Add an option of pairs `NAME=VALUE`."""
    parser.add_argument(
        option,
        type=name_and_value,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"{meaning}; may be repeated",
    )
